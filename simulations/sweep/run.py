"""The cells of a sweep, one after another; a finished cell is never computed again."""

import json
import resource
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np

from casam_fed.errors import SimulationError
from simulations.launch import launch
from simulations.methods.method_list import Method
from simulations.methods.outcome import Outcome
from simulations.run_folder import RunFolder
from simulations.stream_config import StreamConfig
from simulations.sweep.folder import CellResult, SweepFolder
from simulations.sweep.plan import Cell, cells_of, orders_of

__all__ = ["Sweep"]


class Sweep:
    """A stream, and everything that is to be compared on it.

    Args:
        stream: the stream, all overrides applied.
        source: its YAML file, and overrides that make it the stream; Flower's processes read it again.
        overrides: of the YAML file.
        root: where relative data paths start.
        folder: of the sweep.
        methods: in the order of the catalogue.
        orders: how many orders of tasks.
    """

    def __init__(
        self,
        stream: StreamConfig,
        source: Path,
        overrides: dict[str, Any],
        root: Path,
        folder: SweepFolder,
        methods: Sequence[Method],
        orders: int,
    ) -> None:
        self.stream, self._source, self._overrides, self._root = stream, source, overrides, root
        self.folder, self.methods = folder, tuple(methods)
        self.orders = orders_of([site.task_name for site in stream.sites], orders)
        self.cells = cells_of(methods, stream.seeds, orders)
        self._started = time.monotonic()
        self._tasks: Any = None

    def run(self) -> dict[Cell, CellResult]:
        """Compute every cell that is not finished, and return all.

        Raises:
            CasamError: a cell failed; those before it are kept.
        """
        found = {cell: result for cell in self.cells if (result := self.folder.result(cell)) is not None}
        waiting = [cell for cell in self.cells if cell not in found]
        if found:
            self.say(f"{len(found)} of {len(self.cells)} cells are finished already")
        for place, cell in enumerate(waiting):
            left = _minutes_left(waiting[place:], found)
            self.say(f"cell {len(found) + 1} of {len(self.cells)}: {cell}; {len(waiting) - place} left{left}")
            began = time.monotonic()
            outcomes, peak = self._compute(cell)
            found[cell] = CellResult(time.monotonic() - began, max(peak, _own_peak_mb()), tuple(outcomes))
            self.folder.keep(cell, found[cell])
        return {cell: found[cell] for cell in self.cells}

    def say(self, text: str) -> None:
        """Print a line of progress."""
        click.echo(f"{time.monotonic() - self._started:7.1f} s  {text}")

    def _compute(self, cell: Cell) -> tuple[list[Outcome], float]:
        """Return a cell's outcomes, and the peak memory in MB of the processes that it started."""
        if cell.method.name == "casam":
            return self._casam(cell)
        from simulations.methods import shared_layer

        order, tasks = self.orders[cell.order], self._stream_tasks()
        if cell.method.name == "zero-shot":
            return [shared_layer.plain_sam(tasks, order, cell.order)], 0.0
        if cell.method.name == "joint":
            return [shared_layer.learn_pooled(tasks, cell.seed, self.say)], 0.0
        if cell.method.name == "fedavg":
            return self._fedavg(cell)
        checkpoint = cell.folder(self.folder.path) / "stage.safetensors"
        name = cell.method.name
        outcome = shared_layer.learn_staged(name, tasks, order, cell.order, cell.seed, checkpoint, self.say)
        checkpoint.unlink()
        return [outcome], 0.0

    def _casam(self, cell: Cell) -> tuple[list[Outcome], float]:
        from simulations.methods.casam import casam_outcomes
        from simulations.methods.casam_results import read_results

        folder, peak = self._flower(cell)
        results = read_results(json.loads(folder.results.read_text()))
        return casam_outcomes(results, cell.order), peak

    def _fedavg(self, cell: Cell) -> tuple[list[Outcome], float]:
        from simulations.methods.fedavg import layer_of
        from simulations.methods.shared_layer import outcome_through

        folder, peak = self._flower(cell)
        exchanged = json.loads(folder.results.read_text())
        tasks = self._stream_tasks()
        layer = layer_of((folder.path / "layer.safetensors").read_bytes(), "the server").to(tasks.backbone.device)
        outcome = outcome_through("fedavg", tasks, cell.seed, layer, exchanged["seconds"], exchanged["bytes_up"])
        return [outcome], peak

    def _flower(self, cell: Cell) -> tuple[RunFolder, float]:
        """Run a cell over Flower in a folder of its own, with the sites' private folders of the whole sweep."""
        path = cell.folder(self.folder.path)
        shutil.rmtree(path, ignore_errors=True)
        folder = RunFolder(path, self.folder.sites)
        folder.say("started")
        sites = {site.task_name: asdict(site) for site in self.stream.sites}
        in_order = [sites[task] for task in self.orders[cell.order]]
        run_config = {
            "stream": str(self._source.absolute()),
            "data": str(self._root),
            "out": str(path),
            "sites": str(self.folder.sites),
            "overrides": json.dumps({**self._overrides, "seeds": [cell.seed], "sites": in_order}),
            "method": cell.method.name,
        }
        peak = launch(folder, self.stream, run_config)
        if not folder.results.exists():
            raise SimulationError(f"Flower says that {cell} is complete, but {folder.results} is missing; run it again")
        return folder, peak

    def _stream_tasks(self) -> Any:
        """Return the tasks, which all cells share; made when a cell in this process needs them, as that loads torch."""
        if self._tasks is None:
            from simulations.methods.tasks import StreamTasks

            self._tasks = StreamTasks(self.stream, self._root, self.folder.split_of, self.say)
        return self._tasks


def _minutes_left(waiting: Sequence[Cell], found: dict[Cell, CellResult]) -> str:
    """Guess from the cells of the same method, or from all where there is none yet."""
    if not found:
        return ""
    everything = float(np.mean([result.wall_s for result in found.values()]))
    known = {
        method: float(np.mean([result.wall_s for cell, result in found.items() if cell.method == method]))
        for method in {cell.method for cell in found}
    }
    seconds = sum(known.get(cell.method, everything) for cell in waiting)
    return f", about {max(1, round(seconds / 60))} min"


def _own_peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) / 2**20 if sys.platform == "darwin" else float(peak) / 2**10
