"""The time line of a log that a person can read: who let what go, what left, what was decided, and who has seen it.

Entries are read by their form alone; whether they are what was signed is for `casam_fed.audit.verify` to say.
"""

import heapq
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from casam_fed.audit.check_folder import MANIFEST, Folder, UnsuitableError, as_check_error, read_manifest
from casam_fed.audit.check_log import entries_of, owner_of, read_checkpoint, read_tree, said_time
from casam_fed.audit.event import Event, read_entry
from casam_fed.audit.export import events_in, find_home, whose, witnessed_of
from casam_fed.audit.note import MAX_NOTE_BYTES, Note, read_note
from casam_fed.audit.tiles import Log

__all__ = ["Item", "describe", "events_of_export", "line_of", "time_line"]

_COSIGNATURE_BYTES = 72
_TIME_BYTES = 8
_WITNESSED = "witnessed"
_SHORT = 12


@dataclass(frozen=True)
class Item:
    """One line.

    Attributes:
        time: UTC, YYYY-MM-DDThh:mm:ssZ.
        log: "site" or "bank".
        index: of the entry; -1 for a cosignature, which is beside the log.
        event: its kind, or "witnessed".
        subjects, facts: as in the entry.
    """

    time: str
    log: str
    index: int
    event: str
    subjects: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Return the line as JSON holds it."""
        return {name: getattr(self, name) for name in ("time", "log", "index", "event", "subjects", "facts")}


@dataclass(frozen=True)
class _Source:
    """One log: where it comes from, what its entries say, and who has cosigned it."""

    kind: str
    name: str
    events: Iterator[Event]
    notes: dict[str, Note]


def time_line(path: Path, log: str = "", key: str = "") -> Iterator[Item]:
    """Yield what the logs of a home, an export, or one log's folder tell, in the order of time.

    Beside a site's log, of its aggregator's only what is about that site.

    Args:
        path: of the home, export or log.
        log: "site" or "bank": only that log, and all of it.
        key: of a site with several, as for `casam_fed.audit.export.find_home`.

    Raises:
        UnsuitableError, CheckError: there is no log at `path`, not the one asked for, or it is not whole.
        LogError, SignatureError, NewerFormatError, StorageError: an entry cannot be read.
    """
    sources = [each for each in _sources(path, key) if log in ("", each.kind)]
    if not sources:
        raise UnsuitableError(f"{path} has no {log} log; leave --log out to see what there is")
    site = next((each.name for each in sources if each.kind == "site"), "")
    return heapq.merge(*(_items(each, site) for each in sources), key=lambda item: item.time)


def events_of_export(folder: Folder, kind: str) -> Iterator[Event]:
    """Yield the events of a log in an export, whose files are all there and lead to its checkpoint, by their form.

    Raises:
        CheckError: codes up to `root`.
        SignatureError, NewerFormatError: an entry is not in its form.
    """
    tree = read_tree(folder, kind, read_checkpoint(folder, kind))
    for entry in entries_of(folder, kind, tree.size):
        yield read_entry(entry, owner_of(kind))


def line_of(item: Item) -> str:
    """Return a line for people."""
    place = f"{item.log} {item.index}" if item.index >= 0 else item.log
    return f"{item.time}  {place:<9} {item.event:<11} {describe(item)}"


def describe(item: Item | Event) -> str:
    """Return what an event says, in words."""
    facts = {**item.subjects, **item.facts}
    release = f"release {str(facts.get('release', ''))[:_SHORT]}"
    if facts.get("task"):
        release += f" of task {facts['task']}"
    if item.event == _WITNESSED:
        return f"{facts['by']} had seen the first {facts['size']} entries"
    if item.event in ("admitted", "quarantined", "refused", "retired"):
        return _decision(item.event, release, facts)
    if item.event in ("approved", "declined", "receipt"):
        return _about_release(item.event, release, facts)
    return _other(item.event, release, facts)


def _decision(event: str, release: str, facts: Mapping[str, Any]) -> str:
    text = f"{release} from site {facts['site']}"
    if event == "retired":
        return f"{text}: entry {facts['entry']} of the bank withdrawn, {facts['reason']}"
    text += f", {facts['size']:,} bytes: {facts['code']}"
    return f"{text}, entry {facts['entry']} of the bank, by {facts['by']}" if event == "admitted" else text


def _about_release(event: str, release: str, facts: Mapping[str, Any]) -> str:
    if event == "declined":
        return f"{release} may not leave to federation {facts['federation']}: a person said no"
    if event == "receipt":
        return (
            f"{release}: told {facts['outcome']}, {facts['code']}, by entry {facts['decision']} of the aggregator's log"
        )
    who = "a person" if facts["approved"] == "person" else "an option of the command line"
    return (
        f"{release} may leave to federation {facts['federation']}, by {who}: {facts['size']:,} bytes, "
        f"learned from at least {facts['images']:,} images of {facts['patients']:,} patients"
    )


def _other(event: str, release: str, facts: Mapping[str, Any]) -> str:
    if event == "intent":
        what = f" with {release}" if "release" in facts else ""
        wire = sum(each["bytes"] for each in facts["objects"])
        return f"answer to {facts['kind']}{what} is about to leave: {facts['size']:,} bytes, {wire:,} on the wire"
    if event == "sent":
        return f"what entry {facts['intent']} announced has left, as message {facts['message'][:_SHORT]}"
    if event == "withheld":
        return f"answer to {facts['kind']} was kept back; the error code {facts['code']} goes in its place"
    if event in ("enrolled", "revoked"):
        return f"key {facts['key'][:_SHORT]} of site {facts['site']}"
    whose = f"site {facts['site']}" if "site" in facts else f"federation {facts['federation']}"
    return f"the log of {whose} begins, casam-fed {facts['code']}, key {facts['key'][:_SHORT]}"


def _sources(path: Path, key: str) -> list[_Source]:
    if os.path.isfile(path / MANIFEST):
        folder = Folder(path)
        manifest = read_manifest(folder)
        names = {"site": manifest.site, "bank": manifest.federation}
        return [_of_export(folder, kind, names[kind]) for kind in reversed(manifest.logs)]
    if os.path.isfile(path / "checkpoint"):
        return [_of_log(path)]
    return [_of_log(folder) for folder in find_home(path, key).logs.values()]


def _of_log(folder: Path) -> _Source:
    log = Log(folder)
    kind, name = whose(log.note)
    return _Source(kind, name, events_in(log, f"the log {folder}"), witnessed_of(folder))


def _of_export(folder: Folder, kind: str, name: str) -> _Source:
    notes = {}
    for each in folder.names(f"{kind}/witnessed"):
        path = f"{kind}/witnessed/{each}"
        data = folder.read(path, MAX_NOTE_BYTES, "cosignature-missing", "cosignature-form")
        with as_check_error("cosignature-form"):
            notes[each] = read_note(data, path)
    return _Source(kind, name, events_of_export(folder, kind), notes)


def _items(source: _Source, site: str) -> Iterator[Item]:
    entries = (
        Item(event.time, source.kind, event.sequence, event.event, event.subjects, event.facts)
        for event in source.events
        if source.kind == "site" or not site or event.facts.get("site", site) == site
    )
    seen = sorted(
        (item for note in source.notes.values() for item in _seen(source.kind, note)), key=lambda item: item.time
    )
    return heapq.merge(entries, seen, key=lambda item: item.time)


def _seen(kind: str, note: Note) -> Iterator[Item]:
    for each in note.signatures:
        if each.name != note.checkpoint.origin and len(each.value) == _COSIGNATURE_BYTES:
            time = said_time(int.from_bytes(each.value[:_TIME_BYTES], "big"))
            yield Item(time, kind, -1, _WITNESSED, facts={"by": each.name, "size": note.checkpoint.size})
