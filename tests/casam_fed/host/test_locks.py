"""One at a time, and nobody is kept out by who has died."""

import multiprocessing
import os
import signal
import threading

import pytest

from casam_fed.errors import ConfigError, StorageError
from casam_fed.host.locks import only_one


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
