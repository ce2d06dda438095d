"""Phantoms as a dataset: a Reader whose images are drawn when they are read, the same ones every time."""

import difflib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from casam_fed.data.sample import Record, Sample
from casam_fed.drawn import (
    abdominal_ct,
    breast_ultrasound,
    cardiac_mr,
    dental_xray,
    endoscopy,
    kidney,
    prostate,
    stained_tissue,
)
from casam_fed.drawn.geometry import Phantom
from casam_fed.drawn.texture import Rng
from casam_fed.errors import ConfigError, DataError

__all__ = ["MODALITIES", "PhantomReader"]


@dataclass(frozen=True)
class _Modality:
    classes: tuple[str, ...]
    draw: Callable[[Rng, Rng, float], Phantom]


_MODALITIES = {
    "cardiac_mr": _Modality(cardiac_mr.CLASSES, cardiac_mr.draw_cardiac_mr),
    "stained_tissue": _Modality(stained_tissue.CLASSES, stained_tissue.draw_stained_tissue),
    "endoscopy": _Modality(endoscopy.CLASSES, endoscopy.draw_endoscopy),
    "abdominal_ct": _Modality(abdominal_ct.CLASSES, abdominal_ct.draw_abdominal_ct),
    "kidney_56nx": _Modality(kidney.CLASSES, kidney.draw_kidney_56nx),
    "kidney_dn": _Modality(kidney.CLASSES, kidney.draw_kidney_dn),
    "prostate_msd": _Modality(prostate.CLASSES, prostate.draw_prostate_msd),
    "prostate_promise12": _Modality(prostate.CLASSES, prostate.draw_prostate_promise12),
    "dental_xray": _Modality(dental_xray.CLASSES, dental_xray.draw_dental_xray),
    "breast_ultrasound": _Modality(breast_ultrasound.CLASSES, breast_ultrasound.draw_breast_ultrasound),
}

MODALITIES: tuple[str, ...] = tuple(_MODALITIES)
"""The modalities a `PhantomReader` can draw."""


@dataclass(frozen=True)
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

    def __init__(self, modality: str, train: int, test: int, seed: int, images_per_patient: int = 2) -> None:
        """Describe `train` + `test` images of one of `MODALITIES`; draws nothing yet.

        Args:
            modality: one of `MODALITIES`.
            train: training images, at least 1.
            test: test images, 0 or more.
            seed: 0 or more; another seed is another hospital with other patients.
            images_per_patient: at least 1; the last patient of a split has fewer where the count does not divide.

        Raises:
            ConfigError: an unknown modality, or a number below its minimum.
        """
        if modality not in _MODALITIES:
            nearest = difflib.get_close_matches(modality, MODALITIES, n=1, cutoff=0.0)[0]
            raise ConfigError(
                f"unknown phantom modality {modality!r}; did you mean {nearest!r}? There are {', '.join(MODALITIES)}"
            )
        for name, value, least in (
            ("train", train, 1),
            ("test", test, 0),
            ("seed", seed, 0),
            ("images_per_patient", images_per_patient, 1),
        ):
            if value < least:
                raise ConfigError(f"{name} of the {modality} phantoms is {value}; set it to {least} or more")
        self.classes = _MODALITIES[modality].classes
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
        """Draw the image of `record`, 30 to 200 ms.

        Raises:
            DataError: the record is not one of this dataset.
        """
        place = self._places.get(record.id)
        if place is None:
            raise DataError(
                f"the {self._modality} phantoms have no image {record.id!r}; read only what records() lists"
            )
        patient, image = self._generator(record.patient), self._generator(record.id)
        position = (place.index + float(image.random())) / place.count
        phantom = _MODALITIES[self._modality].draw(patient, image, position)
        return Sample(record.id, record.patient, phantom.image, phantom.masks, phantom.instances)

    def _generator(self, name: str) -> Rng:
        digest = hashlib.sha256(f"{self._modality}/{self._seed}/{name}".encode()).digest()
        return np.random.default_rng(np.frombuffer(digest, dtype="<u4").tolist())


def _list(split: str, images: int, images_per_patient: int) -> Iterator[tuple[Record, _Place]]:
    for first in range(0, images, images_per_patient):
        patient = f"{split}-{first // images_per_patient + 1:04d}"
        count = min(images_per_patient, images - first)
        for index in range(count):
            # The id tells the patient's count, so that the id alone fixes how far apart the slices are.
            yield Record(f"{patient}-{index + 1:02d}of{count:02d}", patient, split), _Place(index, count)
