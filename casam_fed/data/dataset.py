"""From the `data:` block of a YAML file to a reader and its train and test records."""

from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from casam_fed.config import STRICT
from casam_fed.data.sample import Reader, Record
from casam_fed.data.split import split_records

__all__ = ["DataConfig", "Dataset", "FolderData", "PhantomData", "open_dataset"]


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
    """

    kind: Literal["folder"]
    path: str
    classes: tuple[str, ...]
    labels: Literal["binary", "classes", "instances"] = "binary"
    patient: str | None = None
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    split_seed: int = 0


@dataclass(frozen=True, config=STRICT)
class PhantomData:
    """Drawn images of one modality; see `casam_fed.data.phantoms`."""

    kind: Literal["phantom"]
    modality: str
    train: Annotated[int, Field(ge=2)] = 24
    test: Annotated[int, Field(ge=1)] = 8
    images_per_patient: Annotated[int, Field(ge=1)] = 2
    seed: int = 0


DataConfig = Annotated[FolderData | PhantomData, Field(discriminator="kind")]


@plain_dataclass(frozen=True)
class Dataset:
    """A reader with its records, split by patient."""

    reader: Reader
    train: tuple[Record, ...]
    test: tuple[Record, ...]


def open_dataset(config: FolderData | PhantomData, root: Path) -> Dataset:
    """List a dataset and split it; no pixel is read.

    Args:
        config: the `data:` block.
        root: where relative paths of folders start.

    Raises:
        ConfigError: options that do not fit together, or an unknown phantom modality.
        DataError: a folder is missing, or images and masks do not pair up.
    """
    reader = _reader(config, root)
    fraction, seed = (config.test_fraction, config.split_seed) if isinstance(config, FolderData) else (0.2, 0)
    records = split_records(reader.records(), fraction, seed)
    train = tuple(record for record in records if record.split == "train")
    test = tuple(record for record in records if record.split == "test")
    return Dataset(reader, train, test)


def _reader(config: FolderData | PhantomData, root: Path) -> Reader:
    if isinstance(config, FolderData):
        from casam_fed.data.folder import FolderReader

        return FolderReader(root / config.path, config.classes, config.labels, config.patient)
    from casam_fed.data.phantoms.reader import PhantomReader

    return PhantomReader(config.modality, config.train, config.test, config.seed, config.images_per_patient)
