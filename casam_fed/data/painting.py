"""Masks painted over an image: filled, outlined, one colour a mask."""

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

__all__ = ["Masks", "painted"]

_SUPERSAMPLING = 2
_FILL = 0.42

_COLOURS = np.array(
    [
        (255, 196, 0),
        (0, 190, 255),
        (255, 79, 129),
        (70, 210, 90),
        (255, 128, 0),
        (150, 110, 255),
        (0, 215, 190),
        (225, 70, 225),
        (190, 215, 0),
        (90, 140, 255),
    ],
    dtype=np.float64,
)
"""Bright on grey, dark and stained tissue alike; a target has the same colour in every panel."""

Masks = npt.NDArray[np.bool_]


def painted(image: npt.NDArray[np.uint8], masks: Masks | None, size: tuple[int, int]) -> Image.Image:
    """Return the image at `size` (width, height), with its masks painted where there are any.

    Args:
        image: uint8 [H, W, 3].
        masks: bool [N, H, W]; colours repeat after ten.
        size: of the result in pixels; it is drawn at twice the size and reduced, which smooths the outlines.
    """
    width, height = (length * _SUPERSAMPLING for length in size)
    pixels = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
    if masks is not None:
        pixels = _with_targets(pixels, masks)
    drawn = Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
    return drawn.resize(size, Image.Resampling.BOX)


def _with_targets(pixels: npt.NDArray[np.float64], masks: Masks) -> npt.NDArray[np.float64]:
    size = (pixels.shape[1], pixels.shape[0])
    fill, line = np.zeros_like(pixels), np.zeros_like(pixels)
    filled, lined, shaded = (np.zeros(pixels.shape[:2], dtype=bool) for _ in range(3))
    for number, mask in enumerate(masks):
        enlarged = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
        inside = np.asarray(enlarged) > 127
        if not inside.any():
            continue
        window = _window(inside)
        part = inside[window]
        edge = part & ~ndimage.binary_erosion(part, np.ones((7, 7)), border_value=1)
        shade = ndimage.binary_dilation(part, np.ones((3, 3))) & ~part
        colour = _COLOURS[number % len(_COLOURS)]
        fill[window][part], line[window][edge] = colour, colour
        filled[window] |= part
        lined[window] |= edge
        shaded[window] |= shade
    mixed = np.where(filled[..., None], (1 - _FILL) * pixels + _FILL * fill, pixels)
    mixed = np.where((shaded & ~lined)[..., None], 0.35 * mixed, mixed)
    return np.where(lined[..., None], line, mixed)


def _window(inside: Masks) -> tuple[slice, slice]:
    """Return the bounding box of a mask with room for its outline, so that many small targets cost little."""
    rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    return slice(max(rows[0] - 4, 0), rows[-1] + 5), slice(max(columns[0] - 4, 0), columns[-1] + 5)
