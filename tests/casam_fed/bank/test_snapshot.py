"""A snapshot has one form, and says nothing that contradicts itself."""

import json
from dataclasses import replace

import pytest

from casam_fed.bank.snapshot import MAX_SNAPSHOT_BYTES, Entry, Snapshot, read_snapshot
from casam_fed.errors import BankError

A = Entry(0, "site-a", "a", "a" * 64, 100)
B = Entry(1, "site-b", "b", "b" * 64, 200)
C = Entry(2, "site-c", "c", "c" * 64, 300)
OLD = Snapshot("mini", "1" * 64, "2" * 64, (A, B))


def retired(entry: Entry) -> Entry:
    return replace(entry, status="retired")


def with_entries(*entries: Entry) -> Snapshot:
    return replace(OLD, entries=entries)


def test_a_snapshot_is_parsed_from_its_own_bytes_only():
    assert Snapshot.parse(OLD.data) == OLD
    for data in (b" " + OLD.data, OLD.data + b"\n", json.dumps(json.loads(OLD.data)).encode()):
        with pytest.raises(BankError, match="not canonical"):
            Snapshot.parse(data)


def test_a_key_given_twice_is_refused():
    """Two readers could otherwise see two banks in one signed text."""
    twice = OLD.data.replace(b'"backbone":"mini"', b'"backbone":"vit_b","backbone":"mini"')
    with pytest.raises(BankError):
        Snapshot.parse(twice)


@pytest.mark.parametrize(
    ("snapshot", "why"),
    [
        (with_entries(B), "contradicts itself"),
        (with_entries(A, replace(B, sequence=0)), "contradicts itself"),
        (with_entries(A, replace(B, task="a")), "contradicts itself"),
    ],
    ids=["starts at one", "numbers twice", "two releases in force for a task"],
)
def test_entries_that_contradict_each_other_are_refused(snapshot, why):
    with pytest.raises(BankError, match=why):
        Snapshot.parse(snapshot.data)


@pytest.mark.parametrize(
    "change",
    [("a" * 64, "../../etc/passwd"), ('"a"', '"../a"'), ('"active"', '"paused"'), ('"bytes":100', '"bytes":-1')],
)
def test_names_and_digests_can_lead_nowhere(change):
    with pytest.raises(BankError, match=r"not valid at 'entries.0"):
        Snapshot.parse(OLD.data.decode().replace(*change, 1).encode())


def test_a_snapshot_too_large_is_not_even_read():
    with pytest.raises(BankError, match="has 8,388,609 bytes"):
        Snapshot.parse(b"[" * (MAX_SNAPSHOT_BYTES + 1))


def test_a_retired_entry_needs_no_object():
    assert with_entries(retired(A), B).object_digests == [OLD.background, B.digest]


def test_a_missing_bank_is_said_in_a_sentence(tmp_path):
    with pytest.raises(BankError, match="there is no bank in"):
        read_snapshot(tmp_path)
    (tmp_path / "bank.json").write_bytes(OLD.data)
    assert read_snapshot(tmp_path) == OLD
