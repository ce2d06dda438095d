"""The site's release journal: one JSON line for everything that went out, written and flushed before it goes.

{"time", "kind", "parts": [{"name", "bytes", "sha256"}, ...], "bytes"}, and "withheld" with a reason where the gate kept
the content back and let only an error code go.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from casam_fed.errors import StorageError
from casam_fed.line_log import append_line, read_lines

__all__ = ["read_journal", "write_line"]


def write_line(path: Path, line: Mapping[str, Any]) -> None:
    """Append a line with its time and the sum of its parts' bytes, and flush it to the disk.

    Raises:
        StorageError: it could not be written whole.
    """
    entry = {"time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"), **line}
    entry["bytes"] = sum(part["bytes"] for part in line["parts"])
    try:
        append_line(path, entry, flush=True)
    except OSError as error:
        raise StorageError(f"cannot write {path}; free space: until then nothing leaves this site") from error


def read_journal(path: Path, start: int = 0) -> list[dict[str, Any]]:
    """Return the lines of the journal from byte `start` on; a line that a crash has cut is left out: nothing left by it."""
    return read_lines(path, start)[0]
