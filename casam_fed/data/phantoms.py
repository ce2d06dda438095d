"""Phantoms as a dataset: a Reader whose images are drawn when they are read, the same ones every time."""

import difflib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from casam_fed.data.sample import Record, Sample
from casam_fed.data.volume import Intensity
from casam_fed.errors import ConfigError
from casam_fed.forms import STRICT

if TYPE_CHECKING:
    from casam_fed.drawn.texture import Rng

__all__ = ["PhantomData", "PhantomReader"]


@dataclass(frozen=True, config=STRICT)
class PhantomData:
    """The `data:` block of drawn images of one modality; see `PhantomReader` for the meaning of the keys."""

    kind: Literal["phantom"]
    modality: str
    train: Annotated[int, Field(ge=2)] = 24
    test: Annotated[int, Field(ge=1)] = 8
    images_per_patient: Annotated[int, Field(ge=1)] = 2
    seed: Annotated[int, Field(ge=0)] = 0

    def reader(self, root: Path) -> "PhantomReader":
        """Return the reader, which reads nothing from `root`; see `PhantomReader` for what may be raised."""
        return PhantomReader(self.modality, self.train, self.test, self.seed, self.images_per_patient)


@plain_dataclass(frozen=True)
class _Place:
    """Which of a patient's images a record is: number `index` of `count`."""

    index: int
    count: int


class PhantomReader:
    """A seeded dataset of drawn images of one modality (`Reader` of casam_fed.data.sample).

    An image depends on (modality, seed, record id) alone: not on the order of reading, and not on how many other images
    the dataset has. Patients belong to one split each. Images are uint8 [H, W, 3] with sides of 208-528 pixels that
    mostly differ from patient to patient; every class is present in every image. `stained_tissue`, `endoscopy` and both
    kidneys also number their instances.
    """

    classes: tuple[str, ...]
    notes: list[str]
    intensity: Intensity | None = None

    def __init__(self, modality: str, train: int, test: int, seed: int, images_per_patient: int = 2) -> None:
        """Describe `train` + `test` images of a modality; draws nothing yet.

        Args:
            modality: one of `casam_fed.drawn.modalities`.
            train: training images, at least 1.
            test: test images, 0 or more.
            seed: 0 or more; another seed is another hospital with other patients.
            images_per_patient: at least 1; the last patient of a split has fewer where the count does not divide.

        Raises:
            ConfigError: an unknown modality.
        """
        # Whoever only reads a configuration does not wait for scipy.
        from casam_fed.drawn.modalities import MODALITIES

        if modality not in MODALITIES:
            nearest = difflib.get_close_matches(modality, MODALITIES, n=1, cutoff=0.0)[0]
            raise ConfigError(
                f"unknown phantom modality {modality!r}; did you mean {nearest!r}? There are {', '.join(MODALITIES)}"
            )
        assert train >= 1
        assert test >= 0
        assert seed >= 0
        assert images_per_patient >= 1
        self.classes = MODALITIES[modality].classes
        self._draw = MODALITIES[modality].draw
        self.notes = [f"{modality} images are drawn phantoms, no patients; scores on them are no clinical evidence."]
        self._modality = modality
        self._seed = seed
        listed = [*_list("train", train, images_per_patient), *_list("test", test, images_per_patient)]
        self._places = {record.id: place for record, place in listed}
        self._records = sorted((record for record, _ in listed), key=lambda record: record.id)

    def records(self) -> list[Record]:
        """Return all records, sorted by id; every one has its split."""
        return list(self._records)

    def read(self, record: Record) -> Sample:
        """Draw the image of `record`, one of `records()`, in 30 to 200 ms."""
        place = self._places[record.id]
        patient, image = self._generator(record.patient), self._generator(record.id)
        position = (place.index + float(image.random())) / place.count
        phantom = self._draw(patient, image, position)
        return Sample(record.id, record.patient, phantom.image, phantom.masks, phantom.instances)

    def _generator(self, name: str) -> "Rng":
        digest = hashlib.sha256(f"{self._modality}/{self._seed}/{name}".encode()).digest()
        return np.random.default_rng(np.frombuffer(digest, dtype="<u4").tolist())


def _list(split: str, images: int, images_per_patient: int) -> Iterator[tuple[Record, _Place]]:
    for first in range(0, images, images_per_patient):
        patient = f"{split}-{first // images_per_patient + 1:04d}"
        count = min(images_per_patient, images - first)
        for index in range(count):
            # The id tells the patient's count, so that the id alone fixes how far apart the slices are.
            yield Record(f"{patient}-{index + 1:02d}of{count:02d}", patient, split), _Place(index, count)
