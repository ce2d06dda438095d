"""The bank log of an aggregator: what was decided about each release, in order, signed, and seen by every site.

The log is the truth; the bank's snapshot follows from it. Who changes the bank writes the event first; `open_bank` brings
a snapshot that a crash has left behind in line before anything else happens.

    kept/snapshot.json   the snapshot that a checkpoint of the log led to, signed: only later events are read for the next

What is kept counts only if the aggregator's key has signed it and its checkpoint is one of this log's history.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from aggregator.home import Home
from aggregator.sites import read_sites
from casam_fed import __version__
from casam_fed.audit.dsse import seal, unseal
from casam_fed.audit.event import Event, bank_origin
from casam_fed.audit.event_log import append_event, begin_log, events_of, open_log
from casam_fed.audit.keys import fingerprint
from casam_fed.audit.merkle import in_memory, leaf_hash, tree_root
from casam_fed.audit.note import Checkpoint, is_before, sign_checkpoint
from casam_fed.audit.tile_layout import bundle_bytes, bundle_of
from casam_fed.audit.tiles import Log
from casam_fed.bank.bank_log import snapshot_of
from casam_fed.bank.snapshot import Entry, Snapshot
from casam_fed.canonical import canonical_json
from casam_fed.errors import CasamError, LogError, StorageError
from casam_fed.forms import STRICT, Digest
from casam_fed.host.files import as_storage_error, keep_by_digest, write_atomically

if TYPE_CHECKING:
    from casam_fed.bank.layer_bank import LayerBank

__all__ = ["Ledger", "Tail", "begin_ledger"]

_TAIL_BYTES = 8 << 20
_REACHED = "application/vnd.casam-fed.reached+json"


def begin_ledger(folder: Path, federation: str, key: Ed25519PrivateKey, app: str, snapshot: Snapshot) -> None:
    """Begin the log of an empty bank.

    Args:
        folder: of the log.
        federation: its name.
        key: the aggregator's signing key.
        app: SHA-256 of the Flower app through which releases arrive.
        snapshot: of the empty bank.

    Raises:
        LogError, StorageError: there is a log already, or the disk is full.
    """
    facts = {"federation": federation, "backbone_name": snapshot.backbone, "code": __version__, "app": app}
    subjects = {"backbone": snapshot.backbone_digest, "background": snapshot.background}
    begin_log(folder, bank_origin(federation, fingerprint(key.public_key())), key, subjects, facts)


@dataclass(frozen=True)
class Tail:
    """How the log goes on after what a site holds.

    Attributes:
        checkpoint: the signed note of the log up to the last entry here.
        bundle: the entries, each after its length (C2SP tlog-tiles); empty where the site holds them all.
        size: of the log up to there.
        is_last: whether nothing follows.
    """

    checkpoint: str
    bundle: bytes
    size: int
    is_last: bool


@pydantic_dataclass(frozen=True, config=STRICT)
class _Reached:
    """Where the log had come to: origin, size and root of its checkpoint, and the text of the snapshot it led to."""

    log: str
    size: int
    root: Digest
    snapshot: str


class Ledger:
    """The bank log in an aggregator's folder."""

    def __init__(self, home: Home) -> None:
        """Work in the folder of an aggregator.

        Raises:
            KeyFileError: as `Home.signing_key`.
        """
        self.home = home
        self._key = home.signing_key()

    def log(self) -> Log:
        """Return the log as it is now.

        Raises:
            LogError: it is missing or damaged, or somebody else signed it.
        """
        return open_log(self.home.bank_log, self._key.public_key())

    def events(self) -> Iterator[Event]:
        """Yield all events, each checked.

        Raises:
            LogError, SignatureError: the log is damaged.
        """
        return events_of(self.log(), self._key.public_key(), "the bank log")

    def tail(self, start: int, end: int) -> Tail:
        """Return the entries from index `start` on, before `end`, as many as go into one message.

        Raises:
            LogError: as `log`.
        """
        log = self.log()
        sent: list[bytes] = []
        size = 0
        for entry in log.entries(min(start, end), end):
            size += bundle_bytes([entry])
            if sent and size > _TAIL_BYTES:
                break
            sent.append(entry)
        reached = min(start, end) + len(sent)
        checkpoint = Checkpoint(log.checkpoint.origin, reached, log.root(reached))
        note = sign_checkpoint(checkpoint, self._key)
        return Tail(note.data.decode(), bundle_of(sent), reached, reached == end)

    def snapshot(self) -> Snapshot:
        """Return the snapshot that the log leads to, all of its events read.

        Raises:
            BankError, LogError, SignatureError: the log contradicts itself or is damaged.
        """
        return snapshot_of(self.events())

    def _snapshot_now(self) -> Snapshot:
        """Return the snapshot that the log leads to, only those events read that came since it was kept."""
        log = self.log()
        size, before = self._kept_snapshot(log)
        if before is not None and size == log.size:
            return before
        snapshot = snapshot_of(events_of(log, self._key.public_key(), "the bank log", size), before)
        reached = {
            "log": log.checkpoint.origin,
            "size": log.size,
            "root": log.checkpoint.root.hex(),
            "snapshot": snapshot.data.decode("ascii"),
        }
        # What cannot be kept is read again.
        with contextlib.suppress(StorageError):
            sealed = seal(_REACHED, canonical_json(reached).encode("ascii"), self._key)
            write_atomically(self._kept_file, sealed, private=True)
        return snapshot

    def _kept_snapshot(self, log: Log) -> tuple[int, Snapshot | None]:
        """Return the size of the log that led to the snapshot that is kept, and it; (0, None) where none fits this log."""
        public = self._key.public_key()
        with contextlib.suppress(CasamError, ValidationError, FileNotFoundError):
            with as_storage_error("read", self._kept_file):
                sealed = self._kept_file.read_bytes()
            payload = unseal(sealed, _REACHED, {fingerprint(public): public}, str(self._kept_file))
            reached: _Reached = TypeAdapter(_Reached).validate_json(payload)
            checkpoint = Checkpoint(reached.log, reached.size, bytes.fromhex(reached.root))
            if is_before(checkpoint, log.checkpoint, log.hash_at):
                return reached.size, Snapshot.parse(reached.snapshot.encode("ascii"))
        return 0, None

    @property
    def _kept_file(self) -> Path:
        return self.home.kept / "snapshot.json"

    def check_whole(self) -> int:
        """Read all entries, check that they are those of the checkpoint, and return how many they are.

        Raises:
            LogError: they are not.
        """
        log = self.log()
        leaves = [leaf_hash(entry) for entry in log.entries()]
        if tree_root(len(leaves), in_memory(leaves)) != log.checkpoint.root:
            raise LogError(
                f"the entries of the log {log.folder} are not those of its checkpoint; restore it from a copy"
            )
        return log.size

    def open_bank(self) -> "LayerBank":
        """Return the bank, in line with the log.

        Raises:
            BankError, LogError, SignatureError: an object is missing, or the log is damaged.
            StorageError: the disk is full or cannot be written.
        """
        from casam_fed.bank.layer_bank import LayerBank

        return LayerBank.restore(self.home.bank, self._snapshot_now())

    def admitted(self, entry: Entry, statement: bytes, code: str, by: str) -> int:
        """Log that a release became an entry, by "rule" or by a "person"; return the index in the log."""
        facts = {**_facts(entry.site, entry.task, entry.bytes, code), "entry": entry.sequence, "by": by}
        return self._append("admitted", {"release": entry.digest, "statement": self._kept(statement)}, facts)

    def quarantined(self, release: str, statement: bytes, site: str, task: str, size: int, code: str) -> int:
        """Log that a release waits for a person."""
        subjects = {"release": release, "statement": self._kept(statement)}
        return self._append("quarantined", subjects, _facts(site, task, size, code))

    def refused(self, release: str, statement: bytes, site: str, task: str, size: int, code: str) -> int:
        """Log that a release was refused; `statement` is empty where none could be read."""
        subjects = {"release": release} | ({"statement": self._kept(statement)} if statement else {})
        return self._append("refused", subjects, _facts(site, task, size, code))

    def retired(self, entry: Entry, reason: str) -> int:
        """Log that an entry is withdrawn, for one of `casam_fed.audit.event.REASONS`."""
        facts = {"site": entry.site, "task": entry.task, "entry": entry.sequence, "reason": reason}
        return self._append("retired", {"release": entry.digest}, facts)

    def note_keys(self) -> None:
        """Log the keys that were enrolled or ended since; the sites' files are the truth, so that it can be repeated.

        Raises:
            EnrolmentError, LogError, StorageError: a site's file or the log is damaged, or the disk is full.
        """
        known: dict[str, str] = {}
        for event in self.events():
            if event.event in ("enrolled", "revoked"):
                known[event.subjects["key"]] = event.event
        for name, record in read_sites(self.home.sites).items():
            for pair in record.keys:
                if pair.fingerprint not in known:
                    self._append("enrolled", {"key": pair.fingerprint}, {"site": name})
                if pair.ended and known.get(pair.fingerprint) != "revoked":
                    self._append("revoked", {"key": pair.fingerprint}, {"site": name})

    def _append(self, event: str, subjects: Mapping[str, str], facts: Mapping[str, Any]) -> int:
        return append_event(self.log(), self._key, event, subjects, facts)

    def _kept(self, statement: bytes) -> str:
        """Keep a signed statement, and return its digest."""
        return keep_by_digest(self.home.audit / "statements", statement)


def _facts(site: str, task: str, size: int, code: str) -> dict[str, Any]:
    return {"site": site, "task": task, "size": size, "code": code}
