"""Files that are either whole or absent: atomic writes, digests, and the user's cache folder."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from casam_fed.errors import StorageError

__all__ = [
    "as_storage_error",
    "cache_dir",
    "keep_by_digest",
    "reason_of",
    "sha256_bytes",
    "sha256_file",
    "write_atomically",
]


def sha256_bytes(data: bytes | memoryview) -> str:
    """Return the SHA-256 of `data` as 64 lower-case hexadecimal digits (FIPS 180-4)."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file, read in chunks, as 64 lower-case hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, data: bytes, *, private: bool = False) -> None:
    """Write `data` to `path` so that a reader, a crash or a full disk never shows a part of it.

    The bytes go to a temporary file in the same folder, are flushed to disk and then renamed over `path`.
    With `private` no other user may read them at any moment (mode 0600); otherwise the umask decides.

    Raises:
        StorageError: the disk is full, the folder cannot be written, or another I/O error; no partial file stays.
    """
    with as_storage_error("write", path, "free space or choose a folder that can be written, then run again"):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            # mkstemp has made the file 0600: what is private is never widened, not even for a moment.
            if not private:
                os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
        _sync_folder(path.parent)


def keep_by_digest(folder: Path, data: bytes) -> str:
    """Keep `data` for this user alone as FOLDER/SHA256.json, where it is not there already, and return the digest.

    Raises:
        StorageError: as `write_atomically`.
    """
    digest = sha256_bytes(data)
    path = folder / f"{digest}.json"
    if not path.exists():
        write_atomically(path, data, private=True)
    return digest


@contextlib.contextmanager
def as_storage_error(
    action: str, path: Path, mend: str = "let this user read and write the bank's folder, then run again"
) -> Iterator[None]:
    """Turn what the system says of a file into our error; a missing file stays FileNotFoundError when reading.

    Args:
        action: what was tried, e.g. "read".
        path: with which file or folder.
        mend: what a person can do about it.
    """
    try:
        yield
    except OSError as error:
        if action == "read" and isinstance(error, FileNotFoundError):
            raise
        raise StorageError(f"cannot {action} {path}: {reason_of(error)}; {mend}") from error


def reason_of(error: OSError) -> str:
    """Return what the system says of a file or an address, in a few words for the middle of a sentence."""
    return (error.strerror or str(error) or type(error).__name__).lower()


def cache_dir() -> Path:
    """Return the folder for downloads and stored embeddings: $CASAM_CACHE, or casam-fed in the user's cache folder."""
    if chosen := os.environ.get("CASAM_CACHE"):
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "casam-fed"


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
