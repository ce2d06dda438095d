"""The cells of a sweep, one after another; a finished cell is never computed again."""

import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from casam_fed.errors import SimulationError
from simulations.kept_json import read_kept
from simulations.methods.outcome import Outcome
from simulations.stream_config import StreamConfig
from simulations.sweep.folder import CellResult, SweepFolder
from simulations.sweep.plan import Cell, batches_of

if TYPE_CHECKING:
    from simulations.methods.tasks import StreamTasks

__all__ = ["Sweep"]


@dataclass(frozen=True)
class Sweep:
    """A stream, and the cells that are wanted of it.

    Attributes:
        stream: the stream, all overrides applied.
        root: where relative data paths start.
        folder: of the sweep.
        orders: of the tasks; a cell names one by its number.
        cells: in the order in which they are wanted.
        run_over_flower: runs cells of one method and order, with different seeds; each has its `results.json` afterwards,
            written when all else in the cell's folder is.
    """

    stream: StreamConfig
    root: Path
    folder: SweepFolder
    orders: Sequence[tuple[str, ...]]
    cells: Sequence[Cell]
    run_over_flower: Callable[[Sequence[Cell]], None]
    _started: float = field(default_factory=time.monotonic)

    def run(self) -> dict[Cell, CellResult]:
        """Compute every cell that is not finished, and return all.

        Raises:
            CasamError: a cell failed; those that were finished before it are kept.
        """
        found = {cell: result for cell in self.cells if (result := self.folder.result(cell)) is not None}
        if found:
            self.say(f"{len(found)} of {len(self.cells)} cells are finished already")
        for batch in batches_of([cell for cell in self.cells if cell not in found]):
            waiting = [cell for cell in self.cells if cell not in found]
            first, last = len(found) + 1, len(found) + len(batch)
            which = f"cell {first}" if first == last else f"cells {first} to {last}"
            left = f"{len(waiting)} left{_minutes(waiting, found)}"
            self.say(f"{which} of {len(self.cells)}: {'; '.join(map(str, batch))}; {left}")
            if uncollected := [cell for cell in batch if cell.method.flower and not self._collected(cell).exists()]:
                self.run_over_flower(uncollected)
            found |= {cell: self._finished(cell) for cell in batch}
        return {cell: found[cell] for cell in self.cells}

    def say(self, text: str) -> None:
        """Print a line of progress."""
        click.echo(f"{time.monotonic() - self._started:7.1f} s  {text}")

    def _finished(self, cell: Cell) -> CellResult:
        """Compute a cell as far as Flower has not done it, keep what it leaves, and return that."""
        if cell.method.name != "casam":
            began = time.monotonic()
            outcome, elsewhere_s, peak = self._fedavg(cell) if cell.method.flower else (self._learned(cell), 0.0, 0.0)
            wall_s = elsewhere_s + time.monotonic() - began
            self.folder.keep(cell, CellResult(wall_s, max(peak, _own_peak_mb()), (outcome,)))
        result = self.folder.result(cell)
        if result is None:
            raise SimulationError(f"Flower completed {cell}, but left no {self._collected(cell)}; run it again")
        return result

    def _learned(self, cell: Cell) -> Outcome:
        from simulations.methods import shared_layer

        order, name = self.orders[cell.order], cell.method.name
        if name == "zero-shot":
            return shared_layer.plain_sam(self._tasks, order, cell.order)
        if name == "joint":
            return shared_layer.learn_pooled(self._tasks, cell.seed, self.say)
        checkpoint = cell.folder(self.folder.path) / "stage.safetensors"
        outcome = shared_layer.learn_staged(name, self._tasks, order, cell.order, cell.seed, checkpoint, self.say)
        checkpoint.unlink()
        return outcome

    def _fedavg(self, cell: Cell) -> tuple[Outcome, float, float]:
        """Score the layer that the sites have averaged; return seconds and peak memory of the averaging, too."""
        from simulations.methods.fedavg import Cost, layer_of
        from simulations.methods.shared_layer import outcome_through

        cost = read_kept(self._collected(cell), Cost)
        data = self._collected(cell).with_name("layer.safetensors").read_bytes()
        layer = layer_of(data, "the server").to(self._tasks.backbone.device)
        outcome = outcome_through("fedavg", self._tasks, cell.seed, layer, cost.seconds, cost.bytes_up)
        return outcome, cost.wall_s, cost.peak_rss_mb or 0.0

    def _collected(self, cell: Cell) -> Path:
        """Return the file that Flower's server leaves for a cell when all else of it is written."""
        return cell.folder(self.folder.path) / "results.json"

    @cached_property
    def _tasks(self) -> "StreamTasks":
        """The tasks, which all cells share; made when a cell in this process needs them, as that loads torch."""
        from simulations.methods.tasks import StreamTasks

        return StreamTasks(self.stream, self.root, self.folder.split_of, self.say)


def _minutes(waiting: Sequence[Cell], found: Mapping[Cell, CellResult]) -> str:
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
