"""A sweep's folder: what it keeps, what it goes on with, what it refuses."""

import dataclasses
from pathlib import Path

import pytest

from casam_fed.errors import ConfigError, SimulationError
from simulations.methods.method_list import METHODS
from simulations.run_folder import RunFolder
from simulations.sweep.folder import CellResult, SweepFolder
from simulations.sweep.plan import Cell

from ..methods.streams import tiny_stream
from ..report.synthetic_results import collect, synthetic_results
from .outcomes import outcome

CELL = Cell(METHODS["er"], 0, 0)
ROOT = Path("/data")


def test_what_a_cell_leaves_is_read_back_as_it_was(tmp_path):
    folder = SweepFolder.open(tmp_path / "out", tiny_stream(), ROOT, overwrite=False)
    assert folder.result(CELL) is None
    kept = CellResult(12.5, 900.0, (outcome(), outcome(row="ewc", staged=False, routed=True)))
    folder.keep(CELL, kept)
    again = SweepFolder.open(tmp_path / "out", tiny_stream(), ROOT, overwrite=False)
    assert again.result(CELL) == kept
    assert again.result(Cell(METHODS["er"], 1, 0)) is None


def test_what_was_collected_of_a_seed_of_casam_finishes_its_cell(tmp_path):
    """So a seed that was complete when the run was killed is kept."""
    collect(synthetic_results(3, seeds=2), tmp_path)
    folder = SweepFolder(tmp_path)
    found = folder.result(Cell(METHODS["casam"], 1, 0))
    assert [(outcome.row, outcome.seed) for outcome in found.outcomes] == [
        (row, 1) for row in ("casam gaussian", "casam vae", "casam oracle")
    ]
    assert (found.wall_s, found.peak_rss_mb) == (200, 1834.2)
    assert found.verified == "verified: 4 exports (bank, 3 sites)"
    assert folder.result(Cell(METHODS["casam"], 2, 0)) is None
    assert folder.result(Cell(METHODS["casam"], 1, 1)) is None


def test_more_seeds_may_be_asked_for_later(tmp_path):
    SweepFolder.open(tmp_path, tiny_stream(), ROOT, overwrite=False)
    SweepFolder.open(tmp_path, dataclasses.replace(tiny_stream(), seeds=(0, 1, 2)), ROOT, overwrite=False)


OTHERS = {
    "stream.method.min_steps": lambda s: dataclasses.replace(s, method=dataclasses.replace(s.method, min_steps=9)),
    "stream.sites.1.data.train": lambda s: dataclasses.replace(
        s, sites=(s.sites[0], dataclasses.replace(s.sites[1], data=dataclasses.replace(s.sites[1].data, train=8)))
    ),
    "stream.sites": lambda s: dataclasses.replace(s, sites=s.sites[:1]),
    "stream.baselines.er_images": lambda s: tiny_stream(er_images=7),
}


@pytest.mark.parametrize("place", OTHERS)
def test_a_sweep_of_another_stream_is_refused_and_the_difference_named(tmp_path, place):
    SweepFolder.open(tmp_path, tiny_stream(), ROOT, overwrite=False)
    with pytest.raises(ConfigError, match=f"another '{place}'; give another folder, or --overwrite"):
        SweepFolder.open(tmp_path, OTHERS[place](tiny_stream()), ROOT, overwrite=False)


def test_other_data_are_another_sweep(tmp_path):
    SweepFolder.open(tmp_path, tiny_stream(), ROOT, overwrite=False)
    with pytest.raises(ConfigError, match="another 'data'"):
        SweepFolder.open(tmp_path, tiny_stream(), Path("/other"), overwrite=False)


def test_overwrite_starts_anew(tmp_path):
    SweepFolder.open(tmp_path, tiny_stream(), ROOT, overwrite=False).keep(CELL, CellResult(1, 1, (outcome(),)))
    folder = SweepFolder.open(tmp_path, tiny_stream(er_images=7), ROOT, overwrite=True)
    assert folder.result(CELL) is None


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_sweeps_never_work_in_one_folder(tmp_path, overwrite):
    folder = SweepFolder.open(tmp_path, tiny_stream(), ROOT, overwrite=False)
    busy = pytest.raises(ConfigError, match="another run is at work")
    with folder.locked(), busy, SweepFolder.open(tmp_path, tiny_stream(), ROOT, overwrite).locked():
        pass
    assert (tmp_path / "sweep.json").exists()
    with folder.locked():
        pass


def test_what_is_not_a_sweep_is_never_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("do not delete")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="holds something that is not a run"):
            SweepFolder.open(tmp_path, tiny_stream(), ROOT, overwrite=overwrite)
    assert (tmp_path / "thesis.txt").exists()


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ConfigError, match="not a run"):
        SweepFolder.open(tmp_path / "out", tiny_stream(), ROOT, overwrite=True)


def test_a_run_of_an_earlier_version_is_replaced_when_asked_and_not_gone_on_with(tmp_path):
    RunFolder(tmp_path, tmp_path).say("started")
    with pytest.raises(ConfigError, match="holds an earlier run; give another folder, or --overwrite"):
        SweepFolder.open(tmp_path, tiny_stream(), ROOT, overwrite=False)
    SweepFolder.open(tmp_path, tiny_stream(), ROOT, overwrite=True)
    assert [path.name for path in tmp_path.glob("*.json*")] == ["sweep.json"]


def test_a_damaged_result_is_named_and_not_computed_over_in_silence(tmp_path):
    folder = SweepFolder.open(tmp_path, tiny_stream(), ROOT, overwrite=False)
    folder.keep(CELL, CellResult(1, 1, (outcome(),)))
    path = CELL.folder(tmp_path) / "outcomes.json"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(
        SimulationError, match=r"outcomes\.json is not whole .*; delete it and run the same command again"
    ):
        folder.result(CELL)


def test_a_damaged_description_is_refused_unless_all_is_replaced(tmp_path):
    SweepFolder.open(tmp_path, tiny_stream(), ROOT, overwrite=False)
    (tmp_path / "sweep.json").write_text("[]")
    with pytest.raises(SimulationError, match=r"sweep\.json is not whole"):
        SweepFolder.open(tmp_path, tiny_stream(), ROOT, overwrite=False)
    SweepFolder.open(tmp_path, tiny_stream(), ROOT, overwrite=True)
