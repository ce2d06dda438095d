"""Cells of a sweep that need Flower: one run of it for all seeds of a method and an order."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from casam_fed.host.files import write_atomically
from simulations.launch import launch
from simulations.run_folder import RunFolder
from simulations.stream_config import StreamConfig
from simulations.sweep.folder import SweepFolder
from simulations.sweep.plan import Cell

__all__ = ["run_over_flower"]


def run_over_flower(
    stream: StreamConfig,
    source: Path,
    overrides: Mapping[str, Any],
    root: Path,
    folder: SweepFolder,
    orders: Sequence[Sequence[str]],
    cells: Sequence[Cell],
) -> None:
    """Run cells of one method and order; each has its `results.json` afterwards.

    Args:
        stream: the stream, all overrides applied.
        source: its YAML file, and overrides that make it the stream; Flower's processes read it again.
        overrides: of the YAML file.
        root: where relative data paths start.
        folder: of the sweep.
        orders: of the tasks; a cell names one by its number.
        cells: with different seeds.

    Raises:
        SimulationError: a run failed; cells that were finished before it keep their results.
    """
    first = cells[0]
    run = RunFolder(first.folder(folder.path).parent, folder.path)
    sites = {site.task_name: asdict(site) for site in stream.sites}
    in_order = [sites[task] for task in orders[first.order]]
    seeds = [cell.seed for cell in cells]
    run_config = {
        "stream": str(source.absolute()),
        "data": str(root),
        "out": str(run.path),
        "sweep": str(folder.path),
        "overrides": json.dumps({**overrides, "seeds": seeds, "sites": in_order}),
        "method": first.method.name,
    }
    peak = launch(run, len(sites), stream.method, run_config)
    for path in filter(Path.exists, (run.seed(seed).results for seed in seeds)):
        # Only this process sees the memory of all others.
        results = {**json.loads(path.read_text()), "peak_rss_mb": round(peak)}
        write_atomically(path, json.dumps(results, indent=1).encode())
