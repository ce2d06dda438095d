"""How well a predicted mask covers the true one: IoU, Dice and two kinds of boundary IoU.

The two boundary IoUs look at bands of different shape and are not comparable with each other. In all four, two empty
masks agree perfectly and score 1; a mask against an empty one scores 0.
"""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import ndimage

__all__ = ["boundary_iou", "boundary_iou_casam", "dice", "iou"]

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]

_BAND_SHARE = 0.02


def iou(prediction: BoolArray, mask: BoolArray) -> FloatArray:
    """Return |P and M| / |P or M| of each pair of masks, float64 [N] in 0..1.

    Args:
        prediction: bool [N, H, W], or [H, W] for N = 1.
        mask: bool, of the same shape.
    """
    return _each(prediction, mask, _pair_iou)


def dice(prediction: BoolArray, mask: BoolArray) -> FloatArray:
    """Return 2 |P and M| / (|P| + |M|) of each pair of masks, float64 [N] in 0..1; arguments as `iou`."""
    return _each(prediction, mask, _pair_dice)


def boundary_iou(prediction: BoolArray, mask: BoolArray) -> FloatArray:
    """Return the Boundary IoU of Cheng et al. (CVPR 2021, arXiv 2103.16562, section 4), float64 [N] in 0..1.

    The IoU of what lies within d pixels (Chebyshev distance) of the contour inside each mask: mask minus mask eroded d
    times by 3x3, d = round(2% of the image diagonal), at least 1. The image's edge counts as background, as in their
    code. Arguments as `iou`.
    """
    return _each(prediction, mask, _pair_boundary_iou)


def boundary_iou_casam(prediction: BoolArray, mask: BoolArray) -> FloatArray:
    """Return the boundary IoU that CA-SAM reports (arXiv 2511.17201, experiments), float64 [N] in 0..1.

    The IoU of the two contours (mask minus mask eroded by 3x3: one pixel thick, inside the mask), each dilated by a
    k x k square, k the odd number nearest to 2% of the image diagonal. The image's edge counts as background, so that a
    mask cut off by it has its contour there. Arguments as `iou`.
    """
    return _each(prediction, mask, _pair_boundary_iou_casam)


def _each(prediction: BoolArray, mask: BoolArray, measure: Callable[[BoolArray, BoolArray], float]) -> FloatArray:
    assert prediction.dtype == mask.dtype == np.bool_, (prediction.dtype, mask.dtype)
    assert prediction.shape == mask.shape, (prediction.shape, mask.shape)
    shape = (-1, *prediction.shape[-2:]) if prediction.ndim == 2 else prediction.shape
    pairs = zip(prediction.reshape(shape), mask.reshape(shape), strict=True)
    return np.array([measure(p, m) for p, m in pairs], dtype=np.float64)


def _pair_iou(prediction: BoolArray, mask: BoolArray) -> float:
    overlap = np.count_nonzero(prediction & mask)
    union = np.count_nonzero(prediction) + np.count_nonzero(mask) - overlap
    return overlap / union if union else 1.0


def _pair_dice(prediction: BoolArray, mask: BoolArray) -> float:
    overlap = np.count_nonzero(prediction & mask)
    sizes = np.count_nonzero(prediction) + np.count_nonzero(mask)
    return 2 * overlap / sizes if sizes else 1.0


def _pair_boundary_iou(prediction: BoolArray, mask: BoolArray) -> float:
    thickness = max(1, round(_BAND_SHARE * math.hypot(*mask.shape)))
    window = _foreground_window(prediction, mask, margin=0)
    return _pair_iou(_inner_band(prediction[window], thickness), _inner_band(mask[window], thickness))


def _pair_boundary_iou_casam(prediction: BoolArray, mask: BoolArray) -> float:
    reach = int(_BAND_SHARE * math.hypot(*mask.shape)) // 2
    window = _foreground_window(prediction, mask, margin=reach)
    bands = [
        ndimage.maximum_filter(_inner_band(each[window], 1), size=2 * reach + 1, mode="constant", cval=0)
        for each in (prediction, mask)
    ]
    return _pair_iou(*bands)


def _inner_band(mask: BoolArray, thickness: int) -> BoolArray:
    # One square minimum filter is `thickness` 3x3 erosions, and takes the same time on any mask.
    eroded: BoolArray = ndimage.minimum_filter(mask, size=2 * thickness + 1, mode="constant", cval=0)
    return mask & ~eroded


def _foreground_window(prediction: BoolArray, mask: BoolArray, margin: int) -> tuple[slice, slice]:
    # Beyond this window both masks and their bands are empty: morphology there would only cost time.
    either = prediction | mask
    rows, columns = np.flatnonzero(either.any(axis=1)), np.flatnonzero(either.any(axis=0))
    if not rows.size:
        return slice(0, 0), slice(0, 0)
    return (
        slice(max(0, int(rows[0]) - margin), int(rows[-1]) + 1 + margin),
        slice(max(0, int(columns[0]) - margin), int(columns[-1]) + 1 + margin),
    )
