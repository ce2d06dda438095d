"""What Ray is asked for each simulated site, and what the process that only watches a run costs."""

import os

import pytest
import torch

from casam_fed.config import MethodConfig
from casam_fed.errors import BackboneError
from simulations.flower_processes import FlowerRun
from simulations.launch import resources_of


@pytest.fixture
def gpu(monkeypatch):
    """A machine on which torch finds a GPU."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_site_that_computes_on_a_gpu_asks_ray_for_one(gpu, device):
    """Without it Ray hides every GPU from its workers."""
    assert resources_of(MethodConfig(device=device))["client-resources-num-gpus"] == 1.0


def test_a_site_that_computes_on_the_cpu_leaves_the_gpu_to_others(gpu):
    assert "client-resources-num-gpus" not in resources_of(MethodConfig(device="cpu"))


def test_without_a_gpu_auto_asks_for_none_and_cuda_is_refused_before_flower_starts(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert "client-resources-num-gpus" not in resources_of(MethodConfig(device="auto"))
    with pytest.raises(BackboneError, match="cuda"):
        resources_of(MethodConfig(device="cuda"))


def test_a_site_has_as_many_cpus_as_threads_but_no_more_than_there_are():
    assert resources_of(MethodConfig(device="cpu", threads=1))["client-resources-num-cpus"] == 1
    assert resources_of(MethodConfig(device="cpu", threads=256))["client-resources-num-cpus"] == os.cpu_count()


def test_workers_run_at_normal_priority_and_their_threads_sleep_while_they_wait(tmp_path):
    with FlowerRun(tmp_path / "flower.log", tmp_path / "marker") as flower:
        environment = flower.environment
    assert environment["RAY_worker_niceness"] == "0"
    assert environment["OMP_WAIT_POLICY"] == "PASSIVE"
