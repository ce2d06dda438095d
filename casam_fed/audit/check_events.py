"""The checks of a log's events against each other, in their order, and of a site's log against the aggregator's.

What is kept while a log goes by is one small record for each release, key, and message on its way.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from casam_fed.audit.check_folder import CheckError, Finding, end_at_first
from casam_fed.audit.event import Event

__all__ = ["BankHistory", "SiteHistory", "check_cross", "check_seen", "follow"]

_ASK = "ask whose log it is what happened there"


class History(Protocol):
    """What becomes of the events of a log."""

    def take(self, event: Event) -> Finding | None:
        """Take the next event, and return what is wrong with it after those before."""


def follow(events: Iterable[Event], history: History) -> None:
    """Give all events to a history.

    Raises:
        CheckError: as the events' own checks; then `event-order` or `not-approved`.
    """
    wrong: Finding | None = ("event-order", f"a log in the export has no entry, not even its first; {_ASK}")
    for index, event in enumerate(events):
        # What is wrong with a later entry by itself is told before what is wrong with their order.
        if index == 0 or wrong is None:
            wrong = history.take(event)
    if wrong is not None:
        raise CheckError(*wrong)


@dataclass
class SiteHistory:
    """A site's log.

    Attributes:
        approvals: release -> the events that approved it.
        intents: release -> index of the last intent with it.
        sent: release -> time at which the SuperNode last took it over.
        payloads: digests of all texts that were about to leave.
        receipts: all events of that kind.
    """

    approvals: dict[str, list[Event]] = field(default_factory=dict)
    intents: dict[str, int] = field(default_factory=dict)
    sent: dict[str, str] = field(default_factory=dict)
    payloads: dict[str, None] = field(default_factory=dict)
    receipts: list[Event] = field(default_factory=list)
    _allowed: set[str] = field(default_factory=set)
    _waiting: dict[int, tuple[str, frozenset[str]]] = field(default_factory=dict)

    def take(self, event: Event) -> Finding | None:
        """Take the next event, and return what is wrong with it: `event-order` or `not-approved`."""
        release = event.subjects.get("release", "")
        if wrong := _wrong_first(event):
            return wrong
        if event.event == "approved":
            self.approvals.setdefault(release, []).append(event)
            self._allowed.add(release)
        elif event.event == "declined":
            self._allowed.discard(release)
        elif event.event == "intent":
            return self._intend(event, release)
        elif event.event == "sent":
            return self._send(event)
        elif event.event == "receipt":
            if release not in self.intents:
                return _disorder(event, "is a decision about a release that was never about to leave")
            self.receipts.append(event)
        return None

    def _intend(self, event: Event, release: str) -> Finding | None:
        if release:
            if release not in self._allowed:
                return (
                    "not-approved",
                    f"entry {event.sequence} of the site's log lets release {release[:12]} leave, which nobody had "
                    f"approved by then; {_ASK}",
                )
            self.intents[release] = event.sequence
        self.payloads[event.subjects["payload"]] = None
        self._waiting[event.sequence] = (release, frozenset(each["id"] for each in event.facts["objects"]))
        return None

    def _send(self, event: Event) -> Finding | None:
        waiting = self._waiting.pop(event.facts["intent"], None)
        if waiting is None:
            return _disorder(event, "says that a message has left which was not about to, or had left before")
        release, objects = waiting
        if event.subjects["message"] not in objects:
            return _disorder(event, "names another message than the one that was about to leave")
        if release:
            self.sent[release] = event.time
        return None


@dataclass
class BankHistory:
    """An aggregator's log.

    Attributes:
        site: whose decisions are kept; "" for those of all sites.
        decisions: index -> event, for those of `site`: admitted, quarantined, refused, retired.
        keys: site -> every key that was ever enrolled for it, the last one last -> index of the entry that first did.
    """

    site: str = ""
    decisions: dict[int, Event] = field(default_factory=dict)
    keys: dict[str, dict[str, int]] = field(default_factory=dict)
    _entries: list[tuple[str, str, str]] = field(default_factory=list)
    _in_force: dict[str, int] = field(default_factory=dict)
    _enrolled: dict[str, str] = field(default_factory=dict)
    _offered_under: dict[tuple[str, str], str] = field(default_factory=dict)
    _by: dict[int, str] = field(default_factory=dict)

    def take(self, event: Event) -> Finding | None:
        """Take the next event, and return what is wrong with it: `event-order`."""
        changes = {"enrolled": self._enrol, "revoked": self._revoke, "admitted": self._admit, "retired": self._retire}
        if wrong := _wrong_first(event) or changes.get(event.event, _nothing)(event):
            return wrong
        if "release" in event.subjects and self.site in ("", event.facts["site"]):
            self.decisions[event.sequence] = event
            self._by[event.sequence] = self._key_of(event)
        return None

    def last(self) -> dict[tuple[str, str], Event]:
        """Return the last decision about each (site, release)."""
        return {(event.facts["site"], event.subjects["release"]): event for event in self.decisions.values()}

    def admitted(self, key: str = "") -> list[Event]:
        """Return what was admitted; with a key, only what was offered while that one, or none, was enrolled last."""
        return [
            event
            for index, event in self.decisions.items()
            if event.event == "admitted" and (not key or self._by[index] in ("", key))
        ]

    def under_other_keys(self, site: str, key: str) -> dict[str, int]:
        """Return every other key that was ever enrolled for a site, and how many of its releases were admitted under it."""
        counts = dict.fromkeys(self.keys.get(site, {}).keys() - {key}, 0)
        for index, event in self.decisions.items():
            if event.event == "admitted" and event.facts["site"] == site and self._by[index] in counts:
                counts[self._by[index]] += 1
        return counts

    def _enrol(self, event: Event) -> None:
        key, site = event.subjects["key"], event.facts["site"]
        self._enrolled[key] = site
        known = self.keys.setdefault(site, {})
        known[key] = known.pop(key, event.sequence)

    def _revoke(self, event: Event) -> Finding | None:
        if self._enrolled.pop(event.subjects["key"], None) == event.facts["site"]:
            return None
        return _disorder(event, "ends a key that was not enrolled")

    def _admit(self, event: Event) -> Finding | None:
        site, task, number = event.facts["site"], event.facts["task"], event.facts["entry"]
        if number != len(self._entries):
            return _disorder(event, f"makes entry {number} of the bank, which is not the next, {len(self._entries)}")
        if task in self._in_force:
            return _disorder(event, "admits a release for a task that has another in force")
        self._in_force[task] = number
        self._entries.append((site, task, event.subjects["release"]))
        return None

    def _retire(self, event: Event) -> Finding | None:
        site, task, number = event.facts["site"], event.facts["task"], event.facts["entry"]
        if self._in_force.get(task) != number or self._entries[number] != (site, task, event.subjects["release"]):
            return _disorder(event, "withdraws what is not in force")
        del self._in_force[task]
        return None

    def _key_of(self, event: Event) -> str:
        """Return the key under which a site had offered a release: a person may admit it after the key has changed."""
        site, release = event.facts["site"], event.subjects["release"]
        key = next(reversed(self.keys.get(site, {})), "")
        if event.event == "quarantined":
            self._offered_under[site, release] = key
        if event.event == "admitted" and event.facts["by"] == "person":
            return self._offered_under.get((site, release), key)
        return key


def check_keys_of_site(bank: BankHistory, site: str, given: Sequence[str]) -> None:
    """Check that the keys given for a site are its own, and that nothing was admitted in its name under any other.

    Whoever enrols a key of his own for a site can speak in its name: only the site can tell, by handing out the key or not.

    Args:
        bank: the aggregator's log.
        site: its name.
        given: fingerprints, first of the key of its log, then of its earlier ones.

    Raises:
        CheckError: `key-missing`.
    """
    end_at_first(_of_keys(bank, site, given))


def _of_keys(bank: BankHistory, site: str, given: Sequence[str]) -> Iterator[Finding]:
    for key in given[1:]:
        if key not in bank.keys.get(site, {}):
            yield (
                "key-missing",
                f"the key {key[:12]} was never enrolled for site {site}; give its own keys, and no others",
            )
    for key, count in sorted(bank.under_other_keys(site, given[0]).items()):
        if count and key not in given:
            yield (
                "key-missing",
                f"the aggregator's log admits {count} in the name of site {site} under the key {key[:12]}; give that key "
                "after the other if the site says that it was its own, else somebody spoke in its name",
            )


def check_seen(site: SiteHistory, bank: BankHistory, seen: int) -> None:
    """Check that the aggregator had seen the site's log up to every release of it that it admitted.

    Args:
        site, bank: the two logs.
        seen: entries of the site's log that the aggregator cosigned.

    Raises:
        CheckError: `cosignature-stale`.
    """
    left_by = (site.intents.get(event.subjects["release"], -1) for event in bank.admitted())
    end_at_first(
        (
            "cosignature-stale",
            f"the aggregator cosigned {seen} entries of the site's log, and entry {index}, by which an admitted "
            "release left, is not among them; let the site meet its aggregator once more, and export again",
        )
        for index in left_by
        if index >= seen
    )


def check_cross(site: SiteHistory, bank: BankHistory, key: str) -> None:
    """Check that what the aggregator decided about a site's releases is what the site was told, and had sent.

    What it admitted under an earlier key of the site stands in the log of that key.

    Args:
        site, bank: the two logs.
        key: fingerprint of the site's.

    Raises:
        CheckError: `receipt-decision`, `admitted-not-sent` or `admitted-other`.
    """
    end_at_first(_of_both(site, bank, key))


def _of_both(site: SiteHistory, bank: BankHistory, key: str) -> Iterator[Finding]:
    for receipt in site.receipts:
        decision = bank.decisions.get(receipt.facts["decision"])
        if decision is None or not _is_that(decision, receipt):
            yield (
                "receipt-decision",
                f"entry {receipt.sequence} of the site's log says {receipt.facts['outcome']}, but entry "
                f"{receipt.facts['decision']} of the aggregator's log says something else; ask the aggregator's operator",
            )
    for event in bank.admitted(key):
        release = event.subjects["release"]
        where = f"entry {event.sequence} of the aggregator's log admits release {release[:12]}"
        if release not in site.intents:
            yield "admitted-not-sent", f"{where}, which never left by the site's log; ask both where it came from"
        if not any(_agree(event, approval) for approval in site.approvals.get(release, [])):
            yield (
                "admitted-other",
                f"{where} by another statement, or of another size, than was approved; ask both why",
            )


def _wrong_first(event: Event) -> Finding | None:
    if (event.event == "began") == (event.sequence == 0):
        return None
    return _disorder(event, "is not what a log begins with" if event.sequence == 0 else "begins the log again")


def _is_that(decision: Event, receipt: Event) -> bool:
    # A site that offers a retired release again is told that it is refused.
    outcome = "refused" if decision.event == "retired" else decision.event
    return (outcome, decision.subjects["release"]) == (receipt.facts["outcome"], receipt.subjects["release"])


def _agree(admitted: Event, approved: Event) -> bool:
    return (admitted.subjects["statement"], admitted.facts["size"]) == (
        approved.subjects["statement"],
        approved.facts["size"],
    )


def _nothing(_event: Event) -> None:
    """What an event changes that changes nothing."""


def _disorder(event: Event, what: str) -> Finding:
    whose = "the aggregator's log" if event.log.startswith("casam-fed/bank/") else "the site's log"
    return "event-order", f"entry {event.sequence} of {whose} {what}; {_ASK}"
