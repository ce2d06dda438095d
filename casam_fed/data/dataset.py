"""From the `data:` block of a YAML file to a reader and its train and test records."""

from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from casam_fed.data.folder import FolderData
from casam_fed.data.phantoms import PhantomData
from casam_fed.data.public_datasets import DATASETS, PublicData
from casam_fed.data.sample import Reader, Record
from casam_fed.data.split import split_records
from casam_fed.data.split_file import kept_split
from casam_fed.forms import STRICT

__all__ = ["AnyData", "DataBlock", "DataConfig", "Dataset", "FolderData", "PhantomData", "PublicData", "open_dataset"]

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
    reader = config.reader(root)
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
    counts = DATASETS[config.kind].card.counts if isinstance(config, PublicData) else None
    if counts is None or counts == (train, test):
        return ()
    return (
        f"{config.kind} has {train:,} training and {test:,} test images here; the paper counts {counts[0]:,} and "
        f"{counts[1]:,}.",
    )
