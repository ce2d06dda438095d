"""`casam sim run`: a simulated stream from start to report."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from casam_fed.config import read_yaml
from casam_fed.data.dataset import PhantomData, open_dataset
from casam_fed.errors import ConfigError
from casam_fed.host.extras import require_extra
from simulations.methods.method_list import METHODS, chosen_methods
from simulations.report import write_report
from simulations.shipped import found, shipped
from simulations.stream_config import read_stream
from simulations.sweep.folder import SweepFolder
from simulations.sweep.over_flower import run_over_flower
from simulations.sweep.plan import cells_of, orders_of
from simulations.sweep.run import Sweep

__all__ = ["sim"]


@click.group()
def sim() -> None:
    """Simulate streams of sites with Flower."""


@sim.command()
@click.argument("stream", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the report.")
@click.option(
    "--data", type=click.Path(path_type=Path), help="Where relative data paths start (default: beside a file STREAM)."
)
@click.option(
    "--method",
    type=click.Path(path_type=Path),
    help="Choices of the method: a YAML file, or paper or vit_b, which ship.",
)
@click.option("--unit", type=click.Choice(["class", "instance"]), help="One box per class, or one per instance.")
@click.option("--seeds", type=click.IntRange(min=1), help="Run this many seeds, 0, 1, ...")
@click.option(
    "--methods",
    default="casam",
    show_default=True,
    help="Compare methods, e.g. casam,er or all; `casam sim methods` lists them.",
)
@click.option(
    "--orders",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Run this many orders of the tasks, the stream's own first.",
)
@click.option("--overwrite", is_flag=True, help="Start anew, and lose what an earlier run left in --out.")
def run(
    stream: Path,
    out: Path,
    data: Path | None,
    method: Path | None,
    unit: str | None,
    seeds: int | None,
    methods: str,
    orders: int,
    overwrite: bool,
) -> None:
    """Run a stream and write its report to --out. STREAM is a YAML file, or one that ships: `casam sim streams`.

    There is one cell for each method, seed and order. The same command goes on where a run was stopped, and more methods,
    seeds or orders may be asked for later; a finished cell is never computed again.

    Exit code 0 when the run completed, 1 when it failed, 2 for wrong usage, 130 after Ctrl-C. No process is left behind.
    """
    require_extra("sim", "ray", "matplotlib")
    overrides = _overrides(method, unit, seeds)
    file = found(stream, "streams")
    config = read_stream(file, overrides)
    blocks = [*(site.data for site in config.sites), *(unseen.data for unseen in config.unseen)]
    if data is None and file != stream and not all(isinstance(block, PhantomData) for block in blocks):
        raise ConfigError(f"the images of stream {stream} do not ship; say where they are with --data")
    root = (data or file.parent).absolute()
    for block in blocks:
        open_dataset(block, root)
    chosen = chosen_methods(methods)
    all_orders = orders_of([site.task_name for site in config.sites], orders)
    folder = SweepFolder.open(out.absolute(), config, root, overwrite)
    cells = cells_of(chosen, config.seeds, orders)
    over_flower = partial(run_over_flower, config, file, overrides, root, folder, all_orders)
    with folder.locked():
        results = Sweep(config, root, folder, all_orders, cells, over_flower).run()
        click.echo(f"report: {write_report(folder.path, config, all_orders, results)}")
    if verified := [result.verified for result in results.values() if result.verified]:
        click.echo(_together(verified))


@sim.command("streams")
def streams_command() -> None:
    """List the streams that ship, by the names that `casam sim run` takes."""
    for name, path in shipped("streams").items():
        sites = read_stream(path, {}).sites
        drawn = all(isinstance(site.data, PhantomData) for site in sites)
        needs = "drawn images" if drawn else "images on disk (--data)"
        click.echo(f"{name:12} {len(sites)} sites, {needs}: {', '.join(site.name for site in sites)}")


@sim.command("methods")
def methods_command() -> None:
    """List the methods that --methods takes."""
    for method in METHODS.values():
        click.echo(f"{method.name:12} {method.meaning}")


def _overrides(method: Path | None, unit: str | None, seeds: int | None) -> dict[str, Any]:
    overrides: dict[str, Any] = {}
    choices = read_yaml(found(method, "methods")) if method else {}
    if unit:
        choices["unit"] = unit
    if choices:
        overrides["method"] = choices
    if seeds:
        overrides["seeds"] = list(range(seeds))
    return overrides


def _together(sentences: Sequence[str]) -> str:
    """Return what was verified of several runs of one stream as one sentence."""
    counts = Counter(sentences)
    return "; ".join(
        sentence if times == 1 else f"{sentence} in each of {times} runs" for sentence, times in counts.items()
    )
