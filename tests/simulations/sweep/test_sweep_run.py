"""`casam sim run --methods`: every method over real processes, killed on the way and gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from casam_fed.host.supervision import PRIVATE_ENVIRONMENT

CASAM = [sys.executable, "-c", "from simulations.cli import main; main()"]
MARK = f"sweep-{os.getpid()}"


def stream(folder: Path) -> Path:
    """Write a stream of two phantom sites that trains in seconds."""
    content = {
        "stream": "small",
        "seeds": [0],
        "method": {"threads": 1, "epochs": 1, "min_steps": 4, "batch_size": 4, "masks_per_image": 1, "point_share": 0},
        "baselines": {"fedavg_rounds": 2, "er_images": 4},
        "sites": [
            {"name": "Clinic", "data": {"kind": "phantom", "modality": "endoscopy", "train": 6, "test": 2}},
            {"name": "lab", "data": {"kind": "phantom", "modality": "stained_tissue", "train": 4, "test": 2}},
        ],
        "unseen": [{"name": "ct", "data": {"kind": "phantom", "modality": "abdominal_ct", "train": 2, "test": 2}}],
    }
    path = folder / "stream.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def command(folder: Path, *arguments: str) -> dict:
    settings = {**os.environ, **PRIVATE_ENVIRONMENT, "CASAM_CACHE": str(folder / "cache"), "CASAM_TEST_MARK": MARK}
    return {
        "args": [*CASAM, "sim", "run", str(stream(folder)), "--out", "out", *arguments],
        "cwd": folder,
        "env": settings,
    }


def alive() -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("CASAM_TEST_MARK") == MARK:
                found.append(process)
        except psutil.Error:
            continue
    return found


def finished_cells(out: Path) -> dict[str, int]:
    """Return the finished cells and when each was written."""
    return {
        str(path.parent.relative_to(out)): path.stat().st_mtime_ns
        for path in (
            *out.glob("seed-*/results.json"),
            *out.glob("cells/casam/*/*/results.json"),
            *out.glob("cells/*/*/*/outcomes.json"),
        )
    }


def progress(out: Path) -> str:
    path = out / "progress.jsonl"
    return path.read_text() if path.exists() else ""


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep of one method, then of all, killed while Flower's processes are at work, and started again."""
    folder = tmp_path_factory.mktemp("sweep")
    out = folder / "out"
    subprocess.run(**command(folder, "--methods", "zero-shot"), capture_output=True, timeout=300, check=True)
    before = finished_cells(out)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(**command(folder, "--methods", "all"), **quiet)
    deadline = time.monotonic() + 300
    while "lab joins" not in progress(out) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    orphans = alive()
    done = subprocess.run(
        **command(folder, "--methods", "all"), capture_output=True, text=True, timeout=500, check=False
    )
    return done, folder, before, orphans


def test_a_killed_sweep_goes_on_where_it_was(swept):
    done, folder, before, _ = swept
    assert done.returncode == 0, done.stderr
    assert list(before) == ["cells/zero-shot/order-0/seed-0"]
    assert "1 of 8 cells are finished already" in done.stdout
    after = finished_cells(folder / "out")
    assert len(after) == 8
    assert {cell: after[cell] for cell in before} == before


def test_what_the_killed_one_left_running_is_ended(swept):
    assert len(swept[3]) > 3
    assert not any(process.is_running() for process in swept[3])
    assert alive() == []


def test_it_says_what_is_left(swept):
    assert "cell 8 of 8: fedavg, seed 0, order 0; 1 left, about 1 min" in swept[0].stdout


def test_every_method_has_a_row_and_all_share_what_they_must(swept):
    out = swept[1] / "out"
    run = json.loads((out / "run.json").read_text())
    rows = run["rows"]
    assert list(rows) == [
        "casam gaussian", "casam vae", "casam oracle", "zero-shot", "joint", "sequential", "ewc", "lwf", "er", "fedavg",
    ]  # fmt: skip
    # The first task of the stream is learned alike by all that learn task after task.
    first = rows["casam oracle"]["matrix"][0][0]
    assert all(
        rows[name]["matrix"][0][0] == pytest.approx(first, abs=1e-6) for name in ("sequential", "ewc", "lwf", "er")
    )
    assert rows["casam oracle"]["ff"]["mean"] == 0
    assert run["routes"]["gaussian"]["last"] == pytest.approx(rows["casam gaussian"]["last"]["mean"])
    assert rows["fedavg"]["bytes_up"]["lab"] > 2 * 3_000_000
    assert rows["er"]["bytes_up"] == {}
    for row in rows.values():
        assert set(row["final"]["iou"]) == {"Clinic", "lab"}
    for name in set(rows) - {"casam oracle"}:
        assert rows[name]["unseen"]["ct"]["images"] == 4
    assert rows["zero-shot"]["unseen"]["ct"]["difference"] == 0
    assert (out / "report.md").read_text().count("Sets that no site has") == 1
    for name in ("report.md", "methods.csv", "forgetting.png", "stage_matrices/casam.png", "stage_matrices/lwf.png"):
        assert (out / name).stat().st_size > 0


def test_another_order_is_added_without_training_casam_again(swept):
    folder = swept[1]
    before = finished_cells(folder / "out")
    done = subprocess.run(
        **command(folder, "--methods", "casam,sequential", "--orders", "2"),
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    after = finished_cells(folder / "out")
    assert set(after) - set(before) == {f"cells/{name}/order-1/seed-0" for name in ("casam", "sequential")}
    assert {cell: after[cell] for cell in before} == before
    said = (folder / "out" / "cells/casam/order-1/progress.jsonl").read_text()
    assert "Clinic joins" in said
    assert "step" not in said
    run = json.loads((folder / "out" / "run.json").read_text())
    assert run["orders"] == [["Clinic", "lab"], ["lab", "Clinic"]]
    assert run["rows"]["sequential"]["runs"] == 2
    assert run["rows"]["casam oracle"]["last"]["std"] == pytest.approx(0, abs=1e-12)


def test_another_stream_in_the_same_folder_is_refused(swept):
    folder = swept[1]
    done = subprocess.run(
        **command(folder, "--methods", "er", "--unit", "instance"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "another 'stream.method.unit'; give another folder, or --overwrite" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [(("--methods", "ewq"), "did you mean 'ewc'"), (("--orders", "3"), "2 tasks have 2 orders, not 3")],
)
def test_wrong_wishes_are_one_sentence_and_nothing_is_written(tmp_path, arguments, reason):
    done = subprocess.run(**command(tmp_path, *arguments), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
