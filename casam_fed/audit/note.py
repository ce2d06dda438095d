"""Checkpoints, the signed heads of logs: C2SP signed-note, tlog-checkpoint and tlog-cosignature v1 (https://c2sp.org).

The log's owner signs its checkpoint; others who have seen it cosign, each with a time. A note has one form: what is read is
what would be written.
"""

import base64
import hashlib
from dataclasses import dataclass, replace

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from casam_fed.audit.merkle import HASH_BYTES, HashAt, tree_root
from casam_fed.errors import LogError, UnsignedError

__all__ = [
    "COSIGNATURE",
    "ED25519",
    "MAX_NOTE_BYTES",
    "Checkpoint",
    "Note",
    "Signature",
    "bears",
    "check_cosigned",
    "check_signed",
    "cosigned",
    "is_before",
    "key_hash",
    "read_note",
    "sign_checkpoint",
]

ED25519 = 1
COSIGNATURE = 4
"""Types of signatures (C2SP signed-note, "Signature types")."""

MAX_NOTE_BYTES = 16 << 10
MAX_SIGNATURES = 100

_KEY_HASH_BYTES = 4
_TIME_BYTES = 8
_SIZES = range(1 << 63)
_DASH = "\N{EM DASH}"


@dataclass(frozen=True)
class Checkpoint:
    """The head of a log.

    Attributes:
        origin: name of the log.
        size: number of its entries.
        root: root of their tree, 32 bytes (`casam_fed.audit.merkle.tree_root`).
    """

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """The three lines that are signed; extension lines are not used."""
        return f"{self.origin}\n{self.size}\n{_text(self.root)}\n"


@dataclass(frozen=True)
class Signature:
    """One line below a checkpoint.

    Attributes:
        name: who signed.
        key_hash: 4 bytes that tell keys of that name apart (`key_hash`).
        value: 64 bytes of Ed25519; before them, in a cosignature, 8 bytes of POSIX time, big-endian.
    """

    name: str
    key_hash: bytes
    value: bytes


@dataclass(frozen=True)
class Note:
    """A checkpoint with its signatures, which have not been checked."""

    checkpoint: Checkpoint
    signatures: tuple[Signature, ...]

    @property
    def data(self) -> bytes:
        """The note's bytes."""
        lines = "".join(f"{_DASH} {each.name} {_text(each.key_hash + each.value)}\n" for each in self.signatures)
        return f"{self.checkpoint.text}\n{lines}".encode()


def key_hash(name: str, algorithm: int, public: Ed25519PublicKey) -> bytes:
    """Return the 4 bytes by which a signature line names its key, for `ED25519` or `COSIGNATURE`."""
    return hashlib.sha256(name.encode() + b"\n" + bytes([algorithm]) + public.public_bytes_raw()).digest()[
        :_KEY_HASH_BYTES
    ]


def sign_checkpoint(checkpoint: Checkpoint, key: Ed25519PrivateKey) -> Note:
    """Return a note with the signature of the log's own key, whose name is the log's origin."""
    assert _is_checkpoint(checkpoint), checkpoint
    name = checkpoint.origin
    value = key.sign(checkpoint.text.encode())
    return Note(checkpoint, (Signature(name, key_hash(name, ED25519, key.public_key()), value),))


def read_note(data: bytes, owner: str) -> Note:
    """Take a note apart without checking its signatures; `owner` says in messages whose checkpoint it is.

    Raises:
        LogError: larger than 16 KiB, more than 100 signatures or none, or not exactly in its form.
    """
    note = _parsed(data) if len(data) <= MAX_NOTE_BYTES else None
    if note is None:
        raise LogError(
            f"the checkpoint of {owner} is not in its one form, of at most {MAX_NOTE_BYTES:,} bytes and {MAX_SIGNATURES} "
            "signatures; ask for the original bytes"
        )
    return note


def bears(note: Note, name: str, public: Ed25519PublicKey) -> bool:
    """Tell whether a note bears a cosignature of this name and key, which has not been checked."""
    return _value(note, name, COSIGNATURE, public) is not None


def check_signed(note: Note, public: Ed25519PublicKey) -> None:
    """Check the signature of a log's own key.

    Raises:
        UnsignedError: there is no signature of this key.
        LogError: there is one, and it does not fit.
    """
    _check(note, note.checkpoint.origin, ED25519, public)


def cosigned(note: Note, name: str, key: Ed25519PrivateKey, time: int) -> Note:
    """Return the note with the cosignature of a witness, in the place of an earlier one of the same name.

    Args:
        note: a checkpoint whose log the witness has checked against what it had seen before.
        name: origin of the witness's own log, which is another one.
        key: the witness's.
        time: POSIX, whole seconds; not before 1970.

    Raises:
        LogError: there is no room for another signature.
    """
    assert _is_name(name), name
    assert name != note.checkpoint.origin, name
    stamp = time.to_bytes(_TIME_BYTES, "big")
    value = stamp + key.sign(_cosigned_head(time) + note.checkpoint.text.encode())
    line = Signature(name, key_hash(name, COSIGNATURE, key.public_key()), value)
    others = tuple(each for each in note.signatures if each.name != name)
    if len(others) >= MAX_SIGNATURES:
        raise LogError(f"a checkpoint bears at most {MAX_SIGNATURES} signatures; drop those that nobody needs")
    return replace(note, signatures=(*others, line))


def check_cosigned(note: Note, name: str, public: Ed25519PublicKey) -> int:
    """Check the cosignature of a witness, and return the POSIX time at which it had seen the checkpoint.

    Raises:
        UnsignedError: there is no cosignature of this name and key.
        LogError: there is one, and it does not fit.
    """
    return _check(note, name, COSIGNATURE, public)


def is_before(older: Checkpoint, newer: Checkpoint, hash_at: HashAt) -> bool:
    """Tell whether a checkpoint is of the history of a newer one: of the same log, no larger, with the root it had then.

    Args:
        older, newer: the checkpoints.
        hash_at: of the tree of `newer` (`casam_fed.audit.merkle`).
    """
    return older.origin == newer.origin and older.size <= newer.size and tree_root(older.size, hash_at) == older.root


def _is_name(name: str) -> bool:
    """Tell whether a name can stand in a signature line: no spaces of any kind, no plus, nothing that does not print."""
    return bool(name) and "+" not in name and name.isprintable() and not any(map(str.isspace, name))


def _parsed(data: bytes) -> Note | None:
    """Return the note that has these bytes, if there is one: what is read is written again, and compared."""
    try:
        text, lines = data.decode().split("\n\n")
        origin, size, root = text.split("\n")
        checkpoint = Checkpoint(origin, int(size), base64.b64decode(root))
        note = Note(checkpoint, tuple(map(_signature, lines.removesuffix("\n").split("\n"))))
    except ValueError:
        return None
    signers = {(each.name, each.key_hash) for each in note.signatures if _is_name(each.name) and each.value}
    alone = len(signers) == len(note.signatures) <= MAX_SIGNATURES
    return note if alone and _is_checkpoint(checkpoint) and note.data == data else None


def _signature(line: str) -> Signature:
    _, name, value = line.split(" ")
    data = base64.b64decode(value)
    return Signature(name, data[:_KEY_HASH_BYTES], data[_KEY_HASH_BYTES:])


def _is_checkpoint(checkpoint: Checkpoint) -> bool:
    return _is_name(checkpoint.origin) and checkpoint.size in _SIZES and len(checkpoint.root) == HASH_BYTES


def _value(note: Note, name: str, algorithm: int, public: Ed25519PublicKey) -> bytes | None:
    line = (name, key_hash(name, algorithm, public))
    return next((each.value for each in note.signatures if (each.name, each.key_hash) == line), None)


def _check(note: Note, name: str, algorithm: int, public: Ed25519PublicKey) -> int:
    """Check a signature, and return the time in it, 0 in one that has none."""
    value = _value(note, name, algorithm, public)
    if value is None:
        raise UnsignedError(
            f"the checkpoint of {note.checkpoint.origin} bears no signature of {name} with the key that is known here; "
            "ask whose key has changed"
        )
    stamp = value[:_TIME_BYTES] if algorithm == COSIGNATURE else b""
    time = int.from_bytes(stamp, "big")
    head = _cosigned_head(time) if algorithm == COSIGNATURE else b""
    try:
        public.verify(value[len(stamp) :], head + note.checkpoint.text.encode())
    except InvalidSignature as error:
        raise LogError(
            f"a signature of the checkpoint of {note.checkpoint.origin} does not fit; "
            "what was signed is not what is here"
        ) from error
    return time


def _cosigned_head(time: int) -> bytes:
    return b"cosignature/v1\ntime %d\n" % time


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
