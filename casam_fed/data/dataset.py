"""From the `data:` block of a YAML file to a reader and its train and test records."""

from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from casam_fed.data.public import PublicData, open_public
from casam_fed.data.public_datasets import dataset_card
from casam_fed.data.sample import Reader, Record
from casam_fed.data.split import split_records
from casam_fed.data.split_file import kept_split
from casam_fed.forms import STRICT

__all__ = ["DataBlock", "DataConfig", "Dataset", "FolderData", "PhantomData", "open_dataset", "open_reader"]


@dataclass(frozen=True, config=STRICT)
class FolderData:
    """A folder of images and masks; see `casam_fed.data.folder.FolderReader` for the meaning of the keys.

    Attributes:
        kind: "folder".
        path: the folder; relative paths start at the data root that the user gives.
        classes: names of the target classes in the order of their label values.
        labels: binary, classes or instances.
        patient: regular expression for the patient id in a file name; None: every image is its own patient.
        test_fraction, split_seed: of a patient-wise split, where the folder has no train/ and test/.
        split: a file that keeps the split, see `casam_fed.data.split_file`.
    """

    kind: Literal["folder"]
    path: str
    classes: tuple[str, ...]
    labels: Literal["binary", "classes", "instances"] = "binary"
    patient: str | None = None
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    split_seed: int = 0
    split: str | None = None


@dataclass(frozen=True, config=STRICT)
class PhantomData:
    """Drawn images of one modality; see `casam_fed.drawn`."""

    kind: Literal["phantom"]
    modality: str
    train: Annotated[int, Field(ge=2)] = 24
    test: Annotated[int, Field(ge=1)] = 8
    images_per_patient: Annotated[int, Field(ge=1)] = 2
    seed: int = 0


AnyData = FolderData | PublicData | PhantomData
DataConfig = Annotated[AnyData, Field(discriminator="kind")]


@dataclass(frozen=True, config=STRICT)
class DataBlock:
    """A `data:` block on its own."""

    data: DataConfig


@plain_dataclass(frozen=True)
class Dataset:
    """A reader with its records, split by patient, and what there is to say about the counts."""

    reader: Reader
    train: tuple[Record, ...]
    test: tuple[Record, ...]
    notes: tuple[str, ...] = ()


def open_dataset(config: AnyData, root: Path, split_file: Path | None = None) -> Dataset:
    """List a dataset and split it; no pixel of an image is read.

    Args:
        config: the `data:` block.
        root: where relative paths start.
        split_file: keeps the split where the block names no file of its own; None: the split is not kept.

    Raises:
        ConfigError: options that do not fit together, or an unknown phantom modality.
        DataError: a folder is missing, images and masks do not pair up, or a kept split does not fit the data.
        StorageError: the split cannot be written.
    """
    reader = open_reader(config, root)
    listed = reader.records()
    if isinstance(config, PhantomData):
        records = split_records(listed)
    else:
        path = root / config.split if config.split else split_file
        fraction, seed = config.test_fraction, config.split_seed
        records = kept_split(path, listed, fraction, seed) if path else split_records(listed, fraction, seed)
    train, test = (tuple(record for record in records if record.split == side) for side in ("train", "test"))
    return Dataset(reader, train, test, _unlike_the_paper(config, len(train), len(test)))


def _unlike_the_paper(config: AnyData, train: int, test: int) -> tuple[str, ...]:
    counts = dataset_card(config.kind).counts if isinstance(config, PublicData) else None
    if counts is None or counts == (train, test):
        return ()
    return (
        f"{config.kind} has {train:,} training and {test:,} test images here; the paper counts {counts[0]:,} and "
        f"{counts[1]:,}.",
    )


def open_reader(config: AnyData, root: Path) -> Reader:
    """Return the reader of a `data:` block; it has touched no image.

    Raises:
        ConfigError: options that do not fit together, or an unknown phantom modality.
        DataError: a folder is missing, or images and masks do not pair up.
    """
    if isinstance(config, FolderData):
        from casam_fed.data.folder import FolderReader

        return FolderReader(root / config.path, config.classes, config.labels, config.patient)
    if isinstance(config, PublicData):
        return open_public(config, root / config.path)
    from casam_fed.data.phantoms import PhantomReader

    return PhantomReader(config.modality, config.train, config.test, config.seed, config.images_per_patient)
