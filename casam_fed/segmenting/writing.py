"""Masks where viewers find them: a label map in the file's own grid and format, and a picture to look at."""

import gzip
import io
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from casam_fed.data.layout import without_suffix
from casam_fed.data.painting import painted
from casam_fed.data.raster import MAX_LABEL
from casam_fed.errors import DataError
from casam_fed.host.files import as_storage_error, write_atomically
from casam_fed.segmenting.case import Case, Grid

__all__ = ["LabelMap", "label_map", "mask_name", "overlay", "write_mask"]

_SIDE = 1024
_CAPTION = 30
_INK, _PAPER, _WARNING = (28, 39, 51), (255, 255, 255), (176, 32, 32)


@dataclass(frozen=True, eq=False)
class LabelMap:
    """One number a pixel.

    Attributes:
        values: uint8 or uint16 of the masks' shape; 0 is background.
        numbers: class -> its number, from 1.
        overlapping: pixels that more than one class claims; the later class has them.
    """

    values: npt.NDArray[Any]
    numbers: Mapping[str, int]
    overlapping: int


def label_map(masks: Mapping[str, npt.NDArray[np.bool_]]) -> LabelMap:
    """Return the label map of masks that share a shape; where they overlap, the later class has the pixel.

    Raises:
        DataError: there are more than 65,535 classes.
    """
    if len(masks) > MAX_LABEL:
        raise DataError(f"{len(masks):,} classes do not fit a label map; use fewer, or --per-class")
    first = next(iter(masks.values()))
    values = np.zeros(first.shape, dtype=np.uint8 if len(masks) < 256 else np.uint16)
    taken = np.zeros(first.shape, dtype=np.uint8)
    for number, mask in enumerate(masks.values(), start=1):
        values[mask] = number
        np.minimum(taken + mask, 2, out=taken)
    return LabelMap(values, {label: number for number, label in enumerate(masks, start=1)}, int((taken > 1).sum()))


def mask_name(case: Case, stem: str, what: str = "mask", picture: str = ".png") -> str:
    """Return the file name of a mask of a case: in the format of its file, of a picture as `picture`, of .mhd as .mha."""
    name = case.path.name
    end = picture if case.volume is None else name[len(without_suffix(case.path)) :].lower().replace(".mhd", ".mha")
    return f"{stem}.{what}{end}"


def write_mask(case: Case, values: npt.NDArray[Any], path: Path) -> None:
    """Write values of the masks' shape to `path`, whole or not at all: a picture as its name ends, a volume on its grid.

    Raises:
        StorageError: the file cannot be written.
    """
    if case.volume is None:
        file = io.BytesIO()
        Image.fromarray(values).save(file, format="PNG" if path.suffix == ".png" else "TIFF")
        write_atomically(path, file.getvalue())
    elif case.grid is not None and case.grid.nifti:
        write_atomically(path, _nifti(case.grid.nifti, values, path.name.endswith(".gz")))
    else:
        assert case.grid is not None
        _write_meta(case.grid, values, path)


def _nifti(header_bytes: bytes, values: npt.NDArray[Any], compressed: bool) -> bytes:
    import nibabel

    kind: Any = nibabel.Nifti2Image if len(header_bytes) == 540 else nibabel.Nifti1Image
    header = kind.header_class(header_bytes)
    affine = header.get_best_affine()
    # Labels are not scaled, the display range was that of the image, and what was noted of the image is not copied.
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    header["descrip"] = header["aux_file"] = b""
    header.set_data_dtype(values.dtype)
    data = bytes(kind(values, affine, header).to_bytes())
    return gzip.compress(data, compresslevel=6, mtime=0) if compressed else data


def _write_meta(grid: Grid, values: npt.NDArray[Any], path: Path) -> None:
    import SimpleITK

    mask = SimpleITK.GetImageFromArray(values)
    mask.SetOrigin(grid.origin)
    mask.SetSpacing(grid.spacing)
    mask.SetDirection(grid.direction)
    with as_storage_error("write", path, "free space or choose a folder that can be written, then run again"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".casam-") as folder:
            whole = Path(folder) / path.name
            try:
                SimpleITK.WriteImage(mask, str(whole), useCompression=True)
            except RuntimeError as error:
                raise OSError(f"SimpleITK could not write {path.name}") from error
            os.replace(whole, path)


def overlay(case: Case, masks: Mapping[str, npt.NDArray[np.bool_]], z: int, caption: str, *, warn: bool) -> bytes:
    """Return a PNG of plane `z` with its masks painted, and a caption below; in red where it is a warning.

    Args:
        case: the case.
        masks: class -> bool [Z, H, W].
        z: the plane.
        caption: a few words.
        warn: whether a person should look twice.
    """
    image = case.plane(z)
    scale = _SIDE / max(image.shape[:2])
    height, width = (max(1, round(length * scale)) for length in image.shape[:2])
    planes = np.stack([mask[z] for mask in masks.values()])
    sheet = Image.new("RGB", (width, height + _CAPTION), _PAPER)
    sheet.paste(painted(image, planes, (width, height)))
    font: Any = ImageFont.load_default(size=15)
    ImageDraw.Draw(sheet).text((8, height + 6), caption, font=font, fill=_WARNING if warn else _INK)
    file = io.BytesIO()
    sheet.save(file, format="PNG")
    return file.getvalue()
