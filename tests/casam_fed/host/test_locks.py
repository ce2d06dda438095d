"""One at a time, and nobody is kept out by who has died."""

import contextlib
import fcntl
import multiprocessing
import os
import signal
import threading
import time

import pytest

from casam_fed.errors import ConfigError, StorageError
from casam_fed.host.locks import is_held, only_one


def hold(path, ready) -> None:
    with only_one(path):
        ready.set()
        signal.pause()


def test_who_comes_later_waits(tmp_path):
    order = []

    def second() -> None:
        with only_one(tmp_path / "lock"):
            order.append("second")

    with only_one(tmp_path / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_who_does_not_want_to_wait_is_told_at_once(tmp_path):
    with (
        only_one(tmp_path / "lock"),
        pytest.raises(ConfigError, match="busy"),
        only_one(tmp_path / "lock", ConfigError("busy")),
    ):
        pass
    with only_one(tmp_path / "lock", ConfigError("busy")):
        pass


def test_who_has_patience_waits_as_long(tmp_path):
    with only_one(tmp_path / "lock"):
        started = time.monotonic()
        with (
            pytest.raises(ConfigError, match="busy"),
            only_one(tmp_path / "lock", ConfigError("busy"), 0.3),
        ):
            pass
        assert 0.3 <= time.monotonic() - started < 5
        thread = threading.Thread(target=lambda: time.sleep(0.2) or holding.close())
        holding = contextlib.ExitStack()
        holding.enter_context(only_one(tmp_path / "other"))
        thread.start()
        with only_one(tmp_path / "other", ConfigError("busy"), 10):
            thread.join()


def test_asking_whether_a_lock_is_held_takes_it_from_nobody(tmp_path):
    assert not is_held(tmp_path / "lock")
    with only_one(tmp_path / "lock"):
        assert is_held(tmp_path / "lock")
    assert not is_held(tmp_path / "lock")
    with (tmp_path / "lock").open() as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        assert not is_held(tmp_path / "lock")


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=hold, args=(tmp_path / "lock", ready))
    process.start()
    assert ready.wait(10)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with only_one(tmp_path / "lock", ConfigError("busy")):
        pass


def test_a_folder_that_is_missing_is_said_in_one_sentence(tmp_path):
    with (
        pytest.raises(StorageError, match=r"cannot lock .*: no such file or directory; "),
        only_one(tmp_path / "nowhere" / "lock"),
    ):
        pass
