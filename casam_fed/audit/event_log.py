"""A log whose entries are events: what is written into it, and read back from it."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from casam_fed.audit.event import Event, open_event, read_entry, sign_event
from casam_fed.audit.keys import fingerprint
from casam_fed.audit.note import check_signed
from casam_fed.audit.tiles import Log, MakeEntry
from casam_fed.errors import LogError
from casam_fed.host.clock import utc_now

__all__ = ["append_event", "begin_log", "events_of", "open_log", "opened"]


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
        last = read_entry(log.entry(index - 1), "this log").time
        return sign_event(
            Event(log.checkpoint.origin, index, previous, max(last, utc_now()), event, subjects, facts), key
        )

    return make


def events_of(log: Log, public: Ed25519PublicKey, owner: str, start: int = 0) -> Iterator[Event]:
    """Yield the events from index `start` on, each with its signature, its place and its log checked.

    Raises:
        LogError, SignatureError, NewerFormatError: the log is not what its owner should have written.
    """
    return opened(log.entries(start), log.checkpoint.origin, public, owner, start)


def opened(entries: Iterable[bytes], origin: str, public: Ed25519PublicKey, owner: str, start: int) -> Iterator[Event]:
    """Yield the events of entries that stand in the log `origin` from index `start` on, checked as `events_of` does.

    Raises:
        LogError, SignatureError, NewerFormatError: as `events_of`.
    """
    keys = {fingerprint(public): public}
    for index, data in enumerate(entries, start):
        event = open_event(data, keys, owner)
        if (event.log, event.sequence) != (origin, index):
            raise LogError(f"entry {index} of {owner} was written for another place; ask its owner what happened")
        yield event
