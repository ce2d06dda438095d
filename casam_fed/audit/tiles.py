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
import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from casam_fed.audit.dsse import read_envelope, unseal
from casam_fed.audit.event import MAX_ENTRY_BYTES
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
from casam_fed.audit.note import Checkpoint, Note, check_signed, read_note, sign_checkpoint
from casam_fed.audit.proof import Proof
from casam_fed.errors import ForkedError, LogError, SignatureError, StorageError
from casam_fed.files import as_storage_error, write_atomically

__all__ = ["Log", "MakeEntry", "bundle_of", "files_of", "parse_bundle", "split_bundle"]

MakeEntry = Callable[[int, str], bytes]
"""Gets the index of an entry and the SHA-256 of the entry before ("" for none), and returns the entry."""

_WIDTH = 256
_HEIGHT = 8
_LENGTH_BYTES = 2
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_MOST_TILES_KEPT = 64
_ATTEMPTS = 20
_MEND = "free space, or let this user read and write there, then run again"


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
        with _only_writer(folder, new=True):
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
        with _only_writer(folder, new=True):
            log = _without_entries(folder, note.checkpoint.origin)
            log._follow(entries, note)
        return log

    def append(self, make: MakeEntry, key: Ed25519PrivateKey) -> int:
        """Append an entry, and return its index; it is on the disk when this returns.

        Args:
            make: gets the index and the SHA-256 of the entry before; what it raises leaves the log as it was. The log as
                it stands can be read in it.
            key: the log's own, which has signed its checkpoint.

        Raises:
            LogError: the log is damaged or has another key, or the entry is empty or too large.
            StorageError: the disk is full or cannot be written.
        """
        with _only_writer(self.folder):
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
        with _only_writer(self.folder):
            self._read_afresh()
            self._check_end()
            self._follow(entries, note)

    def entry(self, index: int) -> bytes:
        """Return an entry.

        Raises:
            LogError: there is no such entry, or the log is damaged.
        """
        self._check_range(index, index + 1)
        number, place = divmod(index, _WIDTH)
        return self._entries(number, place + 1)[place]

    def entries(self, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yield the entries from `start` up to, without, `end`; at most 256 are in memory at once.

        Raises:
            LogError: there are not so many, or the log is damaged.
        """
        end = self.size if end is None else end
        self._check_range(start, end)
        while start < end:
            number, place = divmod(start, _WIDTH)
            count = min(_WIDTH, end - number * _WIDTH)
            yield from self._entries(number, count)[place:]
            start = number * _WIDTH + count

    def hash_at(self, level: int, index: int) -> bytes:
        """Return the hash of a complete subtree (`casam_fed.audit.merkle.HashAt`).

        Raises:
            LogError: it is not complete, or the log is damaged.
        """
        self._check_range(index << level, (index + 1) << level)
        tall, rest = divmod(level, _HEIGHT)
        number, place = divmod(index << rest, _WIDTH)
        width = min(_WIDTH, (self.size >> _HEIGHT * tall) - number * _WIDTH)
        return complete_root(_hashes(self._tile(tall, number, width))[place : place + (1 << rest)])

    def root(self, size: int) -> bytes:
        """Return the root of the tree over the first `size` entries."""
        self._check_range(0, size)
        return tree_root(size, self.hash_at)

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
        for kind, number, width in _parts(self.size):
            bundle = kind == "entries"
            data = bundle_of(self._entries(number, width)) if bundle else self._tile(int(kind), number, width)
            yield _name(kind, number, width), data

    def witnessed(self, name: str) -> Note | None:
        """Return the last checkpoint of this log that was kept for a witness.

        Raises:
            LogError: it is damaged.
        """
        path = self.folder / "witnessed" / _file_name(name)
        try:
            with as_storage_error("read", path, _MEND):
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
        with as_storage_error("write", path, _MEND):
            _make_folder(path.parent)
        write_atomically(path, note.data, private=True)

    def _read_afresh(self) -> None:
        """Take over what other processes have appended."""
        self.note = _read_checkpoint(self.folder)
        self._bundle = (0, [])

    def _check_end(self) -> None:
        """Check that the checkpoint's root is that of the entries, the last bundle's read anew."""
        if not self.size:
            return
        number = (self.size - 1) // _WIDTH
        width = self.size - number * _WIDTH
        leaves = [leaf_hash(entry) for entry in self._entries(number, width)]
        sound = leaves == _hashes(self._tile(0, number, width)) and self.root(self.size) == self.checkpoint.root
        if sound and width == _WIDTH:
            sound = complete_root(leaves) == self.hash_at(_HEIGHT, number)
        if not sound:
            self._rebuild()

    def _rebuild(self) -> None:
        """Make all hash tiles again, which a crash of the machine may have spoilt, if the entries are sound."""
        leaves = [leaf_hash(entry) for entry in self.entries()]
        if fold(grown([], 0, leaves)) != self.checkpoint.root:
            raise LogError(
                f"the log {self.folder} is damaged: its checkpoint is not that of its entries; restore a copy"
            )
        self._tiles.clear()
        with as_storage_error("write", self.folder, _MEND):
            self._put_hashes(0, leaves)

    def _beyond(self) -> list[bytes]:
        """Return the whole entries that are on the disk beyond the checkpoint."""
        found: list[bytes] = []
        while True:
            number, width = divmod(self.size + len(found), _WIDTH)
            data = self._read("entries", number, width)
            if data is None and width == 0:
                return found
            entries, _ = split_bundle(data or b"")
            found += entries[width:_WIDTH]
            if len(entries) < _WIDTH:
                return found

    def _sign_and_write(self, entries: Sequence[bytes], key: Ed25519PrivateKey, *, undo: bool) -> None:
        root = self._root_with(entries)
        checkpoint = Checkpoint(self.checkpoint.origin, self.size + len(entries), root)
        self._write(entries, sign_checkpoint(checkpoint, key), undo=undo)

    def _follow(self, entries: Sequence[bytes], note: Note) -> None:
        seen, offered = self.checkpoint, note.checkpoint
        if offered.origin != seen.origin:
            raise ForkedError(f"the log {offered.origin} was offered as {seen.origin}; ask its owner which one it is")
        if offered.size < seen.size:
            raise ForkedError(
                f"the log {seen.origin} was offered with {offered.size} entries, but had {seen.size} before; "
                "ask its owner what became of them"
            )
        if offered.size != seen.size + len(entries):
            raise ForkedError(
                f"the log {seen.origin} was offered with {offered.size} entries, but {len(entries)} came beside the "
                f"{seen.size} seen before; ask its owner what became of the others"
            )
        for entry in entries:
            _checked(entry)
        if self._root_with(entries) != offered.root:
            raise ForkedError(
                f"the log {seen.origin} that was offered does not contain what was seen of it before; "
                "keep this copy, and ask its owner why the log was changed"
            )
        self._write(entries, note, undo=True)

    def _root_with(self, entries: Sequence[bytes]) -> bytes:
        return fold(grown(peaks(self.size, self.hash_at), self.size, map(leaf_hash, entries)))

    def _write(self, entries: Sequence[bytes], note: Note, *, undo: bool) -> None:
        """Write entries, their hashes, and the checkpoint that counts them; with `undo`, all or nothing."""
        try:
            with as_storage_error("write", self.folder, _MEND):
                self._put_entries(entries)
                self._put_hashes(self.size, [leaf_hash(entry) for entry in entries])
                _replace(self.folder / "checkpoint", note.data)
        except StorageError:
            if undo:
                self._undo()
            raise
        self.note = note

    def _put_entries(self, entries: Sequence[bytes]) -> None:
        start = self.size
        while entries:
            number, width = divmod(start, _WIDTH)
            now, entries = entries[: _WIDTH - width], entries[_WIDTH - width :]
            offset = len(bundle_of(self._entries(number, width)))
            stem = self._stem("entries", number)
            _put(stem, (width, width + len(now)), offset, bundle_of(now), flush=True)
            start += len(now)

    def _put_hashes(self, start: int, fresh: list[bytes]) -> None:
        """Write the hashes of entries from index `start` on, and those of every tile that becomes whole by them."""
        level = 0
        while fresh:
            first, width = divmod(start, _WIDTH)
            row = _hashes(self._tile(level, first, width)) + fresh
            fresh = []
            for number in range(-(-len(row) // _WIDTH)):
                tile = row[number * _WIDTH : (number + 1) * _WIDTH]
                whole = len(tile) == _WIDTH
                old = 0 if number else width
                _put(self._stem(str(level), first + number), (old, len(tile)), 0, b"".join(tile), flush=whole)
                if whole:
                    fresh.append(complete_root(tile))
            level, start = level + 1, start // _WIDTH

    def _undo(self) -> None:
        """Take away what lies beyond the checkpoint; where even that fails, the next append takes it up."""
        with contextlib.suppress(OSError, StorageError, LogError):
            if (self.folder / "checkpoint").exists():
                self._read_afresh()
            number, width = divmod(self.size, _WIDTH)
            self._cut("entries", number, width, len(bundle_of(self._entries(number, width))))
            level = 0
            while self.size >> _HEIGHT * level or self._read(str(level), 0, 0) is not None:
                number, width = divmod(self.size >> _HEIGHT * level, _WIDTH)
                self._cut(str(level), number, width, width * HASH_BYTES)
                level += 1

    def _cut(self, kind: str, number: int, width: int, size: int) -> None:
        """Cut a bundle or tile to its first `size` bytes, and remove those after it."""
        while (path := _find(self._stem(kind, number), width)) is not None:
            if width:
                os.truncate(path, size)
                _rename(path, self.folder / _name(kind, number, width))
            else:
                path.unlink()
                _drop_empty(path.parent)
            number, width, size = number + 1, 0, 0

    def _entries(self, number: int, width: int) -> list[bytes]:
        """Return the first `width` entries of a bundle."""
        if not width:
            return []
        if self._bundle[0] != number or len(self._bundle[1]) < width:
            count = min(_WIDTH, self.size - number * _WIDTH)
            data = self._read("entries", number, count)
            entries, _ = split_bundle(data or b"")
            if len(entries) < count:
                raise LogError(f"the log {self.folder} is damaged: entry {number * _WIDTH + len(entries)} is not there")
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
        below = (self._tile(level - 1, number * _WIDTH + place, _WIDTH) for place in range(width))
        return b"".join(complete_root(_hashes(tile)) for tile in below)

    def _read(self, kind: str, number: int, width: int) -> bytes | None:
        """Return the bytes of a bundle or tile of `width` or more; None where there is none."""
        # A writer renames it at every entry: between looking for its name and opening it, it may have got another.
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(FileNotFoundError), as_storage_error("read", self.folder, _MEND):
                if path := _find(self._stem(kind, number), width):
                    return path.read_bytes()
        return None

    def _stem(self, kind: str, number: int) -> Path:
        return self.folder / _name(kind, number)

    def _check_range(self, start: int, end: int) -> None:
        if not 0 <= start <= end <= self.size:
            raise LogError(f"the log {self.folder} has {self.size} entries; ask for some of those")


def files_of(size: int) -> list[str]:
    """Return the relative paths of the bundles and hash tiles that a log of `size` entries consists of."""
    return [_name(kind, number, width) for kind, number, width in _parts(size)]


def bundle_of(entries: Sequence[bytes]) -> bytes:
    """Return entries as a bundle holds them, each after its length, two bytes, big-endian."""
    return b"".join(len(entry).to_bytes(_LENGTH_BYTES, "big") + entry for entry in entries)


def split_bundle(data: bytes) -> tuple[list[bytes], bytes]:
    """Return the whole entries that bytes begin with, and the rest; no entry is empty."""
    entries: list[bytes] = []
    place = 0
    while True:
        start = place + _LENGTH_BYTES
        end = start + int.from_bytes(data[place:start], "big")
        # Zeros are what a crash of the machine leaves of a block that was not written.
        if not start < end <= len(data):
            return entries, data[place:]
        entries.append(data[start:end])
        place = end


def parse_bundle(data: bytes, count: int, owner: str) -> list[bytes]:
    """Return the `count` entries of a bundle; `owner` says in messages whose log it is.

    Raises:
        LogError: it ends in an entry, holds an empty one, or fewer or more than `count`.
    """
    entries, rest = split_bundle(data)
    if len(entries) < count:
        raise LogError(f"a bundle of the log of {owner} ends in its entry {len(entries)} of {count}; ask for it again")
    if len(entries) > count or rest:
        raise LogError(f"a bundle of the log of {owner} holds more than its {count} entries; ask for it again")
    return entries


def _parts(size: int) -> Iterator[tuple[str, int, int]]:
    """Yield kind, number and width of every bundle and tile."""
    kinds = [("entries", size)]
    level = 0
    while count := size >> _HEIGHT * level:
        kinds.append((str(level), count))
        level += 1
    for kind, count in kinds:
        for number in range(-(-count // _WIDTH)):
            yield kind, number, min(_WIDTH, count - number * _WIDTH)


def _name(kind: str, number: int, width: int = _WIDTH) -> str:
    """Return the relative path of a bundle or tile: 1234067 is x001/x234/067."""
    digits = str(number)
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    groups = [digits[place : place + 3] for place in range(0, len(digits), 3)]
    path = "/".join(["tile", kind, *(f"x{group}" for group in groups[:-1]), groups[-1]])
    return path if width == _WIDTH else f"{path}.p/{width}"


def _hashes(tile: bytes) -> list[bytes]:
    return [tile[place : place + HASH_BYTES] for place in range(0, len(tile), HASH_BYTES)]


def _partial(stem: Path, width: int) -> Path:
    return stem.with_name(f"{stem.name}.p") / str(width)


def _find(stem: Path, width: int) -> Path | None:
    """Return the name under which a bundle or tile lies, which a crash may have left narrower or wider than it is."""
    for path in (_partial(stem, width), stem):
        if path.is_file():
            return path
    try:
        widths = [int(name) for name in os.listdir(_partial(stem, 0).parent) if name.isdecimal()]
    except FileNotFoundError:
        return None
    return _partial(stem, max(widths)) if widths else None


def _put(stem: Path, widths: tuple[int, int], offset: int, data: bytes, *, flush: bool) -> None:
    """Write the end of a bundle or tile at `offset`, nothing after it, and rename it from its old to its new width."""
    old, new = widths
    path = _find(stem, old)
    created = path is None
    if path is None:
        path = _partial(stem, 0)
        _make_folder(path.parent)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        _write_all(descriptor, offset, data)
        os.ftruncate(descriptor, offset + len(data))
        if flush:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    target = stem if new == _WIDTH else _partial(stem, new)
    _rename(path, target)
    if created and flush:
        _flush(target.parent)


def _rename(path: Path, target: Path) -> None:
    if path == target:
        return
    _make_folder(target.parent)
    os.rename(path, target)
    if path.parent != target.parent:
        _drop_empty(path.parent)


def _drop_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _write_all(descriptor: int, offset: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        count = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[count:], offset + count


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a crash, never shows a part of it; only the holder of the lock may."""
    temporary = path.with_name(f".{path.name}.part")
    new = not path.exists()
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            _write_all(descriptor, 0, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if new:
        _flush(path.parent)


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(0o700, exist_ok=True)
        _flush(folder.parent)


def _flush(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _only_writer(folder: Path, *, new: bool = False) -> Iterator[None]:
    """Let one process at a time write."""
    with as_storage_error("lock", folder, _MEND):
        if new:
            _make_folder(folder)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        with as_storage_error("lock", folder, _MEND):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read_checkpoint(folder: Path) -> Note:
    path = folder / "checkpoint"
    try:
        with as_storage_error("read", path, _MEND):
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
    if not _NAME.fullmatch(name):
        raise LogError(f"{name!r} is no name for a witness; use letters, digits, dots, dashes and underscores")
    return name
