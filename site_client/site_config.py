"""One hospital as its YAML block describes it. Needs no torch."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from casam_fed.data.dataset import DataConfig
from casam_fed.forms import NAME_PATTERN, STRICT, Label, Slug

__all__ = ["SiteConfig", "SiteSettings"]


@dataclass(frozen=True, config=STRICT)
class SiteConfig:
    """A site: its name, its data, and the task it adds, which is named after the site where no name is given."""

    name: Slug
    data: DataConfig
    task: Annotated[str, Field(pattern=NAME_PATTERN + "|^$")] = ""
    modality: Label = ""

    @property
    def task_name(self) -> str:
        """The task's name."""
        return self.task or self.name


@dataclass(frozen=True, config=STRICT)
class SiteSettings:
    """site.yaml of a deployed site.

    Attributes:
        name, data, task, modality: as in `SiteConfig`; relative data paths start at the site's folder.
        seed: of training and calibration.
        device, threads: of this machine; the rest of the method comes with the welcome.
        minimum_images: scores and counts over fewer test images stay here.
    """

    name: Slug
    data: DataConfig
    task: Annotated[str, Field(pattern=NAME_PATTERN + "|^$")] = ""
    modality: Label = ""
    seed: int = 0
    device: str = "auto"
    threads: Annotated[int, Field(ge=1, le=256)] = 2
    minimum_images: Annotated[int, Field(ge=1)] = 10

    @property
    def site(self) -> SiteConfig:
        """The part that a simulated site has too."""
        return SiteConfig(self.name, self.data, self.task, self.modality)
