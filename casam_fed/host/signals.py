"""How a program of ours takes Ctrl-C and its relatives: the first ends it, none cuts the ending short."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

__all__ = ["stop_on_signals", "undisturbed"]

_Handler = Callable[[int, FrameType | None], None]


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt at the first SIGINT, SIGTERM or SIGHUP, and ignore later ones: they would cut stopping short.

    After an interrupted context they stay ignored, for the program is on its way out. A thread other than the main one
    changes nothing, as no signal reaches it.
    """

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        # A mask would not do: a signal may reach any thread, and libraries start threads.
        _answer_signals(_ignore)
        raise KeyboardInterrupt

    with _answering_signals(interrupt):
        yield


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore SIGINT, SIGTERM and SIGHUP inside the context."""
    with _answering_signals(_ignore):
        yield


@contextlib.contextmanager
def _answering_signals(handler: _Handler) -> Iterator[None]:
    before = _answer_signals(handler)
    try:
        yield
    except KeyboardInterrupt:
        before = {}
        raise
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _answer_signals(handler: _Handler) -> dict[signal.Signals, Any]:
    """Install a handler for whatever asks this program to end, and return those it had."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        # Started with nohup.
        numbers.remove(signal.SIGHUP)
    return {number: signal.signal(number, handler) for number in numbers}


def _ignore(_signal: int, _frame: FrameType | None) -> None:
    """A handler rather than SIG_IGN, which children would inherit."""
