"""One run of a stream over Flower, shown while it goes, and failed loudly where Flower would not."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

import click

from casam_fed.errors import SimulationError
from simulations.flower_processes import FlowerRun
from simulations.run_folder import RunFolder
from simulations.stream_config import StreamConfig

__all__ = ["launch"]

_POLL_S = 0.5
_COMPLETED = "finished:completed"


def launch(folder: RunFolder, stream: StreamConfig, run_config: Mapping[str, str]) -> float:
    """Run the stream's app, print its progress, and return the peak memory of all its processes in MB.

    Raises:
        SimulationError: the run failed; the message says why.
    """
    app = Path(__file__).parent / "app"
    with FlowerRun(folder.path / "flower.log", folder.flower_marker) as flower:
        flower.start(app, len(stream.sites), min(stream.method.threads, os.cpu_count() or 1), run_config)
        shown = 0
        while flower.running():
            shown = _show(folder, shown)
            time.sleep(_POLL_S)
        _show(folder, shown)
        status = flower.outcome()
    if status != _COMPLETED:
        raise SimulationError(_why(folder, status))
    return flower.peak_rss_mb


def _show(folder: RunFolder, shown: int) -> int:
    """Print the progress lines after the first `shown` and return how many there are now."""
    lines = folder.progress.read_text(encoding="utf-8").splitlines()
    start = json.loads(lines[0])["time"]
    for line in lines[shown:]:
        event = json.loads(line)
        click.echo(f"{event['time'] - start:7.1f} s  {event['text']}")
    return len(lines)


def _why(folder: RunFolder, status: str) -> str:
    if folder.failure.exists():
        reason = folder.failure.read_text()
        logs = [path.read_text().strip().splitlines() for path in sorted(folder.sites.glob("*/log.txt"))]
        last = [lines[-1] for lines in logs if lines]
        return f"the run stopped: {reason}" + (f" ({last[-1]})" if last else "")
    return f"Flower says the run is '{status}'; its log is {folder.path / 'flower.log'}"
