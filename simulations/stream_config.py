"""The YAML file of a stream: which sites join in which order, with which seeds and which choices of the method."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from casam_fed.config import MethodConfig, from_mapping, read_yaml
from casam_fed.data.dataset import DataConfig
from casam_fed.errors import ConfigError
from casam_fed.forms import STRICT, Slug
from site_client.site_config import SiteConfig

__all__ = ["BaselineConfig", "StreamConfig", "UnseenSet", "method_record", "read_stream"]


@dataclass(frozen=True, config=STRICT)
class UnseenSet:
    """Images that no site has: what the bank does with them is reported, and nothing learns from them.

    Attributes:
        name: in the report.
        data: as a site's; all of its images are used, whatever side of a split they are on.
    """

    name: Slug
    data: DataConfig


@dataclass(frozen=True, config=STRICT)
class BaselineConfig:
    """Choices that only the baselines have; all else they share with the method.

    Attributes:
        ewc_strength: weight of the quadratic penalty (Kirkpatrick et al. 2017, eq. 3: lambda).
        lwf_strength, lwf_temperature: weight and temperature of the distillation (Li and Hoiem 2016, eq. 2 and 3).
        er_images: images in the replay buffer, all earlier tasks together.
        fedavg_rounds: rounds into which the steps of every site are divided.
    """

    ewc_strength: Annotated[float, Field(gt=0)] = 100_000.0
    lwf_strength: Annotated[float, Field(gt=0)] = 1.0
    lwf_temperature: Annotated[float, Field(gt=0)] = 2.0
    er_images: Annotated[int, Field(ge=1)] = 50
    fedavg_rounds: Annotated[int, Field(ge=1)] = 10


@dataclass(frozen=True, config=STRICT)
class StreamConfig:
    """A stream of sites.

    Attributes:
        stream: its name, which is that of the federation.
        sites: in the order in which they join.
        seeds: every seed is run as a stream of its own.
        method: choices that differ from the defaults of `casam_fed.config.MethodConfig`.
        unseen: sets out of the distribution of all sites.
        baselines: choices of the baselines.
        minimum_images: fewest training images of a release, and fewest test images that a site tells anything about.
    """

    stream: Slug
    sites: Annotated[tuple[SiteConfig, ...], Field(min_length=1)]
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    method: MethodConfig = MethodConfig()
    unseen: tuple[UnseenSet, ...] = ()
    baselines: BaselineConfig = BaselineConfig()
    minimum_images: Annotated[int, Field(ge=1)] = 1


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
    for whose, what, names in (
        ("sites", "name", [site.name for site in stream.sites]),
        ("sites", "task", [site.task_name for site in stream.sites]),
        ("unseen sets", "name", [unseen.name for unseen in stream.unseen]),
    ):
        # Folders are named after them, and not every file system tells upper from lower case.
        twice = [name for name, count in Counter(map(str.lower, names)).items() if count > 1]
        if twice:
            raise ConfigError(f"two {whose} in {path} have the {what} '{twice[0]}'; give each its own")
    return stream


def method_record(stream: StreamConfig) -> dict[str, Any]:
    """Return the method's choices as plain values for the report."""
    return asdict(stream.method)
