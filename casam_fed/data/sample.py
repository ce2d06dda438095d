"""What a dataset is to us: records to list, and samples to read one at a time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from casam_fed.data.volume import Intensity

__all__ = ["Reader", "Record", "Sample"]


@dataclass(frozen=True)
class Record:
    """One image of a dataset before its pixels are read.

    `split` is "train" or "test" where the dataset's owner fixed it, otherwise None. Images with the same `case`, the
    planes of a volume, may be routed together; None: an image of its own.
    """

    id: str
    patient: str
    split: str | None = None
    case: str | None = None


@dataclass(frozen=True)
class Sample:
    """One image with its annotation, at source resolution.

    Attributes:
        id: unique within the dataset.
        patient: images of one patient share it; splits and calibration folds never separate them.
        image: uint8 [H, W, 3].
        masks: class name -> bool [H, W]; every class of the dataset is a key, an absent class is all False.
        instances: class name -> int32 [H, W], 0 background and 1..N one instance each; empty where the annotation
            does not tell instances apart.
    """

    id: str
    patient: str
    image: npt.NDArray[np.uint8]
    masks: Mapping[str, npt.NDArray[np.bool_]]
    instances: Mapping[str, npt.NDArray[np.int32]]


class Reader(Protocol):
    """Lists and reads one dataset; constructing it touches no pixels.

    `classes` are the target classes in a fixed order, `notes` are sentences about the data that a user should see;
    `intensity` says how voxels became grey, None where images are flat.
    """

    classes: tuple[str, ...]
    notes: list[str]

    @property
    def intensity(self) -> Intensity | None: ...

    def records(self) -> list[Record]:
        """Return all records, sorted by id.

        Raises:
            DataError: images or masks are missing or do not pair up.
        """
        ...

    def read(self, record: Record) -> Sample:
        """Return the sample of `record`.

        Raises:
            DataError: a file is unreadable, or image and mask do not fit together.
        """
        ...
