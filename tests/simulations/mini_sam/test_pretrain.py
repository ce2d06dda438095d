"""Pre-training on drawn images learns, and goes on after a kill as if nothing had happened."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors import safe_open

from casam_fed.backbone.backbones import Geometry
from casam_fed.errors import TrainingError
from simulations.mini_sam import pretrain as pretraining
from simulations.mini_sam.pretrain import PretrainOptions, pretrain

GEOMETRY = Geometry(64, 32, 16, 16, 1, 1, 2, (0,), 16, 1, 16)
CPU = torch.device("cpu")
OPTIONS = PretrainOptions(steps=60, images=3, boxes=1, clicks=1, warmup=20, learning_rate=2e-3, workers=0)


@pytest.fixture(scope="module", autouse=True)
def often():
    """Report after every 10 steps, and keep a checkpoint after every 25."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretraining, "_REPORT_EVERY", 10)
        patch.setattr(pretraining, "_CHECKPOINT_EVERY", 25)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run: its folder, the weights and what it reported."""
    work, lines = tmp_path_factory.mktemp("work"), []
    sam = pretrain(GEOMETRY, OPTIONS, work, CPU, lines.append)
    return work, sam.state_dict(), lines


def test_the_loss_falls_and_progress_is_told(trained):
    _, _, lines = trained
    assert [line.split("  ")[0] for line in lines] == [f"step {step}/60" for step in range(10, 61, 10)]
    losses = [float(line.split("loss ")[1].split()[0]) for line in lines]
    assert np.mean(losses[-2:]) < losses[0]


def test_a_run_that_goes_on_from_its_checkpoint_ends_with_the_same_bits(trained, tmp_path):
    """Killed right after the checkpoint of step 25, then started again."""
    _, weights, _ = trained

    class Killed(BaseException):
        pass

    def kill(line: str) -> None:
        if line.startswith("step 30"):
            raise Killed

    longer = dataclasses.replace(OPTIONS, steps=40)
    with pytest.raises(Killed):
        pretrain(GEOMETRY, longer, tmp_path / "killed", CPU, kill)
    with safe_open(tmp_path / "killed" / "pretrain.safetensors", framework="pt") as file:
        assert file.metadata()["step"] == "25"
    resumed = pretrain(GEOMETRY, longer, tmp_path / "killed", CPU, print).state_dict()
    whole = pretrain(GEOMETRY, longer, tmp_path / "whole", CPU, print).state_dict()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in resumed.items())
    assert not all(torch.equal(tensor, weights[name]) for name, tensor in whole.items())


def test_a_finished_run_is_not_repeated(trained):
    work, weights, _ = trained
    lines: list[str] = []
    again = pretrain(GEOMETRY, OPTIONS, work, CPU, lines.append).state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in again.items())
    assert lines == []


def test_a_checkpoint_of_other_options_is_refused(trained):
    work, _, _ = trained
    before = (work / "pretrain.safetensors").read_bytes()
    for changes in ({"steps": 70}, {"seed": 1}):
        with pytest.raises(TrainingError, match="made with other options; delete it, or go on with those"):
            pretrain(GEOMETRY, dataclasses.replace(OPTIONS, **changes), work, CPU, print)
    assert (work / "pretrain.safetensors").read_bytes() == before


def test_a_damaged_checkpoint_is_refused_with_the_mend(trained, tmp_path):
    work, _, _ = trained
    (tmp_path / "pretrain.safetensors").write_bytes((work / "pretrain.safetensors").read_bytes()[:-100])
    with pytest.raises(TrainingError, match="is damaged; delete it to train from the start"):
        pretrain(GEOMETRY, OPTIONS, tmp_path, CPU, print)


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(tmp_path):
    short = dataclasses.replace(OPTIONS, steps=3)
    first, again, other = (
        pretrain(GEOMETRY, dataclasses.replace(short, seed=seed), tmp_path / str(number), CPU, print).state_dict()
        for number, seed in enumerate((1, 1, 2))
    )
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert not all(torch.equal(tensor, other[name]) for name, tensor in first.items())


def test_a_run_that_diverges_stops_with_the_mend(tmp_path):
    wild = dataclasses.replace(OPTIONS, learning_rate=1e30, warmup=1)
    with pytest.raises(TrainingError, match=r"diverged at step .*; lower the learning rate and start again"):
        pretrain(GEOMETRY, wild, tmp_path, CPU, print)
