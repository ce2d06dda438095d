"""One at a time: a lock that the system frees when its process ends, however it ends."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from casam_fed.errors import CasamError
from casam_fed.host.files import as_storage_error

__all__ = ["is_held", "only_one"]


@contextlib.contextmanager
def only_one(path: Path, busy: CasamError | None = None, patience_s: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path`, which is made where it is missing; its folder must be there.

    Threads of one process exclude each other too.

    Args:
        path: the lock file; nothing is written into it here.
        busy: raised where somebody else holds it; None: they are waited for.
        patience_s: for how long they may hold it before that.

    Raises:
        StorageError: the file cannot be made or locked.
    """
    mend = "free space, or let this user read and write that folder, on a local disk, then run again"
    with as_storage_error("lock", path, mend):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        with as_storage_error("lock", path, mend):
            deadline = time.monotonic() + patience_s
            while not _locked(descriptor, wait=busy is None):
                if busy is not None and time.monotonic() >= deadline:
                    raise busy
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Return whether somebody holds a lock file; who only asks keeps nobody else who asks from it."""
    try:
        with path.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _locked(descriptor: int, *, wait: bool) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
