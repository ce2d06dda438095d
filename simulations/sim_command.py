"""`casam sim run`: a simulated stream from start to report."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import click

from casam_fed.config import read_yaml
from casam_fed.data.dataset import open_dataset
from casam_fed.errors import ConfigError, SimulationError
from casam_fed.files import write_atomically
from simulations.flower_processes import FlowerRun
from simulations.run_folder import RunFolder
from simulations.stream_config import StreamConfig, read_stream

__all__ = ["sim"]

_POLL_S = 0.5
_COMPLETED = "finished:completed"


@click.group()
def sim() -> None:
    """Simulate streams of sites with Flower."""


@sim.command()
@click.argument("stream", type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder for the report; must be new or empty."
)
@click.option(
    "--data", type=click.Path(path_type=Path), help="Where relative data paths start (default: beside STREAM)."
)
@click.option(
    "--method", type=click.Path(path_type=Path), help="YAML with choices of the method, e.g. configs/paper.yaml."
)
@click.option("--unit", type=click.Choice(["class", "instance"]), help="One box per class, or one per instance.")
@click.option("--seeds", type=click.IntRange(min=1), help="Run this many seeds, 0, 1, ...")
@click.option("--overwrite", is_flag=True, help="Replace an earlier run in --out.")
def run(
    stream: Path,
    out: Path,
    data: Path | None,
    method: Path | None,
    unit: str | None,
    seeds: int | None,
    overwrite: bool,
) -> None:
    """Run the stream described by STREAM (a YAML file) and write its report to --out.

    Exit code 0 when the run completed, 1 when it failed, 2 for wrong usage, 130 after Ctrl-C. No process is left behind.
    """
    overrides = _overrides(method, unit, seeds)
    config = read_stream(stream, overrides)
    root = (data or stream.parent).absolute()
    for site in config.sites:
        open_dataset(site.data, root)
    folder = _fresh(out.absolute(), overwrite)
    run_config = {
        "stream": str(stream.absolute()),
        "data": str(root),
        "out": str(folder.path),
        "overrides": json.dumps(overrides),
    }
    status, peak = _simulate(folder, config, run_config)
    if status != _COMPLETED:
        raise SimulationError(_why(folder, status))
    _add_memory(folder, peak)
    click.echo(f"report: {folder.path / 'report.md'}")


def _overrides(method: Path | None, unit: str | None, seeds: int | None) -> dict[str, Any]:
    overrides: dict[str, Any] = {}
    choices = read_yaml(method) if method else {}
    if unit:
        choices["unit"] = unit
    if choices:
        overrides["method"] = choices
    if seeds:
        overrides["seeds"] = list(range(seeds))
    return overrides


def _fresh(path: Path, overwrite: bool) -> RunFolder:
    folder = RunFolder(path)
    if path.is_dir() and any(path.iterdir()):
        if not folder.progress.exists():
            raise ConfigError(f"{path} holds something that is not a run; give another folder with --out")
        if not overwrite:
            raise ConfigError(f"{path} holds an earlier run; give another folder, or --overwrite to replace it")
        shutil.rmtree(path)
    elif path.exists() and not path.is_dir():
        raise ConfigError(f"{path} is a file; give a folder with --out")
    folder.say("started")
    return folder


def _simulate(folder: RunFolder, config: StreamConfig, run_config: dict[str, str]) -> tuple[str, float]:
    app = Path(__file__).parent / "app"
    with FlowerRun(folder.path / "flower.log") as flower:
        flower.start(app, len(config.sites), min(config.method.threads, os.cpu_count() or 1), run_config)
        shown = 0
        while flower.running():
            shown = _show(folder, shown)
            time.sleep(_POLL_S)
        _show(folder, shown)
        return flower.outcome(), flower.peak_rss_mb


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
        logs = [path.read_text().strip().splitlines() for path in sorted((folder.path / "sites").glob("*/log.txt"))]
        last = [lines[-1] for lines in logs if lines]
        return f"the run stopped: {reason}" + (f" ({last[-1]})" if last else "")
    return f"Flower says the run is '{status}'; its log is {folder.path / 'flower.log'}"


def _add_memory(folder: RunFolder, peak_rss_mb: float) -> None:
    """Write the peak memory of all processes, which only this process sees, into the report's numbers."""
    from simulations.report import write_report

    results = json.loads(folder.results.read_text())
    results["peak_rss_mb"] = round(peak_rss_mb)
    write_atomically(folder.results, json.dumps(results, indent=1).encode())
    write_report(results, folder.path)
