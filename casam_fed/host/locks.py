"""One at a time: a lock that the system frees when its process ends, however it ends."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from casam_fed.errors import CasamError
from casam_fed.host.files import as_storage_error

__all__ = ["only_one"]


@contextlib.contextmanager
def only_one(path: Path, busy: CasamError | None = None) -> Iterator[None]:
    """Hold the lock file `path`, which is made where it is missing; its folder must be there.

    Threads of one process exclude each other too.

    Args:
        path: the lock file; nothing is ever written into it.
        busy: raised at once where somebody else holds it; None: they are waited for.

    Raises:
        StorageError: the file cannot be made or locked.
    """
    mend = "free space, or let this user write that folder, then run again"
    with as_storage_error("lock", path, mend):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        with as_storage_error("lock", path, mend):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
            except BlockingIOError as error:
                raise busy or error from error
        yield
    finally:
        os.close(descriptor)
