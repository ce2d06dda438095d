"""`casam sim run` and plain `flwr run` with Flower's own processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from PIL import Image

from casam_fed.host.supervision import PRIVATE_ENVIRONMENT

from .wheel import apart, installed

CASAM = [sys.executable, "-c", "from simulations.cli import main; main()"]
APP = Path(__file__).parents[2] / "simulations" / "app"


def stream(folder: Path, **method: object) -> Path:
    """Write a stream of two phantom sites that trains in seconds."""
    content = {
        "stream": "small",
        "seeds": [0],
        "method": {"threads": 1, "epochs": 1, "min_steps": 4, "batch_size": 4, "masks_per_image": 1, **method},
        "sites": [
            {"name": "clinic", "data": {"kind": "phantom", "modality": "endoscopy", "train": 6, "test": 2}},
            {"name": "lab", "data": {"kind": "phantom", "modality": "stained_tissue", "train": 6, "test": 2}},
        ],
    }
    path = folder / "stream.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def environment(cache: Path, mark: str) -> dict[str, str]:
    """An environment whose mark every process started below carries."""
    return {**os.environ, **PRIVATE_ENVIRONMENT, "CASAM_CACHE": str(cache), "CASAM_TEST_MARK": mark}


def alive(mark: str) -> list[str]:
    """Return the living processes with the mark, and those of Ray or Flower whose environment cannot be read."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        try:
            if process.environ().get("CASAM_TEST_MARK") == mark:
                found.append(" ".join(process.info["cmdline"]))
        except psutil.Error:
            continue
    return found


def ray_processes() -> set[int]:
    """Return the living processes of Ray, which hide their environment behind a title."""
    return {
        process.pid
        for process in psutil.process_iter(["name", "cmdline", "status"])
        if ("ray" in (process.info["name"] or "") or "ray::" in str(process.info["cmdline"]))
        and process.info["status"] != psutil.STATUS_ZOMBIE
    }


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """The programs of an environment in which the package was installed from its wheel."""
    return installed(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache, programs):
    """One run of `casam sim run`, installed from the wheel, with what it printed and what it left running."""
    folder = tmp_path_factory.mktemp("run")
    before = ray_processes()
    done = subprocess.run(
        [programs / "casam", "sim", "run", str(stream(folder)), "--out", "out"],
        cwd=folder,
        env={**environment(cache, "finished"), "PATH": apart(programs)["PATH"]},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    return done, folder / "out", alive("finished") + [str(pid) for pid in ray_processes() - before]


def test_a_run_completes_reports_and_leaves_no_process_behind(finished):
    done, out, left = finished
    assert done.returncode == 0, done.stderr + (out / "flower.log").read_text()[-2000:]
    assert left == []
    assert f"report: {out / 'report.md'}" in done.stdout
    assert "stage 2 of 2: lab joins" in done.stdout
    assert done.stdout.splitlines()[-1] == "verified: 3 exports (bank, 2 sites)"
    for name in ("run.json", "report.md", "methods.csv", "stage_matrix.csv", "stage_matrices/casam.png", "curves.png"):
        assert (out / name).stat().st_size > 0
    assert sorted(path.name for path in (out / "overlays").iterdir()) == [
        f"{site}-{number}.png" for site in ("clinic", "lab") for number in (1, 2)
    ]
    assert "(overlays/lab-2.png)" in (out / "report.md").read_text()


def test_a_wheel_knows_its_commands_and_segments_with_the_bank_of_its_run(finished, programs, cache, tmp_path):
    for name in ("casam", "casam-site", "casam-aggregator", "casam-audit"):
        done = subprocess.run([programs / name, "--help"], cwd=tmp_path, env=apart(programs), capture_output=True)
        assert done.returncode == 0, done.stderr
    Image.fromarray(np.full((60, 80), 90, dtype=np.uint8)).save(tmp_path / "new.png")
    (tmp_path / "boxes.csv").write_text("class,x0,y0,x1,y1\nthing,10,10,50,40\n")
    command = ["segment", "--bank", finished[1], "new.png", "--boxes", "boxes.csv", "--out", "masks"]
    done = subprocess.run(
        [programs / "casam", *command], cwd=tmp_path, env=apart(programs), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "1 of 1 segmented: masks" in done.stdout
    assert (tmp_path / "masks/new.mask.png").exists()
    where = [programs / "python", "-c", "import casam_fed; print(casam_fed.__file__)"]
    at = subprocess.run(where, cwd=tmp_path, env=apart(programs), capture_output=True, text=True, check=True).stdout
    assert at.startswith(str(programs.parent))


def test_run_json_holds_what_was_promised(finished):
    run = json.loads((finished[1] / "run.json").read_text())
    assert {"stream", "tasks", "seeds", "zero_shot", "routes", "bytes_up", "seconds", "peak_rss_mb"} <= run.keys()
    assert {"bank_digest", "versions", "config"} <= run.keys()
    assert run["tasks"] == ["clinic", "lab"]
    assert run["seeds"] == [0]
    for way in ("oracle", "gaussian", "vae"):
        route = run["routes"][way]
        assert {"matrix", "last", "avg", "ff", "ff_max", "bwt", "fwt", "accuracy", "unknown_rate", "confusion"} <= set(
            route
        )
    assert run["routes"]["oracle"]["ff"] == 0
    assert 100 < run["peak_rss_mb"] < 4096
    assert all(size > 1_000_000 for size in run["bytes_up"].values())


def test_a_finished_run_is_not_computed_again(finished):
    """Nothing of Flower is started, and the report is the same."""
    _, out, _ = finished
    before = {path: path.read_bytes() for path in (out / "run.json", out / "report.md", out / "progress.jsonl")}
    done = _casam(out.parent, out, "sim", "run", "stream.yaml", "--out", "out")
    assert done.returncode == 0
    assert "1 of 1 cells are finished already" in done.stdout
    assert {path: path.read_bytes() for path in before} == before


def test_what_a_run_leaves_is_looked_at_with_the_commands_of_a_deployment(finished, cache):
    seed = finished[1] / "seed-0"
    for command, shown in (
        (("aggregator.cli", "bank", "list", seed / "aggregator"), "1 active   lab"),
        (("site_client.cli", "status", seed / "sites" / "lab"), "admitted A001"),
        (("casam_fed.audit.cli", "show", seed / "sites" / "clinic"), "may leave to federation small, by an option"),
    ):
        module, *arguments = map(str, command)
        program = [sys.executable, "-c", f"from {module} import main; main()", *arguments]
        done = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        assert shown in done.stdout


def test_a_folder_with_another_run_is_not_overwritten_unasked(finished, tmp_path, cache):
    _, out, _ = finished
    before = (out / "run.json").read_bytes()
    done = _casam(
        tmp_path, cache, "sim", "run", str(stream(tmp_path, epochs=2)), "--out", str(out), "--data", str(out.parent)
    )
    assert done.returncode == 1
    assert "holds a run with another 'stream.method.epochs'; give another folder, or --overwrite" in done.stderr
    assert (out / "run.json").read_bytes() == before


def test_plain_flwr_run_gives_the_same_bank(finished, tmp_path, cache):
    run_config = f'stream="{stream(tmp_path)}" out="{tmp_path / "out"}" data="{tmp_path}"'
    flwr = [sys.executable, "-c", "from flwr.cli.app import app; app()"]
    settings = {
        **environment(cache, "plain"),
        "FLWR_HOME": str(tmp_path / "flwr"),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": "39217",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = [
        "run",
        str(APP),
        "local",
        "--stream",
        "--federation-config",
        "num-supernodes=2 client-resources-num-cpus=2",
    ]
    try:
        subprocess.run(
            [*flwr, *command, "--run-config", run_config], env=settings, capture_output=True, timeout=400, check=False
        )
        run = json.loads((tmp_path / "out" / "run.json").read_text())
        assert run["bank_digest"] == json.loads((finished[1] / "run.json").read_text())["bank_digest"]
    finally:
        for process in psutil.process_iter():
            try:
                if process.environ().get("CASAM_TEST_MARK") == "plain":
                    for child in (*process.children(recursive=True), process):
                        child.kill()
            except psutil.Error:
                continue


def test_a_run_that_fails_exits_with_1_and_says_why_and_leaves_nothing_running(tmp_path, cache):
    path = stream(tmp_path, learning_rate=1e30)
    done = _casam(tmp_path, cache, "sim", "run", str(path), "--out", "out", mark="failed")
    assert done.returncode == 1
    assert "casam: the run stopped: site clinic failed with TrainingError" in done.stderr
    assert "lower learning_rate" in done.stderr
    assert "Traceback" not in done.stderr
    assert alive("failed") == []
    assert not (tmp_path / "out" / "run.json").exists()


def test_an_interrupted_run_leaves_no_process_behind(tmp_path, cache):
    """However impatient the user is."""
    mark, before = "interrupted", ray_processes()
    process = subprocess.Popen(
        [*CASAM, "sim", "run", str(stream(tmp_path, min_steps=100_000)), "--out", "out"],
        cwd=tmp_path,
        env=environment(cache, mark),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    while "joins" not in _progress(tmp_path) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.5)
    assert len(alive(mark)) > 3
    for number in (signal.SIGINT, signal.SIGTERM) * 10:
        process.send_signal(number)
        time.sleep(0.1)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "casam: interrupted" in stderr
    assert alive(mark) == []
    assert ray_processes() - before == set()


def _progress(folder: Path) -> str:
    path = folder / "out" / "progress.jsonl"
    return path.read_text() if path.exists() else ""


BAD = {
    "no such file": (
        lambda folder: folder / "missing.yaml",
        "no such file or directory; give the path of a readable YAML file",
    ),
    "unknown key": (lambda folder: _edited(folder, lambda c: c["method"].update(epoch=3)), "did you mean 'epochs'?"),
    "unknown key of a site": (lambda folder: _edited(folder, lambda c: c["sites"][0].update(nam="x")), "'name'?"),
    "unknown modality": (
        lambda folder: _edited(folder, lambda c: c["sites"][0]["data"].update(modality="xray")),
        "endoscopy",
    ),
    "two sites of one name": (
        lambda folder: _edited(folder, lambda c: c["sites"][1].update(name="clinic")),
        "give each",
    ),
    "missing folder": (
        lambda folder: _edited(
            folder, lambda c: c["sites"][0].update(data={"kind": "folder", "path": "nowhere", "classes": ["a"]})
        ),
        "nowhere",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_before_anything_starts(tmp_path, cache, case):
    make, reason = BAD[case]
    done = _casam(tmp_path, cache, "sim", "run", str(make(tmp_path)), "--out", "out", mark="bad")
    assert done.returncode == 1
    assert done.stderr.startswith("casam: ")
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_wrong_usage_exits_with_2(tmp_path, cache):
    assert _casam(tmp_path, cache, "sim", "run", str(stream(tmp_path))).returncode == 2
    assert _casam(tmp_path, cache, "sim", "run", str(stream(tmp_path)), "--out", "x", "--unit", "voxel").returncode == 2


def _edited(folder: Path, change) -> Path:
    path = stream(folder)
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content))
    return path


def _casam(folder: Path, cache: Path, *arguments: str, mark: str = "casam") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CASAM, *arguments],
        cwd=folder,
        env=environment(cache, mark),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
