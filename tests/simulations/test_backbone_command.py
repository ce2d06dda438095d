"""`casam backbone`, as a person at a terminal meets it."""

import hashlib
import json
import os
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner
from safetensors import safe_open

from casam_fed.backbone.backbones import BACKBONES
from simulations.backbone_command import backbone
from simulations.cli import main
from simulations.mini_sam.pretrain import PretrainOptions


@pytest.fixture
def casam(tmp_path, monkeypatch, capsys):
    """Return a function that runs `casam` with an empty cache: the whole program, in this process, which has torch."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command, environment, code = ["casam", *map(str, arguments)], dict(os.environ), 0
        monkeypatch.setattr(sys, "argv", command)
        os.environ["CASAM_CACHE"] = str(tmp_path / "cache")
        try:
            main()
        except SystemExit as end:
            code = end.code
        finally:
            os.environ.clear()
            os.environ.update(environment)
        said = capsys.readouterr()
        return subprocess.CompletedProcess(command, code, said.out, said.err)

    return run


def refused(done: subprocess.CompletedProcess[str], *words: str) -> bool:
    """Return whether a command ended with exit code 1 and one sentence that holds `words`."""
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("casam: "), done.stderr
    assert done.stderr.count("\n") == 1
    return done.returncode == 1 and all(word in done.stderr for word in words)


def test_list_shows_every_backbone_and_which_are_here(casam):
    lines = casam("backbone", "list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["name", *BACKBONES]
    for line, card in zip(lines[1:], BACKBONES.values(), strict=True):
        assert card.sha256[:12] in line
        assert card.licence in line
        assert (" yes " in line) == (card.name == "mini")


def test_list_as_json_tells_the_same_in_full(casam):
    rows = {row["name"]: row for row in json.loads(casam("backbone", "list", "--json").stdout)}
    assert list(rows) == list(BACKBONES)
    assert rows["mini"]["present"] is True
    assert rows["vit_h"]["present"] is False
    assert rows["vit_b"]["embedding"] == "256x64x64"
    assert rows["vit_l"]["sha256"] == BACKBONES["vit_l"].sha256
    assert rows["vit_l"]["origin"] == BACKBONES["vit_l"].url


def test_verify_checks_all_that_are_here(casam, tmp_path):
    assert casam("backbone", "verify").stdout == "mini: verified\n"
    weights = tmp_path / "cache" / "backbones" / "vit_b.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"not what was pinned")
    done = casam("backbone", "verify")
    assert "mini: verified\nvit_b: FAILED, " in done.stdout
    assert refused(done, "1 of 2 backbones cannot be used")
    assert refused(casam("backbone", "verify", "vit_b"), "1 of 1 backbones cannot be used")
    assert casam("backbone", "verify", "mini").returncode == 0


def test_verify_of_an_absent_backbone_says_how_to_get_it(casam):
    done = casam("backbone", "verify", "vit_l")
    assert "run `casam backbone pull vit_l` or `casam backbone import FILE`" in done.stdout
    assert refused(done)


def test_import_of_a_file_that_nobody_pinned_is_refused_and_keeps_nothing(casam, tmp_path):
    (tmp_path / "found.pth").write_bytes(b"a checkpoint from somewhere")
    digest = hashlib.sha256(b"a checkpoint from somewhere").hexdigest()
    assert refused(casam("backbone", "import", tmp_path / "found.pth"), digest, BACKBONES["vit_h"].sha256, "not read")
    assert not (tmp_path / "cache").exists()


def test_import_of_a_pinned_file_makes_it_ready(tmp_path, tiny_backbone, monkeypatch):
    """In this process, for a catalogue whose pinned file is small enough to have."""
    import torch

    from casam_fed.backbone.backbones import BackboneCard
    from casam_fed.host.files import sha256_file

    monkeypatch.setenv("CASAM_CACHE", str(tmp_path / "cache"))
    torch.save(tiny_backbone.sam.state_dict(), tmp_path / "tiny.pth")
    card = BackboneCard("tiny", tiny_backbone.geometry, sha256_file(tmp_path / "tiny.pth"), "http://127.0.0.1:9/", 1)
    monkeypatch.setitem(BACKBONES, "tiny", card)
    imported = CliRunner().invoke(backbone, ["import", str(tmp_path / "tiny.pth")])
    assert imported.output == f"tiny is ready: {tmp_path / 'cache' / 'backbones' / 'tiny.safetensors'}\n"
    assert "tiny: verified" in CliRunner().invoke(backbone, ["verify"]).output
    pulled = CliRunner().invoke(backbone, ["pull", "tiny"])
    assert "cannot download http://127.0.0.1:9/" in str(pulled.exception)


def test_pretrain_writes_half_precision_weights_and_says_how(casam, tmp_path):
    out, work = tmp_path / "new" / "mini.safetensors", tmp_path / "work"
    done = casam("backbone", "pretrain", "--out", out, "--work", work, "--steps", 1, "--seed", 5, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    assert f"{out}: SHA-256 {digest}, made with " in done.stdout
    assert out.stat().st_size < 9e6
    assert list(out.parent.iterdir()) == [out]
    with safe_open(out, framework="np") as file:
        made = json.loads(file.metadata()["pretraining"])
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F16"}  # noqa: SIM118
    assert PretrainOptions(**made) == PretrainOptions(steps=1, seed=5)


def test_pretrain_refuses_a_place_it_could_not_write_before_it_trains(casam, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    command = ("backbone", "pretrain", "--work", tmp_path / "work", "--steps", 10**6, "--out")
    assert refused(casam(*command, tmp_path / "file" / "mini.safetensors"), "cannot write", str(tmp_path / "file"))
    folder = casam(*command, tmp_path / "folder")
    assert folder.returncode == 2
    assert f"File '{tmp_path / 'folder'}' is a directory." in folder.stderr
    assert not (tmp_path / "work").exists()
    assert list((tmp_path / "folder").iterdir()) == []


def test_an_unknown_device_is_refused(casam, tmp_path):
    done = casam("backbone", "pretrain", "--out", tmp_path / "out", "--work", tmp_path / "work", "--device", "tpu")
    assert refused(done, "unknown device 'tpu'; choose auto, cuda, mps or cpu")


def test_ctrl_c_ends_with_130_and_no_traceback(casam, tmp_path, monkeypatch):
    """The signal comes when the command has begun, at the first thing that it does."""
    monkeypatch.setattr("simulations.backbone_command._try_writing", lambda _: signal.raise_signal(signal.SIGINT))
    done = casam("backbone", "pretrain", "--out", tmp_path / "out", "--work", tmp_path / "work")
    assert done.returncode == 130
    assert done.stderr.endswith("casam: interrupted\n")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_measure_reports_drawn_images_and_every_site(casam, blobs):
    command = ("backbone", "measure", "--draws", 3, "--nuclei", blobs.parent, "--device", "cpu")
    shown = casam(*command).stdout.splitlines()
    told = json.loads(casam(*command, "--json").stdout)
    assert told["backbone"] == "mini"
    assert told["sha256"] == BACKBONES["mini"].sha256
    assert shown == [
        f"3 drawn images: box-prompted IoU {told['drawn_box_iou']:.3f}, "
        f"one-point-prompted IoU {told['drawn_point_iou']:.3f}",
        f"blobs: tight box per instance, IoU {told['sites']['blobs']['iou_all']:.3f} over all, "
        f"{told['sites']['blobs']['iou_five_largest']:.3f} over the five largest",
    ]
    assert told["sites"]["blobs"]["iou_all"] > 0.5


def test_measure_refuses_a_folder_without_sites(casam, tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert refused(casam("backbone", "measure", "--nuclei", folder), str(folder), "give the folder of the sites")


def test_measure_refuses_an_image_without_a_mask(casam, blobs):
    next((blobs / "test" / "masks").iterdir()).unlink()
    assert refused(casam("backbone", "measure", "--draws", 0, "--nuclei", blobs.parent), "mask")


@pytest.mark.parametrize(
    "arguments",
    [
        ["backbone", "pull"],
        ["backbone", "pretrain", "--steps", "0"],
        ["backbone", "measure", "--draws", "many"],
        ["backbone", "lst"],
        ["backbone", "list", "--jsn"],
    ],
)
def test_wrong_usage_ends_with_2(casam, arguments):
    done = casam(*arguments)
    assert done.returncode == 2
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr
