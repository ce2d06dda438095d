"""The outbox: a release leaves only when a person let this one go, to this federation, with this site's key."""

import json

import pytest

from casam_fed.audit.statement import open_statement
from casam_fed.bank.card import card_json
from casam_fed.bank.release import parse
from casam_fed.errors import ExchangeError, KeyFileError
from casam_fed.host.files import sha256_bytes, write_atomically
from casam_fed.wire.exchange import Receipt, encode_json
from site_client import outbox as outboxes
from site_client.home import renew_keys
from site_client.outbox import Outbox
from site_client.release_log import ReleaseLog

from ..casam_fed.bank.releases import release_bytes
from .deployed_sites import approve, give_welcome, welcomed_home

RELEASE, LATER_RELEASE = release_bytes(seed=1), release_bytes(seed=2)
DIGEST, LATER = sha256_bytes(RELEASE), sha256_bytes(LATER_RELEASE)


@pytest.fixture
def clinic(tmp_path):
    home = welcomed_home(tmp_path / "clinic")
    put(home, RELEASE)
    return home


@pytest.fixture
def outbox(clinic):
    return Outbox(clinic)


def put(home, data: bytes) -> None:
    digest = sha256_bytes(data)
    write_atomically(home.outbox / f"{digest}.safetensors", data)
    record = {"digest": digest, "seconds": {"train": 1.5}, "statement": ""}
    write_atomically(home.outbox / "submission.json", json.dumps(record).encode())


def receive(outbox: Outbox, outcome: str, digest: str = DIGEST) -> None:
    receipt = Receipt(digest, outcome, 0 if outcome == "admitted" else None)
    write_atomically(outbox.receipt_path(digest), encode_json(receipt).encode())


def test_an_empty_outbox_offers_nothing(tmp_path):
    outbox = Outbox(welcomed_home(tmp_path / "clinic"))
    assert (outbox.newest(), outbox.releases(), outbox.undecided()) == (None, [], [])


def test_a_trained_release_does_not_leave_by_itself(outbox):
    assert outbox.newest().digest == DIGEST
    assert not outbox.is_approved(DIGEST)
    assert outbox.undecided() == []
    with pytest.raises(ExchangeError, match="was not approved; run casam-site join"):
        outbox.approved(DIGEST)


def test_an_approved_release_leaves_with_a_statement_that_says_all(clinic, outbox):
    approve(clinic, DIGEST)
    data, submission = outbox.approved(DIGEST)
    key = clinic.signing_key().public_key()
    statement = open_statement(submission.statement.encode(), {clinic.welcome().site_key: key}, "clinic")
    assert (data, submission.digest, submission.seconds) == (RELEASE, DIGEST, {"train": 1.5})
    assert (statement.release, statement.size, statement.site, statement.task) == (
        DIGEST,
        len(RELEASE),
        "clinic",
        "clinic",
    )
    assert (statement.federation, statement.approved) == ("test", "option")


def test_an_approval_is_logged_with_the_card_before_it_counts(clinic, outbox, monkeypatch):
    monkeypatch.setattr(outboxes, "write_atomically", lambda path, data: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        approve(clinic, DIGEST)
    assert not outbox.is_approved(DIGEST)
    _, event = ReleaseLog(clinic).events()
    facts = event.facts
    assert (event.event, facts["images"], facts["patients"], facts["approved"]) == ("approved", 20, 10, "option")
    assert event.subjects["release"] == DIGEST
    assert event.subjects["card"] == sha256_bytes(card_json(parse(RELEASE).card).encode())
    kept = clinic.audit / "statements" / f"{event.subjects['statement']}.json"
    assert open_statement(kept.read_bytes(), {clinic.welcome().site_key: clinic.signing_key().public_key()}, "it")


def test_new_keys_begin_a_new_log_and_keep_the_old(clinic):
    approve(clinic, DIGEST)
    old = ReleaseLog(clinic).folder
    renew_keys(clinic)
    give_welcome(clinic)
    approve(clinic, DIGEST)
    assert ReleaseLog(clinic).folder != old
    assert [event.event for event in ReleaseLog(clinic).events()] == ["began", "approved"]
    assert old.is_dir()


def test_approving_a_release_approves_no_other(clinic, outbox):
    approve(clinic, DIGEST)
    put(clinic, LATER_RELEASE)
    assert outbox.undecided() == []
    with pytest.raises(ExchangeError, match="was not approved"):
        outbox.approved(LATER)


def test_only_the_newest_release_is_offered(clinic, outbox):
    approve(clinic, DIGEST)
    put(clinic, LATER_RELEASE)
    approve(clinic, LATER)
    assert outbox.undecided() == [LATER]
    assert outbox.releases() == sorted([DIGEST, LATER])


@pytest.mark.parametrize(("outcome", "offered"), [("admitted", []), ("refused", []), ("quarantined", [DIGEST])])
def test_a_decision_ends_the_offer_unless_a_person_still_has_to_look(clinic, outbox, outcome, offered):
    approve(clinic, DIGEST)
    receive(outbox, outcome)
    assert outbox.undecided() == offered


def test_a_release_for_which_there_is_no_file_is_not_approved(clinic, outbox):
    approve(clinic, DIGEST)
    outbox.path(DIGEST).unlink()
    assert not outbox.is_approved(DIGEST)
    with pytest.raises(ExchangeError, match="is gone; restore it, or run casam-site train --again"):
        outbox.newest()


@pytest.mark.parametrize("change", [{"federation": "elsewhere"}, {"app": "b" * 64}])
def test_an_approval_is_for_one_federation_and_one_app(clinic, outbox, change):
    approve(clinic, DIGEST)
    give_welcome(clinic, **change)
    assert not outbox.is_approved(DIGEST)
    approve(clinic, DIGEST)
    assert outbox.is_approved(DIGEST)


def test_an_approval_needs_a_welcome(clinic, outbox):
    approve(clinic, DIGEST)
    (clinic.path / "WELCOME.json").unlink()
    assert not outbox.is_approved(DIGEST)


def test_an_approval_ends_with_the_key_that_signed_it(clinic, outbox):
    approve(clinic, DIGEST)
    statement = outbox.folder / f"{DIGEST}.statement.json"
    signed = statement.read_bytes()
    renew_keys(clinic)
    give_welcome(clinic)
    assert not statement.exists()
    statement.write_bytes(signed)
    assert not outbox.is_approved(DIGEST)


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff"])
def test_a_damaged_statement_lets_nothing_go(clinic, outbox, damage):
    approve(clinic, DIGEST)
    (outbox.folder / f"{DIGEST}.statement.json").write_bytes(damage)
    assert not outbox.is_approved(DIGEST)


def test_a_statement_under_another_releases_name_lets_nothing_go(clinic, outbox):
    approve(clinic, DIGEST)
    put(clinic, LATER_RELEASE)
    (outbox.folder / f"{DIGEST}.statement.json").rename(outbox.folder / f"{LATER}.statement.json")
    assert not outbox.is_approved(LATER)


def test_a_statement_other_than_the_one_signed_may_not_go_in_its_place(clinic, outbox):
    approve(clinic, DIGEST)
    assert outbox.is_approved(DIGEST, outbox.approved(DIGEST)[1].statement)
    assert not outbox.is_approved(DIGEST, "names of patients")
    assert not outbox.is_approved(DIGEST, "")


def test_a_release_changed_after_its_approval_is_not_given_out(clinic, outbox):
    approve(clinic, DIGEST)
    outbox.path(DIGEST).write_bytes(b"something else")
    with pytest.raises(ExchangeError, match="is not the release that was approved"):
        outbox.approved(DIGEST)


def test_without_the_key_nothing_is_approved(clinic, outbox):
    approve(clinic, DIGEST)
    (clinic.keys / "signing.key").unlink()
    with pytest.raises(KeyFileError):
        outbox.is_approved(DIGEST)


def test_forgetting_the_newest_keeps_its_file(outbox):
    outbox.forget_newest()
    outbox.forget_newest()
    assert outbox.newest() is None
    assert outbox.releases() == [DIGEST]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"digest": "../../keys/signing", "seconds": {}}'])
def test_a_damaged_record_is_said_in_a_sentence(outbox, damage):
    (outbox.folder / "submission.json").write_text(damage)
    with pytest.raises(ExchangeError, match=r"submission\.json"):
        outbox.newest()


def test_a_damaged_receipt_is_said_in_a_sentence(outbox):
    outbox.receipt_path(DIGEST).parent.mkdir()
    outbox.receipt_path(DIGEST).write_text("{")
    with pytest.raises(ExchangeError, match=DIGEST):
        outbox.receipt(DIGEST)
