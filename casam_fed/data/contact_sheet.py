"""Contact sheets: many small images of a dataset on one page, each beside itself with its masks painted."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from casam_fed.data.painting import painted
from casam_fed.data.sample import Sample
from casam_fed.host.files import write_atomically

__all__ = ["CheckSheets", "ContactSheets", "draw_sheet"]

_SIDE, _MARGIN, _CAPTION, _COLUMNS = 160, 8, 18, 4
_INK, _PAPER = (28, 39, 51), (255, 255, 255)


@dataclass(frozen=True)
class _Thumbnail:
    caption: str
    image: Image.Image
    masks: Image.Image


class ContactSheets:
    """Collects thumbnails of samples and hands out a page as a PNG file whenever one is full.

    Args:
        rows: of a page, which shows four samples a row.
    """

    def __init__(self, rows: int = 6) -> None:
        self._rows = rows
        self._waiting: list[_Thumbnail] = []

    def add(self, sample: Sample) -> bytes | None:
        """Take a sample; return the page that it fills, or None."""
        scale = _SIDE / max(sample.image.shape[:2])
        height, width = (max(1, round(length * scale)) for length in sample.image.shape[:2])
        masks = _all_masks(sample)
        self._waiting.append(
            _Thumbnail(
                sample.id, painted(sample.image, None, (width, height)), painted(sample.image, masks, (width, height))
            )
        )
        return self.flush() if len(self._waiting) == self._rows * _COLUMNS else None

    def flush(self) -> bytes | None:
        """Return a page of what is left, or None."""
        if not self._waiting:
            return None
        page = draw_sheet(self._waiting)
        self._waiting = []
        return page


class CheckSheets:
    """Writes contact sheets as they fill up."""

    def __init__(self, folder: Path) -> None:
        """Write into `folder`, which is made when the first sheet is full."""
        self._folder, self._pages, self._count = folder, ContactSheets(), 0

    def add(self, sample: Sample) -> None:
        """Put one sample on the sheet."""
        self._write(self._pages.add(sample))

    def close(self) -> None:
        """Write the last sheet."""
        self._write(self._pages.flush())

    def __str__(self) -> str:
        """Say what was written."""
        return f"{self._count} contact sheets in {self._folder}"

    def _write(self, page: bytes | None) -> None:
        if page is not None:
            self._count += 1
            write_atomically(self._folder / f"sheet-{self._count:03d}.png", page)


def draw_sheet(thumbnails: Sequence[_Thumbnail]) -> bytes:
    """Return one page as a PNG file; the same thumbnails give the same bytes."""
    width, height = 2 * _SIDE + _MARGIN, _SIDE + _CAPTION + _MARGIN
    rows = math.ceil(len(thumbnails) / _COLUMNS)
    columns = min(_COLUMNS, len(thumbnails))
    sheet = Image.new("RGB", (_MARGIN + columns * (width + _MARGIN), _MARGIN + rows * height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    font: Any = ImageFont.load_default(size=11)
    for number, thumbnail in enumerate(thumbnails):
        row, column = divmod(number, _COLUMNS)
        left, top = _MARGIN + column * (width + _MARGIN), _MARGIN + row * height
        pen.text((left, top), _fitting(thumbnail.caption, font, pen, 2 * _SIDE), font=font, fill=_INK)
        sheet.paste(thumbnail.image, (left, top + _CAPTION))
        sheet.paste(thumbnail.masks, (left + _SIDE + 2, top + _CAPTION))
    file = io.BytesIO()
    sheet.save(file, format="PNG", optimize=True)
    return file.getvalue()


def _all_masks(sample: Sample) -> npt.NDArray[np.bool_]:
    """Return one plane an instance where they are told apart, otherwise one a class."""
    planes: list[npt.NDArray[np.bool_]] = []
    for name, mask in sample.masks.items():
        labels = sample.instances.get(name)
        planes += [mask] if labels is None else [labels == number for number in range(1, int(labels.max()) + 1)]
    return np.stack(planes) if planes else np.zeros((0, *sample.image.shape[:2]), dtype=bool)


def _fitting(text: str, font: Any, pen: ImageDraw.ImageDraw, width: int) -> str:
    while len(text) > 4 and pen.textlength(text, font=font) > width:
        text = f"…{text[2:]}"
    return text
