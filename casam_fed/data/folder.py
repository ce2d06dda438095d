"""The `folder` reader: images and masks paired by name, the layout every annotation tool can export.

Either ROOT/images and ROOT/masks (not yet split), or ROOT/{train,test}/{images,masks} (split fixed by the owner). What
cannot be read in exactly one way stops with a `DataError`; what had to be altered to fit is counted in `notes`.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt

from casam_fed.data.pairing import pair_by_name, require_paired
from casam_fed.data.raster import (
    MAX_LABEL,
    Labels,
    fact_sentences,
    list_rasters,
    present_values,
    read_binary_mask,
    read_image,
    read_labels,
    require_same_size,
    require_values,
)
from casam_fed.data.sample import Record, Sample
from casam_fed.errors import ConfigError, DataError

__all__ = ["FolderReader", "Labels"]


@dataclass(frozen=True)
class _Pair:
    record: Record
    image: Path
    mask: Path


class FolderReader:
    """Reads a folder of PNG, JPEG or TIFF images and their masks; an image and its mask share the name before the dot.

    Hidden files (.DS_Store, ._name) are ignored. Record ids are that name, with "train/" or "test/" in front where the
    split is fixed. Images become uint8 [H,W,3]: grey is repeated, transparency dropped, 16-bit (or 32-bit, or float)
    grey is rescaled per image from its 0.5th to 99.5th percentile to 0..255, because scanners seldom fill their 16 bits
    and one hot pixel must not darken the rest; 16-bit colour keeps its high byte.

    Masks hold label values, as `labels` says:
        "binary": 0 and 1, or 0 and 255, of the single class. A JPEG mask is thresholded at 128.
        "classes": 0 background, then the values of `classes`.
        "instances": 0 background, any other value one instance of the single class, renumbered 1..N in order.
    Palette masks are read by index. RGB(A) masks are read as grey where the channels are equal (for JPEG: fall on the
    same side of the threshold) and nothing is transparent, and refused otherwise. EXIF orientation other than upright
    is refused in images and masks alike: the files do not say whether a mask follows the stored or the turned pixels.

    Args:
        root: the folder.
        classes: names in order, pixel values 1..K; or name -> pixel value (1..65535), for `labels="classes"`.
        labels: what the mask values mean.
        patient: regular expression searched in the file name without its extension; its first group, or else the whole
            match, is the patient id. None: every image is its own patient.

    Raises:
        ConfigError: an option is unknown, or options do not fit together.
    """

    def __init__(
        self,
        root: Path,
        classes: Sequence[str] | Mapping[str, int],
        labels: Labels = "binary",
        patient: str | None = None,
    ) -> None:
        self._root = root
        self._values = _declared_values(classes, labels)
        self._labels = labels
        self._patient = _compiled(patient)
        self._met: set[str] = set()
        self._totals: Counter[str] = Counter()
        self.classes: tuple[str, ...] = tuple(self._values)
        self.notes: list[str] = []

    def records(self) -> list[Record]:
        """Return all records, sorted by id; file names are listed, no file is opened.

        Raises:
            DataError: a folder is missing or empty, images and masks do not pair up, a file is of another kind, or a
                name does not match the patient expression.
        """
        return [pair.record for pair in self._pairs.values()]

    def read(self, record: Record) -> Sample:
        """Return the sample of `record` at source resolution; `notes` then covers it too.

        Raises:
            DataError: the record is unknown, a file is unreadable, sizes differ, or a label value is not declared.
        """
        pair = self._pairs.get(record.id)
        if pair is None:
            raise DataError(f"{self._root} has no image {record.id!r}; list the folder again with records()")
        facts: Counter[str] = Counter(samples=1)
        image = read_image(pair.image, facts)
        masks, instances = self._annotation(pair.mask, facts)
        require_same_size(image, next(iter(masks.values())), pair.image, pair.mask)
        facts["empty"] += not any(mask.any() for mask in masks.values())
        self._note(record.id, facts)
        return Sample(record.id, record.patient, image, masks, instances)

    @cached_property
    def _pairs(self) -> dict[str, _Pair]:
        alone: list[str] = []
        pairs = [
            _Pair(Record(_id(stem, split), self._patient_of(stem, split, image), split), image, mask)
            for split, folder in _parts(self._root)
            for stem, image, mask in _paired(folder, alone)
        ]
        require_paired(alone)
        return {pair.record.id: pair for pair in sorted(pairs, key=lambda pair: pair.record.id)}

    def _patient_of(self, stem: str, split: str | None, image: Path) -> str:
        if self._patient is None:
            return _id(stem, split)
        match = self._patient.search(stem)
        patient = match and (match.group(1) if self._patient.groups else match.group())
        if not patient:
            raise DataError(
                f"the patient expression {self._patient.pattern!r} finds no patient in the name {stem!r} of {image}; "
                "correct the expression or rename the file"
            )
        return patient

    def _annotation(
        self, path: Path, facts: Counter[str]
    ) -> tuple[dict[str, npt.NDArray[np.bool_]], dict[str, npt.NDArray[np.int32]]]:
        if self._labels == "binary":
            return {self.classes[0]: read_binary_mask(path, facts)}, {}
        values = read_labels(path, self._labels, facts)
        present = present_values(values, path)
        if self._labels == "classes":
            require_values(present, set(self._values.values()), path, "add the value to the classes or repair the mask")
            return {name: values == value for name, value in self._values.items()}, {}
        if present.tolist() == [255]:
            raise DataError(
                f"mask {path} holds only 0 and 255, which is a binary mask and not instance numbers; "
                "set labels to binary, or number the instances from 1"
            )
        numbers = np.zeros(MAX_LABEL + 1, dtype=np.int32)
        numbers[present] = np.arange(1, present.size + 1)
        return {self.classes[0]: values > 0}, {self.classes[0]: numbers[values]}

    def _note(self, record_id: str, facts: Counter[str]) -> None:
        if record_id not in self._met:
            self._met.add(record_id)
            self._totals.update(facts)
            self.notes[:] = fact_sentences(self._totals)


def _id(stem: str, split: str | None) -> str:
    return f"{split}/{stem}" if split else stem


def _declared_values(classes: Sequence[str] | Mapping[str, int], labels: str) -> dict[str, int]:
    if labels not in get_args(Labels):
        raise ConfigError(f"labels {labels!r} is unknown; choose one of {', '.join(get_args(Labels))}")
    if isinstance(classes, str) or not classes:
        raise ConfigError(f"classes must be a list of names, not {classes!r}; write one name per class")
    if labels != "classes" and (len(classes) != 1 or isinstance(classes, Mapping)):
        raise ConfigError(
            f"labels {labels!r} describe a single class without a pixel value, but classes are {classes!r}; "
            "give one name, or set labels to classes"
        )
    values = dict(classes) if isinstance(classes, Mapping) else {name: k for k, name in enumerate(classes, start=1)}
    if len(values) != len(classes) or len(set(values.values())) != len(values):
        raise ConfigError(f"classes {classes!r} repeat a name or a pixel value; give every class its own")
    if wrong := [name for name, value in values.items() if not 1 <= value <= MAX_LABEL]:
        raise ConfigError(f"class {wrong[0]!r} has pixel value {values[wrong[0]]}; use 1 to {MAX_LABEL}")
    return values


def _compiled(patient: str | None) -> re.Pattern[str] | None:
    try:
        return None if patient is None else re.compile(patient)
    except re.error as error:
        raise ConfigError(f"the patient expression {patient!r} is not a regular one ({error}); correct it") from error


def _parts(root: Path) -> list[tuple[str | None, Path]]:
    if not root.is_dir():
        raise DataError(f"the data folder {root} does not exist; check the path")
    flat = any((root / name).is_dir() for name in ("images", "masks"))
    parted = any((root / name).is_dir() for name in ("train", "test"))
    if flat == parted:
        found = "both layouts at once" if flat else "neither layout"
        raise DataError(
            f"{root} has {found}; it must hold images/ and masks/, or train/ and test/ with images/ and masks/ in each"
        )
    return [(None, root)] if flat else [("train", root / "train"), ("test", root / "test")]


def _paired(folder: Path, alone: list[str]) -> list[tuple[str, Path, Path]]:
    images, masks = list_rasters(folder / "images"), list_rasters(folder / "masks")
    if not images and not masks:
        raise DataError(f"{folder / 'images'} holds no image; put PNG, JPEG or TIFF files there")
    return pair_by_name(images, masks, folder / "images", folder / "masks", alone)
