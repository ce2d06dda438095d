"""The bank follows from its log: what the events lead to, and what they cannot lead to."""

from dataclasses import replace

import pytest

from casam_fed.audit.event import Event, open_event
from casam_fed.audit.keys import fingerprint
from casam_fed.bank.bank_log import decision_about, snapshot_of
from casam_fed.bank.snapshot import Entry, Snapshot
from casam_fed.errors import BankError
from casam_fed.wire.exchange import Receipt

from ..wire.welcomes import AGGREGATOR
from .bank_logs import ShownLog, shown_log

A = Entry(0, "site-a", "a", "a" * 64, 100)
B = Entry(1, "site-b", "b", "b" * 64, 200)
BANK = Snapshot("mini", "1" * 64, "2" * 64, (A, B))


def events_of(log: ShownLog) -> list[Event]:
    public = AGGREGATOR.public_key()
    return [open_event(entry, {fingerprint(public): public}, "a test") for entry in log.entries]


def admitted(log: ShownLog, entry: Entry) -> ShownLog:
    facts = {"site": entry.site, "task": entry.task, "size": entry.bytes, "code": "A001", "by": "rule"}
    return log.after("admitted", {"release": entry.digest, "statement": "5" * 64}, **facts, entry=entry.sequence)


def retired(log: ShownLog, entry: Entry) -> ShownLog:
    facts = {"site": entry.site, "task": entry.task, "entry": entry.sequence, "reason": "other"}
    return log.after("retired", {"release": entry.digest}, **facts)


@pytest.mark.parametrize(
    "snapshot",
    [
        replace(BANK, entries=()),
        BANK,
        replace(BANK, entries=(replace(A, status="retired"), B)),
        replace(BANK, entries=(replace(A, status="retired"), replace(B, status="retired"))),
    ],
    ids=["empty", "two", "one retired", "all retired"],
)
def test_a_log_leads_to_the_snapshot_that_it_tells_of(snapshot):
    assert snapshot_of(events_of(shown_log(snapshot))) == snapshot


def test_a_task_may_come_back_with_another_release():
    log = retired(shown_log(BANK), A)
    again = Entry(2, "site-a", "a", "c" * 64, 300)
    assert snapshot_of(events_of(admitted(log, again))).active == [B, again]


def test_what_changes_no_entry_changes_no_snapshot():
    log = shown_log(BANK).after("enrolled", {"key": "d" * 64}, site="site-c")
    log = log.after_deciding(Receipt("e" * 64, "refused", None, "R114"), "site-c")
    log = log.after_deciding(Receipt("e" * 64, "quarantined", None, "Q201"), "site-c")
    log = log.after("revoked", {"key": "d" * 64}, site="site-c")
    assert snapshot_of(events_of(log)) == BANK


@pytest.mark.parametrize(
    "log",
    [
        admitted(shown_log(BANK), replace(A, digest="c" * 64)),
        admitted(shown_log(BANK), Entry(3, "site-c", "c", "c" * 64, 1)),
        admitted(shown_log(BANK), Entry(2, "site-c", "a", "c" * 64, 1)),
        retired(retired(shown_log(BANK), A), A),
        retired(shown_log(BANK), replace(A, sequence=7)),
        retired(shown_log(BANK), replace(A, digest=B.digest)),
        retired(shown_log(BANK), replace(A, task="b")),
        retired(shown_log(BANK), replace(A, site="site-b")),
        shown_log(BANK).after(
            "began",
            {"key": "d" * 64, "backbone": "1" * 64, "background": "2" * 64},
            federation="test",
            backbone_name="mini",
            code="0.1.0",
            app="a" * 64,
        ),
    ],
    ids=[
        "a number twice",
        "a number left out",
        "a task in force twice",
        "retired twice",
        "what was never admitted",
        "another release",
        "another task",
        "another site",
        "begun twice",
    ],
)
def test_events_that_contradict_those_before_lead_to_no_bank(log):
    with pytest.raises(BankError, match=rf"entry {len(log.entries) - 1} of the bank log"):
        snapshot_of(events_of(log))


def test_a_log_that_did_not_begin_leads_to_no_bank():
    with pytest.raises(BankError, match="is empty"):
        snapshot_of([])
    with pytest.raises(BankError, match="contradicts"):
        snapshot_of(events_of(shown_log(BANK))[1:])


def test_the_last_decision_about_a_release_counts_and_only_its_sites():
    log = shown_log(BANK)
    assert decision_about(events_of(log), A.digest, "site-a").event == "admitted"
    assert decision_about(events_of(log), A.digest, "site-b") is None
    log = retired(log, A)
    assert decision_about(events_of(log), A.digest, "site-a").event == "retired"
    log = log.after_deciding(Receipt(A.digest, "refused", None, "R115"), "site-a")
    assert decision_about(events_of(log), A.digest, "site-a").sequence == len(log.entries) - 1
