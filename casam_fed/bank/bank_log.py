"""The bank as its log tells it: the log is the truth, and the snapshot a view that anybody can make from it.

The aggregator rebuilds its bank from this, and every site checks what it is sent against it.
"""

from collections.abc import Iterable
from dataclasses import replace

from casam_fed.audit.event import Event
from casam_fed.bank.snapshot import Entry, Snapshot
from casam_fed.errors import BankError

__all__ = ["decision_about", "snapshot_of"]

_DECISIONS = ("admitted", "quarantined", "refused", "retired")


def snapshot_of(events: Iterable[Event], before: Snapshot | None = None) -> Snapshot:
    """Return the snapshot that the events of a bank log lead to.

    Args:
        events: from the first on, or those after the ones that led to `before`.
        before: None for the first.

    Raises:
        BankError: they contradict each other, e.g. an entry retired that is not in force.
    """
    snapshot = before
    entries = list(before.entries) if before else []
    for event in events:
        if _contradicts(event, snapshot is not None, entries):
            raise BankError(
                f"entry {event.sequence} of the bank log ({event.event}) contradicts those before; "
                "ask the aggregator's operator"
            )
        if event.event == "began":
            subjects = event.subjects
            snapshot = Snapshot(event.facts["backbone_name"], subjects["backbone"], subjects["background"], ())
        elif event.event == "admitted":
            entries.append(_entry(event, event.facts["size"]))
        elif event.event == "retired":
            entries[event.facts["entry"]] = replace(entries[event.facts["entry"]], status="retired")
    if snapshot is None:
        raise BankError("the bank log is empty; restore it from a copy")
    return replace(snapshot, entries=tuple(entries))


def decision_about(events: Iterable[Event], release: str, site: str) -> Event | None:
    """Return the last decision about a site's release."""
    found = None
    for event in events:
        if event.event in _DECISIONS and (event.subjects["release"], event.facts["site"]) == (release, site):
            found = event
    return found


def _contradicts(event: Event, begun: bool, entries: list[Entry]) -> bool:
    if event.event == "admitted" and begun:
        entry = _entry(event, event.facts["size"])
        in_force = {known.task for known in entries if known.status == "active"}
        return entry.sequence != len(entries) or entry.task in in_force
    if event.event == "retired" and begun:
        number: int = event.facts["entry"]
        return number >= len(entries) or entries[number] != _entry(event, entries[number].bytes)
    return begun == (event.event == "began")


def _entry(event: Event, size: int) -> Entry:
    facts = event.facts
    return Entry(facts["entry"], facts["site"], facts["task"], event.subjects["release"], size)
