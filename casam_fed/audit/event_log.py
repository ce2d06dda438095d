"""A log whose entries are events: what is written into it, and read back from it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from casam_fed.audit.dsse import read_envelope
from casam_fed.audit.event import Event, open_event, read_event, sign_event
from casam_fed.audit.keys import fingerprint
from casam_fed.audit.tiles import Log, MakeEntry
from casam_fed.clock import utc_now
from casam_fed.errors import LogError

__all__ = ["append_event", "begin_log", "events_of", "open_log"]


def begin_log(
    folder: Path, origin: str, key: Ed25519PrivateKey, subjects: Mapping[str, str], facts: Mapping[str, Any]
) -> Log:
    """Create a log whose first entry, `began`, names the key that signs it.

    Raises:
        LogError: the folder holds a log already.
        StorageError: the disk is full or cannot be written.
    """
    began = {"key": fingerprint(key.public_key()), **subjects}

    def first(index: int, previous: str) -> bytes:
        return sign_event(Event(origin, index, previous, utc_now(), "began", began, facts), key)

    return Log.create(folder, origin, key, first)


def open_log(folder: Path, public: Ed25519PublicKey) -> Log:
    """Open a log whose checkpoint its owner must have signed.

    Raises:
        LogError: there is none, it is damaged, or somebody else signed it.
    """
    from casam_fed.audit.note import check_signed

    log = Log(folder)
    check_signed(log.note, public)
    return log


def append_event(
    log: Log, key: Ed25519PrivateKey, event: str, subjects: Mapping[str, str], facts: Mapping[str, Any]
) -> int:
    """Append an event and return its index; it is on the disk when this returns.

    Its time is never before that of the entry before, even where the clock of this machine was set back.

    Raises:
        LogError, StorageError: as `Log.append`; then nothing was appended.
        SignatureError: a subject or fact is not in its form.
    """
    return log.append(_maker(log, key, event, subjects, facts), key)


def _maker(
    log: Log, key: Ed25519PrivateKey, event: str, subjects: Mapping[str, str], facts: Mapping[str, Any]
) -> MakeEntry:
    def make(index: int, previous: str) -> bytes:
        last = read_event(read_envelope(log.entry(index - 1), "this log").payload, "this log").time
        return sign_event(
            Event(log.checkpoint.origin, index, previous, max(last, utc_now()), event, subjects, facts), key
        )

    return make


def events_of(log: Log, public: Ed25519PublicKey, owner: str, start: int = 0) -> Iterator[Event]:
    """Yield the events from index `start` on, each with its signature, its place and its log checked.

    Raises:
        LogError, SignatureError, NewerFormatError: the log is not what its owner should have written.
    """
    keys = {fingerprint(public): public}
    for index, data in enumerate(log.entries(start), start):
        event = open_event(data, keys, owner)
        if (event.log, event.sequence) != (log.checkpoint.origin, index):
            raise LogError(f"entry {index} of {owner} was written for another place; ask its owner what happened")
        yield event
