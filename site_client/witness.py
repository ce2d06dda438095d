"""A site as witness of its aggregator's bank log (casam_fed.audit.cosigning), of which it keeps a copy, every entry.

It only ever takes entries that continue what it has seen; an aggregator that shows less, or something else, is not
believed again until a person has looked into it.
"""

import contextlib
import time
from collections.abc import Iterator

from casam_fed.audit.cosigning import (
    bank_log_owner,
    continuation,
    keep_cosignature,
    open_checkpoint,
    release_log_owner,
)
from casam_fed.audit.event import Event
from casam_fed.audit.event_log import events_of, opened
from casam_fed.audit.note import Note, cosigned
from casam_fed.audit.tile_layout import parse_bundle
from casam_fed.audit.tiles import Log
from casam_fed.bank.bank_log import decision_about, snapshot_of
from casam_fed.bank.snapshot import Snapshot
from casam_fed.errors import ForkedError, LogError
from casam_fed.host.files import write_atomically
from casam_fed.wire.enrolment import Welcome
from casam_fed.wire.exchange import Logs, Receipt
from site_client.home import SiteHome
from site_client.release_log import ReleaseLog

__all__ = ["BankWitness"]

_BANK = "bank"
_OWNER = "the aggregator's log"


class BankWitness:
    """What a site knows of the bank log of its aggregator."""

    def __init__(self, home: SiteHome, welcome: Welcome) -> None:
        """Be the witness of the aggregator of `welcome`.

        Raises:
            KeyFileError: as `SiteHome.signing_key`.
        """
        self.home, self.welcome = home, welcome
        self.folder = home.bank_log(welcome)
        self._key = home.signing_key()
        self._owner = release_log_owner(home.settings.name, self._key.public_key())
        self._aggregator = bank_log_owner(welcome.federation, welcome.key)
        self._release_log = ReleaseLog(home)

    def shown(self, asked: Logs) -> Logs:
        """Return this site's newest checkpoint, with the proof that it continues the one that the aggregator knows."""
        own = self._release_log.log()
        return Logs(
            checkpoint=own.note.data.decode(),
            consistency=continuation(own, asked.size),
            witnessed=self._cosigned(),
            size=self._size(),
        )

    def hear(self, logs: Logs, tail: bytes) -> None:
        """Take what the aggregator shows: its cosignature under this site's checkpoint, and how its own log goes on.

        Args:
            logs: of its request.
            tail: bundle of the entries between what this site holds and the end of `logs.checkpoint`.

        Raises:
            LogError: something is not signed by the aggregator, or is not in its form; nothing was taken.
            ForkedError: the aggregator signed a log that does not continue the one held here, or has seen another release
                log than the one here. The site has stopped.
            BankError, SignatureError: the new entries contradict those before.
        """
        with self._stopping():
            if logs.witnessed:
                keep_cosignature(logs.witnessed, self._release_log.log(), self._owner, self._aggregator, _BANK)
            if logs.checkpoint:
                self._follow(open_checkpoint(logs.checkpoint, self._aggregator), tail)

    def snapshot(self) -> Snapshot:
        """Return the bank that the aggregator's log leads to.

        Raises:
            LogError: nothing was heard of it yet.
        """
        return snapshot_of(self._events())

    def decision(self, receipt: Receipt) -> int:
        """Return the entry of the bank log that a receipt speaks of.

        Raises:
            LogError: there is none that says so.
        """
        found = decision_about(self._events(), receipt.digest, self.home.settings.name)
        outcome = "refused" if found and found.event == "retired" else found.event if found else ""
        if found is None or outcome != receipt.outcome:
            raise LogError("the aggregator announced a decision that its log does not show; ask its operator why")
        return found.sequence

    def _events(self) -> list[Event]:
        return list(events_of(Log(self.folder), self.welcome.key, _OWNER))

    def _follow(self, note: Note, tail: bytes) -> None:
        """Bring the copy of the bank log to a newer checkpoint, and cosign that."""
        held = self._size()
        entries = parse_bundle(tail, max(0, note.checkpoint.size - held), _OWNER) if tail else []
        for _ in opened(entries, self._aggregator.origin, self.welcome.key, _OWNER, held):
            pass
        if held:
            Log(self.folder).extend(entries, note)
        else:
            Log.mirror(self.folder, entries, note)
        note = cosigned(note, self._owner.origin, self._key, int(time.time()))
        Log(self.folder).keep_witnessed(self.home.settings.name, note)

    @contextlib.contextmanager
    def _stopping(self) -> Iterator[None]:
        """Let the site stop at a fork: what is wrong then does not mend itself, and a person has to know of it."""
        try:
            yield
        except ForkedError as error:
            write_atomically(self.home.stopped, str(error).encode())
            raise

    def _cosigned(self) -> str:
        """Return the newest checkpoint of the bank log that this site cosigned; none until its present key has."""
        note = Log(self.folder).witnessed(self.home.settings.name) if self._size() else None
        own = self._owner.origin
        return note.data.decode() if note and any(signature.name == own for signature in note.signatures) else ""

    def _size(self) -> int:
        return Log(self.folder).size if (self.folder / "checkpoint").exists() else 0
