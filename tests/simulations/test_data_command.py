"""`casam data`, as a person at a terminal meets it."""

import json
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from casam_fed.data.public_datasets import DATASETS
from simulations.cli import main


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def casam(tmp_path, monkeypatch, capfd):
    """Return a function that runs `casam` and returns its exit code and what it said."""
    monkeypatch.setenv("CASAM_CACHE", str(tmp_path / "cache"))

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["casam", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        return Done(code, *capfd.readouterr())

    return run


@pytest.fixture
def polyps(tmp_path):
    """Kvasir-SEG's layout: three images, 20 x 30."""
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        mask = np.zeros((20, 30), dtype=np.uint8)
        mask[5:15, 8:20] = 255
        for kind, pixels in (("images", rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)), ("masks", mask)):
            (tmp_path / "kvasir" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "kvasir" / kind / f"{name}.jpg", quality=95)
    return tmp_path / "kvasir"


def test_list_needs_no_torch_and_shows_every_dataset(casam):
    code = "import sys; sys.modules['torch'] = sys.modules['scipy'] = None\nfrom simulations.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "data", "list"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for card in (dataset.card for dataset in DATASETS.values()):
        for words in (card.name, card.title, card.where, card.licence, card.layout):
            assert words in done.stdout
    assert [row["name"] for row in json.loads(casam("data", "list", "--json").stdout)] == list(DATASETS)


def test_a_sound_dataset_passes_and_can_be_looked_at(casam, polyps, tmp_path):
    done = casam("data", "check", polyps, "--as", "polyp", "--overlay", tmp_path / "sheets")
    assert done.returncode == 0, done.stderr
    assert "images                   3" in done.stdout
    assert "20 x 30: 3" in done.stdout
    assert "JPEG masks: 3 thresholded at 128" in done.stdout
    assert done.stdout.endswith("nothing is wrong\n")
    with Image.open(tmp_path / "sheets" / "sheet-001.png") as sheet:
        assert sheet.width > 900


def test_problems_make_exit_code_1_and_are_all_in_the_json(casam, polyps):
    for kind in ("images", "masks"):
        (polyps / kind / "d.jpg").write_bytes((polyps / kind / "a.jpg").read_bytes())
    (polyps / "images" / "b.jpg").write_bytes(b"\xff\xd8 cut")
    done = casam("data", "check", polyps, "--as", "polyp", "--json")
    assert done.returncode == 1
    assert "2 problems" in done.stderr
    report = json.loads(done.stdout)
    assert {(problem["kind"], problem["where"]) for problem in report["problems"]} == {
        ("duplicate", "d"),
        ("unreadable", "b"),
    }
    assert report["sizes"] == [{"height": 20, "width": 30, "images": 3}]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nowhere", "--as", "polyp"], 1, "does not exist"),
        (["kvasir", "--as", "polip"], 1, "did you mean 'polyp'?"),
        (["kvasir", "--as", "polyp", "--set", "windw=[0, 1]"], 1, "did you mean 'window'?"),
        (["kvasir", "--as", "polyp", "--set", "window=[0, 1]"], 1, "has no option 'window'"),
        (["kvasir", "--as", "polyp", "--set", "window"], 2, "write KEY=VALUE"),
        (["kvasir"], 2, "--as"),
    ],
)
def test_wrong_input_is_told_in_one_sentence(casam, polyps, arguments, code, words):
    done = casam("data", "check", polyps.parent / arguments[0], *arguments[1:])
    assert done.returncode == code, done.stderr
    assert words in done.stdout + done.stderr
    assert done.stderr.count("\n") == 1 or code == 2
    assert "Traceback" not in done.stderr


def test_nothing_is_drawn_into_a_folder_that_holds_something(casam, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("")
    done = casam("data", "phantom", "nine", "--out", tmp_path / "full")
    assert done.returncode == 1
    assert "is not empty; give a new folder" in done.stderr
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def test_a_size_that_is_not_there_is_wrong_usage(casam, tmp_path):
    done = casam("data", "phantom", "nine", "--out", tmp_path / "new", "--size", "huge")
    assert done.returncode == 2
    assert not (tmp_path / "new").exists()
