"""Two logs, each the witness of the other: this site shows its release log, and checks and cosigns the bank log.

The site keeps a copy of the whole bank log. It only ever takes entries that continue what it has seen; an aggregator that
shows less, or something else, is not believed again until a person has looked into it.
"""

import time

from casam_fed.audit.event import Event, bank_origin, site_origin
from casam_fed.audit.event_log import events_of, opened
from casam_fed.audit.keys import fingerprint
from casam_fed.audit.note import Note, check_cosigned, check_signed, cosigned, read_note
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

__all__ = ["Witness"]

_BANK = "bank"
_OWNER = "the aggregator's log"


class Witness:
    """What a site shows to its aggregator of its release log, and knows of the aggregator's."""

    def __init__(self, home: SiteHome, welcome: Welcome) -> None:
        """Be the witness of the aggregator of `welcome`."""
        self.home, self.welcome = home, welcome
        self.folder = home.bank_log(welcome)
        self._origin = bank_origin(welcome.federation, welcome.fingerprint)
        self._release_log = ReleaseLog(home)

    def shown(self, asked: Logs) -> Logs:
        """Return this site's newest checkpoint, with the proof that it continues the one that the aggregator knows."""
        own = self._release_log.log()
        # Who claims to know more than there is gets no proof, and finds out by itself.
        known = asked.size if asked.size <= own.size else 0
        return Logs(
            checkpoint=own.note.data.decode(),
            consistency=tuple(each.hex() for each in own.consistency(known)) if known else (),
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
            ForkedError: the aggregator signed a log that does not continue the one held here. The site has stopped.
            BankError, SignatureError: the new entries contradict those before.
        """
        if logs.witnessed:
            self._keep_cosigned(read_note(logs.witnessed.encode(), "the aggregator"))
        if logs.checkpoint:
            self._follow(read_note(logs.checkpoint.encode(), "the aggregator"), tail)

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

    def _keep_cosigned(self, note: Note) -> None:
        """Keep the aggregator's cosignature under a checkpoint of this site, if it is of this log's history."""
        own = self._release_log.log()
        check_signed(note, self.home.signing_key().public_key())
        check_cosigned(note, self._origin, self.welcome.key)
        if not own.has_seen(note):
            raise self._stopped(
                ForkedError(
                    f"the aggregator has cosigned {note.checkpoint.size} entries of this site's release log, and here is "
                    f"another, of {own.size}; put the newest copy of audit/ back, or make new keys with casam-site rotate"
                )
            )
        known = own.witnessed(_BANK)
        if known is None or known.checkpoint.size <= note.checkpoint.size:
            own.keep_witnessed(_BANK, note)

    def _follow(self, note: Note, tail: bytes) -> None:
        check_signed(note, self.welcome.key)
        if note.checkpoint.origin != self._origin:
            raise LogError("the aggregator signed a checkpoint of another log; ask its operator why")
        held = self._size()
        entries = parse_bundle(tail, max(0, note.checkpoint.size - held), _OWNER) if tail else []
        for _ in opened(entries, self._origin, self.welcome.key, _OWNER, held):
            pass
        try:
            if held:
                Log(self.folder).extend(entries, note)
            else:
                Log.mirror(self.folder, entries, note)
        except ForkedError as error:
            raise self._stopped(error) from error
        mirror = Log(self.folder)
        note = cosigned(note, self._own_origin(), self.home.signing_key(), int(time.time()))
        mirror.keep_witnessed(self.home.settings.name, note)

    def _stopped(self, error: ForkedError) -> ForkedError:
        """Let the site stop: what is wrong now does not mend itself, and a person has to know of it."""
        write_atomically(self.home.stopped, str(error).encode())
        return error

    def _cosigned(self) -> str:
        """Return the newest checkpoint of the bank log that this site cosigned; none until its present key has."""
        note = Log(self.folder).witnessed(self.home.settings.name) if self._size() else None
        own = self._own_origin()
        return note.data.decode() if note and any(signature.name == own for signature in note.signatures) else ""

    def _own_origin(self) -> str:
        return site_origin(self.home.settings.name, fingerprint(self.home.signing_key().public_key()))

    def _size(self) -> int:
        return Log(self.folder).size if (self.folder / "checkpoint").exists() else 0
