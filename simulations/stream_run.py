"""One run of a stream as Flower's processes know it: from the run configuration to the stream, its folder and its data."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from casam_fed.errors import ConfigError
from simulations.run_folder import RunFolder
from simulations.stream_config import StreamConfig, read_stream
from site_client.site_config import SiteConfig

__all__ = ["StreamRun", "run_of"]

METHODS = ("casam", "fedavg")
"""The methods that run over Flower."""


@dataclass(frozen=True)
class StreamRun:
    """What a run is asked for.

    Attributes:
        stream: the stream, overrides applied.
        folder: of the run.
        root: where relative data paths start.
        method: one of `METHODS`.
        is_alone: it is not part of a sweep, so that nobody else writes its report.
    """

    stream: StreamConfig
    folder: RunFolder
    root: Path
    method: str
    is_alone: bool

    def site(self, node_config: Mapping[str, object]) -> SiteConfig:
        """Return the site that a simulated node stands for: the one at its place in the stream."""
        return self.stream.sites[int(str(node_config["partition-id"]))]


def run_of(run_config: Mapping[str, object]) -> StreamRun:
    """Return the run that a run configuration (simulations/app/pyproject.toml) asks for.

    Raises:
        ConfigError: a path is not absolute, there is no such method, or the stream's file is wrong.
    """
    keys = ("stream", "out", "sweep", "data", "overrides", "method")
    return _run_of(*(str(run_config[key]) for key in keys))


@functools.cache
def _run_of(stream: str, out: str, sweep: str, data: str, overrides: str, method: str) -> StreamRun:
    for key, value in (("stream", stream), ("out", out)):
        if not Path(value).is_absolute():
            raise ConfigError(f"run-config '{key}' is '{value}'; give an absolute path, e.g. {key}=\"/runs/one\"")
    if method not in METHODS:
        raise ConfigError(f"run-config 'method' is '{method}'; give one of {', '.join(METHODS)}")
    path = Path(stream)
    return StreamRun(
        stream=read_stream(path, json.loads(overrides or "{}")),
        folder=RunFolder(Path(out), Path(sweep or out)),
        root=Path(data) if data else path.parent,
        method=method,
        is_alone=not sweep,
    )
