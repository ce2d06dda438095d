"""One hospital as its YAML block describes it. Needs no torch."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from casam_fed.card import Label, Slug
from casam_fed.config import NAME_PATTERN, STRICT
from casam_fed.data.dataset import DataConfig

__all__ = ["SiteConfig"]


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
