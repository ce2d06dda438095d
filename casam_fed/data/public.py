"""What a public dataset is to us: what its owner calls it and on which terms, the options of its reader, and the reader."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from casam_fed.data.sample import Reader
from casam_fed.data.volume import Window

__all__ = ["READ_THERE", "DatasetCard", "Options", "PublicDataset"]

READ_THERE: Final = "read the terms there"


@dataclass(frozen=True)
class DatasetCard:
    """What there is to say about a dataset.

    Attributes:
        name: its name in YAML files and on the command line.
        title: what its owners call it.
        modality: in words, for cards and tables.
        classes: target classes in their order; empty where the dataset itself names them.
        layout: the files as distributed.
        where: where the owner offers it.
        licence: terms as the owner states them, or that they have to be read there.
        counts: training and test images in the paper's stream (CA-SAM, arXiv 2511.17201); None for general layouts.
    """

    name: str
    title: str
    modality: str
    classes: tuple[str, ...]
    layout: str
    where: str
    licence: str
    counts: tuple[int, int] | None = None


@dataclass(frozen=True)
class Options:
    """What a user may choose about some of the datasets; every reader takes what it knows.

    Attributes:
        classes: names of the classes in order; empty: those that the dataset names.
        channel: which channel of a volume.
        window: lowest and highest intensity in source units (HU for CT); None: the reader's default.
        patient: regular expression for the patient id in a name; None: every image or case is its own.
    """

    classes: tuple[str, ...] = ()
    channel: int = 0
    window: Window | None = None
    patient: str | None = None


@dataclass(frozen=True)
class PublicDataset:
    """A dataset that we can read.

    Attributes:
        card: what there is to say about it.
        open: from its folder and the options to its reader, which has touched no image.
        options: names of those `Options` that it has.
    """

    card: DatasetCard
    open: Callable[[Path, Options], Reader]
    options: tuple[str, ...] = ()
