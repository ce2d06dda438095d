"""One hospital as its YAML block describes it. Needs no torch."""

from pydantic.dataclasses import dataclass

from casam_fed.config import STRICT
from casam_fed.data.dataset import DataConfig

__all__ = ["SiteConfig"]


@dataclass(frozen=True, config=STRICT)
class SiteConfig:
    """A site: its name, its data, and the task it adds, which is named after the site where no name is given."""

    name: str
    data: DataConfig
    task: str = ""
    modality: str = ""

    @property
    def task_name(self) -> str:
        """The task's name."""
        return self.task or self.name
