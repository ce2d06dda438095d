"""What happens at the aggregator, one JSON line an event, for the operator's terminal and for later."""

import contextlib
import json
import os
import time

import click

from aggregator.home import Home
from casam_fed.printable import printable

__all__ = ["Progress"]

_MOST_BYTES = 16 << 20


class Progress:
    """Writes events, and shows those of other processes (the runs) too."""

    def __init__(self, home: Home) -> None:
        """Begin after what is there already; a file that has grown large moves aside."""
        self._path = home.path / "progress.jsonl"
        if self._path.exists() and self._path.stat().st_size > _MOST_BYTES:
            self._path.replace(self._path.with_suffix(".old.jsonl"))
        self._position = self._path.stat().st_size if self._path.exists() else 0
        self._last = ""

    def say(self, text: str) -> None:
        """Write an event and show it."""
        self._last = text
        try:
            with self._path.open("a+b") as file:
                # A process that was killed may have left half a line: it ends here.
                cut = file.tell() > 0 and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"
                line = json.dumps({"time": round(time.time(), 3), "text": text}) + "\n"
                file.write((b"\n" if cut else b"") + line.encode())
        except OSError as error:
            # A full disk must not end an aggregator that could go on once there is space.
            click.echo(printable(f"{text} (not in {self._path}: {error.strerror})"))
        self.show()

    def say_once(self, text: str) -> None:
        """As `say`, but not again what was said just before."""
        if text != self._last:
            self.say(text)

    def show(self) -> None:
        """Print the events that were written since the last look; a line that is none is passed over."""
        with contextlib.suppress(OSError), self._path.open("rb") as file:
            if file.seek(0, os.SEEK_END) < self._position:
                # Somebody has emptied the file.
                self._position = 0
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._position += len(line)
                with contextlib.suppress(ValueError, KeyError, TypeError, OverflowError):
                    event = json.loads(line)
                    clock = time.strftime("%H:%M:%S", time.localtime(event["time"]))
                    # Sites have sent parts of the text.
                    click.echo(f"{clock}  {printable(event['text'])}")
