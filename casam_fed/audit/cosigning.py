"""The handshake of two logs, each the witness of the other: what an end believes of what the other one shows.

Each end shows the newest checkpoint of its own log, that it continues what the other had cosigned before, and the newest
checkpoint of the other's log that it has cosigned. Whoever is shown a checkpoint cosigns it only if it is its owner's and
continues the one before; whoever is shown a cosignature keeps it under its own log only if it is of that log's history.
So nobody can have two histories without the evidence lying, signed by himself, at the other end.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from casam_fed.audit.event import bank_origin, site_origin
from casam_fed.audit.keys import fingerprint
from casam_fed.audit.merkle import check_consistency
from casam_fed.audit.note import Checkpoint, Note, check_cosigned, check_signed, read_note
from casam_fed.audit.tiles import Log
from casam_fed.errors import ForkedError, LogError

__all__ = [
    "LogOwner",
    "bank_log_owner",
    "check_continues",
    "continuation",
    "keep_cosignature",
    "open_checkpoint",
    "release_log_owner",
]


@dataclass(frozen=True)
class LogOwner:
    """One of the two ends.

    Attributes:
        name: how sentences call it.
        log: how they call its log.
        mend: what it can do where the other end has seen more of that log, or another one.
        origin: name of the log.
        key: what it is signed with.
    """

    name: str
    log: str
    mend: str
    origin: str
    key: Ed25519PublicKey


def release_log_owner(site: str, key: Ed25519PublicKey) -> LogOwner:
    """Return a site as the owner of its release log."""
    mend = "put the newest copy of audit/ back, or make new keys with casam-site rotate"
    return LogOwner(f"site {site}", "release log", mend, site_origin(site, fingerprint(key)), key)


def bank_log_owner(federation: str, key: Ed25519PublicKey) -> LogOwner:
    """Return an aggregator as the owner of its bank log."""
    mend = "restore audit/ and bank/ from a newer copy"
    return LogOwner("the aggregator", "bank log", mend, bank_origin(federation, fingerprint(key)), key)


def continuation(log: Log, known: int) -> tuple[str, ...]:
    """Return the hashes, hexadecimal, by which a log continues its first `known` entries.

    Whoever claims to know more than there is gets none, and finds out by itself.
    """
    return tuple(each.hex() for each in log.consistency(known)) if known <= log.size else ()


def open_checkpoint(text: str, owner: LogOwner) -> Note:
    """Return the checkpoint that an end shows of its own log.

    Raises:
        LogError: it is not in its form, not signed by its owner, or of another log of theirs.
    """
    note = read_note(text.encode(), owner.name)
    check_signed(note, owner.key)
    if note.checkpoint.origin != owner.origin:
        raise LogError(f"{owner.name} showed a checkpoint of another log than its {owner.log}; ask for the right one")
    return note


def check_continues(known: Checkpoint, shown: Checkpoint, path: Sequence[str], owner: LogOwner) -> None:
    """Check that a log goes on from where it was cosigned.

    Args:
        known: what was cosigned before.
        shown: what is to be cosigned now.
        path: its `continuation` from there, as its owner shows it.
        owner: whose log it is.

    Raises:
        ForkedError: it does not; the evidence is `known`.
    """
    try:
        hashes = [bytes.fromhex(each) for each in path]
        check_consistency(known.size, known.root, shown.size, shown.root, hashes)
    except LogError as error:
        raise ForkedError(
            f"the {owner.log} of {owner.name} ({shown.size} entries) does not continue the one that was cosigned "
            f"({known.size} entries); let it {owner.mend}"
        ) from error


def keep_cosignature(text: str, log: Log, owner: LogOwner, witness: LogOwner, name: str) -> None:
    """Keep the cosignature of a witness under the own log, unless it is kept with a newer checkpoint already.

    Args:
        text: the checkpoint that the witness has cosigned.
        log, owner: the own log.
        witness: the other end.
        name: of the file to keep it in, `Log.witnessed`.

    Raises:
        LogError: it is not in its form, or not signed by both; nothing was kept.
        ForkedError: its checkpoint is not of this log's history, which has been changed or put back since.
        StorageError: the disk is full or cannot be written.
    """
    note = read_note(text.encode(), witness.name)
    # Without the own signature a witness could accuse anybody of a fork, all alone.
    check_signed(note, owner.key)
    check_cosigned(note, witness.origin, witness.key)
    if not log.has_seen(note):
        raise ForkedError(f"{witness.name} has seen another {owner.log} than the one here; {owner.mend}")
    known = log.witnessed(name)
    if known is None or known.checkpoint.size <= note.checkpoint.size:
        log.keep_witnessed(name, note)
