"""The `folder` reader: images and masks paired by name, the layout every annotation tool can export.

Either ROOT/images and ROOT/masks (not yet split), or ROOT/{train,test}/{images,masks} (split fixed by the owner). What
cannot be read in exactly one way stops with a `DataError`; what had to be altered to fit is counted in `notes`.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from casam_fed.data.sample import Record, Sample
from casam_fed.errors import ConfigError, DataError

__all__ = ["MAX_PIXELS", "FolderReader", "Labels"]

Labels = Literal["binary", "classes", "instances"]

MAX_PIXELS: Final = 8192 * 8192
"""Images above this are refused: a few kilobytes of PNG can claim gigabytes of pixels."""

JPEG_THRESHOLD: Final = 128
RESCALE_PERCENTILES: Final = (0.5, 99.5)

_FORMATS: Final = ("PNG", "JPEG", "TIFF")
_LOSSY: Final = frozenset({"JPEG", "MPO"})
_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff"})
_LITTER: Final = frozenset({"thumbs.db", "desktop.ini"})
_DEEP_GREY: Final = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I", "F"})
_SHALLOW: Final = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA"})
_MAX_LABEL: Final = 2**16 - 1
_ORIENTATION_TAG, _BITS_TAG, _PHOTOMETRIC_TAG = 274, 258, 262

Values = npt.NDArray[np.int32]


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
        image = _read_image(pair.image, facts)
        values = _read_mask(pair.mask, self._labels, facts)
        if values.shape != image.shape[:2]:
            raise DataError(
                f"image {pair.image} is {image.shape[1]} x {image.shape[0]} pixels but its mask {pair.mask} is "
                f"{values.shape[1]} x {values.shape[0]}; export both at the same size"
            )
        masks, instances = self._annotation(values, pair.mask)
        facts["empty"] += not any(mask.any() for mask in masks.values())
        self._note(record.id, facts)
        return Sample(record.id, record.patient, image, masks, instances)

    @cached_property
    def _pairs(self) -> dict[str, _Pair]:
        pairs = [
            _Pair(Record(_id(stem, split), self._patient_of(stem, split, image), split), image, mask)
            for split, folder in _parts(self._root)
            for stem, image, mask in _paired(folder)
        ]
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
        self, values: Values, path: Path
    ) -> tuple[dict[str, npt.NDArray[np.bool_]], dict[str, npt.NDArray[np.int32]]]:
        present = _present_values(values, path)
        if self._labels == "classes":
            _require(present, set(self._values.values()), path, "add the value to the classes or repair the mask")
            return {name: values == value for name, value in self._values.items()}, {}
        (name,) = self.classes
        if self._labels == "binary":
            allowed = {255} if 255 in present else {1}
            _require(present, allowed, path, "set labels to classes or instances, or save it with 0 and 255 only")
            return {name: values > 0}, {}
        if present.tolist() == [255]:
            raise DataError(
                f"mask {path} holds only 0 and 255, which is a binary mask and not instance numbers; "
                "set labels to binary, or number the instances from 1"
            )
        numbers = np.zeros(_MAX_LABEL + 1, dtype=np.int32)
        numbers[present] = np.arange(1, present.size + 1)
        return {name: values > 0}, {name: numbers[values]}

    def _note(self, record_id: str, facts: Counter[str]) -> None:
        if record_id not in self._met:
            self._met.add(record_id)
            self._totals.update(facts)
            self.notes[:] = _sentences(self._totals)


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
    if wrong := [name for name, value in values.items() if not 1 <= value <= _MAX_LABEL]:
        raise ConfigError(f"class {wrong[0]!r} has pixel value {values[wrong[0]]}; use 1 to {_MAX_LABEL}")
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


def _paired(folder: Path) -> list[tuple[str, Path, Path]]:
    images, masks = _files(folder / "images"), _files(folder / "masks")
    if not images and not masks:
        raise DataError(f"{folder / 'images'} holds no image; put PNG, JPEG or TIFF files there")
    for these, others, kind, other in ((images, masks, "image", "mask"), (masks, images, "mask", "image")):
        if alone := sorted(these.keys() - others.keys()):
            more = f" (and {len(alone) - 1} more like it)" if len(alone) > 1 else ""
            raise DataError(
                f"{kind} {these[alone[0]]} has no {other} in {folder / f'{other}s'}{more}; "
                f"add a file named {alone[0]!r} with any extension there, or remove the {kind}"
            )
    return [(stem, images[stem], masks[stem]) for stem in images]


def _files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"the folder {folder} is missing; create it or correct the data path")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name.lower() in _LITTER:
            continue
        if path.is_dir() or path.suffix.lower() not in _SUFFIXES:
            raise DataError(f"{path} is not a PNG, JPEG or TIFF file; convert it or take it out of {folder.name}/")
        # macOS decomposes accents in names: without this an image and its mask may fail to find each other.
        stem = unicodedata.normalize("NFC", path.stem)
        if stem in files:
            raise DataError(f"{files[stem]} and {path} share the name {stem!r}; rename or remove one of them")
        files[stem] = path
    return files


def _load(path: Path) -> Image.Image:
    try:
        # Only verify() compares the checksums of a PNG, and it leaves the file unusable: hence opened twice.
        with Image.open(path, formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{image.width} x {image.height}")
            image.verify()
        with Image.open(path, formats=_FORMATS) as image:
            _refuse_pages_and_turns(image, path)
            image.load()
            return image
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{path} claims more than {MAX_PIXELS:,} pixels; cut it, and its mask, into tiles") from error
    except Exception as error:  # Pillow raises a dozen unrelated types on damaged files.
        reason = "its content is none of these" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(
            f"{path} cannot be read as PNG, JPEG or TIFF ({reason}); replace it with an intact copy"
        ) from error


def _refuse_pages_and_turns(image: Image.Image, path: Path) -> None:
    pages = getattr(image, "n_frames", 1)
    if pages != 1:
        raise DataError(f"{path} holds {pages} pages or frames; save each as a file of its own, with its own mask")
    orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    if orientation != 1:
        raise DataError(
            f"{path} carries EXIF orientation {orientation}, so that it is unknown whether image and mask are turned "
            "alike; save both upright without the tag"
        )


def _read_image(path: Path, facts: Counter[str]) -> npt.NDArray[np.uint8]:
    image = _load(path)
    if image.mode in _DEEP_GREY:
        facts["rescaled"] += 1
        grey = _rescaled(np.asarray(image), path)
        # Pillow turns 8-bit "white is zero" TIFFs right side up, but not deeper ones.
        if isinstance(image, TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC_TAG) == 0:
            grey = 255 - grey
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode not in _SHALLOW:
        raise DataError(f"image {path} has pixels of mode {image.mode}; save it as grey or RGB")
    facts["high byte"] += _bits(image, path) > 8
    return np.array(image.convert("RGB"))


def _rescaled(pixels: npt.NDArray[np.generic], path: Path) -> npt.NDArray[np.uint8]:
    grey = pixels.astype(np.float64)
    if not np.isfinite(grey).all():
        raise DataError(f"image {path} holds values that are not finite; export it again without them")
    low, high = np.percentile(grey, RESCALE_PERCENTILES)
    if low == high:  # Nearly all pixels alike: a few bright spots on black are still an image.
        low, high = grey.min(), grey.max()
    span = high - low if high > low else 1.0
    scaled: npt.NDArray[np.uint8] = np.round(np.clip((grey - low) / span, 0, 1) * 255).astype(np.uint8)
    return scaled


def _read_mask(path: Path, labels: Labels, facts: Counter[str]) -> Values:
    image = _load(path)
    if image.mode not in _SHALLOW | _DEEP_GREY - {"F"}:
        raise DataError(f"mask {path} has pixels of mode {image.mode}, no label values; save it as 8- or 16-bit grey")
    values = np.asarray(image).astype(np.int32)
    if image.mode in ("P", "PA"):
        values = _palette_values(image, path)
    elif values.ndim == 3:
        values = _grey_of_colour(image, values, path)
    if image.format not in _LOSSY:
        return values
    if labels != "binary":
        raise DataError(f"mask {path} is a JPEG, which alters label values; save the {labels} as PNG or TIFF")
    return _thresholded(values, path, facts)


def _palette_values(image: Image.Image, path: Path) -> Values:
    # Optimisers reorder palettes: an index is a label only where background is still entry 0.
    if image.mode == "PA" or (image.getpalette("RGB") or [1])[:3] != [0, 0, 0]:
        raise DataError(
            f"mask {path} has a palette whose entry 0 is not opaque black, so that its indices may be no label values; "
            "save it as 8- or 16-bit grey"
        )
    return np.asarray(image).astype(np.int32)


def _grey_of_colour(image: Image.Image, values: Values, path: Path) -> Values:
    alpha = image.mode.endswith("A")
    colours = values[:, :, :-1] if alpha else values
    compared = colours >= JPEG_THRESHOLD if image.format in _LOSSY else colours
    if (compared != compared[:, :, :1]).any():
        reason = "its red, green and blue differ, and which colour means which class is not in the file"
    elif alpha and (values[:, :, -1] != 255).any():
        reason = "it is partly transparent"
    elif _bits(image, path) > 8:
        reason = "it has several 16-bit channels"
    else:
        return colours[:, :, 0]
    raise DataError(f"mask {path} is an {image.mode} image that cannot be read as labels ({reason}); save it as grey")


def _thresholded(values: Values, path: Path, facts: Counter[str]) -> Values:
    if 0 < values.max() < JPEG_THRESHOLD:
        raise DataError(
            f"mask {path} is a JPEG whose brightest pixel is {values.max()}, below the threshold {JPEG_THRESHOLD}; "
            "save it as PNG with 0 and 255"
        )
    facts["jpeg"] += 1
    facts["jpeg pixels"] += values.size
    facts["jpeg between"] += int(((values > 0) & (values < 255)).sum())
    return (values >= JPEG_THRESHOLD).astype(np.int32)


def _bits(image: Image.Image, path: Path) -> int:
    # Pillow hands out 16-bit colour as 8-bit without a word; only the file says what it was.
    if isinstance(image, TiffImageFile):
        return int(max(image.tag_v2.get(_BITS_TAG, (1,))))
    if image.format != "PNG":
        return 8
    with path.open("rb") as file:
        return file.read(25)[24]  # PNG specification 11.2.1: signature 8, chunk header 8, width 4, height 4, depth 1


def _present_values(values: Values, path: Path) -> npt.NDArray[np.intp]:
    for value in (int(values.min()), int(values.max())):
        if not 0 <= value <= _MAX_LABEL:
            raise DataError(f"mask {path} holds the value {value}, outside 0 to {_MAX_LABEL}; save it as 16-bit grey")
    counts = np.bincount(values.ravel())
    counts[0] = 0
    return np.flatnonzero(counts)


def _require(present: npt.NDArray[np.intp], allowed: set[int], path: Path, mend: str) -> None:
    if strangers := [int(value) for value in present if value not in allowed]:
        expected = ", ".join(str(value) for value in sorted({0} | allowed))
        raise DataError(f"mask {path} holds the value {strangers[0]} where only {expected} are declared; {mend}")


def _sentences(totals: Counter[str]) -> list[str]:
    low, high = RESCALE_PERCENTILES
    sentences = {
        "empty": f"Empty masks: {totals['empty']} of {totals['samples']} read so far; they are kept, not replaced.",
        "jpeg": (
            f"JPEG masks: {totals['jpeg']} thresholded at {JPEG_THRESHOLD}; {totals['jpeg between']:,} of their "
            f"{totals['jpeg pixels']:,} pixels were neither 0 nor 255."
        ),
        "rescaled": f"Deep grey images: {totals['rescaled']} rescaled from their {low}th to {high}th percentile.",
        "high byte": f"16-bit colour images: {totals['high byte']} reduced to their high byte.",
    }
    return [sentence for fact, sentence in sentences.items() if totals[fact]]
