"""What happens at the aggregator, one JSON line an event, for the operator's terminal and for later."""

import contextlib
import time
from typing import Any

import click

from aggregator.home import Home
from casam_fed.host.files import reason_of
from casam_fed.host.line_log import append_event, read_lines
from casam_fed.host.printable import printable

__all__ = ["Progress"]

_MOST_BYTES = 16 << 20


class Progress:
    """Writes events, and shows those of other processes (the runs) too."""

    def __init__(self, home: Home) -> None:
        """Begin after what is there already; a file that has grown large moves aside."""
        self._path = home.progress
        if self._path.exists() and self._path.stat().st_size > _MOST_BYTES:
            self._path.replace(self._path.with_suffix(".old.jsonl"))
        self._position = self._path.stat().st_size if self._path.exists() else 0
        self._last = ""

    def say(self, text: str) -> None:
        """Write an event and show it."""
        self._last = text
        try:
            append_event(self._path, text)
        except OSError as error:
            # A full disk must not end an aggregator that could go on once there is space.
            click.echo(printable(f"{text} (not in {self._path}: {reason_of(error)})"))
        self.show()

    def say_once(self, text: str) -> None:
        """As `say`, but not again what was said just before."""
        if text != self._last:
            self.say(text)

    def show(self) -> None:
        """Print the events that were written since the last look; a line that is none is passed over."""
        events: list[dict[str, Any]] = []
        with contextlib.suppress(OSError):
            events, self._position = read_lines(self._path, self._position)
        for event in events:
            with contextlib.suppress(ValueError, KeyError, TypeError, OverflowError):
                clock = time.strftime("%H:%M:%S", time.localtime(event["time"]))
                # Sites have sent parts of the text.
                click.echo(f"{clock}  {printable(event['text'])}")
