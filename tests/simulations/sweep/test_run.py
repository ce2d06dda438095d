"""What of a sweep is computed, and in how many starts of Flower; what Flower leaves is laid there by the test."""

from dataclasses import replace
from pathlib import Path

import pytest

from casam_fed.errors import SimulationError
from simulations.methods.method_list import METHODS
from simulations.sweep.folder import SweepFolder
from simulations.sweep.plan import Cell, cells_of
from simulations.sweep.run import Sweep

from ..report.synthetic_results import collect, stream_of, synthetic_results

RESULTS = synthetic_results(2, seeds=3)


def sweep(folder: Path, completed: int, starts: list[list[int]]) -> Sweep:
    """Flower completes the first `completed` cells of each start, and fails where it was asked for more."""
    stream = stream_of(RESULTS)
    opened = SweepFolder.open(folder, stream, folder, overwrite=False)

    def over_flower(cells):
        starts.append([cell.seed for cell in cells])
        for cell in cells[:completed]:
            collect({**RESULTS, "seeds": {str(cell.seed): RESULTS["seeds"][str(cell.seed)]}}, folder)
        if len(cells) > completed:
            raise SimulationError("killed")

    cells = cells_of([METHODS["casam"]], stream.seeds, 1)
    return Sweep(stream, folder, opened, [tuple(RESULTS["tasks"])], cells, over_flower)


def test_all_seeds_are_run_in_one_start_of_flower_and_never_again(tmp_path, capsys):
    starts = []
    found = sweep(tmp_path, 3, starts).run()
    assert starts == [[0, 1, 2]]
    assert [cell.seed for cell in found] == [0, 1, 2]
    assert "cells 1 to 3 of 3: casam, seed 0, order 0; casam, seed 1, order 0; casam, seed 2" in capsys.readouterr().out
    assert sweep(tmp_path, 0, starts).run() == found
    assert starts == [[0, 1, 2]]


def test_a_seed_that_was_finished_before_a_crash_is_kept(tmp_path, capsys):
    starts = []
    with pytest.raises(SimulationError, match="killed"):
        sweep(tmp_path, 1, starts).run()
    sweep(tmp_path, 2, starts).run()
    assert starts == [[0, 1, 2], [1, 2]]
    said = capsys.readouterr().out
    assert "1 of 3 cells are finished already" in said
    assert "cells 2 to 3 of 3: casam, seed 1, order 0; casam, seed 2, order 0; 2 left, about 7 min" in said


def test_an_average_that_was_made_but_not_scored_is_not_made_again(tmp_path):
    starts = []
    wanted = Cell(METHODS["fedavg"], 0, 0)
    begun = replace(sweep(tmp_path, 0, starts), cells=[wanted])
    path = wanted.folder(tmp_path) / "results.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    with pytest.raises(SimulationError, match=r"fedavg/order-0/seed-0/results\.json is not whole"):
        begun.run()
    assert starts == []


def test_flower_that_says_it_completed_and_left_nothing_is_not_believed(tmp_path):
    silent = replace(sweep(tmp_path, 0, []), run_over_flower=lambda cells: None)
    with pytest.raises(SimulationError, match=r"seed 0, order 0, but left no .*seed-0/results\.json; run it again"):
        silent.run()
