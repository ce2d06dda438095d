"""A deployed site, asked through its handlers and the gate: it tells what was approved, and believes what was signed."""

import dataclasses
import json
import shutil

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, Message, RecordDict

from casam_fed.audit.announcement import RECEIPT
from casam_fed.audit.dsse import seal
from casam_fed.audit.merkle import check_consistency
from casam_fed.audit.note import Checkpoint, check_cosigned, check_signed, cosigned, read_note, sign_checkpoint
from casam_fed.audit.statement import open_statement
from casam_fed.audit.tiles import Log
from casam_fed.backbone.backbones import backbone_card
from casam_fed.bank.layer_bank import LayerBank
from casam_fed.bank.release import parse
from casam_fed.errors import EnrolmentError, ExchangeError, SignatureError
from casam_fed.host.files import sha256_bytes
from casam_fed.wire.exchange import EVALUATE_STAGE, HELLO, LOG, SUBMIT, SYNC, Logs, Receipt, Request, encode_json
from site_client.answering import AnsweringSite
from site_client.home import renew_keys
from site_client.outbox import Outbox
from site_client.release_log import ReleaseLog
from site_client.work import SiteWork

from ..casam_fed.bank.bank_logs import shown_log
from ..casam_fed.wire.welcomes import AGGREGATOR
from .deployed_sites import (
    Asked,
    approve,
    give_welcome,
    log_of,
    objects_of,
    request_of,
    signed_receipt,
    welcomed_home,
)

OTHER = Ed25519PrivateKey.generate()


@pytest.fixture
def site(home):
    return Asked(home)


@pytest.fixture
def digest(home):
    return Outbox(home).newest().digest


def everything_below(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestHello:
    def test_it_says_who_and_what_but_offers_nothing_that_nobody_approved(self, site):
        hello = site.ask(HELLO)
        assert (hello["site"], hello["task"], hello["outbox"], hello["have"]) == ("clinic", "clinic", [], [])
        assert hello["backbone_digest"] == backbone_card("mini").sha256

    def test_an_approved_release_is_offered_until_it_is_decided(self, site, digest, banks):
        approve(site.home, digest)
        assert site.ask(HELLO)["outbox"] == [digest]
        waits = Receipt(digest, "quarantined", None, "Q201", "a person looks at it")
        log = log_of(banks[0]).after_deciding(waits)
        site.sync(log, receipt=waits)
        assert site.ask(HELLO)["outbox"] == [digest]
        facts = {"site": "clinic", "task": "clinic", "size": 1, "code": "Q201", "entry": 0, "by": "person"}
        log = log.after("admitted", {"release": digest, "statement": "5" * 64}, **facts)
        site.sync(log, receipt=Receipt(digest, "admitted", 0, "Q201"))
        assert site.ask(HELLO)["outbox"] == []
        receipts = [event for event in site.events() if event.event == "receipt"]
        assert [(event.facts["outcome"], event.facts["decision"]) for event in receipts] == [
            ("quarantined", 1),
            ("admitted", 2),
        ]

    def test_a_receipt_that_the_aggregator_did_not_sign_is_not_believed(self, site, digest):
        approve(site.home, digest)
        admitted, refused = Receipt(digest, "admitted", 0), Receipt(digest, "refused", None, "R106", "call me")
        for envelope in (b"", signed_receipt(admitted), seal(RECEIPT, encode_json(refused).encode(), OTHER)):
            with pytest.raises((ExchangeError, SignatureError)):
                site.site.receive(refused, envelope)
        assert site.ask(HELLO)["outbox"] == [digest]

    def test_it_needs_neither_backbone_nor_data(self, home):
        """An aggregator asks all sites at once and waits seconds, not minutes."""
        asked = Asked(home)
        asked.ask(HELLO)
        assert "_site" not in vars(asked.site)

    def test_sites_with_the_same_method_say_the_same_whatever_their_machines(self, home):
        one = AnsweringSite(home).hello(None).config_digest
        settings = home.path / "site.yaml"
        settings.write_text(settings.read_text().replace("threads: 1", "threads: 7"))
        assert AnsweringSite(type(home)(home.path)).hello(None).config_digest == one

    def test_without_a_welcome_there_is_no_site(self, home):
        (home.path / "WELCOME.json").unlink()
        with pytest.raises(EnrolmentError, match=r"send .*REQUEST.json to the aggregator's operator"):
            AnsweringSite(home)


class TestSubmit:
    def test_before_approval_only_a_code_leaves(self, site, caplog):
        assert site.ask(SUBMIT) == {"error": "ExchangeError"}
        assert "no approved release is waiting here" in caplog.text

    def test_after_approval_the_very_release_leaves_with_its_statement(self, site, digest):
        approve(site.home, digest)
        reply = site.send(request_of(SUBMIT))
        release = reply.content["arrays"]["release"].numpy().tobytes()
        submission = json.loads(reply.content["payload"]["json"])
        assert sha256_bytes(release) == submission["digest"] == digest == parse(release).digest
        key = site.home.signing_key().public_key()
        statement = open_statement(submission["statement"].encode(), {site.site.welcome.site_key: key}, "clinic")
        assert (statement.release, statement.size) == (digest, len(release))
        assert (statement.federation, statement.app, statement.approved) == ("test", "a" * 64, "option")

    def test_it_never_trains_inside_the_handler(self, tmp_path, monkeypatch):
        """Training takes hours, and Flower would give the message up: so it happens before, without network."""
        monkeypatch.setattr(SiteWork, "train", lambda self: pytest.fail("trained inside the handler"))
        empty = Asked(welcomed_home(tmp_path / "untrained"))
        assert empty.ask(SUBMIT) == {"error": "ExchangeError"}
        assert empty.ask(HELLO)["outbox"] == []

    def test_a_release_changed_after_its_approval_stays(self, site, digest):
        approve(site.home, digest)
        path = site.site.outbox.path(digest)
        path.write_bytes(path.read_bytes()[:-1] + b"\0")
        assert site.ask(SUBMIT) == {"error": "ExchangeError"}

    def test_a_statement_by_another_key_lets_nothing_go(self, site, digest, tmp_path):
        approve(site.home, digest)
        other = welcomed_home(tmp_path / "other")
        shutil.copytree(site.home.outbox, other.outbox)
        shutil.copy(other.outbox / f"{digest}.statement.json", site.home.outbox)
        assert Asked(other).ask(SUBMIT) == {"error": "ExchangeError"}

    @pytest.mark.parametrize("change", [{"federation": "elsewhere"}, {"app": "b" * 64}])
    def test_what_was_approved_for_one_federation_does_not_go_to_another(self, home, digest, change):
        approve(home, digest)
        give_welcome(home, **change)
        site = Asked(home)
        assert site.ask(HELLO)["outbox"] == []
        assert site.ask(SUBMIT) == {"error": "ExchangeError"}

    def test_asked_twice_it_sends_the_same_bytes(self, site, digest):
        approve(site.home, digest)
        first, second = (site.send(request_of(SUBMIT)).content for _ in range(2))
        assert first["arrays"]["release"].data == second["arrays"]["release"].data
        assert dict(first["payload"]) == dict(second["payload"])


class TestReceipts:
    def test_a_receipt_for_this_sites_release_is_kept(self, site, digest, banks):
        receipt = Receipt(digest, "refused", None, "A12", "the norm is too large")
        site.sync(log_of(banks[0]).after_deciding(receipt), objects_of(banks[0]), receipt)
        assert site.site.outbox.receipt(digest) == receipt
        assert "the aggregator says: refused A12 the norm is too large" in site.said()

    def test_told_again_it_is_logged_once(self, site, digest, banks):
        receipt = Receipt(digest, "refused", None, "A12", "the norm is too large")
        log = log_of(banks[0]).after_deciding(receipt)
        for _ in range(2):
            site.sync(log, objects_of(banks[0]), receipt)
        assert [event.event for event in site.events()].count("receipt") == 1

    @pytest.mark.parametrize("shown", [None, Receipt("c" * 64, "quarantined", None, "Q201")], ids=["none", "another"])
    def test_a_decision_that_the_log_does_not_show_is_not_believed(self, site, digest, banks, shown):
        log = log_of(banks[0])
        if shown is not None:
            log = log.after_deciding(dataclasses.replace(shown, digest=digest))
        assert site.sync(log, objects_of(banks[0]), Receipt(digest, "refused", None, "A12")) == {"error": "LogError"}
        assert site.site.outbox.receipt(digest) is None

    def test_a_receipt_for_anything_else_is_refused_and_not_kept(self, site, banks):
        answer = site.sync(log_of(banks[0]), objects_of(banks[0]), Receipt("c" * 64, "admitted", 0))
        assert answer == {"error": "ExchangeError"}
        assert not (site.home.seeded / "receipts").exists()
        assert not (site.home.seeded / "bank").exists()

    @pytest.mark.parametrize(
        "change",
        [
            {"digest": "../../../keys/signing"},
            {"digest": "../" * 21 + "x"},
            {"reason": "\x1b[2J\x1b[1;1Hall is well"},
            {"reason": "line\nline"},
            {"reason": "x" * 601},
            {"code": "\x07"},
            {"outcome": "\x1b[2J"},
        ],
    )
    def test_a_receipt_can_neither_leave_its_folder_nor_move_the_cursor(self, site, digest, banks, change):
        before = everything_below(site.home.path.parent)
        request = {
            "seed": 0,
            "snapshot": "",
            "last": False,
            "receipt": {"digest": digest, "outcome": "refused", "sequence": None, "code": "A1", "reason": "", **change},
        }
        assert site.ask(SYNC, request) == {"error": "ExchangeError"}
        changed = {
            name for name, data in everything_below(site.home.path.parent).items() if data != before.get(name, b"")
        }
        assert all(name == "clinic/progress.jsonl" or name.startswith("clinic/audit/") for name in changed)


class TestSync:
    def test_a_signed_bank_arrives_whole(self, site, banks):
        answer = site.sync(log_of(banks[2]), objects_of(banks[2]))
        assert answer["bank_digest"] == site.bank == banks[2].snapshot().digest
        assert answer["have"] == sorted(banks[2].snapshot().object_digests) == site.ask(HELLO)["have"]
        copy = Log(site.home.bank_log(site.site.welcome))
        assert list(copy.entries()) == list(log_of(banks[2]).entries)
        assert copy.note == log_of(banks[2]).note()

    def test_the_same_bank_again_changes_nothing(self, site, banks):
        first = site.sync(log_of(banks[1]), objects_of(banks[1]))
        assert site.sync(log_of(banks[1])) == first

    def test_later_only_what_is_new_is_needed(self, site, banks):
        site.sync(log_of(banks[1]), objects_of(banks[1]))
        fresh = banks[2].snapshot().entries[-1].digest
        answer = site.sync(log_of(banks[2]), {fresh: banks[2].object_bytes(fresh)})
        assert answer["bank_digest"] == site.bank == banks[2].snapshot().digest

    def test_it_may_come_in_portions_and_until_then_the_old_bank_stands(self, site, banks):
        site.sync(log_of(banks[0]), objects_of(banks[0]))
        kept = everything_below(site.home.seeded / "bank")
        lacking = [entry.digest for entry in banks[2].snapshot().entries]
        answer = site.sync(log_of(banks[2]), {lacking[0]: banks[2].object_bytes(lacking[0])})
        assert answer["bank_digest"] == ""
        assert lacking[0] in answer["have"]
        assert everything_below(site.home.seeded / "bank") == kept
        assert Asked(site.home).ask(HELLO)["have"] == answer["have"]
        answer = site.sync(log_of(banks[2]), {lacking[1]: banks[2].object_bytes(lacking[1])})
        assert answer["bank_digest"] == site.bank == banks[2].snapshot().digest
        assert not (site.home.seeded / "incoming").exists()

    def test_a_portion_that_rotted_on_the_disk_is_lacking_and_can_be_sent_again(self, site, banks):
        lacking = [entry.digest for entry in banks[2].snapshot().entries]
        site.sync(log_of(banks[2]), {lacking[0]: banks[2].object_bytes(lacking[0])})
        (site.home.seeded / "incoming" / f"{lacking[0]}.safetensors").write_bytes(b"rotten")
        assert lacking[0] not in site.ask(HELLO)["have"]
        assert site.sync(log_of(banks[2]), objects_of(banks[2]))["bank_digest"] == site.bank

    def test_an_entry_that_rotted_on_the_disk_is_lacking_and_mends_the_copy_when_sent_again(self, site, banks):
        site.sync(log_of(banks[1]), objects_of(banks[1]))
        rotten = banks[1].snapshot().entries[0].digest
        path = site.home.seeded / "bank" / "objects" / f"{rotten}.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
        assert rotten not in site.ask(HELLO)["have"]
        answer = site.sync(log_of(banks[1]), {rotten: banks[1].object_bytes(rotten)})
        assert answer["bank_digest"] == banks[1].snapshot().digest
        assert sha256_bytes(path.read_bytes()) == rotten

    @pytest.fixture
    def holding(self, site, banks):
        """A site that holds the bank with two entries."""
        site.sync(log_of(banks[2]), objects_of(banks[2]))
        return site

    def refuses(self, site, log, objects=None, code="ForkedError"):
        before = everything_below(site.home.seeded)
        held = everything_below(site.home.bank_log(site.site.welcome))
        assert site.sync(log, objects) == {"error": code}
        assert everything_below(site.home.seeded) == before
        assert everything_below(site.home.bank_log(site.site.welcome)) == held

    def test_another_key_is_refused(self, holding, banks):
        other = shown_log(banks[2].snapshot(), OTHER)
        self.refuses(holding, other, code="UnsignedError")
        # Under the name that the aggregator's key would sign with.
        self.refuses(holding, dataclasses.replace(log_of(banks[2]), key=OTHER), code="UnsignedError")
        assert not holding.home.stopped.exists()

    def test_a_forged_signature_is_refused(self, holding, banks):
        note = log_of(banks[2]).note()
        (signature,) = note.signatures
        forged = dataclasses.replace(signature, value=bytes(64))
        logs = Logs(checkpoint=dataclasses.replace(note, signatures=(forged,)).data.decode())
        assert holding.ask(SYNC, Request(logs=logs)) == {"error": "LogError"}
        assert not holding.home.stopped.exists()

    def test_objects_without_a_log_that_names_them_say_nothing(self, site, banks):
        assert site.ask(SYNC, Request(), objects_of(banks[2])) == {"error": "LogError"}
        assert not (site.home.seeded / "bank").exists()

    @pytest.mark.parametrize("text", ["x", "\u2014", "casam-fed/bank/test/000000000000\n1\n", " ", "0\n" * 5000])
    def test_what_is_no_checkpoint_is_refused(self, holding, text):
        assert holding.ask(SYNC, Request(logs=Logs(checkpoint=text))) == {"error": "LogError"}
        assert holding.ask(HELLO, Request(logs=Logs(witnessed=text))) == {"error": "LogError"}

    @pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b + b"x", lambda b: b"", lambda b: b[2:]])
    def test_entries_cut_or_with_an_addition_are_refused(self, site, banks, change):
        log = log_of(banks[2])
        logs = Logs(checkpoint=log.note().data.decode())
        answer = site.ask(SYNC, Request(logs=logs), {LOG: change(log.bundle(0)), **objects_of(banks[2])})
        assert answer["error"] in ("LogError", "ForkedError")
        assert not (site.home.seeded / "bank").exists()

    @pytest.mark.parametrize("older", [0, 1])
    def test_a_shorter_log_stops_the_site(self, holding, banks, older):
        self.refuses(holding, log_of(banks[older]), objects_of(banks[older]))
        assert "casam-fed/bank/test" in holding.home.stopped.read_text()

    def test_a_forked_log_stops_the_site(self, holding, banks):
        snapshot = banks[2].snapshot()
        first, second = snapshot.entries
        forked = dataclasses.replace(snapshot, entries=(first, dataclasses.replace(second, digest="c" * 64)))
        reordered = (dataclasses.replace(second, sequence=0), dataclasses.replace(first, sequence=1))
        for entries in (forked.entries, reordered):
            log = shown_log(dataclasses.replace(snapshot, entries=entries))
            for longer in (log, log.after("enrolled", {"key": "d" * 64}, site="late")):
                holding.home.stopped.unlink(missing_ok=True)
                self.refuses(holding, longer)
                assert "casam-fed/bank/test" in holding.home.stopped.read_text()

    def test_an_entry_for_another_place_is_refused(self, holding, banks):
        log = log_of(banks[2])
        twice = dataclasses.replace(log, entries=(*log.entries, log.entries[-1]))
        self.refuses(holding, twice, code="LogError")

    def test_a_log_that_contradicts_itself_leads_to_no_bank(self, site, banks):
        entry = banks[1].snapshot().entries[0]
        facts = {"site": "other", "task": "other", "entry": 5, "reason": "harmful"}
        log = log_of(banks[1]).after("retired", {"release": entry.digest}, **facts)
        assert site.sync(log, objects_of(banks[1])) == {"error": "BankError"}
        assert not (site.home.seeded / "bank").exists()

    def test_a_retired_entry_does_not_come_back(self, holding, banks, tmp_path):
        shutil.copytree(banks[2].folder, tmp_path / "bank")
        bank = LayerBank(tmp_path / "bank")
        bank.retire("other")
        assert holding.sync(log_of(bank))["bank_digest"] == bank.snapshot().digest
        self.refuses(holding, log_of(banks[2]), objects_of(banks[2]))

    def test_each_is_the_witness_of_the_other(self, site, banks):
        site.sync(log_of(banks[1]), objects_of(banks[1]))
        shown = Logs(**site.ask(HELLO, Request(logs=Logs()))["logs"])
        key = site.home.signing_key().public_key()
        own = read_note(shown.checkpoint.encode(), "clinic")
        check_signed(own, key)
        bank = read_note(shown.witnessed.encode(), "clinic")
        assert bank.checkpoint == log_of(banks[1]).note().checkpoint
        check_cosigned(bank, own.checkpoint.origin, key)
        assert shown.size == len(log_of(banks[1]).entries)
        cosigned_by_it = cosigned(own, log_of(banks[1]).origin, AGGREGATOR, 1_800_000_000)
        later = site.ask(HELLO, Request(logs=Logs(witnessed=cosigned_by_it.data.decode(), size=own.checkpoint.size)))
        assert ReleaseLog(site.home).log().witnessed("bank") == cosigned_by_it
        newer = read_note(later["logs"]["checkpoint"].encode(), "clinic").checkpoint
        path = [bytes.fromhex(each) for each in later["logs"]["consistency"]]
        check_consistency(own.checkpoint.size, own.checkpoint.root, newer.size, newer.root, path)

    def test_a_cosignature_that_is_not_the_aggregators_or_not_of_this_log_is_not_kept(self, site, banks, tmp_path):
        site.ask(HELLO)
        own, bank = ReleaseLog(site.home).log(), log_of(banks[0]).origin
        for note in (
            cosigned(own.note, bank, OTHER, 1),
            own.note,
            cosigned(sign_checkpoint(own.checkpoint, OTHER), bank, AGGREGATOR, 1),
        ):
            answer = site.ask(HELLO, Request(logs=Logs(witnessed=note.data.decode())))
            assert answer["error"] in ("LogError", "UnsignedError")
            assert ReleaseLog(site.home).log().witnessed("bank") is None
        assert not site.home.stopped.exists()

    @pytest.mark.parametrize("size", [1, 9])
    def test_a_release_log_that_was_put_back_from_an_old_copy_stops_the_site(self, site, banks, size):
        """By its own signature there was another log, or a longer one."""
        site.ask(HELLO)
        own, bank = ReleaseLog(site.home).log(), log_of(banks[0]).origin
        lost = sign_checkpoint(Checkpoint(own.checkpoint.origin, size, bytes(32)), site.home.signing_key())
        note = cosigned(lost, bank, AGGREGATOR, 1)
        assert site.ask(HELLO, Request(logs=Logs(witnessed=note.data.decode()))) == {"error": "ForkedError"}
        assert "put the newest copy of audit/ back" in site.home.stopped.read_text()

    def test_after_a_change_of_keys_the_bank_log_is_cosigned_anew(self, site, banks):
        site.sync(log_of(banks[1]), objects_of(banks[1]))
        renew_keys(site.home)
        give_welcome(site.home)
        renewed = Asked(site.home)
        shown = Logs(**renewed.ask(HELLO, Request(logs=Logs()))["logs"])
        assert (shown.witnessed, shown.size) == ("", len(log_of(banks[1]).entries))
        renewed.sync(log_of(banks[2]), objects_of(banks[2]))
        shown = Logs(**renewed.ask(HELLO, Request(logs=Logs()))["logs"])
        key = site.home.signing_key().public_key()
        origin = read_note(shown.checkpoint.encode(), "clinic").checkpoint.origin
        check_cosigned(read_note(shown.witnessed.encode(), "clinic"), origin, key)

    def test_a_bank_of_another_backbone_is_refused(self, site, banks):
        """Also by a site that holds no bank yet, and so has nothing to compare with."""
        foreign = dataclasses.replace(banks[0].snapshot(), backbone_digest="d" * 64)
        assert site.sync(shown_log(foreign), objects_of(banks[0])) == {"error": "ExchangeError"}
        assert not (site.home.seeded / "bank").exists()

    def test_missing_objects_are_named_by_what_is_held_and_no_bank_is_made(self, site, banks):
        answer = site.sync(log_of(banks[2]))
        assert answer == {"bank_digest": "", "have": []}
        assert not (site.home.seeded / "bank").exists()

    def test_an_object_that_the_snapshot_does_not_name_is_refused(self, site, banks):
        self.takes_none(site, log_of(banks[0]), {sha256_bytes(b"extra"): b"extra"})

    def takes_none(self, site, log, objects):
        before = everything_below(site.home.seeded)
        assert site.sync(log, objects) == {"error": "ExchangeError"}
        assert everything_below(site.home.seeded) == before

    def test_an_object_with_another_digest_is_refused(self, site, banks):
        digest = banks[2].snapshot().entries[0].digest
        self.takes_none(site, log_of(banks[2]), {digest: b"something else"})

    @pytest.mark.parametrize("name", ["../../../keys/signing.key", "/etc/passwd", "a/b", "..", "\x1b[2J"])
    def test_a_digest_that_is_a_path_leads_nowhere(self, site, banks, name):
        self.takes_none(site, log_of(banks[0]), {name: b"x"})

    def test_an_entry_that_is_signed_and_yet_no_release_is_refused(self, holding, banks):
        """A stolen key signs anything: what it signs must still be a release of this backbone."""
        data = b"not a release"
        snapshot = banks[2].snapshot()
        entry = dataclasses.replace(
            snapshot.entries[0], sequence=2, task="third", digest=sha256_bytes(data), bytes=len(data)
        )
        bad = dataclasses.replace(snapshot, entries=(*snapshot.entries, entry))
        assert holding.sync(shown_log(bad), {entry.digest: data}) == {"error": "ReleaseError"}
        assert holding.bank == snapshot.digest

    def test_an_array_that_is_not_plain_bytes_is_refused(self, site, banks):
        message = request_of(SYNC, Request(), objects_of(banks[0]))
        array = next(iter(message.content["arrays"].values()))
        array.data = array.data.replace(b"|u1", b"|i1")
        assert dict(site.send(message).content["payload"]) == {"error": "ExchangeError"}


class TestEvaluate:
    @pytest.fixture
    def holding(self, site, banks):
        site.sync(log_of(banks[2]), objects_of(banks[2]))
        return site

    def test_small_groups_stay_and_the_full_report_is_kept_at_the_site(self, holding):
        told = holding.ask(EVALUATE_STAGE)
        path = holding.home.seeded / "stages" / f"{holding.bank}.json"
        kept = json.loads(path.read_text())
        assert kept["gaussian"]["strengths"]
        for way in ("zero_shot", "oracle", "gaussian", "vae"):
            assert told[way]["scores"] == {name: round(score, 3) for name, score in kept[way]["scores"].items()}
            assert (told[way]["strengths"], told[way]["decoded"]) == ([], 0)
            assert all(count >= 10 for count in told[way]["chosen"].values())
            assert set(told[way]["chosen"].items()) <= set(kept[way]["chosen"].items())

    def test_whoever_asks_for_more_than_was_agreed_is_told_nothing(self, holding):
        """Each bank with a task left out would be one more question about the same images."""
        assert holding.ask(EVALUATE_STAGE, {"without": ["polyp"]}) == {"error": "ExchangeError"}
        assert holding.ask(EVALUATE_STAGE)["seconds"] == 0

    def test_with_too_few_test_images_nothing_is_told_and_the_site_still_knows(self, home, banks, caplog):
        settings = home.path / "site.yaml"
        settings.write_text(settings.read_text() + "minimum_images: 13\n")
        site = Asked(type(home)(home.path))
        site.sync(log_of(banks[1]), objects_of(banks[1]))
        assert site.ask(EVALUATE_STAGE) == {"error": "WithheldError"}
        assert (site.home.seeded / "stages" / f"{site.bank}.json").exists()
        assert "fewer than 13 test images: their scores stay here" in caplog.text

    def test_without_a_bank_there_is_only_a_code(self, site):
        assert site.ask(EVALUATE_STAGE) == {"error": "BankError"}


class TestWhateverArrives:
    def test_no_sentence_travels_and_each_answer_stands_in_the_log(self, site, digest, banks):
        approve(site.home, digest)
        site.ask(HELLO)
        site.ask(SUBMIT)
        site.sync(log_of(banks[2]), objects_of(banks[2]))
        site.sync(log_of(banks[1]))
        site.ask(EVALUATE_STAGE)
        events = [event for event in site.events() if event.event == "intent"]
        assert [event.facts["kind"] for event in events] == [HELLO, SUBMIT, SYNC, SYNC, EVALUATE_STAGE]
        assert [event.subjects.get("release") for event in events] == [None, digest, None, None, None]
        texts = [(site.home.audit / "payloads" / f"{event.subjects['payload']}.json").read_text() for event in events]
        assert texts[3] == "ForkedError"
        assert str(site.home.path) not in "".join(texts)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            "[]",
            "null",
            '{"seed": "one"}',
            '{"seed": 0, "\\u001b[2J": 1}',
            '{"seed": 0, "snapshot": 7}',
            '{"seed": 0, "snapshot": "\\ud800"}',
            '{"seed": 0, "snapshot": "\\u00e9"}',
            '{"seed": NaN}',
            "[" * 100_000,
            "x" * ((1 << 20) + 1),
        ],
        ids=range(12),
    )
    @pytest.mark.parametrize("kind", [HELLO, SUBMIT, SYNC, EVALUATE_STAGE])
    def test_a_request_that_is_none_costs_a_code_and_writes_nothing_on_the_terminal(self, site, kind, text, caplog):
        content = RecordDict({"payload": ConfigRecord({"json": text})})
        payload = site.send(Message(content, dst_node_id=1, message_type=kind)).content["payload"]
        if list(payload) == ["error"]:
            assert payload["error"].isidentifier()
        else:
            # The snapshot of a request matters to a sync only.
            assert kind == HELLO
            assert "snapshot" in text
        assert all(record.getMessage().isprintable() for record in caplog.records)

    @pytest.mark.parametrize("content", [RecordDict(), RecordDict({"payload": ConfigRecord({})})])
    def test_a_message_without_payload_costs_a_code(self, site, content):
        for kind in (HELLO, SUBMIT, SYNC, EVALUATE_STAGE):
            reply = site.send(Message(content, dst_node_id=1, message_type=kind))
            assert dict(reply.content["payload"]) == {"error": "ExchangeError"}

    def test_what_is_shown_cannot_move_the_cursor_and_a_full_disk_costs_only_the_line(self, home):
        home.say("\x1b[2Jthe bank\u202e\r\nhas 1 task")
        assert json.loads(home.progress.read_text())["text"] == "\\x1b[2Jthe bank\\u202e\\r\\nhas 1 task"
        home.progress.unlink()
        home.progress.mkdir()
        home.say("lost")

    def test_what_is_shown_is_for_this_user_only(self, home):
        home.progress.unlink(missing_ok=True)
        home.say("hello")
        assert home.progress.stat().st_mode & 0o777 == 0o600
