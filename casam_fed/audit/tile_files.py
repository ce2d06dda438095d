"""How the parts of a log are written: in place and then renamed, whole or not at all, by one process at a time."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from casam_fed.audit.tile_layout import WIDTH
from casam_fed.host.files import as_storage_error
from casam_fed.host.locks import only_one

__all__ = ["MEND", "drop_empty", "find", "make_folder", "only_writer", "partial", "put", "rename", "replace"]

MEND = "free space, or let this user read and write there, then run again"


def partial(stem: Path, width: int) -> Path:
    return Path(f"{stem}.p/{width}")


def find(stem: Path, width: int) -> Path | None:
    """Return where a bundle or tile lies; a crash, or a writer just now, may have given it the name of another width."""
    for path in (partial(stem, width), stem):
        if path.is_file():
            return path
    try:
        widths = [int(name) for name in os.listdir(partial(stem, 0).parent) if name.isdecimal()]
    except FileNotFoundError:
        return None
    return partial(stem, max(widths)) if widths else None


def put(stem: Path, widths: tuple[int, int], offset: int, data: bytes, *, flush: bool) -> None:
    """Write the end of a bundle or tile at `offset`, nothing after it, and rename it from its old to its new width."""
    old, new = widths
    path = find(stem, old)
    created = path is None
    if path is None:
        path = partial(stem, 0)
        make_folder(path.parent)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        _write_all(descriptor, offset, data)
        os.ftruncate(descriptor, offset + len(data))
        if flush:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    target = stem if new == WIDTH else partial(stem, new)
    rename(path, target)
    if created and flush:
        _flush(target.parent)


def rename(path: Path, target: Path) -> None:
    if path == target:
        return
    make_folder(target.parent)
    os.rename(path, target)
    if path.parent != target.parent:
        drop_empty(path.parent)


def drop_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _write_all(descriptor: int, offset: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        count = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[count:], offset + count


def replace(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a crash, never shows a part of it; only the holder of the lock may."""
    temporary = path.with_name(f".{path.name}.part")
    new = not path.exists()
    with contextlib.ExitStack() as failing:
        for written in (temporary, path) if new else (temporary,):
            failing.callback(_drop, written)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            _write_all(descriptor, 0, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
        if new:
            _flush(path.parent)
        failing.pop_all()


def _drop(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def make_folder(folder: Path) -> None:
    if not folder.is_dir():
        make_folder(folder.parent)
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
def only_writer(folder: Path, *, new: bool = False) -> Iterator[None]:
    """Let one process at a time write."""
    if new:
        with as_storage_error("lock", folder, MEND):
            make_folder(folder)
    with only_one(folder / ".lock"):
        yield
