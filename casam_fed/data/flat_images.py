"""What the readers of flat images share: list pairs of an image and a mask once, read them one at a time, keep the notes.

A reader of this package says where its owner put images and masks (a function that returns a `Listing`); `FlatPairs` does
the rest of the `Reader` protocol.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
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
from casam_fed.errors import DataError

__all__ = [
    "FlatPairs",
    "Listing",
    "MaskReader",
    "Pair",
    "binary",
    "examples",
    "find_folder",
    "folders_in",
    "left_out_note",
    "require_root",
    "soft_binary",
    "without_ends",
]

Masks = dict[str, npt.NDArray[np.bool_]]

MaskReader = Callable[[Path, Counter[str]], Masks]
"""From a mask file to bool [H, W] for every class; facts about what was altered are counted."""

_SHOWN: Final = 3
_CLEAR_BACKGROUND, _CLEAR_FOREGROUND = 32, 223
_MAX_UNCLEAR: Final = 0.1


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


class FlatPairs:
    """The records and samples of a dataset of flat images; constructing it touches no file.

    Args:
        root: the folder of the dataset, for sentences only.
        listing: returns the pairs; called once, when records are first asked for. No pixels are read in it.
        read_masks: from a mask file to bool [H, W] for every class.
    """

    def __init__(self, root: Path, listing: Callable[[], Listing], read_masks: MaskReader) -> None:
        self._root = root
        self._list = listing
        self._read_masks = read_masks
        self._met: set[str] = set()
        self._totals: Counter[str] = Counter()
        self._listed: tuple[str, ...] = ()
        self.notes: list[str] = []

    def records(self) -> list[Record]:
        """Return all records, sorted by id; file names are listed, no image is opened.

        Raises:
            DataError: whatever the listing raises, there is no pair at all, or two pairs have the same id.
        """
        return [pair.record for pair in self._pairs.values()]

    def read(self, record: Record) -> Sample:
        """Return the sample of `record` at source resolution; `notes` then covers it too.

        Raises:
            DataError: the record is unknown, a file is unreadable, or image and mask differ in size.
        """
        pair = self._pairs.get(record.id)
        if pair is None:
            raise DataError(f"{self._root} has no image {record.id!r}; list the folder again with records()")
        facts: Counter[str] = Counter(samples=1)
        image = read_image(pair.image, facts)
        masks = self._read_masks(pair.mask, facts)
        require_same_size(image, next(iter(masks.values())), pair.image, pair.mask)
        facts["empty"] += not any(mask.any() for mask in masks.values())
        self._note(record.id, facts)
        return Sample(record.id, record.patient, image, masks, {})

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


def binary(name: str) -> MaskReader:
    """Return a reader of masks of 0 and 1, or 0 and 255, of the single class `name`; a JPEG is thresholded at 128."""
    return partial(_only, name, read_binary_mask)


def soft_binary(name: str) -> MaskReader:
    """Return a reader as `binary`, which also takes masks of nearly 0 and nearly 255 and thresholds them at 128.

    Such masks were JPEGs, or were resized, before they were saved as PNG. They are counted as "soft". Refused are masks
    without a pixel of 128 or more, with values above 255, or where more than a tenth of the pixels are of middling grey.
    """
    return partial(_only, name, _soft_mask)


# With named functions in place of lambdas a reader can be sent to a worker process.
def _only(
    name: str, read: Callable[[Path, Counter[str]], npt.NDArray[np.bool_]], path: Path, facts: Counter[str]
) -> Masks:
    return {name: read(path, facts)}


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


def folders_in(folder: Path) -> list[Path]:
    """Return the folders in `folder`, sorted by name, without hidden ones and the leftovers of macOS archives."""
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".") and path.name != "__MACOSX"
    )


def find_folder(folder: Path, names: Collection[str]) -> Path | None:
    """Return the folder in `folder` that has one of `names` (lower case), in whatever case it is written, or None.

    Raises:
        DataError: there are several.
    """
    found = [path for path in folders_in(folder) if path.name.lower() in names]
    if len(found) > 1:
        raise DataError(
            f"{folder} holds both {found[0].name}/ and {found[1].name}/, so that it is unknown which one is meant; "
            "take one of them out"
        )
    return found[0] if found else None


def without_ends(files: Mapping[str, Path], ends: tuple[str, ...]) -> dict[str, Path]:
    """Return files by name without the first of `ends` that the name has; names that have none stay.

    Raises:
        DataError: two files then share a name.
    """
    named: dict[str, Path] = {}
    for stem, path in files.items():
        name = stem.removesuffix(next((end for end in ends if stem.endswith(end)), ""))
        if name in named:
            raise DataError(f"{named[name]} and {path} both stand for {name!r}; rename or remove one of them")
        named[name] = path
    return named


def require_root(root: Path) -> None:
    """Stop with a `DataError` where the folder of a dataset does not exist."""
    if not root.is_dir():
        raise DataError(f"the data folder {root} does not exist; check the path")
