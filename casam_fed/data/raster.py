"""Raster images and masks from disk, PNG, JPEG or TIFF: what every reader of flat images shares.

What cannot be read in exactly one way stops with a `DataError`; what had to be altered to fit is counted in `facts`, which
`fact_sentences` turns into notes.
"""

import unicodedata
from collections import Counter
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from casam_fed.data.layout import require_folder
from casam_fed.errors import DataError

__all__ = [
    "JPEG_THRESHOLD",
    "MAX_LABEL",
    "MAX_PIXELS",
    "SUFFIXES",
    "LabelValues",
    "Labels",
    "fact_sentences",
    "list_rasters",
    "present_values",
    "read_binary_mask",
    "read_image",
    "read_labels",
    "require_same_size",
    "require_values",
]

MAX_PIXELS: Final = 8192 * 8192
"""Images above this are refused: a few kilobytes of PNG can claim gigabytes of pixels."""

JPEG_THRESHOLD: Final = 128
RESCALE_PERCENTILES: Final = (0.5, 99.5)
MAX_LABEL: Final = 2**16 - 1

_FORMATS: Final = ("PNG", "JPEG", "TIFF")
_LOSSY: Final = frozenset({"JPEG", "MPO"})
SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff"})
_LITTER: Final = frozenset({"thumbs.db", "desktop.ini"})
_DEEP_GREY: Final = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I", "F"})
_SHALLOW: Final = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA"})
_TOO_LARGE: Final = f"claims more than {MAX_PIXELS:,} pixels; cut it, and its mask, into tiles"
_ORIENTATION_TAG, _BITS_TAG, _PHOTOMETRIC_TAG = 274, 258, 262

Labels = Literal["binary", "classes", "instances"]
"""What the values of a mask mean; see `casam_fed.data.folder.open_folder`."""

LabelValues = npt.NDArray[np.int32]


def list_rasters(folder: Path) -> dict[str, Path]:
    """Return the images of a folder by name before the dot; hidden files and litter of operating systems are ignored.

    Raises:
        DataError: the folder is missing, two files share a name, or a file is of another kind.
    """
    require_folder(folder)
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name.lower() in _LITTER:
            continue
        if path.is_dir() or path.suffix.lower() not in SUFFIXES:
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
            problem = _TOO_LARGE if image.width * image.height > MAX_PIXELS else None
            if problem is None:
                image.verify()
        with Image.open(path, formats=_FORMATS) as image:
            problem = problem or _pages_or_turned(image)
            if problem is None:
                image.load()
                return image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        problem = _TOO_LARGE
    except Exception as error:  # Pillow raises a dozen unrelated types on damaged files.
        reason = "its content is none of these" if isinstance(error, UnidentifiedImageError) else error
        problem = f"cannot be read as PNG, JPEG or TIFF ({reason}); replace it with an intact copy"
    raise DataError(f"{path} {problem}")


def _pages_or_turned(image: Image.Image) -> str | None:
    """Return why an image cannot be taken as it stands in its file, and the mend."""
    pages = getattr(image, "n_frames", 1)
    if pages != 1:
        return f"holds {pages} pages or frames; save each as a file of its own, with its own mask"
    orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    if orientation != 1:
        return (
            f"carries EXIF orientation {orientation}, so that it is unknown whether image and mask are turned alike; "
            "save both upright without the tag"
        )
    return None


def read_image(path: Path, facts: Counter[str]) -> npt.NDArray[np.uint8]:
    """Return an image as uint8 [H, W, 3].

    Grey is repeated, transparency dropped; 16-bit, 32-bit and float grey is rescaled from its 0.5th to 99.5th percentile
    to 0..255, counted as "rescaled"; 16-bit colour keeps its high byte, counted as "high byte".

    Raises:
        DataError: the file is damaged, too large, turned by EXIF, or not an image of one page.
    """
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


def read_binary_mask(path: Path, facts: Counter[str]) -> npt.NDArray[np.bool_]:
    """Return a mask of 0 and 1, or 0 and 255, as bool [H, W]; a JPEG is thresholded at 128, counted as "jpeg".

    Raises:
        DataError: as `read_labels`, or the mask holds any other value.
    """
    values = read_labels(path, "binary", facts)
    present = present_values(values, path)
    allowed = {255} if 255 in present else {1}
    require_values(present, allowed, path, "set labels to classes or instances, or save it with 0 and 255 only")
    return values > 0


def read_labels(path: Path, labels: Labels, facts: Counter[str]) -> LabelValues:
    """Return the label values of a mask, int32 [H, W]; palettes are read by index, colour only where it is grey.

    Raises:
        DataError: the file is damaged, too large, turned by EXIF, or coloured, or a JPEG although `labels` is not "binary".
    """
    image = _load(path)
    if problem := _no_labels(image, labels, path):
        raise DataError(f"mask {path} {problem}")
    values = np.asarray(image).astype(np.int32)
    grey = values[:, :, 0] if values.ndim == 3 else values
    return _thresholded(grey, facts) if image.format in _LOSSY else grey


def _no_labels(image: Image.Image, labels: Labels, path: Path) -> str | None:
    """Return why the pixels of a mask are no label values that can be read in exactly one way, and the mend."""
    if image.mode not in _SHALLOW | _DEEP_GREY - {"F"}:
        return f"has pixels of mode {image.mode}, no label values; save it as 8- or 16-bit grey"
    # Optimisers reorder palettes: an index is a label only where background is still entry 0.
    if image.mode == "PA" or (image.mode == "P" and (image.getpalette("RGB") or [1])[:3] != [0, 0, 0]):
        return (
            "has a palette whose entry 0 is not opaque black, so that its indices may be no label values; "
            "save it as 8- or 16-bit grey"
        )
    values = np.asarray(image)
    if values.ndim == 3 and (reason := _no_grey(image, values, path)):
        return f"is an {image.mode} image that cannot be read as labels ({reason}); save it as grey"
    if image.format not in _LOSSY:
        return None
    if labels != "binary":
        return f"is a JPEG, which alters label values; save the {labels} as PNG or TIFF"
    brightest = int((values[:, :, 0] if values.ndim == 3 else values).max())
    if 0 < brightest < JPEG_THRESHOLD:
        return (
            f"is a JPEG whose brightest pixel is {brightest}, below the threshold {JPEG_THRESHOLD}; "
            "save it as PNG with 0 and 255"
        )
    return None


def _no_grey(image: Image.Image, values: npt.NDArray[np.uint8], path: Path) -> str | None:
    alpha = image.mode.endswith("A")
    colours = values[:, :, :-1] if alpha else values
    compared: npt.NDArray[np.generic] = colours >= JPEG_THRESHOLD if image.format in _LOSSY else colours
    if (compared != compared[:, :, :1]).any():
        return "its red, green and blue differ, and which colour means which class is not in the file"
    if alpha and (values[:, :, -1] != 255).any():
        return "it is partly transparent"
    return "it has several 16-bit channels" if _bits(image, path) > 8 else None


def _thresholded(values: LabelValues, facts: Counter[str]) -> LabelValues:
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


def present_values(values: LabelValues, path: Path) -> npt.NDArray[np.intp]:
    """Return the label values that occur, ascending, without 0.

    Raises:
        DataError: a value is outside 0 to 65535.
    """
    for value in (int(values.min()), int(values.max())):
        if not 0 <= value <= MAX_LABEL:
            raise DataError(f"mask {path} holds the value {value}, outside 0 to {MAX_LABEL}; save it as 16-bit grey")
    counts = np.bincount(values.ravel())
    counts[0] = 0
    return np.flatnonzero(counts)


def require_values(present: npt.NDArray[np.intp], allowed: set[int], path: Path, mend: str) -> None:
    """Stop with a `DataError` that ends in `mend` where a value occurs that is not allowed."""
    if strangers := [int(value) for value in present if value not in allowed]:
        expected = ", ".join(str(value) for value in sorted({0} | allowed))
        raise DataError(f"mask {path} holds the value {strangers[0]} where only {expected} are declared; {mend}")


def require_same_size(
    image: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_], image_path: Path, mask_path: Path
) -> None:
    """Stop with a `DataError` where image [H, W, 3] and mask [H, W] are of different size."""
    if mask.shape != image.shape[:2]:
        raise DataError(
            f"image {image_path} is {image.shape[1]} x {image.shape[0]} pixels but its mask {mask_path} is "
            f"{mask.shape[1]} x {mask.shape[0]}; export both at the same size"
        )


def fact_sentences(totals: Counter[str]) -> list[str]:
    """Return a sentence for each kind of fact that was counted while reading; "samples" and "empty" are the reader's."""
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
