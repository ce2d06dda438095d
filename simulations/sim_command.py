"""`casam sim run`: a simulated stream from start to report."""

import json
import shutil
from pathlib import Path
from typing import Any

import click

from casam_fed.config import read_yaml
from casam_fed.data.dataset import open_dataset
from casam_fed.errors import ConfigError
from simulations.flower_processes import end_leftovers
from simulations.launch import launch
from simulations.methods.catalogue import METHODS, chosen_methods
from simulations.run_folder import RunFolder
from simulations.stream_config import StreamConfig, read_stream
from simulations.sweep.plan import orders_of

__all__ = ["sim"]


@click.group()
def sim() -> None:
    """Simulate streams of sites with Flower."""


@sim.command()
@click.argument("stream", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the report.")
@click.option(
    "--data", type=click.Path(path_type=Path), help="Where relative data paths start (default: beside STREAM)."
)
@click.option(
    "--method", type=click.Path(path_type=Path), help="YAML with choices of the method, e.g. configs/paper.yaml."
)
@click.option("--unit", type=click.Choice(["class", "instance"]), help="One box per class, or one per instance.")
@click.option("--seeds", type=click.IntRange(min=1), help="Run this many seeds, 0, 1, ...")
@click.option(
    "--methods",
    help="Compare methods, e.g. casam,er or all; `casam sim methods` lists them. Without it: casam alone, in one run.",
)
@click.option("--orders", type=click.IntRange(min=1), help="Compare this many orders of the tasks, the stream's first.")
@click.option("--overwrite", is_flag=True, help="Replace what an earlier run left in --out.")
def run(
    stream: Path,
    out: Path,
    data: Path | None,
    method: Path | None,
    unit: str | None,
    seeds: int | None,
    methods: str | None,
    orders: int | None,
    overwrite: bool,
) -> None:
    """Run the stream described by STREAM (a YAML file) and write its report to --out.

    With --methods or --orders it is a sweep: one cell for each method, seed and order. The same command goes on where a
    sweep was stopped, and more methods, seeds or orders may be asked for later; a finished cell is never computed again.

    Exit code 0 when the run completed, 1 when it failed, 2 for wrong usage, 130 after Ctrl-C. No process is left behind.
    """
    overrides = _overrides(method, unit, seeds)
    config = read_stream(stream, overrides)
    root = (data or stream.parent).absolute()
    for source in (*config.sites, *config.unseen):
        open_dataset(source.data, root)
    if methods is None and orders is None:
        report = _single_run(stream, out.absolute(), root, config, overrides, overwrite)
    else:
        report = _sweep(stream, out.absolute(), root, config, overrides, methods or "casam", orders or 1, overwrite)
    click.echo(f"report: {report}")


@sim.command("methods")
def methods_command() -> None:
    """List the methods that --methods takes."""
    for method in METHODS.values():
        click.echo(f"{method.name:12} {method.meaning}")


def _single_run(
    stream: Path, out: Path, root: Path, config: StreamConfig, overrides: dict[str, Any], overwrite: bool
) -> Path:
    folder = _fresh(out, overwrite)
    run_config = {
        "stream": str(stream.absolute()),
        "data": str(root),
        "out": str(folder.path),
        "overrides": json.dumps(overrides),
    }
    launch(folder, len(config.sites), config.method, run_config)
    return folder.path / "report.md"


def _sweep(
    stream: Path,
    out: Path,
    root: Path,
    config: StreamConfig,
    overrides: dict[str, Any],
    methods: str,
    orders: int,
    overwrite: bool,
) -> Path:
    from simulations.sweep.folder import SweepFolder
    from simulations.sweep.report import write_sweep_report
    from simulations.sweep.run import Sweep

    chosen = chosen_methods(methods)
    orders_of([site.task_name for site in config.sites], orders)
    folder = SweepFolder.open(out, config, root, overwrite)
    sweep = Sweep(config, stream, overrides, root, folder, chosen, orders)
    with folder.locked():
        return write_sweep_report(folder.path, config, sweep.orders, sweep.run())


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
    folder = RunFolder(path, path)
    end_leftovers(folder.flower_marker)
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
