"""The site's release journal: one JSON line for everything that went out, written and flushed before it goes.

{"time", "kind", "parts": [{"name", "bytes", "sha256"}, ...], "bytes"}, and "withheld" with a reason where the gate kept
the content back and let only an error code go.
"""

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from casam_fed.errors import StorageError

__all__ = ["read_journal", "write_line"]


def write_line(path: Path, line: Mapping[str, Any]) -> None:
    """Append a line with its time and the sum of its parts' bytes, and flush it to the disk.

    Raises:
        StorageError: it could not be written whole.
    """
    entry = {"time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"), **line}
    entry["bytes"] = sum(part["bytes"] for part in line["parts"])
    data = (json.dumps(entry) + "\n").encode()
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                # A crash or a full disk has cut the line before: it stays as it is, and ends here.
                data = b"\n" + data
            if os.write(descriptor, data) != len(data):
                raise OSError("the line was cut")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StorageError(f"cannot write {path}; free space: until then nothing leaves this site") from error


def read_journal(path: Path, start: int = 0) -> list[dict[str, Any]]:
    """Return the lines of the journal from byte `start` on; a line that a crash has cut is left out: nothing left by it."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        file.seek(start)
        lines = file.read().split(b"\n")
    return [entry for line in lines if (entry := _entry(line)) is not None]


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
