"""What the operator sees: every event once, of whatever process, and nothing that could move the cursor or end `up`."""

import json
import os

import pytest

from aggregator import progress as progress_module
from aggregator.progress import Progress


@pytest.fixture
def path(new_home):
    return new_home.path / "progress.jsonl"


@pytest.fixture
def shown(capsys):
    """What was printed since the last call, without the time of day."""

    def read() -> list[str]:
        return [line[10:] for line in capsys.readouterr().out.splitlines()]

    return read


def written(path, *texts: str) -> None:
    """Write events as the process of a delivery does."""
    with path.open("a", encoding="utf-8") as file:
        for text in texts:
            file.write(json.dumps({"time": 1.0, "text": text}) + "\n")


def test_what_is_said_is_shown_and_kept_with_its_time(new_home, path, shown):
    Progress(new_home).say("a delivery starts")
    assert shown() == ["a delivery starts"]
    event = json.loads(path.read_text())
    assert event["text"] == "a delivery starts"
    assert event["time"] > 1e9


def test_events_of_other_processes_are_shown_once_and_in_their_order(new_home, path, shown):
    progress = Progress(new_home)
    written(path, "first", "second")
    progress.show()
    assert shown() == ["first", "second"]
    written(path, "third")
    progress.say("fourth")
    progress.show()
    assert shown() == ["third", "fourth"]


def test_what_happened_before_is_not_shown_again(new_home, path, shown):
    written(path, "long ago")
    Progress(new_home).say("now")
    assert shown() == ["now"]


def test_an_event_that_is_half_written_waits_for_its_end(new_home, path, shown):
    progress = Progress(new_home)
    line = json.dumps({"time": 1.0, "text": "whole"}) + "\n"
    with path.open("a") as file:
        file.write(line[:9])
    progress.show()
    assert shown() == []
    with path.open("a") as file:
        file.write(line[9:])
    progress.show()
    assert shown() == ["whole"]


def test_a_line_that_a_killed_process_has_cut_costs_only_itself(new_home, path, shown):
    progress = Progress(new_home)
    path.write_text('{"time": 1.0, "te')
    progress.say("still here")
    assert shown() == ["still here"]
    assert len(path.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "line", [b"", b"{}", b"[]", b"7", b"\xff", b'{"time": "x", "text": "y"}', b'{"time": 1e99, "text": 1}']
)
def test_a_line_that_is_no_event_is_passed_over(new_home, path, shown, line):
    progress = Progress(new_home)
    path.write_bytes(line + b"\n")
    written(path, "an event")
    progress.show()
    assert shown() == ["an event"]


def test_the_same_trouble_is_said_once_until_something_else_happens(new_home, shown):
    progress = Progress(new_home)
    for text in ("trouble", "trouble", "other", "trouble"):
        progress.say_once(text)
    assert shown() == ["trouble", "other", "trouble"]


def test_what_a_site_has_sent_cannot_move_the_cursor(new_home, path, capsys):
    """A failing site answers with a code of its own choice, which the sentence about it quotes."""
    progress = Progress(new_home)
    written(path, "site x failed with \x1b[2J\u202e\r\nall is well")
    progress.show()
    assert capsys.readouterr().out.endswith("site x failed with \\x1b[2J\\u202e\\r\\nall is well\n")


def test_a_full_disk_costs_the_record_and_not_the_aggregator(new_home, path, capsys):
    progress = Progress(new_home)
    path.mkdir()
    progress.say("a delivery starts")
    assert "a delivery starts (not in " in capsys.readouterr().out


def test_a_file_that_somebody_has_emptied_is_read_from_its_beginning(new_home, path, shown):
    written(path, "a long line " * 20)
    progress = Progress(new_home)
    path.write_text("")
    written(path, "short")
    progress.show()
    assert shown() == ["short"]


def test_a_file_that_has_grown_large_moves_aside(new_home, path, shown, monkeypatch):
    monkeypatch.setattr(progress_module, "_MOST_BYTES", 100)
    written(path, "x" * 200)
    progress = Progress(new_home)
    progress.say("new")
    assert shown() == ["new"]
    assert os.listdir(path.parent).count("progress.old.jsonl") == 1
    assert len(path.read_text().splitlines()) == 1
