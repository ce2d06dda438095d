"""The public datasets that we can read, each as its owner hands it out, and their `data:` block. Needs no torch."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from casam_fed.data.formats.acdc import ACDC
from casam_fed.data.formats.ebhi import EBHI_SEG
from casam_fed.data.formats.kpis import KPIS_56NX, KPIS_DN
from casam_fed.data.formats.msd import MSD_PROSTATE, MSD_SPLEEN
from casam_fed.data.formats.nnunet import NNUNET
from casam_fed.data.formats.polyp import POLYP
from casam_fed.data.formats.prepared import PREPARED
from casam_fed.data.formats.promise12 import PROMISE12
from casam_fed.data.formats.sts2d import STS_2D
from casam_fed.data.public import Options, PublicDataset
from casam_fed.data.sample import Reader
from casam_fed.data.volume import Window
from casam_fed.errors import ConfigError
from casam_fed.forms import STRICT

__all__ = ["DATASETS", "PublicData"]

DATASETS: Final[dict[str, PublicDataset]] = {
    dataset.card.name: dataset
    for dataset in (
        ACDC,
        EBHI_SEG,
        KPIS_56NX,
        KPIS_DN,
        POLYP,
        MSD_PROSTATE,
        MSD_SPLEEN,
        PROMISE12,
        STS_2D,
        PREPARED,
        NNUNET,
    )
}

if TYPE_CHECKING:
    Kind = str
else:
    Kind = Literal[tuple(DATASETS)]


@dataclass(frozen=True, config=STRICT)
class PublicData:
    """The `data:` block of a public dataset.

    Attributes:
        kind: a name of `DATASETS`.
        path: its folder; relative paths start at the data root that the user gives.
        classes, channel, window, patient: see `Options`; only some datasets have them.
        test_fraction, split_seed, split: as for a folder; an owner's split stays.
    """

    kind: Kind
    path: str
    classes: tuple[str, ...] = ()
    channel: Annotated[int, Field(ge=0)] = 0
    window: tuple[float, float] | None = None
    patient: str | None = None
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    split_seed: int = 0
    split: str | None = None

    def reader(self, root: Path) -> Reader:
        """Return the reader of the dataset, whose path starts at `root`; it has touched no image.

        Raises:
            ConfigError: an option that this kind does not have, or that makes no sense.
            DataError: what the reader finds wrong with the files.
        """
        dataset = DATASETS[self.kind]
        window = Window(*self.window) if self.window else None
        options = Options(self.classes, self.channel, window, self.patient)
        for option in ("classes", "channel", "window", "patient"):
            if option not in dataset.options and getattr(options, option) != getattr(Options(), option):
                kinds = " and ".join(name for name, other in DATASETS.items() if option in other.options)
                raise ConfigError(f"data of kind {self.kind} has no option '{option}' (only {kinds}); remove it")
        return dataset.open(root / self.path, options)
