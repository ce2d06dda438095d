"""The site's release log: what a person let go or declined, what left, what was kept back, and what the aggregator decided.

    audit/log-KEY/               the log (casam_fed.audit.tiles), one for each signing key, named by its fingerprint
    audit/payloads/DIGEST.json   the text of every answer that left
    audit/statements/DIGEST.json every statement that was signed
    audit/receipts/DIGEST.json   every signed decision of the aggregator

An intent is in the log, on the disk, before anything goes, and `sent` once Flower's SuperNode has taken it over: whatever
crashes in between, the log tells what may have left.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from casam_fed import __version__
from casam_fed.audit.event import Event, site_origin
from casam_fed.audit.event_log import append_event, begin_log, events_of, open_log
from casam_fed.audit.keys import fingerprint
from casam_fed.audit.statement import Statement
from casam_fed.audit.tiles import Log
from casam_fed.bank.card import Card, card_json
from casam_fed.host.files import keep_by_digest, sha256_bytes
from casam_fed.wire.exchange import Receipt
from site_client.home import SiteHome

__all__ = ["Leaving", "ReleaseLog"]


@dataclass(frozen=True)
class Leaving:
    """A message that is about to leave.

    Attributes:
        kind: of the message that it answers.
        request: Flower's id of that message, "" where it has none.
        payload: its text, or the word of an error code.
        release: SHA-256 of the release it carries, "" for none.
        size: bytes of payload and release.
        objects: id and bytes of every object that Flower makes of it.
    """

    kind: str
    request: str
    payload: str
    release: str
    size: int
    objects: Sequence[tuple[str, int]]


class ReleaseLog:
    """The release log of a site's folder, for the key that is in force."""

    def __init__(self, home: SiteHome) -> None:
        """Open the log; the first entry begins it.

        Raises:
            KeyFileError: as `SiteHome.signing_key`.
        """
        self.home = home
        self._key = home.signing_key()
        self._print = fingerprint(self._key.public_key())
        self.folder = home.audit / f"log-{self._print[:12]}"

    def log(self) -> Log:
        """Return the log as it is now; begun, where it was not.

        Raises:
            LogError, StorageError: it is damaged, or the disk is full.
        """
        if not (self.folder / "checkpoint").exists():
            name = self.home.settings.name
            return begin_log(
                self.folder, site_origin(name, self._print), self._key, {}, {"site": name, "code": __version__}
            )
        return open_log(self.folder, self._key.public_key())

    def events(self, start: int = 0) -> Iterator[Event]:
        """Yield the events from index `start` on; none where nothing was logged yet.

        Raises:
            LogError, SignatureError: the log is damaged.
        """
        if (self.folder / "checkpoint").exists():
            yield from events_of(self.log(), self._key.public_key(), "this site's log", start)

    def size(self) -> int:
        """Return the number of entries."""
        return Log(self.folder).size if (self.folder / "checkpoint").exists() else 0

    def approved(self, statement: Statement, envelope: bytes, card: Card) -> None:
        """Log that a person let a release go, by this statement; the statement is kept first."""
        facts = {
            **{name: getattr(statement, name) for name in ("federation", "task", "size", "backbone", "app", "code")},
            "approved": statement.approved,
            "images": card.images,
            "patients": card.patients,
        }
        subjects = {
            "release": statement.release,
            "card": sha256_bytes(card_json(card).encode("ascii")),
            "statement": self._kept("statements", envelope),
        }
        self._append("approved", subjects, facts)

    def declined(self, release: str, federation: str, task: str) -> None:
        """Log that a person did not let a release go."""
        self._append("declined", {"release": release}, {"federation": federation, "task": task})

    def intent(self, leaving: Leaving, federation: str) -> int:
        """Log that a message is about to leave, its text kept first; return the entry's index."""
        subjects = {"payload": self._kept("payloads", leaving.payload.encode())}
        if leaving.release:
            subjects["release"] = leaving.release
        facts = {
            "federation": federation,
            "kind": leaving.kind,
            "request": leaving.request,
            "size": leaving.size,
            "objects": [{"id": digest, "bytes": size} for digest, size in leaving.objects],
        }
        return self._append("intent", subjects, facts)

    def sent(self, message: str, intent: int) -> None:
        """Log that the SuperNode has taken over the message of an intent; `message` is Flower's id of it."""
        self._append("sent", {"message": message}, {"intent": intent})

    def withheld(self, kind: str, request: str, federation: str, code: str) -> None:
        """Log that an answer was kept back, and an error code goes in its place."""
        self._append("withheld", {"request": request}, {"federation": federation, "kind": kind, "code": code})

    def received(self, receipt: Receipt, envelope: bytes, federation: str, decision: int) -> None:
        """Log the aggregator's decision, entry `decision` of its own log; one that is logged already is not again."""
        subjects = {"release": receipt.digest, "receipt": self._kept("receipts", envelope)}
        if any(event.event == "receipt" and event.subjects == subjects for event in self.events()):
            return
        facts = {
            "federation": federation,
            "outcome": receipt.outcome,
            "code": receipt.code,
            "decision": decision,
        }
        self._append("receipt", subjects, facts)

    def _append(self, event: str, subjects: Mapping[str, str], facts: Mapping[str, Any]) -> int:
        return append_event(self.log(), self._key, event, subjects, facts)

    def _kept(self, folder: str, data: bytes) -> str:
        """Keep the bytes that an event speaks of, and return their digest."""
        return keep_by_digest(self.home.audit / folder, data)
