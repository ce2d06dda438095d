"""The report on several methods: means and deviations by hand, and honest gaps where a method has no number."""

import csv
import io
import json
import re

import pytest
from PIL import Image

from simulations.methods.method_list import METHODS
from simulations.methods.outcome import SCALARS
from simulations.report import write_report
from simulations.report.numbers import rows_of
from simulations.sweep.folder import CellResult, SweepFolder
from simulations.sweep.plan import Cell

from ..methods.streams import tiny_stream
from ..sweep.outcomes import TASKS, outcome
from .synthetic_results import NAMES, collect, stream_of, synthetic_results


def test_means_and_deviations_are_those_worked_by_hand():
    row = rows_of([outcome(seed=0), outcome(seed=1, shift=0.1), outcome(seed=0, order=1, shift=0.2)])["er"]
    assert row["runs"] == 3
    assert row["last"] == pytest.approx({"mean": 0.75, "std": 0.1})
    assert row["avg"]["mean"] == pytest.approx(0.85)
    assert row["ff"] == pytest.approx({"mean": 0.125, "std": 0.0}, abs=1e-12)
    assert row["bwt"]["mean"] == pytest.approx(-0.125)
    # Forward transfer: mean of .1 - .2 and .2 - .1, and the mean shift of .1.
    assert row["fwt"]["mean"] == pytest.approx(0.1)
    assert row["accuracy"] is None


def test_a_single_run_has_no_deviation():
    assert rows_of([outcome()])["er"]["last"] == {"mean": pytest.approx(0.65), "std": None}


def test_matrices_and_tasks_are_of_the_streams_own_order_and_curves_of_all():
    row = rows_of([outcome(), outcome(order=1, shift=0.2)])["er"]
    assert row["matrix"][2] == pytest.approx([0.6, 0.85, 0.5])
    assert row["final"]["iou"]["one"] == {"mean": pytest.approx(0.6), "std": None}
    assert row["curve"] == pytest.approx([0.9, 0.9, 0.75])
    assert row["forgetting"] == pytest.approx([0, 0.05, 0.25 / 3])


def test_a_method_that_learns_all_at_once_has_no_matrix_and_no_forgetting():
    row = rows_of([outcome(row="joint", staged=False)])["joint"]
    assert row["last"]["mean"] == pytest.approx(0.65)
    assert [row[name] for name in ("avg", "ff", "ff_max", "bwt", "fwt", "matrix", "curve")] == [None] * 7


@pytest.mark.parametrize(("iou", "harmless"), [(0.5, True), (0.4901, True), (0.48, False), (0.6, True)])
def test_harm_on_an_unseen_set_begins_a_hundredth_below_plain_sam(iou, harmless):
    unseen = rows_of([outcome(unseen=iou)])["er"]["unseen"]["far"]
    assert unseen["harmless"] is harmless
    assert unseen["difference"] == pytest.approx(iou - 0.5)
    assert unseen["unknown_rate"] is None


def test_rows_come_in_the_order_of_the_list_of_methods():
    rows = rows_of([outcome(row="er"), outcome(row="zero-shot"), outcome(row="casam vae", routed=True)])
    assert list(rows) == ["casam vae", "zero-shot", "er"]


@pytest.fixture
def written(tmp_path):
    cells = {
        Cell(METHODS["er"], seed, 0): CellResult(60.0, 1000.4, (outcome(seed=seed, shift=0.1 * seed),))
        for seed in (0, 1)
    }
    cells[Cell(METHODS["joint"], 0, 0)] = CellResult(30.0, 800.0, (outcome(row="joint", staged=False),))
    write_report(tmp_path, tiny_stream(), [TASKS], cells)
    return tmp_path


def test_run_json_holds_every_number_of_the_page(written):
    run = json.loads((written / "run.json").read_text())
    assert run["tasks"] == list(TASKS)
    assert run["methods"] == ["er", "joint"]
    assert set(run["rows"]) == {"zero-shot", "er", "joint"}
    assert set(SCALARS) <= set(run["rows"]["er"])
    assert run["seconds"]["total"] == 150
    assert run["peak_rss_mb"] == 1000
    assert run["zero_shot"] == pytest.approx({"one": 0.3, "two": 0.2, "three": 0.1})


def test_the_page_shows_means_deviations_gaps_and_the_buffer(written):
    page = (written / "report.md").read_text()
    assert "| measure | zero-shot | joint | er | formula |" in page
    assert "| Last | 0.200 | 0.650 | 0.700 ± 0.071 | `mean_j a[T-1][j]` |" in page
    assert "| FF | 0.000 | n/a | 0.125 ± 0.000 | `mean_{j<T-1}" in page
    assert "| routing accuracy | n/a | n/a | n/a |" in page
    assert "| runs | 1 | 1 | 2 |" in page
    assert "50 images in the buffer of er." in page
    assert "1,000 MB" in page
    assert "Whole run: 150.0 s" in page
    assert "| site | joint, s | er, s |" in page
    assert "| b | 2.0 | 2.0 |" in page
    assert "| three | 0.100 | 0.500 | 0.550 ± 0.071 |" in page
    assert "| far | er | 10 | n/a | n/a | 0.500 ± 0.000 | 0.500 | +0.000 | yes |" in page
    for name in ("forgetting.png", "stage_matrices/er.png"):
        assert f"({name})" in page
        assert Image.open(written / name).size[0] > 400
    assert not (written / "stage_matrices" / "joint.png").exists()


def test_the_table_of_runs_leaves_empty_what_a_method_does_not_have(written):
    rows = list(csv.DictReader(io.StringIO((written / "methods.csv").read_text())))
    assert [(row["method"], row["seed"]) for row in rows] == [("er", "0"), ("er", "1"), ("joint", "0")]
    assert float(rows[1]["last"]) == pytest.approx(0.75)
    assert rows[2]["ff"] == ""


def test_the_table_of_stages_leaves_empty_what_was_not_measured(written):
    rows = list(csv.DictReader(io.StringIO((written / "stage_matrix.csv").read_text())))
    assert {row["method"] for row in rows} == {"er"}
    assert [row["iou_mean"] for row in rows[:3]] == ["0.850000", "0.150000", ""]
    assert float(rows[0]["iou_std"]) == pytest.approx(0.1 / 2**0.5, abs=1e-6)


@pytest.fixture
def beside_casam(tmp_path):
    """Casam with two seeds in the stream's own order and one in another, beside er."""
    text = json.dumps(synthetic_results(3, seeds=2))
    for name, task in zip(NAMES, TASKS, strict=False):
        text = text.replace(f'"{name}"', f'"{task}"')
    results = json.loads(text)
    collect(results, tmp_path)
    collect({**results, "seeds": {"0": results["seeds"]["0"]}}, tmp_path / "cells/casam/order-1")
    folder = SweepFolder(tmp_path)
    cells = {cell: folder.result(cell) for cell in (Cell(METHODS["casam"], seed, 0) for seed in (0, 1))}
    cells[Cell(METHODS["casam"], 0, 1)] = folder.result(Cell(METHODS["casam"], 0, 1))
    cells[Cell(METHODS["er"], 0, 0)] = CellResult(60.0, 1000.4, (outcome(),))
    write_report(tmp_path, stream_of(results), [TASKS, TASKS[::-1]], cells)
    return tmp_path


def test_what_only_casam_has_is_of_the_streams_own_order(beside_casam):
    run = json.loads((beside_casam / "run.json").read_text())
    assert list(run["rows"]) == ["casam gaussian", "casam vae", "casam oracle", "zero-shot", "er"]
    assert run["rows"]["casam vae"]["runs"] == 3
    assert [(one["order"], one["last"]) for one in run["rows"]["zero-shot"]["per_run"]] == [
        (order, pytest.approx(sum(run["zero_shot"].values()) / 3)) for order in (0, 1)
    ]
    assert list(run["bank_digests"]) == list(run["routes"]["vae"]["per_seed"]) == ["0", "1"]
    own = [one["last"] for one in run["rows"]["casam vae"]["per_run"] if one["order"] == 0]
    assert run["routes"]["vae"]["last"] == pytest.approx(sum(own) / 2)
    assert set(run["seconds"]["cells"]) == {f"casam, seed {s}, order {o}" for s, o in ((0, 0), (1, 0), (0, 1))} | {
        "er, seed 0, order 0"
    }


def test_one_page_compares_the_methods_and_shows_casam_in_full(beside_casam):
    page = (beside_casam / "report.md").read_text()
    assert page.startswith("# Stream `synthetic`: 3 tasks, 2 methods, 2 seeds, 2 orders\n")
    assert re.findall("^## (.*)", page, flags=re.MULTILINE) == [
        "Scores",
        "Tasks at the last stage",
        "Stage by stage",
        "Where the test images were sent",
        "Images that no task of the bank has seen",
        "Sets that no site has",
        "Admission",
        "Bytes, seconds and memory",
        "Notes of the sites",
        "Orders",
        "What exactly ran",
    ]
    links = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page)
    assert links == ["forgetting.png", "stage_matrices/casam.png", "stage_matrices/er.png", "curves.png"]
    assert all((beside_casam / link).exists() for link in links)
    assert "1. three → two → one" in page
    for table in re.findall(r"(?:^\|.*\n)+", page, flags=re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_without_casam_the_page_says_nothing_of_banks_and_routes(written):
    page = (written / "report.md").read_text()
    assert re.findall("^## (.*)", page, flags=re.MULTILINE) == [
        "Scores",
        "Tasks at the last stage",
        "Stage by stage",
        "Sets that no site has",
        "Bytes, seconds and memory",
        "What exactly ran",
    ]
    assert "By CA-SAM" not in page
