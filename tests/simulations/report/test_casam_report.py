"""The report on casam alone: its numbers equal naive sums, and its page and figures show them to a stranger."""

import copy
import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from casam_fed.errors import SimulationError, StorageError
from casam_fed.inference.stage_matrix import FORMULAS
from casam_fed.wire.evaluation_report import METRICS
from simulations.methods.unknown import binned_auroc
from simulations.report import write_casam_report
from simulations.report.markdown import number

from .synthetic_results import collect, report_on, stream_of, synthetic_results

SCALARS = ("last", "avg", "ff", "ff_max", "bwt", "fwt", "accuracy", "unknown_rate")
FILES = ("run.json", "methods.csv", "stage_matrix.csv", "stage_matrices/casam.png", "curves.png", "report.md")


def strict_json(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def four() -> dict[str, Any]:
    return synthetic_results(4, seeds=3)


@pytest.fixture(scope="module")
def written(four: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("four")
    for name in ("tissue-10", "tissue-2", "histology-1", "a b"):
        (folder / "overlays").mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / "overlays" / f"{name}.png")
    report_on(four, folder)
    return folder


@pytest.fixture(scope="module")
def run(written: Path) -> dict[str, Any]:
    content: dict[str, Any] = strict_json((written / "run.json").read_text())
    return content


def scores(results: dict[str, Any], seed: str, way: str, metric: str = "iou") -> list[list[float]]:
    stages = results["seeds"][seed]["stages"]
    return [[stage["reports"][task][way]["scores"][metric] for task in results["tasks"]] for stage in stages]


def naive_scalars(results: dict[str, Any], seed: str, way: str) -> dict[str, float]:
    a, tasks = scores(results, seed, way), results["tasks"]
    end = len(tasks) - 1
    zero = scores(results, seed, "zero_shot")[0]
    last = results["seeds"][seed]["stages"][-1]["reports"]
    images = sum(sum(last[task][way]["chosen"].values()) for task in tasks)
    falls = [a[j][j] - a[end][j] for j in range(end)]
    falls_from_best = [max(a[i][j] for i in range(j, end + 1)) - a[end][j] for j in range(end)]
    return {
        "last": sum(a[end]) / len(tasks),
        "avg": sum(sum(a[i][: i + 1]) / (i + 1) for i in range(len(tasks))) / len(tasks),
        "ff": sum(falls) / end,
        "ff_max": sum(falls_from_best) / end,
        "bwt": -sum(falls) / end,
        "fwt": sum(a[j - 1][j] - zero[j] for j in range(1, len(tasks))) / end,
        "accuracy": sum(last[task][way]["chosen"].get(task, 0) for task in tasks) / images,
        "unknown_rate": sum(last[task][way]["chosen"].get("unknown", 0) for task in tasks) / images,
    }


def pairwise_auroc(unknown: list[int], known: list[int]) -> float:
    """Compare every image with every other, by the number of its bin."""
    above = [number for number, count in enumerate(unknown) for _ in range(count)]
    below = [number for number, count in enumerate(known) for _ in range(count)]
    wins = sum((high > low) + 0.5 * (high == low) for high in above for low in below)
    return wins / (len(above) * len(below))


def test_run_json_has_the_promised_keys(run: dict[str, Any], four: dict[str, Any]) -> None:
    every = "stream tasks seeds orders methods zero_shot rows seconds peak_rss_mb config baselines"
    casam = (
        "sites routes bytes_up bytes_down counts notes bank_digest bank_digests left_out unseen"
        " admissions devices verified backbone versions"
    )
    assert set(run) == {*every.split(), *casam.split()}
    assert run["seeds"] == [0, 1, 2]
    assert list(run["routes"]) == ["oracle", "gaussian", "vae"]
    for numbers in run["routes"].values():
        assert set(numbers) == {*SCALARS, "matrix", "confusion", "std", "metrics", "per_seed"}
        assert set(numbers["std"]) == set(SCALARS)
    assert run["bank_digest"] == four["seeds"]["0"]["bank_digest"]
    assert run["bank_digests"] == {seed: four["seeds"][seed]["bank_digest"] for seed in four["seeds"]}
    assert run["config"] == four["config"]
    assert run["bytes_up"]["tissue-lab"] == 3_900_001
    assert run["seconds"]["total"] == 600.0
    assert run["seconds"]["seeds"]["1"] == four["seeds"]["1"]["seconds"]
    assert run["admissions"]["2"] == four["seeds"]["2"]["admissions"]
    assert run["devices"]["0"]["histology-lab"] == "cpu"
    assert run["verified"]["1"] == "verified: 5 exports (bank, 4 sites)"


@pytest.mark.parametrize("way", ["oracle", "gaussian", "vae"])
def test_every_number_equals_naive_sums(run: dict[str, Any], four: dict[str, Any], way: str) -> None:
    by_seed = {seed: naive_scalars(four, seed, way) for seed in four["seeds"]}
    numbers = run["routes"][way]
    for name in SCALARS:
        values = [by_seed[seed][name] for seed in four["seeds"]]
        mean = sum(values) / 3
        assert numbers[name] == pytest.approx(mean)
        assert numbers["std"][name] == pytest.approx((sum((value - mean) ** 2 for value in values) / 2) ** 0.5)
        assert [numbers["per_seed"][seed][name] for seed in four["seeds"]] == pytest.approx(values)
    matrices = [scores(four, seed, way) for seed in four["seeds"]]
    for i in range(4):
        for j in range(4):
            assert numbers["matrix"][i][j] == pytest.approx(sum(matrix[i][j] for matrix in matrices) / 3)
    for metric in METRICS[1:]:
        last = [sum(scores(four, seed, way, metric)[-1]) / 4 for seed in four["seeds"]]
        assert numbers["metrics"][metric] == pytest.approx(sum(last) / 3)


@pytest.mark.parametrize("way", ["oracle", "gaussian", "vae"])
def test_the_confusion_counts_all_test_images_of_all_seeds(run: dict[str, Any], four: dict[str, Any], way: str) -> None:
    expected = [[0] * 5 for _ in range(4)]
    for seed in four["seeds"].values():
        for row, task in enumerate(four["tasks"]):
            for name, count in seed["stages"][-1]["reports"][task][way]["chosen"].items():
                expected[row][[*four["tasks"], "unknown"].index(name)] += count
    assert run["routes"][way]["confusion"] == expected


def test_the_oracle_never_errs_and_never_forgets(run: dict[str, Any]) -> None:
    oracle = run["routes"]["oracle"]
    assert (oracle["accuracy"], oracle["unknown_rate"], oracle["ff"], oracle["ff_max"]) == (1, 0, 0, 0)


def test_auroc_of_histograms_equals_that_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        unknown, known = rng.poisson(0.4, (2, 30)).tolist()
        if sum(unknown) and sum(known):
            assert binned_auroc(unknown, known) == pytest.approx(pairwise_auroc(unknown, known))


def test_auroc_of_separate_equal_and_absent_histograms() -> None:
    assert binned_auroc([0, 0, 3], [2, 1, 0]) == 1
    assert binned_auroc([2, 1, 0], [0, 0, 3]) == 0
    assert binned_auroc([0, 4], [0, 5]) == 0.5
    assert binned_auroc([0, 0], [1, 2]) is None


def test_a_left_out_task_is_compared_with_the_others_under_the_same_reduced_bank(
    run: dict[str, Any], four: dict[str, Any]
) -> None:
    sites = dict(zip(four["tasks"], four["sites"], strict=True))
    for task in four["tasks"]:
        for router in ("gaussian", "vae"):
            recalls, areas, ious = [], [], []
            for seed in four["seeds"].values():
                reduced = {name: seed["left_out"][site][task][router] for name, site in sites.items()}
                own = reduced[task]
                others = [report["strengths"] for name, report in reduced.items() if name != task]
                areas.append(pairwise_auroc(own["strengths"], [sum(counts) for counts in zip(*others, strict=True)]))
                recalls.append(own["chosen"].get("unknown", 0) / sum(own["chosen"].values()))
                ious.append(own["scores"]["iou"])
            numbers = run["left_out"][task][router]
            assert numbers["auroc"] == pytest.approx(np.mean(areas))
            assert numbers["std"]["auroc"] == pytest.approx(np.std(areas, ddof=1))
            assert numbers["unknown_recall"] == pytest.approx(np.mean(recalls))
            assert numbers["iou"] == pytest.approx(np.mean(ious))
            assert numbers["zero_shot"] == pytest.approx(run["zero_shot"][task])
            assert numbers["images"] == sum(own["chosen"].values())


def test_an_unseen_set_is_compared_with_all_tasks_under_the_whole_bank(
    run: dict[str, Any], four: dict[str, Any], written: Path
) -> None:
    for router in ("gaussian", "vae"):
        areas = []
        for seed in four["seeds"].values():
            last = seed["stages"][-1]["reports"]
            known = [last[name][router]["strengths"] for name in four["tasks"]]
            far = seed["unseen"]["moon"][router]["strengths"]
            areas.append(pairwise_auroc(far, [sum(counts) for counts in zip(*known, strict=True)]))
        numbers = run["unseen"]["moon"][router]
        assert numbers["auroc"] == pytest.approx(np.mean(areas))
        assert numbers["unknown_recall"] == pytest.approx(9 / 11)
        assert (numbers["images"], numbers["zero_shot"]) == (11, 0.5)
    assert f"| moon | casam vae | 11 | 0.818 ± 0.000 | {numbers['auroc']:.3f} ±" in (written / "report.md").read_text()


def test_the_csv_holds_mean_and_deviation_of_every_score(written: Path, four: dict[str, Any]) -> None:
    lines = list(csv.DictReader(io.StringIO((written / "stage_matrix.csv").read_text())))
    assert len(lines) == 3 * 4 * 4
    for line in lines:
        stage, task = int(line["stage"]), four["tasks"].index(line["task"])
        values = [scores(four, seed, line["method"].removeprefix("casam "))[stage][task] for seed in four["seeds"]]
        assert float(line["iou_mean"]) == pytest.approx(np.mean(values), abs=1e-6)
        assert float(line["iou_std"]) == pytest.approx(np.std(values, ddof=1), abs=1e-6)


def test_the_page_shows_the_numbers_beside_their_formulas(written: Path, run: dict[str, Any]) -> None:
    page = (written / "report.md").read_text()
    for name, title in (("last", "Last"), ("avg", "Avg"), ("ff", "FF"), ("ff_max", "FF_max"), ("fwt", "FWT")):
        row = next(line for line in page.splitlines() if line.startswith(f"| {title} |"))
        assert FORMULAS[name].partition(" = ")[2] in row
        for numbers in run["routes"].values():
            assert f"{numbers[name]:.3f} ± {numbers['std'][name]:.3f}".replace("-0.000", "0.000") in row
    accuracy = next(line for line in page.splitlines() if line.startswith("| routing accuracy |"))
    assert f"{run['routes']['gaussian']['accuracy']:.3f} ±" in accuracy
    assert f"{run['left_out']['tissue']['gaussian']['auroc']:.3f} ±" in page
    assert "-0.000" not in page


def test_numbers_have_three_decimals_and_no_negative_zero() -> None:
    assert [number(value) for value in (0.12345, -0.0004, -0.0126, 1.0, None)] == [
        "0.123",
        "0.000",
        "-0.013",
        "1.000",
        "n/a",
    ]
    assert number(0.5, 0.0126) == "0.500 ± 0.013"


def test_the_page_tells_a_stranger_what_the_scores_are(written: Path, four: dict[str, Any]) -> None:
    page = (written / "report.md").read_text()
    for words in (
        "box-prompted",
        "one tight box per class",
        "source resolution",
        "2 of 12 test images have an empty mask",
    ):
        assert words in page
    for seed in four["seeds"].values():
        assert seed["bank_digest"] in page
    assert four["backbone"]["digest"] in page
    assert "1,834 MB" in page
    assert "3,900,001" in page


def test_the_page_says_when_boxes_are_per_instance_and_scores_at_the_square(
    four: dict[str, Any], tmp_path: Path
) -> None:
    page = report_on({**four, "config": {"unit": "instance", "score_at": "square"}}, tmp_path).read_text()
    assert "one tight box per instance" in page
    assert "square input" in page
    assert "source resolution" not in page


def test_the_page_tells_how_every_release_was_let_in(written: Path) -> None:
    page = (written / "report.md").read_text()
    assert "said of 12 releases: 9 admitted A001, 3 quarantined Q201." in page
    assert "| histology | 0, 1, 2 | admitted | A001 | the rule | n/a |" in page
    assert "| fluorescence | 0, 1, 2 | quarantined | Q201 | a person | 81.2% of histology by vae |" in page


def test_of_releases_let_in_alike_the_largest_overlap_is_shown(four: dict[str, Any], tmp_path: Path) -> None:
    results = copy.deepcopy(four)
    results["seeds"]["1"]["admissions"][2] |= {"overlap": {"kind": "vae", "source": "noise", "share": 0.19}}
    results["seeds"]["2"]["admissions"][2] |= {"outcome": "quarantined", "code": "Q201", "by": "person"}
    page = report_on(results, tmp_path).read_text()
    assert "| tissue | 0, 1 | admitted | A001 | the rule | 19.0% of noise by vae |" in page
    assert "| tissue | 2 | quarantined | Q201 | a person | 12.5% of fluorescence by gaussian |" in page


def test_the_page_tells_where_each_site_computed_and_what_the_logs_proved(written: Path) -> None:
    identity = (written / "report.md").read_text().partition("## What exactly ran")[2]
    assert "- device: cpu (histology-lab, fluorescence-lab, tissue-lab); cuda (brightfield-lab)\n" in identity
    assert "- seed 1, verified: 5 exports (bank, 4 sites)\n" in identity


def test_what_an_earlier_run_did_not_collect_is_left_out(four: dict[str, Any], tmp_path: Path) -> None:
    results = copy.deepcopy(four)
    for seed in results["seeds"].values():
        for name in ("admissions", "devices", "verified", "left_out", "unseen"):
            del seed[name]
    page = report_on(results, tmp_path).read_text()
    for words in ("Admission", "- device:", "verified", "no task of the bank has seen", "no site has"):
        assert words not in page


def test_every_picture_of_the_page_exists_beside_it_overlays_in_the_order_of_the_stream(written: Path) -> None:
    links = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (written / "report.md").read_text())
    assert links[:2] == ["stage_matrices/casam.png", "curves.png"]
    assert links[2:] == [f"overlays/{name}.png" for name in ("histology-1", "tissue-2", "tissue-10", "a%20b")]
    assert all((written / link.replace("%20", " ")).exists() for link in links)


def test_every_table_of_the_page_has_as_many_cells_in_every_row(written: Path) -> None:
    tables = re.findall(r"(?:^\|.*\n)+", (written / "report.md").read_text(), flags=re.MULTILINE)
    assert len(tables) == 8
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_names_cannot_break_the_tables(four: dict[str, Any], tmp_path: Path) -> None:
    """What could is no name, and is refused before it reaches a page."""
    collect(json.loads(json.dumps(four).replace('"tissue"', '"tis|sue *x*"')), tmp_path)
    with pytest.raises(SimulationError, match=r"chosen.*should match pattern"):
        write_casam_report(tmp_path, stream_of(four))
    odd = json.loads(json.dumps(four).replace('"tissue"', '"t_i_s.s-u_e"'))
    test_every_table_of_the_page_has_as_many_cells_in_every_row(report_on(odd, tmp_path).parent)


@pytest.mark.parametrize(("tasks", "long_names"), [(1, False), (4, True), (9, False), (9, True)])
def test_streams_of_any_length_have_a_report(tasks: int, long_names: bool, tmp_path: Path) -> None:
    report_on(synthetic_results(tasks, long_names=long_names), tmp_path)
    strict_json((tmp_path / "run.json").read_text())
    for name in ("stage_matrices/casam.png", "curves.png"):
        picture = Image.open(tmp_path / name)
        assert 500 < picture.width < 2400
        assert 250 < picture.height < 1100
        assert len(np.unique(np.asarray(picture.convert("L")))) > 50


def test_one_task_with_one_seed_says_none_where_nothing_can_be_measured(tmp_path: Path) -> None:
    page = report_on(synthetic_results(1), tmp_path).read_text()
    run = strict_json((tmp_path / "run.json").read_text())
    gaussian = run["routes"]["gaussian"]
    assert (gaussian["ff"], gaussian["fwt"]) == (0, 0)
    assert set(gaussian["std"].values()) == {None}
    left_out = run["left_out"]["histology"]["gaussian"]
    assert (left_out["auroc"], left_out["unknown_recall"]) == (None, 1)
    assert "±" not in page
    assert "n/a" in page
    assert (tmp_path / "stage_matrix.csv").read_text().splitlines()[1].endswith(",")


def test_without_left_out_tasks_memory_or_overlays_the_page_leaves_them_out(tmp_path: Path) -> None:
    results = synthetic_results(2, without=False)
    results["peak_rss_mb"] = None
    page = report_on(results, tmp_path).read_text()
    assert "no task of the bank has seen" not in page
    assert "Examples" not in page
    assert "not measured" in page
    run = strict_json((tmp_path / "run.json").read_text())
    assert run["left_out"] == run["unseen"] == {}


def test_writing_twice_gives_the_same_bytes(four: dict[str, Any], written: Path, tmp_path: Path) -> None:
    report_on(four, tmp_path)
    for name in FILES[:-1]:
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes()


def _drop_stage(results: dict[str, Any]) -> None:
    del results["seeds"]["1"]["stages"][-1]


def _drop_report(results: dict[str, Any]) -> None:
    del results["seeds"]["0"]["stages"][1]["reports"]["tissue"]


def _drop_metric(results: dict[str, Any]) -> None:
    del results["seeds"]["0"]["stages"][0]["reports"]["tissue"]["vae"]["scores"]["dice"]


def _foreign_choice(results: dict[str, Any]) -> None:
    results["seeds"]["0"]["stages"][0]["reports"]["tissue"]["vae"]["chosen"]["another"] = 1


def _drop_left_out(results: dict[str, Any]) -> None:
    del results["seeds"]["2"]["left_out"]["tissue-lab"]["histology"]


def _cut_histogram(results: dict[str, Any]) -> None:
    results["seeds"]["0"]["left_out"]["tissue-lab"]["histology"]["vae"]["strengths"].pop()


def _drop_unseen_way(results: dict[str, Any]) -> None:
    del results["seeds"]["1"]["unseen"]["moon"]["vae"]


def _drop_unseen_set(results: dict[str, Any]) -> None:
    results["seeds"]["1"]["unseen"] = {}


def _cut_unseen_histogram(results: dict[str, Any]) -> None:
    results["seeds"]["1"]["unseen"]["moon"]["vae"]["strengths"].pop()


def _score_above_one(results: dict[str, Any]) -> None:
    results["seeds"]["0"]["stages"][0]["reports"]["tissue"]["vae"]["scores"]["iou"] = 1.5


def _drop_bytes(results: dict[str, Any]) -> None:
    del results["seeds"]["0"]["bytes_up"]["tissue-lab"]


def _drop_counts(results: dict[str, Any]) -> None:
    del results["seeds"]["0"]["counts"]["tissue-lab"]["train"]


def _odd_code(results: dict[str, Any]) -> None:
    results["seeds"]["0"]["admissions"][0]["code"] = "R101"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_drop_stage, "stages of seed 1"),
        (_drop_report, "stage 1 of seed 0"),
        (_drop_metric, "'tissue' in stage 0 of seed 0"),
        (_foreign_choice, "to which task"),
        (_drop_left_out, "'tissue-lab' of seed 2 with a task left out: not the same tasks"),
        (_cut_histogram, "bins of strengths"),
        (_drop_unseen_way, "plain SAM and both routers"),
        (_drop_unseen_set, "same tasks and unseen sets"),
        (_cut_unseen_histogram, "'moon' of seed 1 has"),
        (_score_above_one, "scores.iou"),
        (_drop_bytes, "bytes_up"),
        (_drop_counts, "tissue-lab.train"),
        (_odd_code, "admissions.0.code"),
    ],
)
def test_results_that_are_not_whole_are_refused_and_nothing_is_written(
    damage: Any, message: str, four: dict[str, Any], tmp_path: Path
) -> None:
    results = copy.deepcopy(four)
    damage(results)
    with pytest.raises(SimulationError, match=message):
        report_on(results, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"seed-0", "seed-1", "seed-2"}


def test_a_file_that_was_cut_off_is_named_with_what_to_do(four: dict[str, Any], tmp_path: Path) -> None:
    collect(four, tmp_path)
    path = tmp_path / "seed-1" / "results.json"
    path.write_text(path.read_text()[:-9])
    with pytest.raises(
        SimulationError, match=r"seed-1/results\.json is not whole .*; delete it and run the same command"
    ):
        write_casam_report(tmp_path, stream_of(four))


def test_a_place_that_cannot_be_written_is_reported_in_one_sentence(four: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "run.json").mkdir()
    with pytest.raises(StorageError, match="cannot write"):
        report_on(four, tmp_path)


def test_importing_the_report_imports_neither_matplotlib_nor_torch() -> None:
    code = "import sys, simulations.report; sys.exit(bool({'matplotlib', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
