"""The checks of one log in an export: its signed checkpoint, its files, its tree, and every entry in its place.

Forms: C2SP tlog-checkpoint, tlog-cosignature v1 and tlog-tiles; trees of RFC 6962, section 2.1; DSSE envelopes of in-toto
statements (`casam_fed.audit.event`). Entries are read bundle by bundle, twice: for the tree, and for what they say.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from casam_fed.audit.check_folder import CheckError, Folder, Manifest
from casam_fed.audit.dsse import is_signed, read_envelope
from casam_fed.audit.event import MAX_ENTRY_BYTES, PAYLOAD_TYPE, Event, bank_origin, read_event, site_origin
from casam_fed.audit.keys import fingerprint
from casam_fed.audit.merkle import HASH_BYTES, HashAt, in_memory, leaf_hash, tree_root
from casam_fed.audit.note import MAX_NOTE_BYTES, Note, check_cosigned, check_signed, is_before, read_note
from casam_fed.audit.tile_layout import HEIGHT, LENGTH_BYTES, WIDTH, files_of, parts, tile_path
from casam_fed.errors import LogError, NewerFormatError, SignatureError, UnsignedError

__all__ = [
    "Tree",
    "check_owner",
    "check_witnessed",
    "checked_events",
    "entries_of",
    "origin_of",
    "owner_of",
    "read_checkpoint",
    "read_tree",
    "said_time",
]

_MAX_BUNDLE_BYTES = WIDTH * (LENGTH_BYTES + MAX_ENTRY_BYTES)
_LAST_SECOND = 253_402_300_799
"""POSIX time of the end of year 9999, the last that has a date."""
_ASK = "ask whose log it is for all of it as it was written"


@dataclass(frozen=True)
class Tree:
    """A log whose checkpoint is that of its entries.

    Attributes:
        kind: "site" or "bank", the folder it lies in.
        note: its checkpoint.
        leaves: hashes of all entries (`casam_fed.audit.merkle.leaf_hash`).
        hash_at: of their tree.
    """

    kind: str
    note: Note
    leaves: list[bytes]
    hash_at: HashAt

    @property
    def size(self) -> int:
        """Return the number of entries."""
        return len(self.leaves)

    def has_seen(self, note: Note) -> bool:
        """Tell whether a checkpoint is one of this log's history: of its name, no larger, with its root at that size."""
        return is_before(note.checkpoint, self.note.checkpoint, self.hash_at)


def owner_of(kind: str) -> str:
    """Return how sentences speak of a log."""
    return "the aggregator's log" if kind == "bank" else "the site's log"


def origin_of(kind: str, manifest: Manifest, public: Ed25519PublicKey) -> str:
    """Return the name that a log must have, given the key of its owner."""
    if kind == "bank":
        return bank_origin(manifest.federation, fingerprint(public))
    return site_origin(manifest.site, fingerprint(public))


def read_checkpoint(folder: Folder, kind: str) -> Note:
    """Return the checkpoint of a log; whose signature it bears is not asked.

    Raises:
        CheckError: `checkpoint-missing` or `checkpoint-form`.
    """
    data = folder.read(f"{kind}/checkpoint", MAX_NOTE_BYTES, "checkpoint-missing", "checkpoint-form")
    try:
        return read_note(data, owner_of(kind))
    except LogError as error:
        raise CheckError("checkpoint-form", str(error)) from error


def check_owner(note: Note, kind: str, origin: str, public: Ed25519PublicKey) -> None:
    """Check that a checkpoint is of the log of that name, and signed by the key of its owner.

    Raises:
        CheckError: `checkpoint-origin`, `checkpoint-key` or `checkpoint-signature`.
    """
    if note.checkpoint.origin != origin:
        raise CheckError(
            "checkpoint-origin",
            f"the checkpoint of {owner_of(kind)} is of {note.checkpoint.origin}, not of {origin}, as manifest and key "
            "say; give the key that belongs to this export, or ask for the right export",
        )
    try:
        check_signed(note, public)
    except UnsignedError as error:
        raise CheckError("checkpoint-key", str(error)) from error
    except LogError as error:
        raise CheckError("checkpoint-signature", str(error)) from error


def read_tree(folder: Folder, kind: str, note: Note) -> Tree:
    """Check all files of a log: bundles whole, hash tiles those of the entries, and their root the checkpoint's.

    Raises:
        CheckError: `tiles-missing`, `entry-cut`, `entry-surplus`, `hash-tile` or `root`.
    """
    size = note.checkpoint.size
    # A checkpoint may claim any size: no list is made for more entries than the files could hold, and one bundle.
    most = WIDTH * (folder.count(f"{kind}/tile/entries") + 1)
    for name in files_of(min(size, most)):
        folder.need(f"{kind}/{name}", "tiles-missing")
    leaves = [leaf_hash(entry) for entry in entries_of(folder, kind, size)]
    tree = Tree(kind, note, leaves, in_memory(leaves))
    for part, number, width in parts(size):
        if part != "entries":
            _check_hash_tile(folder, tree, int(part), number, width)
    if tree_root(size, tree.hash_at) != note.checkpoint.root:
        raise CheckError(
            "root", f"the checkpoint of {owner_of(kind)} is not that of its entries; one of both was changed"
        )
    return tree


def entries_of(folder: Folder, kind: str, size: int) -> Iterator[bytes]:
    """Yield the entries of a log whose files are all there, one bundle in memory at a time.

    Raises:
        CheckError: `entry-cut` or `entry-surplus`.
    """
    for part, number, width in parts(size):
        if part == "entries":
            path = f"{kind}/{tile_path(part, number, width)}"
            data = folder.read(path, _MAX_BUNDLE_BYTES, "tiles-missing", "entry-surplus")
            yield from _cut(data, path, number * WIDTH, width)


def checked_events(
    folder: Folder, tree: Tree, origin: str, public: Ed25519PublicKey, manifest: Manifest
) -> Iterator[Event]:
    """Yield the events of a log, each checked: form, signature, place, and that it speaks of this log and federation.

    Raises:
        CheckError: `entry-form`, `entry-type`, `entry-key`, `entry-signature`, `newer-event`, `event-form`, `sequence`,
            `chain`, `clock` or `foreign`.
    """
    previous, time = "", ""
    owner = owner_of(tree.kind)
    for index, data in enumerate(entries_of(folder, tree.kind, tree.size)):
        event = _opened(data, f"entry {index} of {owner}", public)
        if event.sequence != index:
            raise CheckError("sequence", f"entry {index} of {owner} says that it is entry {event.sequence}; {_ASK}")
        if event.previous != previous:
            raise CheckError("chain", f"entry {index} of {owner} names another entry before it than is there; {_ASK}")
        if event.time < time:
            raise CheckError(
                "clock", f"entry {index} of {owner} is of {event.time}, before {time} of the one before; {_ASK}"
            )
        if not _belongs(event, origin, public, manifest):
            raise CheckError(
                "foreign", f"entry {index} of {owner} was written for another log, federation, site or key; {_ASK}"
            )
        previous, time = hashlib.sha256(data).hexdigest(), event.time
        yield event


def check_witnessed(
    folder: Folder, tree: Tree, public: Ed25519PublicKey, file: str, name: str, witness: Ed25519PublicKey
) -> tuple[int, str]:
    """Check the checkpoint of a log that a witness has cosigned; return its size and the time at which it was seen.

    Args:
        folder: the export.
        tree: the log.
        public: key of its owner.
        file: name of the file in the log's folder `witnessed`.
        name: origin of the witness's own log.
        witness: its key.

    Raises:
        CheckError: `cosignature-missing`, `cosignature-form`, `cosignature-key`, `cosignature-signature` or `fork`.
    """
    path = f"{tree.kind}/witnessed/{file}"
    owner = owner_of(tree.kind)
    data = folder.read(path, MAX_NOTE_BYTES, "cosignature-missing", "cosignature-form")
    try:
        note = read_note(data, f"{owner}, as {file} cosigned it,")
    except LogError as error:
        raise CheckError("cosignature-form", str(error)) from error
    if note.checkpoint.origin != tree.note.checkpoint.origin:
        raise CheckError("cosignature-form", f"{path} is a checkpoint of another log, {note.checkpoint.origin}; {_ASK}")
    try:
        # Without its owner's signature a witness could accuse him of a fork all alone.
        check_signed(note, public)
        time = said_time(check_cosigned(note, name, witness))
    except UnsignedError as error:
        raise CheckError("cosignature-key", str(error)) from error
    except LogError as error:
        raise CheckError("cosignature-signature", str(error)) from error
    if not time:
        raise CheckError("cosignature-form", f"{path} bears a time that no calendar has; {_ASK}")
    if not tree.has_seen(note):
        raise CheckError(
            "fork",
            f"{name} has seen {owner} with {note.checkpoint.size} entries of which the one in this export is no "
            "continuation; keep both, and ask whose log it is what became of them",
        )
    return note.checkpoint.size, time


def said_time(posix: int) -> str:
    """Return a POSIX time as YYYY-MM-DDThh:mm:ssZ, "" where no calendar has it."""
    return datetime.fromtimestamp(posix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if 0 <= posix <= _LAST_SECOND else ""


def _cut(data: bytes, path: str, first: int, count: int) -> Iterator[bytes]:
    place = 0
    for index in range(first, first + count):
        start = place + LENGTH_BYTES
        end = start + int.from_bytes(data[place:start], "big")
        if len(data) < max(start, end):
            raise CheckError("entry-cut", f"{path} ends within entry {index} or before it; {_ASK}")
        yield data[start:end]
        place = end
    if place < len(data):
        raise CheckError("entry-surplus", f"{path} goes on after its last entry, {first + count - 1}; {_ASK}")


def _check_hash_tile(folder: Folder, tree: Tree, level: int, number: int, width: int) -> None:
    path = f"{tree.kind}/{tile_path(str(level), number, width)}"
    data = folder.read(path, WIDTH * HASH_BYTES, "tiles-missing", "hash-tile")
    if data != b"".join(tree.hash_at(level * HEIGHT, number * WIDTH + place) for place in range(width)):
        raise CheckError("hash-tile", f"{path} does not hold the hashes of its entries; one of both was changed")


def _opened(data: bytes, what: str, public: Ed25519PublicKey) -> Event:
    try:
        envelope = read_envelope(data, what)
    except SignatureError as error:
        raise CheckError("entry-form", f"{what} is no signed envelope in its one form; {_ASK}") from error
    if envelope.payload_type != PAYLOAD_TYPE:
        raise CheckError("entry-type", f"{what} is not of the kind {PAYLOAD_TYPE}; {_ASK}")
    if envelope.key != fingerprint(public):
        raise CheckError("entry-key", f"{what} was signed with another key than the log's; {_ASK}")
    if not is_signed(envelope, public):
        raise CheckError("entry-signature", f"the signature of {what} does not fit; it was changed after it was signed")
    try:
        return read_event(envelope.payload, "it")
    except NewerFormatError as error:
        raise CheckError("newer-event", f"{what}: {error}") from error
    except SignatureError as error:
        raise CheckError("event-form", f"{what}: {error}") from error


def _belongs(event: Event, origin: str, public: Ed25519PublicKey, manifest: Manifest) -> bool:
    """Tell whether an event is of this log; the first also says whose key signs it, and for whom."""
    if event.log != origin or event.facts.get("federation", manifest.federation) != manifest.federation:
        return False
    if event.event != "began":
        return True
    is_site = origin.startswith("casam-fed/site/")
    return event.subjects["key"] == fingerprint(public) and (not is_site or event.facts["site"] == manifest.site)
