"""The checks of one log in an export: its signed checkpoint, its files, its tree, and every entry in its place.

Forms: C2SP tlog-checkpoint, tlog-cosignature v1 and tlog-tiles; trees of RFC 6962, section 2.1; DSSE envelopes of in-toto
statements (`casam_fed.audit.event`). Entries are read bundle by bundle, twice: for the tree, and for what they say.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from casam_fed.audit.check_folder import CheckError, Finding, Folder, Manifest, as_check_error, end_at_first
from casam_fed.audit.dsse import Envelope, is_signed, read_envelope
from casam_fed.audit.event import MAX_ENTRY_BYTES, PAYLOAD_TYPE, Event, bank_origin, read_event, site_origin
from casam_fed.audit.keys import fingerprint
from casam_fed.audit.merkle import HASH_BYTES, HashAt, in_memory, leaf_hash, tree_root
from casam_fed.audit.note import MAX_NOTE_BYTES, Note, bears, check_cosigned, check_signed, is_before, read_note
from casam_fed.audit.tile_layout import HEIGHT, LENGTH_BYTES, WIDTH, files_of, parts, tile_path
from casam_fed.errors import NewerFormatError, UnsignedError

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
    with as_check_error("checkpoint-form"):
        return read_note(data, owner_of(kind))


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
    with as_check_error("checkpoint-signature"), as_check_error("checkpoint-key", of=(UnsignedError,)):
        check_signed(note, public)


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
    end_at_first(_of_hashes(folder, tree))
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
        what = f"entry {index} of {owner}"
        event = _opened(data, what, public)
        end_at_first(_of_place(event, what, index, previous, time))
        end_at_first(_of_owner(event, what, origin, public, manifest))
        previous, time = hashlib.sha256(data).hexdigest(), event.time
        yield event


def check_witnessed(
    folder: Folder, tree: Tree, public: Ed25519PublicKey, file: str, witnesses: Sequence[tuple[str, Ed25519PublicKey]]
) -> tuple[int, str]:
    """Check the checkpoint of a log that a witness has cosigned; return its size and the time at which it was seen.

    Args:
        folder: the export.
        tree: the log.
        public: key of its owner.
        file: name of the file in the log's folder `witnessed`.
        witnesses: the witness, once for each of its keys: origin of its own log, and that key. The first that has
            cosigned counts.

    Raises:
        CheckError: `cosignature-missing`, `cosignature-form`, `cosignature-key`, `cosignature-signature` or `fork`.
    """
    path = f"{tree.kind}/witnessed/{file}"
    data = folder.read(path, MAX_NOTE_BYTES, "cosignature-missing", "cosignature-form")
    with as_check_error("cosignature-form"):
        note = read_note(data, f"{owner_of(tree.kind)}, as {file} cosigned it,")
    name, witness = next((each for each in witnesses if bears(note, *each)), witnesses[-1])
    end_at_first(_of_cosigned(tree, note, path, public, name, witness))
    return note.checkpoint.size, said_time(check_cosigned(note, name, witness))


def _of_cosigned(
    tree: Tree, note: Note, path: str, public: Ed25519PublicKey, name: str, witness: Ed25519PublicKey
) -> Iterator[Finding]:
    if note.checkpoint.origin != tree.note.checkpoint.origin:
        yield "cosignature-form", f"{path} is a checkpoint of another log, {note.checkpoint.origin}; {_ASK}"
    with as_check_error("cosignature-signature"), as_check_error("cosignature-key", of=(UnsignedError,)):
        # Without its owner's signature a witness could accuse him of a fork all alone.
        check_signed(note, public)
        time = check_cosigned(note, name, witness)
    if not said_time(time):
        yield "cosignature-form", f"{path} bears a time that no calendar has; {_ASK}"
    if not tree.has_seen(note):
        yield (
            "fork",
            f"{name} has seen {owner_of(tree.kind)} with {note.checkpoint.size} entries of which the one in this export is "
            "no continuation; keep both, and ask whose log it is what became of them",
        )


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


def _of_hashes(folder: Folder, tree: Tree) -> Iterator[Finding]:
    for part, number, width in parts(tree.size):
        if part != "entries":
            path = f"{tree.kind}/{tile_path(part, number, width)}"
            data = folder.read(path, WIDTH * HASH_BYTES, "tiles-missing", "hash-tile")
            level, first = int(part) * HEIGHT, number * WIDTH
            if data != b"".join(tree.hash_at(level, first + place) for place in range(width)):
                yield "hash-tile", f"{path} does not hold the hashes of its entries; one of both was changed"
    if tree_root(tree.size, tree.hash_at) != tree.note.checkpoint.root:
        yield "root", f"the checkpoint of {owner_of(tree.kind)} is not that of its entries; one of both was changed"


def _opened(data: bytes, what: str, public: Ed25519PublicKey) -> Event:
    with as_check_error("entry-form", f"{what} is no signed envelope in its one form; {_ASK}"):
        envelope = read_envelope(data, what)
    end_at_first(_of_signature(envelope, what, public))
    about = f"{what}: "
    with as_check_error("event-form", about=about), as_check_error("newer-event", of=(NewerFormatError,), about=about):
        return read_event(envelope.payload, "it")


def _of_signature(envelope: Envelope, what: str, public: Ed25519PublicKey) -> Iterator[Finding]:
    if envelope.payload_type != PAYLOAD_TYPE:
        yield "entry-type", f"{what} is not of the kind {PAYLOAD_TYPE}; {_ASK}"
    if envelope.key != fingerprint(public):
        yield "entry-key", f"{what} was signed with another key than the log's; {_ASK}"
    if not is_signed(envelope, public):
        yield "entry-signature", f"the signature of {what} does not fit; it was changed after it was signed"


def _of_place(event: Event, what: str, index: int, previous: str, time: str) -> Iterator[Finding]:
    if event.sequence != index:
        yield "sequence", f"{what} says that it is entry {event.sequence}; {_ASK}"
    if event.previous != previous:
        yield "chain", f"{what} names another entry before it than is there; {_ASK}"
    if event.time < time:
        yield "clock", f"{what} is of {event.time}, before {time} of the one before; {_ASK}"


def _of_owner(event: Event, what: str, origin: str, public: Ed25519PublicKey, manifest: Manifest) -> Iterator[Finding]:
    """Check that an event is of this log; the first also says whose key signs it, and for whom."""
    belongs = event.log == origin and event.facts.get("federation", manifest.federation) == manifest.federation
    if belongs and event.event == "began":
        is_site = origin.startswith("casam-fed/site/")
        belongs = event.subjects["key"] == fingerprint(public)
        belongs = belongs and (not is_site or event.facts["site"] == manifest.site)
    if not belongs:
        yield "foreign", f"{what} was written for another log, federation, site or key; {_ASK}"
