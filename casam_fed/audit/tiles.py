"""A log in a folder: C2SP tlog-tiles (https://c2sp.org/tlog-tiles) as files, tiles of 256 hashes.

    checkpoint                    the signed head: what the log consists of (casam_fed.audit.note)
    tile/entries/000, 000.p/17    bundles of 256 entries, the last one of fewer; each entry after its length, two bytes
    tile/0/000, tile/1/000.p/3    hashes of entries, and of whole tiles one level below
    witnessed/NAME                the last checkpoint of this log that NAME cosigned

An entry is on the disk before the checkpoint that counts it: it is written at the end of its bundle, flushed, and the
bundle is renamed to its new width; hashes follow, which can be made again from entries, then the checkpoint. What a crash
leaves beyond the checkpoint, the next `Log.append` takes up or cuts off; reading heeds only what the checkpoint counts.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from casam_fed.audit.dsse import read_envelope, unseal
from casam_fed.audit.event import MAX_ENTRY_BYTES
from casam_fed.audit.forms import NAME
from casam_fed.audit.keys import fingerprint
from casam_fed.audit.merkle import (
    EMPTY_ROOT,
    HASH_BYTES,
    complete_root,
    consistency_path,
    fold,
    grown,
    inclusion_path,
    leaf_hash,
    peaks,
    tree_root,
)
from casam_fed.audit.note import Checkpoint, Note, check_signed, is_before, read_note, sign_checkpoint
from casam_fed.audit.proof import Proof
from casam_fed.audit.tile_files import MEND, drop_empty, find, make_folder, only_writer, put, rename, replace
from casam_fed.audit.tile_layout import (
    HEIGHT,
    WIDTH,
    bundle_bytes,
    bundle_of,
    kinds,
    parts,
    split_bundle,
    split_hashes,
    tile_path,
)
from casam_fed.errors import ForkedError, LogError, SignatureError, StorageError
from casam_fed.host.files import as_storage_error, write_atomically

__all__ = ["Log", "MakeEntry"]

MakeEntry = Callable[[int, str], bytes]
"""Gets the index of an entry and the SHA-256 of the entry before ("" for none), and returns the entry."""

_MOST_TILES_KEPT = 64
_ATTEMPTS = 20


class Log:
    """A log in a folder, as it was when this was opened. Any number of processes may append; reading needs no lock.

    Attributes:
        folder: where it lies.
        note: its signed checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        """Open a log for reading; whose signature its checkpoint bears is not asked.

        Raises:
            LogError: there is none, or its checkpoint is damaged.
            StorageError: it cannot be read.
        """
        self.folder = folder
        self.note = _read_checkpoint(folder)
        self._tiles: dict[tuple[int, int], bytes] = {}
        self._bundle: tuple[int, list[bytes]] = (0, [])

    @property
    def checkpoint(self) -> Checkpoint:
        """Return origin, size and root."""
        return self.note.checkpoint

    @property
    def size(self) -> int:
        """Return the number of entries."""
        return self.note.checkpoint.size

    @staticmethod
    def create(folder: Path, origin: str, key: Ed25519PrivateKey, first: MakeEntry) -> "Log":
        """Create a log with its first entry.

        Raises:
            LogError: the folder holds a log already, or the entries of one; or the entry is empty or too large.
            StorageError: the disk is full or cannot be written.
        """
        with only_writer(folder, new=True):
            log = _without_entries(folder, origin)
            if len(log._beyond()) > 1:
                raise LogError(
                    f"{folder} holds entries but no checkpoint; restore it from a copy, or give another folder"
                )
            log._sign_and_write([_checked(first(0, ""))], key, undo=True)
        return log

    @staticmethod
    def mirror(folder: Path, entries: Sequence[bytes], note: Note) -> "Log":
        """Make the first copy of another's log. Its signature is the caller's to check.

        Raises:
            LogError: the folder holds a log already, or an entry is empty or too large.
            ForkedError: the checkpoint is not that of these entries.
            StorageError: the disk is full or cannot be written.
        """
        with only_writer(folder, new=True):
            log = _without_entries(folder, note.checkpoint.origin)
            log._follow(entries, note)
        return log

    def append(self, make: MakeEntry, key: Ed25519PrivateKey) -> int:
        """Append an entry, and return its index; it is on the disk when this returns.

        Of the entries before only those of the last bundle are read, whose damage is found; all are for an auditor to read.

        Args:
            make: gets the index and the SHA-256 of the entry before; what it raises leaves the log as it was. The log as
                it stands can be read in it.
            key: the log's own, which has signed its checkpoint.

        Raises:
            LogError: the log is damaged or has another key, or the entry is empty or too large.
            StorageError: the disk is full or cannot be written.
        """
        with only_writer(self.folder):
            self._read_afresh()
            check_signed(self.note, key.public_key())
            self._check_end()
            found = _signed_by(key, self._beyond(), self.folder)
            if found:
                self._sign_and_write(found, key, undo=False)
            index = self.size
            previous = hashlib.sha256(self.entry(index - 1)).hexdigest() if index else ""
            self._sign_and_write([_checked(make(index, previous))], key, undo=True)
            return index

    def extend(self, entries: Sequence[bytes], note: Note) -> None:
        """Bring the copy of another's log to a newer checkpoint. Its signature is the caller's to check.

        Args:
            entries: those that follow the ones that are here.
            note: a checkpoint that counts exactly these and those.

        Raises:
            ForkedError: it does not continue what is here; nothing was changed.
            LogError: the copy is damaged, or an entry is empty or too large.
            StorageError: the disk is full or cannot be written.
        """
        with only_writer(self.folder):
            self._read_afresh()
            self._check_end()
            self._follow(entries, note)

    def entry(self, index: int) -> bytes:
        """Return an entry.

        Raises:
            LogError: the log is damaged.
        """
        self._check_range(index, index + 1)
        number, place = divmod(index, WIDTH)
        return self._entries(number, place + 1)[place]

    def entries(self, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yield the entries from `start` up to, without, `end`; at most 256 are in memory at once.

        Raises:
            LogError: the log is damaged.
        """
        end = self.size if end is None else end
        self._check_range(start, end)
        while start < end:
            number, place = divmod(start, WIDTH)
            count = min(WIDTH, end - number * WIDTH)
            yield from self._entries(number, count)[place:]
            start = number * WIDTH + count

    def hash_at(self, level: int, index: int) -> bytes:
        """Return the hash of a complete subtree (`casam_fed.audit.merkle.HashAt`).

        Raises:
            LogError: the log is damaged.
        """
        self._check_range(index << level, (index + 1) << level)
        tall, rest = divmod(level, HEIGHT)
        number, place = divmod(index << rest, WIDTH)
        width = min(WIDTH, (self.size >> HEIGHT * tall) - number * WIDTH)
        start, end = place * HASH_BYTES, (place + (1 << rest)) * HASH_BYTES
        return complete_root(split_hashes(self._tile(tall, number, width)[start:end]))

    def root(self, size: int) -> bytes:
        """Return the root of the tree over the first `size` entries."""
        self._check_range(0, size)
        return tree_root(size, self.hash_at)

    def has_seen(self, note: Note) -> bool:
        """Tell whether a checkpoint is one of this log's history (`casam_fed.audit.note.is_before`)."""
        return is_before(note.checkpoint, self.checkpoint, self.hash_at)

    def inclusion(self, index: int, size: int | None = None) -> list[bytes]:
        """Return the path from an entry to the root of the first `size` entries, of all by default."""
        return inclusion_path(index, self.size if size is None else size, self.hash_at)

    def consistency(self, old: int, new: int | None = None) -> list[bytes]:
        """Return what shows that the first `new` entries, all by default, continue the first `old`."""
        return consistency_path(old, self.size if new is None else new, self.hash_at)

    def proof(self, index: int) -> Proof:
        """Return the proof that the log holds entry `index`, under its present checkpoint."""
        return Proof(index, tuple(self.inclusion(index)), self.note)

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Yield what the log consists of, `files_of(size)`, each with its bytes, even where others append meanwhile."""
        for kind, number, width in parts(self.size):
            bundle = kind == "entries"
            data = bundle_of(self._entries(number, width)) if bundle else self._tile(int(kind), number, width)
            yield tile_path(kind, number, width), data

    def witnessed(self, name: str) -> Note | None:
        """Return the last checkpoint of this log that was kept for a witness.

        Raises:
            LogError: it is damaged.
        """
        path = self.folder / "witnessed" / _file_name(name)
        try:
            with as_storage_error("read", path, MEND):
                data = path.read_bytes()
        except FileNotFoundError:
            return None
        return read_note(data, f"{self.checkpoint.origin}, as {name} cosigned it,")

    def keep_witnessed(self, name: str, note: Note) -> None:
        """Keep a cosigned checkpoint of this log in the place of the one before.

        Raises:
            StorageError: the disk is full or cannot be written.
        """
        path = self.folder / "witnessed" / _file_name(name)
        with as_storage_error("write", path, MEND):
            make_folder(path.parent)
        write_atomically(path, note.data, private=True)

    def _read_afresh(self) -> None:
        """Take over what other processes have appended."""
        self.note = _read_checkpoint(self.folder)
        self._tiles.clear()
        self._bundle = (0, [])

    def _check_end(self) -> None:
        """Check that the checkpoint's root is that of the last bundle's entries and of the hashes before them."""
        if not self.size:
            return
        number = (self.size - 1) // WIDTH
        width = self.size - number * WIDTH
        leaves = [leaf_hash(entry) for entry in self._entries(number, width)]
        with as_storage_error("write", self.folder, MEND):
            sound = self._ends_in_place()
        sound = sound and leaves == split_hashes(self._tile(0, number, width))
        sound = sound and self.root(self.size) == self.checkpoint.root
        if sound and width == WIDTH:
            sound = complete_root(leaves) == self.hash_at(HEIGHT, number)
        if not sound:
            self._rebuild()

    def _ends_in_place(self) -> bool:
        """Give the last bundle and tiles their names, and tell whether the tiles are there in their size."""
        for kind, count in kinds(self.size):
            number = (count - 1) // WIDTH
            width = count - number * WIDTH
            path = find(self._stem(kind, number), width)
            if path is None:
                return False
            target = self.folder / tile_path(kind, number, width)
            rename(path, target)
            if kind != "entries" and target.stat().st_size < width * HASH_BYTES:
                return False
        return True

    def _rebuild(self) -> None:
        """Make all hash tiles again, which a crash of the machine may have spoilt, if the entries are sound."""
        leaves = [leaf_hash(entry) for entry in self.entries()]
        if fold(grown([], 0, leaves)) != self.checkpoint.root:
            raise LogError(
                f"the log {self.folder} is damaged: its checkpoint is not that of its entries; restore a copy"
            )
        self._tiles.clear()
        with as_storage_error("write", self.folder, MEND):
            self._put_hashes(0, leaves)

    def _beyond(self) -> list[bytes]:
        """Return the whole entries that are on the disk beyond the checkpoint."""
        found: list[bytes] = []
        while True:
            number, width = divmod(self.size + len(found), WIDTH)
            data = self._read("entries", number, width)
            if data is None and width == 0:
                return found
            entries, _ = split_bundle(data or b"")
            found += entries[width:WIDTH]
            if len(entries) < WIDTH:
                return found

    def _sign_and_write(self, entries: Sequence[bytes], key: Ed25519PrivateKey, *, undo: bool) -> None:
        root = self._root_with(entries)
        checkpoint = Checkpoint(self.checkpoint.origin, self.size + len(entries), root)
        self._write(entries, sign_checkpoint(checkpoint, key), undo=undo)

    def _follow(self, entries: Sequence[bytes], note: Note) -> None:
        seen, offered = self.checkpoint, note.checkpoint
        for entry in entries:
            _checked(entry)
        if offered != Checkpoint(seen.origin, seen.size + len(entries), self._root_with(entries)):
            raise ForkedError(
                f"the log {offered.origin} was offered with {offered.size} entries, and does not continue what "
                f"was seen of {seen.origin} before, {seen.size} entries, by the {len(entries)} that came with it; keep "
                "this copy, and ask its owner what became of the log"
            )
        self._write(entries, note, undo=True)

    def _root_with(self, entries: Sequence[bytes]) -> bytes:
        return fold(grown(peaks(self.size, self.hash_at), self.size, map(leaf_hash, entries)))

    def _write(self, entries: Sequence[bytes], note: Note, *, undo: bool) -> None:
        """Write entries, their hashes, and the checkpoint that counts them; with `undo`, all or nothing."""
        with contextlib.ExitStack() as failing:
            if undo:
                failing.callback(self._undo)
            with as_storage_error("write", self.folder, MEND):
                self._put_entries(entries)
                self._put_hashes(self.size, [leaf_hash(entry) for entry in entries])
                replace(self.folder / "checkpoint", note.data)
            failing.pop_all()
        self.note = note

    def _put_entries(self, entries: Sequence[bytes]) -> None:
        start = self.size
        while entries:
            number, width = divmod(start, WIDTH)
            now, entries = entries[: WIDTH - width], entries[WIDTH - width :]
            offset = bundle_bytes(self._entries(number, width))
            stem = self._stem("entries", number)
            put(stem, (width, width + len(now)), offset, bundle_of(now), flush=True)
            start += len(now)

    def _put_hashes(self, start: int, fresh: list[bytes]) -> None:
        """Write the hashes of entries from index `start` on, and those of every tile that becomes whole by them."""
        level = 0
        while fresh:
            first, width = divmod(start, WIDTH)
            row = split_hashes(self._tile(level, first, width)) + fresh
            fresh = []
            for number in range(-(-len(row) // WIDTH)):
                tile = row[number * WIDTH : (number + 1) * WIDTH]
                whole = len(tile) == WIDTH
                old = 0 if number else width
                put(self._stem(str(level), first + number), (old, len(tile)), 0, b"".join(tile), flush=whole)
                if whole:
                    fresh.append(complete_root(tile))
            level, start = level + 1, start // WIDTH

    def _undo(self) -> None:
        """Take away what lies beyond the checkpoint; where even that fails, the next append takes it up."""
        with contextlib.suppress(OSError, StorageError, LogError):
            if (self.folder / "checkpoint").exists():
                self._read_afresh()
            number, width = divmod(self.size, WIDTH)
            self._cut("entries", number, width, bundle_bytes(self._entries(number, width)))
            level = 0
            while self.size >> HEIGHT * level or self._read(str(level), 0, 0) is not None:
                number, width = divmod(self.size >> HEIGHT * level, WIDTH)
                self._cut(str(level), number, width, width * HASH_BYTES)
                level += 1

    def _cut(self, kind: str, number: int, width: int, size: int) -> None:
        """Cut a bundle or tile to its first `size` bytes, and remove those after it."""
        while (path := find(self._stem(kind, number), width)) is not None:
            if width:
                os.truncate(path, size)
                rename(path, self.folder / tile_path(kind, number, width))
            else:
                path.unlink()
                drop_empty(path.parent)
            number, width, size = number + 1, 0, 0

    def _entries(self, number: int, width: int) -> list[bytes]:
        """Return the first `width` entries of a bundle."""
        if not width:
            return []
        if self._bundle[0] != number or len(self._bundle[1]) < width:
            count = min(WIDTH, self.size - number * WIDTH)
            data = self._read("entries", number, count)
            entries, _ = split_bundle(data or b"")
            if len(entries) < count:
                raise LogError(f"the log {self.folder} is damaged: entry {number * WIDTH + len(entries)} is not there")
            self._bundle = (number, entries[:count])
        return self._bundle[1][:width]

    def _tile(self, level: int, number: int, width: int) -> bytes:
        """Return the first `width` hashes of a tile; one that is not there is made from what lies below it."""
        if not width:
            return b""
        size = width * HASH_BYTES
        data = self._tiles.get((level, number), b"")
        if len(data) < size:
            data = self._read(str(level), number, width) or b""
            if len(data) < size:
                data = self._made_tile(level, number, width)
            if len(self._tiles) >= _MOST_TILES_KEPT:
                self._tiles.clear()
            self._tiles[level, number] = data[:size]
        return data[:size]

    def _made_tile(self, level: int, number: int, width: int) -> bytes:
        if level == 0:
            return b"".join(map(leaf_hash, self._entries(number, width)))
        below = (self._tile(level - 1, number * WIDTH + place, WIDTH) for place in range(width))
        return b"".join(complete_root(split_hashes(tile)) for tile in below)

    def _read(self, kind: str, number: int, width: int) -> bytes | None:
        """Return the bytes of a bundle or tile of `width` or more; None where there is none."""
        # A writer renames it at every entry: between looking for its name and opening it, it may have got another.
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(FileNotFoundError), as_storage_error("read", self.folder, MEND):
                if path := find(self._stem(kind, number), width):
                    return path.read_bytes()
        return None

    def _stem(self, kind: str, number: int) -> Path:
        return self.folder / tile_path(kind, number)

    def _check_range(self, start: int, end: int) -> None:
        assert 0 <= start <= end <= self.size, (start, end, self.size)


def _read_checkpoint(folder: Path) -> Note:
    path = folder / "checkpoint"
    try:
        with as_storage_error("read", path, MEND):
            data = path.read_bytes()
    except FileNotFoundError as error:
        raise LogError(f"{folder} holds no log; give the folder of one") from error
    return read_note(data, str(folder))


def _without_entries(folder: Path, origin: str) -> Log:
    """Return a log that is about to get its first entries."""
    if (folder / "checkpoint").exists():
        raise LogError(f"{folder} holds a log already; open it, or give another folder")
    log = object.__new__(Log)
    log.folder = folder
    log.note = Note(Checkpoint(origin, 0, EMPTY_ROOT), ())
    log._tiles = {}
    log._bundle = (0, [])
    return log


def _checked(entry: bytes) -> bytes:
    if not 0 < len(entry) <= MAX_ENTRY_BYTES:
        raise LogError(f"an entry of {len(entry):,} bytes does not fit into a log; it has 1 to {MAX_ENTRY_BYTES:,}")
    return entry


def _signed_by(key: Ed25519PrivateKey, entries: Sequence[bytes], folder: Path) -> list[bytes]:
    """Return the entries that this log's key has signed, which are all but a last one that a crash has spoilt."""
    public = key.public_key()
    for place, entry in enumerate(entries):
        try:
            unseal(entry, read_envelope(entry, "this log").payload_type, {fingerprint(public): public}, "this log")
        except SignatureError as error:
            if place < len(entries) - 1:
                raise LogError(
                    f"the log {folder} holds something beyond its checkpoint that its key has not signed; restore a copy"
                ) from error
            return list(entries[:place])
    return list(entries)


def _file_name(name: str) -> str:
    assert NAME.fullmatch(name), name
    return name
