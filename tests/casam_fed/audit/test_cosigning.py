"""The handshake of two logs: what is cosigned, what is kept, and what gives away a log with two histories."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from casam_fed.audit.cosigning import (
    LogOwner,
    bank_log_owner,
    check_continues,
    continuation,
    keep_cosignature,
    open_checkpoint,
    release_log_owner,
)
from casam_fed.audit.event_log import append_event, begin_log
from casam_fed.audit.note import Checkpoint, cosigned, sign_checkpoint
from casam_fed.audit.tiles import Log
from casam_fed.errors import ForkedError, LogError, UnsignedError

from .exports import BANK, CLINIC, FEDERATION, SITE, STRANGER

OWNER = release_log_owner(SITE, CLINIC.public_key())
WITNESS = bank_log_owner(FEDERATION, BANK.public_key())


def log_of(folder: Path, tasks: Sequence[str], key: Ed25519PrivateKey = CLINIC, owner: LogOwner = OWNER) -> Log:
    """Return a site's log that begins, and then declines these tasks."""
    log = begin_log(folder, owner.origin, key, {}, {"site": SITE, "code": "0.2.0"})
    for task in tasks:
        append_event(log, key, "declined", {"release": "d" * 64}, {"federation": FEDERATION, "task": task})
    return Log(folder)


def continued(log: Log, task: str) -> Log:
    """Return the same log after one more entry."""
    append_event(Log(log.folder), CLINIC, "declined", {"release": "d" * 64}, {"federation": FEDERATION, "task": task})
    return Log(log.folder)


def text_of(log: Log) -> str:
    return log.note.data.decode()


@pytest.fixture
def log(tmp_path):
    return log_of(tmp_path / "log", ["polyp", "lesion"])


def test_a_log_is_cosigned_from_its_first_checkpoint_on_as_it_goes_on(log):
    known = open_checkpoint(text_of(log), OWNER).checkpoint
    assert known == log.checkpoint
    for task in ("vessel", "gland", "cell"):
        log = continued(log, task)
        shown = open_checkpoint(text_of(log), OWNER).checkpoint
        check_continues(known, shown, continuation(log, known.size), OWNER)
    check_continues(log.checkpoint, log.checkpoint, continuation(log, log.size), OWNER)


def test_a_checkpoint_is_its_owners_and_of_that_log(log):
    for text, error in (
        ("", LogError),
        (text_of(log)[:-1], LogError),
        (sign_checkpoint(log.checkpoint, STRANGER).data.decode(), UnsignedError),
    ):
        with pytest.raises(error):
            open_checkpoint(text, OWNER)
    other = replace(log.checkpoint, origin=release_log_owner("other", CLINIC.public_key()).origin)
    with pytest.raises(LogError, match="site clinic showed a checkpoint of another log than its release log"):
        open_checkpoint(sign_checkpoint(other, CLINIC).data.decode(), OWNER)


def test_whoever_claims_to_know_more_than_there_is_gets_no_proof(log):
    assert continuation(log, log.size + 1) == ()
    assert continuation(log, 0) == ()
    assert len(continuation(log, 1)) == 2


def test_a_log_that_became_shorter_or_another_one_is_a_fork(log, tmp_path):
    longer = continued(log, "vessel")
    other = log_of(tmp_path / "other", ["polyp", "cell", "vessel", "gland"])
    cases = {
        "shorter": (longer, log, continuation(longer, log.size)),
        "rewritten": (longer, other, continuation(other, longer.size)),
        "of the same size": (log, log_of(tmp_path / "same", ["polyp", "cell"]), ()),
        "without a proof": (log, longer, ()),
        "by the proof of another": (log, longer, continuation(other, log.size)),
    }
    for name, (known, shown, path) in cases.items():
        with pytest.raises(ForkedError, match=r"the release log of site clinic .* does not continue") as error:
            check_continues(known.checkpoint, shown.checkpoint, path, OWNER)
        assert "let it put the newest copy of audit/ back" in str(error.value), name


def test_a_cosignature_of_this_logs_history_is_kept_and_a_newer_one_takes_its_place(log):
    older = cosigned(log.note, WITNESS.origin, BANK, 1)
    log = continued(log, "vessel")
    for note in (older, cosigned(log.note, WITNESS.origin, BANK, 2)):
        keep_cosignature(note.data.decode(), log, OWNER, WITNESS, "bank")
        assert log.witnessed("bank") == note


def test_an_older_cosignature_that_comes_late_does_not_hide_a_newer_one(log):
    older = cosigned(log.note, WITNESS.origin, BANK, 1)
    log = continued(log, "vessel")
    newer = cosigned(log.note, WITNESS.origin, BANK, 2)
    for note in (newer, older):
        keep_cosignature(note.data.decode(), log, OWNER, WITNESS, "bank")
    assert log.witnessed("bank") == newer


def test_a_witness_that_has_seen_more_or_something_else_gives_away_a_fork(log, tmp_path):
    other = log_of(tmp_path / "other", ["polyp", "cell"])
    lost = sign_checkpoint(Checkpoint(log.checkpoint.origin, 9, bytes(32)), CLINIC)
    for note in (other.note, lost):
        text = cosigned(note, WITNESS.origin, BANK, 1).data.decode()
        with pytest.raises(ForkedError, match="the aggregator has seen another release log than the one here"):
            keep_cosignature(text, log, OWNER, WITNESS, "bank")
    assert log.witnessed("bank") is None


def test_nobody_is_accused_of_a_fork_by_what_he_did_not_sign(log):
    lost = Checkpoint(log.checkpoint.origin, 9, bytes(32))
    for note in (
        cosigned(sign_checkpoint(lost, BANK), WITNESS.origin, BANK, 1),
        cosigned(sign_checkpoint(lost, CLINIC), WITNESS.origin, STRANGER, 1),
        sign_checkpoint(lost, CLINIC),
    ):
        with pytest.raises(UnsignedError):
            keep_cosignature(note.data.decode(), log, OWNER, WITNESS, "bank")
    assert log.witnessed("bank") is None


def test_the_same_words_hold_for_the_aggregators_log(tmp_path):
    bank = begin_log(tmp_path / "bank", WITNESS.origin, BANK, {"backbone": "b" * 64, "background": "d" * 64}, BEGAN)
    note = cosigned(sign_checkpoint(replace(bank.checkpoint, size=9), BANK), OWNER.origin, CLINIC, 1)
    with pytest.raises(
        ForkedError, match="site clinic has seen another bank log than the one here; restore audit/ and"
    ):
        keep_cosignature(note.data.decode(), bank, WITNESS, OWNER, SITE)


BEGAN = {"federation": FEDERATION, "backbone_name": "mini", "code": "0.2.0", "app": "a" * 64}
