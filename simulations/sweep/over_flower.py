"""Cells of a sweep that need Flower: each in a folder of its own, with the sites' private folders of the whole sweep."""

import json
import shutil
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
    sites = {site.task_name: asdict(site) for site in stream.sites}
    for cell in cells:
        path = cell.folder(folder.path)
        shutil.rmtree(path, ignore_errors=True)
        run = RunFolder(path, folder.sites)
        run.say("started")
        in_order = [sites[task] for task in orders[cell.order]]
        run_config = {
            "stream": str(source.absolute()),
            "data": str(root),
            "out": str(path),
            "sites": str(folder.sites),
            "overrides": json.dumps({**overrides, "seeds": [cell.seed], "sites": in_order}),
            "method": cell.method.name,
        }
        peak = launch(run, stream, run_config)
        if run.results.exists():
            # Only this process sees the memory of all others.
            results = {**json.loads(run.results.read_text()), "peak_rss_mb": round(peak)}
            write_atomically(run.results, json.dumps(results, indent=1).encode())
