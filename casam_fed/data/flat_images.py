"""What all readers of flat images share: list pairs of an image and a mask once, read them one at a time, keep the notes.

A layout says where its owner put images and masks (a function that returns a `Listing`) and what a mask file means;
`FlatReader` does the rest.
"""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from casam_fed.data.pairing import require_paired
from casam_fed.data.raster import (
    JPEG_THRESHOLD,
    fact_sentences,
    read_binary_mask,
    read_image,
    read_labels,
    require_same_size,
)
from casam_fed.data.sample import Record, Sample
from casam_fed.data.volume import Intensity
from casam_fed.errors import DataError

__all__ = [
    "Annotation",
    "AnnotationReader",
    "FlatReader",
    "Listing",
    "Pair",
    "binary",
    "examples",
    "left_out_note",
    "soft_binary",
]

_SHOWN: Final = 3
_CLEAR_BACKGROUND, _CLEAR_FOREGROUND = 32, 223
_MAX_UNCLEAR: Final = 0.1


@dataclass(frozen=True)
class Annotation:
    """What a mask file says: bool [H, W] for every class, and int32 [H, W] where it tells instances apart."""

    masks: dict[str, npt.NDArray[np.bool_]]
    instances: dict[str, npt.NDArray[np.int32]] = field(default_factory=dict)


AnnotationReader = Callable[[Path, Counter[str]], Annotation]
"""From a mask file to its annotation; facts about what was altered are counted."""


@dataclass(frozen=True)
class Pair:
    """A record with the files of its image and its mask."""

    record: Record
    image: Path
    mask: Path


@dataclass(frozen=True)
class Listing:
    """All pairs of a dataset, in any order, and sentences about what was left out or decided while listing them.

    `alone` has a sentence for every image or mask without the other, which no dataset may have.
    """

    pairs: Sequence[Pair]
    notes: Sequence[str] = field(default=())
    alone: Sequence[str] = field(default=())


class FlatReader:
    """Reads a dataset of flat images (`casam_fed.data.sample.Reader`); constructing it touches no file.

    Args:
        root: the folder of the dataset, for sentences only.
        classes: the target classes in their order.
        listing: returns the pairs; called once, when records are first asked for. No pixels are read in it.
        read_mask: from a mask file to bool [H, W] for every class.
    """

    def __init__(
        self, root: Path, classes: Sequence[str], listing: Callable[[], Listing], read_mask: AnnotationReader
    ) -> None:
        self._root = root
        self._list = listing
        self._read_mask = read_mask
        self._met: set[str] = set()
        self._totals: Counter[str] = Counter()
        self._listed: tuple[str, ...] = ()
        self.classes: tuple[str, ...] = tuple(classes)
        self.notes: list[str] = []
        self.intensity: Intensity | None = None

    def records(self) -> list[Record]:
        """Return all records, sorted by id; file names are listed, no image is opened.

        Raises:
            DataError: the files do not follow the layout, there is no pair at all, or two pairs have the same id.
        """
        return [pair.record for pair in self._pairs.values()]

    def read(self, record: Record) -> Sample:
        """Return the sample of `record` at source resolution; `notes` then covers it too.

        Raises:
            DataError: the record is unknown, a file is unreadable, or image and mask do not fit together.
        """
        pair = self._pairs.get(record.id)
        if pair is None:
            raise DataError(f"{self._root} has no image {record.id!r}; list the dataset again with records()")
        facts: Counter[str] = Counter(samples=1)
        image = read_image(pair.image, facts)
        annotation = self._read_mask(pair.mask, facts)
        require_same_size(image, next(iter(annotation.masks.values())), pair.image, pair.mask)
        facts["empty"] += not any(mask.any() for mask in annotation.masks.values())
        self._note(record.id, facts)
        return Sample(record.id, record.patient, image, annotation.masks, annotation.instances)

    @cached_property
    def _pairs(self) -> dict[str, Pair]:
        listing = self._list()
        require_paired(listing.alone)
        if not listing.pairs:
            raise DataError(f"{self._root} holds no image with a mask; check that the dataset was unpacked whole")
        pairs: dict[str, Pair] = {}
        for pair in sorted(listing.pairs, key=lambda pair: pair.record.id):
            other = pairs.setdefault(pair.record.id, pair)
            if other is not pair:
                raise DataError(
                    f"{other.image} and {pair.image} are both listed as {pair.record.id!r}; rename or remove one of them"
                )
        self._listed = tuple(listing.notes)
        self.notes[:] = self._listed
        return pairs

    def _note(self, record_id: str, facts: Counter[str]) -> None:
        if record_id not in self._met:
            self._met.add(record_id)
            self._totals.update(facts)
            self.notes[:] = [*self._listed, *fact_sentences(self._totals), *_soft_sentence(self._totals)]


def binary(name: str) -> AnnotationReader:
    """Return a reader of masks of 0 and 1, or 0 and 255, of the single class `name`; a JPEG is thresholded at 128."""
    return partial(_only, name, read_binary_mask)


def soft_binary(name: str) -> AnnotationReader:
    """Return a reader as `binary`, which also takes masks of nearly 0 and nearly 255 and thresholds them at 128.

    Such masks were JPEGs, or were resized, before they were saved as PNG. They are counted as "soft". Refused are masks
    without a pixel of 128 or more, with values above 255, or where more than a tenth of the pixels are of middling grey.
    """
    return partial(_only, name, _soft_mask)


# With named functions in place of lambdas a reader can be sent to a worker process.
def _only(
    name: str, read: Callable[[Path, Counter[str]], npt.NDArray[np.bool_]], path: Path, facts: Counter[str]
) -> Annotation:
    return Annotation({name: read(path, facts)})


def _soft_mask(path: Path, facts: Counter[str]) -> npt.NDArray[np.bool_]:
    values = read_labels(path, "binary", facts)
    between = (values != 0) & (values != 255)
    if not between.any() or {int(values.min()), int(values.max())} <= {0, 1}:
        return values > 0
    unclear = float(((values > _CLEAR_BACKGROUND) & (values < _CLEAR_FOREGROUND)).mean())
    if values.min() < 0 or not JPEG_THRESHOLD <= values.max() <= 255 or unclear > _MAX_UNCLEAR:
        raise DataError(
            f"mask {path} is no binary mask: its values reach from {values.min()} to {values.max()}, and {unclear:.0%} of "
            "its pixels are of middling grey; save it with 0 and 255 only"
        )
    facts["soft"] += 1
    facts["soft pixels"] += values.size
    facts["soft between"] += int(between.sum())
    return values >= JPEG_THRESHOLD


def _soft_sentence(totals: Counter[str]) -> list[str]:
    if not totals["soft"]:
        return []
    return [
        f"Masks with shades of grey: {totals['soft']} thresholded at {JPEG_THRESHOLD}; {totals['soft between']:,} of "
        f"their {totals['soft pixels']:,} pixels were neither 0 nor 255."
    ]


def left_out_note(images_alone: Collection[str], masks_alone: Collection[str]) -> list[str]:
    """Return the sentence about images without a mask and masks without an image, or nothing where all pair up."""
    parts = [
        f"{len(names)} {kind} ({examples(names)})"
        for names, kind in ((images_alone, "without a mask"), (masks_alone, "without an image"))
        if names
    ]
    return [f"Left out, as the release lacks the other half: {' and '.join(parts)}."] if parts else []


def examples(names: Collection[str]) -> str:
    """Return the first names, sorted, and how many more there are."""
    shown = ", ".join(sorted(names)[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown
