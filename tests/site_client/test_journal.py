"""The journal: whole lines, on the disk before anything goes, and a reader that a crash does not confuse."""

import json
import os
import resource
import stat
from datetime import datetime

import pytest

from casam_fed.errors import StorageError
from site_client.journal import read_journal, write_line

PARTS = [{"name": "payload", "bytes": 5, "sha256": "a" * 64}, {"name": "release", "bytes": 7, "sha256": "b" * 64}]


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "journal.jsonl"


def test_a_line_holds_its_time_its_parts_and_their_sum(journal):
    write_line(journal, {"kind": "query.hello", "parts": PARTS})
    (line,) = read_journal(journal)
    assert (line["kind"], line["parts"], line["bytes"]) == ("query.hello", PARTS, 12)
    assert datetime.fromisoformat(line["time"]).utcoffset().total_seconds() == 0


def test_lines_are_only_ever_added(journal):
    for number in range(3):
        before = journal.read_bytes() if journal.exists() else b""
        write_line(journal, {"kind": str(number), "parts": []})
        assert journal.read_bytes().startswith(before)
    assert [line["kind"] for line in read_journal(journal)] == ["0", "1", "2"]


def test_only_this_user_can_read_it_whatever_the_umask(journal):
    old = os.umask(0)
    try:
        write_line(journal, {"kind": "a", "parts": []})
    finally:
        os.umask(old)
    assert stat.S_IMODE(journal.stat().st_mode) == 0o600


def test_a_line_is_on_the_disk_when_the_call_returns(journal, monkeypatch):
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(os.fstat(descriptor).st_size))
    write_line(journal, {"kind": "a", "parts": PARTS})
    assert flushed == [journal.stat().st_size]


def test_what_a_crash_has_cut_is_no_line_and_does_not_swallow_the_next(journal):
    write_line(journal, {"kind": "whole", "parts": PARTS})
    with journal.open("ab") as file:
        file.write(b'{"time": "2026-01-01", "kind": "cut", "par')
    write_line(journal, {"kind": "next", "parts": []})
    assert [line["kind"] for line in read_journal(journal)] == ["whole", "next"]
    assert b"cut" in journal.read_bytes()


@pytest.mark.parametrize("garbage", [b"\xff\xfe\n", b"7\n", b"[]\n", b"\n\n", b"\0" * 50 + b"\n"])
def test_garbage_between_lines_is_left_out(journal, garbage):
    journal.write_bytes(garbage)
    write_line(journal, {"kind": "a", "parts": []})
    assert [line["kind"] for line in read_journal(journal)] == ["a"]


def test_reading_may_start_where_the_journal_once_ended(journal):
    write_line(journal, {"kind": "a", "parts": []})
    size = journal.stat().st_size
    assert read_journal(journal, size) == []
    write_line(journal, {"kind": "b", "parts": []})
    assert [line["kind"] for line in read_journal(journal, size)] == ["b"]


def test_no_journal_is_an_empty_one(journal):
    assert read_journal(journal) == []


def test_text_from_elsewhere_stays_within_its_line(journal):
    write_line(journal, {"kind": "a\nb\x1b[2J\u2028", "parts": []})
    assert journal.read_bytes().count(b"\n") == 1
    assert journal.read_bytes().strip().isascii()
    assert json.loads(journal.read_text())["kind"] == "a\nb\x1b[2J\u2028"


def test_a_full_disk_is_an_error_and_the_line_does_not_count(journal):
    write_line(journal, {"kind": "a", "parts": PARTS})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (journal.stat().st_size + 30, hard))
    try:
        with pytest.raises(StorageError, match="free space: until then nothing leaves this site"):
            write_line(journal, {"kind": "b", "parts": PARTS})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [line["kind"] for line in read_journal(journal)] == ["a"]
    write_line(journal, {"kind": "c", "parts": PARTS})
    assert [line["kind"] for line in read_journal(journal)] == ["a", "c"]


def test_a_disk_that_does_not_flush_is_an_error(journal, monkeypatch):
    def failing(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StorageError):
        write_line(journal, {"kind": "a", "parts": []})


def test_a_journal_that_is_no_file_is_an_error(journal):
    journal.mkdir()
    with pytest.raises(StorageError):
        write_line(journal, {"kind": "a", "parts": []})
