"""One run of a stream over Flower, shown while it goes, and failed loudly where Flower would not."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

import click

from casam_fed.config import MethodConfig
from casam_fed.errors import SimulationError
from casam_fed.host.line_log import read_lines
from simulations.flower_processes import FlowerRun
from simulations.run_folder import RunFolder

__all__ = ["launch", "resources_of"]

_POLL_S = 0.5
_COMPLETED = "finished:completed"


def launch(folder: RunFolder, nodes: int, method: MethodConfig, run_config: Mapping[str, str]) -> float:
    """Run a stream's app, print its progress, and return the peak memory of all its processes in MB.

    Args:
        folder: of the run.
        nodes: number of sites.
        method: says how many threads a site needs, and on which device it computes.
        run_config: values for the keys of simulations/app/pyproject.toml.

    Raises:
        SimulationError: the run failed; the message says why.
        BackboneError: the device is not there.
    """
    app = Path(__file__).parent / "app"
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.failure.unlink(missing_ok=True)
    shown = read_lines(folder.progress)[1]
    began = time.time()
    with FlowerRun(folder.path / "flower.log", folder.flower_marker) as flower:
        flower.start(app, {"num-supernodes": nodes, **resources_of(method)}, run_config)
        while flower.running():
            shown = _show(folder, shown, began)
            time.sleep(_POLL_S)
        _show(folder, shown, began)
        status = flower.outcome()
    if status != _COMPLETED:
        raise SimulationError(_why(folder, status))
    return flower.peak_rss_mb


def resources_of(method: MethodConfig) -> dict[str, float]:
    """Return what Ray is asked for each site: without a GPU in it, Ray hides every GPU from the site."""
    resources: dict[str, float] = {"client-resources-num-cpus": min(method.threads, os.cpu_count() or 1)}
    if method.device != "cpu":
        # torch takes seconds to import, and only it knows whether there is a GPU that it can use.
        from casam_fed.backbone.model import choose_device

        if choose_device(method.device).type == "cuda":
            resources["client-resources-num-gpus"] = 1.0
    return resources


def _show(folder: RunFolder, shown: int, began: float) -> int:
    """Print the progress lines after byte `shown` and return where they end now."""
    events, shown = read_lines(folder.progress, shown)
    for event in events:
        click.echo(f"{event['time'] - began:7.1f} s  {event['text']}")
    return shown


def _why(folder: RunFolder, status: str) -> str:
    if folder.failure.exists():
        logged = folder.log.read_text().strip().splitlines() if folder.log.exists() else []
        return f"the run stopped: {folder.failure.read_text()}" + (f" ({logged[-1]})" if logged else "")
    return f"Flower says the run is '{status}'; its log is {folder.path / 'flower.log'}"
