"""Logs of one JSON object a line, written by several processes: readers see whole lines, a cut one costs itself."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["append_event", "append_line", "read_lines"]


def append_line(path: Path, entry: Mapping[str, Any], *, flush: bool = False) -> None:
    """Append an entry, in one write where there is space, mode 0600; with `flush` it is on the disk when this returns.

    Raises:
        OSError: it could not be written whole.
    """
    data = (json.dumps(entry) + "\n").encode()
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            # A crash or a full disk has cut the line before: it stays as it is, and ends here.
            data = b"\n" + data
        while data:
            data = data[os.write(descriptor, data) :]
        if flush:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_event(path: Path, text: str) -> None:
    """Append a sentence with the time it was said.

    Raises:
        OSError: as `append_line`.
    """
    append_line(path, {"time": round(time.time(), 3), "text": text})


def read_lines(path: Path, start: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Return the entries after byte `start`, and where to go on; a line that is no entry is left out.

    A last line without its end waits for it. A file that has become shorter than `start` is read from its beginning.

    Raises:
        OSError: it cannot be read; a file that is not there is an empty one.
    """
    if not path.exists():
        return [], 0
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) < start:
            start = 0
        file.seek(start)
        whole, newline, _ = file.read().rpartition(b"\n")
    entries = [entry for line in whole.split(b"\n") if (entry := _entry(line)) is not None]
    return entries, start + len(whole) + len(newline)


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
