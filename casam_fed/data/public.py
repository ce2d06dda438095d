"""The `data:` block of a public dataset, and the reader that it asks for."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from casam_fed.data.public_datasets import dataset_card
from casam_fed.data.sample import Reader
from casam_fed.errors import ConfigError
from casam_fed.forms import STRICT
from casam_fed.host.files import cache_dir

__all__ = ["PublicData", "open_public"]


@dataclass(frozen=True, config=STRICT)
class PublicData:
    """A public dataset as its owner distributes it; the kinds are the names of `casam_fed.data.public_datasets`.

    Attributes:
        kind: the dataset.
        path: its folder.
        classes: prepared: names of the classes in order, where dataset.json has none.
        channel: msd_prostate, msd_spleen, nnunet: which channel of a volume.
        window: the same: lowest and highest intensity in source units (HU for CT); None: the reader's default.
        patient: prepared, nnunet: regular expression for the patient id in a name.
        test_fraction, split_seed, split: as for a folder; an owner's split stays.
    """

    kind: Literal[
        "acdc",
        "ebhi_seg",
        "kpis_56nx",
        "kpis_dn",
        "polyp",
        "msd_prostate",
        "msd_spleen",
        "promise12",
        "sts_2d",
        "prepared",
        "nnunet",
    ]
    path: str
    classes: tuple[str, ...] = ()
    channel: Annotated[int, Field(ge=0)] = 0
    window: tuple[float, float] | None = None
    patient: str | None = None
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    split_seed: int = 0
    split: str | None = None


_OPTIONS = {
    "prepared": {"classes", "patient"},
    "nnunet": {"channel", "window", "patient"},
    "msd_prostate": {"channel", "window"},
    "msd_spleen": {"channel", "window"},
}
"""Options that only some kinds have."""


def open_public(config: PublicData, folder: Path) -> Reader:
    """Return the reader of a public dataset in `folder`; it has touched no image.

    Raises:
        ConfigError: an option that this kind does not have.
        DataError: what the reader finds wrong with the files.
    """
    defaults = PublicData(kind=config.kind, path=config.path)
    for option in ("classes", "channel", "window", "patient"):
        changed = getattr(config, option) != getattr(defaults, option)
        if changed and option not in _OPTIONS.get(config.kind, set()):
            kinds = " and ".join(kind for kind, options in _OPTIONS.items() if option in options)
            raise ConfigError(f"data of kind {config.kind} has no option '{option}' (only {kinds}); remove it")
    return _READERS[config.kind](config, folder)


def _acdc(config: PublicData, folder: Path) -> Reader:
    from casam_fed.data.formats.acdc import AcdcReader

    return AcdcReader(folder, cache=_slices())


def _ebhi(config: PublicData, folder: Path) -> Reader:
    from casam_fed.data.formats.ebhi import EbhiReader

    return EbhiReader(folder)


def _kpis(config: PublicData, folder: Path) -> Reader:
    from casam_fed.data.formats.kpis import KpisReader

    return KpisReader(folder, "56Nx" if config.kind == "kpis_56nx" else "DN")


def _polyp(config: PublicData, folder: Path) -> Reader:
    from casam_fed.data.formats.polyp import PolypReader

    return PolypReader(folder)


def _msd(config: PublicData, folder: Path) -> Reader:
    from casam_fed.data.formats.msd import MsdReader
    from casam_fed.data.volume import Window

    window = Window(*config.window) if config.window else None
    return MsdReader(folder, dataset_card(config.kind).classes, config.channel, window, cache=_slices())


def _promise12(config: PublicData, folder: Path) -> Reader:
    from casam_fed.data.formats.promise12 import Promise12Reader

    return Promise12Reader(folder, cache=_slices())


def _sts2d(config: PublicData, folder: Path) -> Reader:
    from casam_fed.data.formats.sts2d import Sts2dReader

    return Sts2dReader(folder)


def _prepared(config: PublicData, folder: Path) -> Reader:
    from casam_fed.data.formats.prepared import PreparedReader

    return PreparedReader(folder, config.classes or None, config.patient)


def _nnunet(config: PublicData, folder: Path) -> Reader:
    from casam_fed.data.formats.nnunet import NnUNetReader
    from casam_fed.data.volume import Window

    window = Window(*config.window) if config.window else None
    return NnUNetReader(folder, config.channel, window, patient=config.patient, cache=_slices())


_READERS: dict[str, Callable[[PublicData, Path], Reader]] = {
    "acdc": _acdc,
    "ebhi_seg": _ebhi,
    "kpis_56nx": _kpis,
    "kpis_dn": _kpis,
    "polyp": _polyp,
    "msd_prostate": _msd,
    "msd_spleen": _msd,
    "promise12": _promise12,
    "sts_2d": _sts2d,
    "prepared": _prepared,
    "nnunet": _nnunet,
}


def _slices() -> Path:
    """Return the folder that keeps which slices of a volume have foreground."""
    return cache_dir() / "slices"
