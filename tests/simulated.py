"""A simulated stream in this process: driver, aggregator and sites are the real ones; only Flower's processes are not."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from simulations.flower_components import make_simulated_client_app
from simulations.stages import run_seeds
from simulations.stream_run import StreamRun, run_of
from site_client.home import SiteHome

from .loopback import LoopbackGrid

METHOD: dict[str, Any] = {"threads": 1, "epochs": 1, "min_steps": 4, "batch_size": 4, "masks_per_image": 1}


def phantom(modality: str, **data: Any) -> dict[str, Any]:
    """Return a site of a stream, named after its modality."""
    return {
        "name": modality.replace("_", "-"),
        "data": {"kind": "phantom", "modality": modality, "train": 6, "test": 2, "seed": 1, **data},
    }


class Simulated:
    """A stream that was run, seed by seed."""

    def __init__(self, folder: Path, sites: list[dict[str, Any]], sweep: str = "", **changes: Any) -> None:
        """Prepare a stream in `folder`; `changes` are other keys of its YAML file."""
        content = {"stream": "small", "seeds": [0], "method": METHOD, **changes, "sites": sites}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "stream.yaml").write_text(yaml.safe_dump(content))
        self.run_config = {
            "stream": str(folder / "stream.yaml"),
            "out": str(folder / "out"),
            "sweep": sweep,
            "data": str(folder),
            "overrides": "",
            "method": "casam",
        }
        self.run: StreamRun = run_of(self.run_config)
        self.grid = LoopbackGrid([make_simulated_client_app() for _ in sites], self.run_config)
        self.collected: Mapping[int, dict[str, Any]] = {}

    def finish(self) -> "Simulated":
        """Run every seed."""
        self.collected = dict(run_seeds(self.grid, self.run))
        return self

    def site(self, name: str, seed: int = 0) -> SiteHome:
        """Return the folder of a site."""
        return SiteHome(self.run.folder.seed(seed).site(name))
