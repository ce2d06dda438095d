"""The YAML file of a stream: which sites join in which order, with which seeds and which choices of the method."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from casam_fed.config import STRICT, MethodConfig, from_mapping, read_yaml
from casam_fed.errors import ConfigError
from site_client.site_config import SiteConfig

__all__ = ["StreamConfig", "read_stream"]


@dataclass(frozen=True, config=STRICT)
class StreamConfig:
    """A stream of sites.

    Attributes:
        stream: its name.
        sites: in the order in which they join.
        seeds: every seed is run as a stream of its own.
        method: choices that differ from the defaults of `casam_fed.config.MethodConfig`.
    """

    stream: str
    sites: Annotated[tuple[SiteConfig, ...], Field(min_length=1)]
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    method: MethodConfig = MethodConfig()


def read_stream(path: Path, overrides: dict[str, Any] | None = None) -> StreamConfig:
    """Read a stream.

    Args:
        path: the YAML file.
        overrides: keys of the stream that replace the file's; those of `method` are merged.

    Raises:
        ConfigError: the file is missing or wrong, or two sites share a name or a task.
    """
    values = read_yaml(path)
    changes = dict(overrides or {})
    changed_method = changes.pop("method", {})
    values |= changes
    if changed_method:
        values["method"] = {**(values.get("method") or {}), **changed_method}
    stream = from_mapping(StreamConfig, values, str(path))
    for what, names in (
        ("name", [site.name for site in stream.sites]),
        ("task", [site.task_name for site in stream.sites]),
    ):
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise ConfigError(f"two sites in {path} have the {what} '{twice[0]}'; give each its own")
    return stream


def method_record(stream: StreamConfig) -> dict[str, Any]:
    """Return the method's choices as plain values for the report."""
    return asdict(stream.method)
