"""Proofs that a log holds an entry: C2SP tlog-proof v1 (https://c2sp.org/tlog-proof), without extra data.

A proof is complete in itself: an index, the hashes from the entry to the root, and the signed checkpoint with that root.
"""

import base64
from contextlib import suppress
from dataclasses import dataclass

from casam_fed.audit.merkle import HASH_BYTES
from casam_fed.audit.note import MAX_NOTE_BYTES, Note, read_note
from casam_fed.errors import LogError

__all__ = ["MAX_PROOF_BYTES", "Proof", "read_proof"]

_HEAD = "c2sp.org/tlog-proof@v1"
_INDEX = "index "
_MOST_HASHES = 63
"""A checkpoint counts fewer than 2**63 entries."""
_LINE_BYTES = 45
"""A hash of 32 bytes in base64, and its newline."""

MAX_PROOF_BYTES = 128 + _MOST_HASHES * _LINE_BYTES + MAX_NOTE_BYTES


@dataclass(frozen=True)
class Proof:
    """Where an entry is, and how that is shown; nothing of it has been checked.

    Attributes:
        index: of the entry, from 0.
        path: hashes from the entry to the root, 32 bytes each (`casam_fed.audit.merkle.check_inclusion`).
        note: the signed checkpoint of the log.
    """

    index: int
    path: tuple[bytes, ...]
    note: Note

    @property
    def data(self) -> bytes:
        """The proof's bytes."""
        lines = [_HEAD, f"{_INDEX}{self.index}", *(base64.b64encode(node).decode("ascii") for node in self.path)]
        return "".join(f"{line}\n" for line in [*lines, ""]).encode("ascii") + self.note.data


def read_proof(data: bytes, owner: str) -> Proof:
    """Take a proof apart without checking it; `owner` says in messages whose log it speaks of.

    Raises:
        LogError: too large, not exactly in its form, or the index is not in the log.
    """
    head, _, tail = data[:MAX_PROOF_BYTES].partition(b"\n\n")
    note = read_note(tail, owner)
    with suppress(ValueError):
        _, index, *hashes = head.decode("ascii").split("\n")
        proof = Proof(int(index.removeprefix(_INDEX)), tuple(map(base64.b64decode, hashes)), note)
        if _fits(proof) and proof.data == data:
            return proof
    raise LogError(
        f"a proof about the log of {owner} is not in its one form, of at most {MAX_PROOF_BYTES:,} bytes; "
        "ask for the original bytes"
    )


def _fits(proof: Proof) -> bool:
    hashes = len(proof.path) <= _MOST_HASHES and all(len(node) == HASH_BYTES for node in proof.path)
    return hashes and 0 <= proof.index < proof.note.checkpoint.size
