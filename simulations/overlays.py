"""One picture that shows, for one image, what plain SAM and the bank make of it; only a researcher may look."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from casam_fed.data.painting import Masks, painted

__all__ = ["draw_overlay"]

_SIDE = 320
_MARGIN, _CAPTION, _LEAST_WIDTH = 10, 26, 180
_INK, _DIM, _PAPER = (28, 39, 51), (105, 115, 125), (255, 255, 255)


def draw_overlay(
    image: npt.NDArray[np.uint8], truth: Masks, zero_shot: Masks, ours: Masks, iou_zero: float, iou_ours: float
) -> bytes:
    """Draw four panels in a row: the image, the truth, zero-shot SAM and ours, the last two with their IoU.

    Each panel's longest side has 320 px. Targets are filled and outlined; their colours repeat after ten.

    Args:
        image: uint8 [H, W, 3].
        truth: bool [N, H, W], one plane a target.
        zero_shot: bool [N, H, W], the masks of plain SAM for the same targets.
        ours: bool [N, H, W], the masks of the bank.
        iou_zero: mean IoU of `zero_shot`, 0..1.
        iou_ours: mean IoU of `ours`, 0..1.

    Returns:
        A PNG file; the same arguments give the same bytes.
    """
    assert truth.shape == zero_shot.shape == ours.shape, (truth.shape, zero_shot.shape, ours.shape)
    assert image.shape == (*truth.shape[1:], 3), (image.shape, truth.shape)
    scale = _SIDE / max(image.shape[:2])
    height, width = (max(1, round(length * scale)) for length in image.shape[:2])
    columns = [
        ("image", "", None),
        ("truth", "", truth),
        ("zero-shot SAM", f"IoU {iou_zero:.3f}", zero_shot),
        ("ours", f"IoU {iou_ours:.3f}", ours),
    ]
    cell = max(width, _LEAST_WIDTH)
    size = (len(columns) * (cell + _MARGIN) + _MARGIN, height + _CAPTION + 2 * _MARGIN)
    sheet = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, (title, score, targets) in enumerate(columns):
        left = _MARGIN + number * (cell + _MARGIN)
        sheet.paste(painted(image, targets, (width, height)), (left, _MARGIN + _CAPTION))
        _caption(pen, title, score, left)
    file = io.BytesIO()
    sheet.save(file, format="PNG", optimize=True)
    return file.getvalue()


def _caption(pen: ImageDraw.ImageDraw, title: str, score: str, left: int) -> None:
    font: Any = ImageFont.load_default(size=15)
    pen.text((left, _MARGIN), title, font=font, fill=_INK)
    if score:
        pen.text((left + pen.textlength(f"{title}  ", font=font), _MARGIN), score, font=font, fill=_DIM)
