"""Pre-training on drawn images learns, and goes on after a kill as if nothing had happened."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from casam_fed.backbone.catalogue import Geometry
from casam_fed.backbone.pretrain import PretrainOptions, pretrain
from casam_fed.errors import TrainingError

GEOMETRY = Geometry(64, 32, 16, 16, 1, 1, 2, (0,), 16, 1, 16)
CPU = torch.device("cpu")
OPTIONS = PretrainOptions(steps=260, images=3, prompts=2, warmup=20, learning_rate=2e-3, workers=0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run: its folder, the weights and what it reported."""
    work, lines = tmp_path_factory.mktemp("work"), []
    sam = pretrain(GEOMETRY, OPTIONS, work, CPU, lines.append)
    return work, sam.state_dict(), lines


def test_the_loss_falls_and_progress_is_told(trained):
    _, _, lines = trained
    assert [line.split("  ")[0] for line in lines] == [f"step {step}/260" for step in range(50, 251, 50)]
    losses = [float(line.split("loss ")[1].split()[0]) for line in lines]
    assert np.mean(losses[-2:]) < losses[0]


def test_a_run_that_goes_on_from_its_checkpoint_ends_with_the_same_bits(trained):
    work, weights, _ = trained
    assert int(load_file(work / "pretrain.safetensors")["step"]) == 250
    again = pretrain(GEOMETRY, OPTIONS, work, CPU, print).state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in again.items())


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
