"""IoU, Dice and both boundary IoUs: equal to the golden numbers, to naive loops, and to counts made by hand."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file

from casam_fed.inference.metrics import boundary_iou, boundary_iou_casam, dice, iou

GOLDEN = Path(__file__).parents[2] / "data" / "golden" / "loss_and_metrics.safetensors"
ALL = (iou, dice, boundary_iou, boundary_iou_casam)

Mask = npt.NDArray[np.bool_]
Metric = Callable[[Mask, Mask], npt.NDArray[np.float64]]
Pixels = set[tuple[int, int]]


def pixels_of(mask: Mask) -> Pixels:
    return {(int(row), int(column)) for row, column in np.argwhere(mask)}


def around(pixel: tuple[int, int], reach: int) -> Pixels:
    row, column = pixel
    return {(row + i, column + j) for i in range(-reach, reach + 1) for j in range(-reach, reach + 1)}


def inside_band(pixels: Pixels, reach: int) -> Pixels:
    return {pixel for pixel in pixels if not around(pixel, reach) <= pixels}


def ratio(p: Pixels, m: Pixels) -> float:
    return len(p & m) / len(p | m) if p | m else 1.0


def naive_iou(p: Mask, m: Mask) -> float:
    return ratio(pixels_of(p), pixels_of(m))


def naive_dice(p: Mask, m: Mask) -> float:
    a, b = pixels_of(p), pixels_of(m)
    return 2 * len(a & b) / (len(a) + len(b)) if a or b else 1.0


def naive_boundary_iou(p: Mask, m: Mask) -> float:
    thickness = max(1, round(0.02 * math.sqrt(p.shape[0] ** 2 + p.shape[1] ** 2)))
    return ratio(inside_band(pixels_of(p), thickness), inside_band(pixels_of(m), thickness))


def naive_boundary_iou_casam(p: Mask, m: Mask) -> float:
    height, width = p.shape
    share = 0.02 * math.sqrt(height**2 + width**2)
    kernel = min((k for k in range(1, 99, 2)), key=lambda k: abs(k - share))
    bands = []
    for mask in (p, m):
        band = set().union(*(around(pixel, kernel // 2) for pixel in inside_band(pixels_of(mask), 1)))
        bands.append({(row, column) for row, column in band if 0 <= row < height and 0 <= column < width})
    return ratio(bands[0], bands[1])


NAIVE = dict(zip(ALL, (naive_iou, naive_dice, naive_boundary_iou, naive_boundary_iou_casam), strict=True))


def disc(height: int, width: int, row: float, column: float, radius: float) -> Mask:
    y, x = np.mgrid[:height, :width]
    return (y - row) ** 2 + (x - column) ** 2 <= radius**2


def pairs() -> list[tuple[Mask, Mask]]:
    """Discs well inside, cut off by the edge, and everything; with noise, holes and specks; squares, strips, dots."""
    rng = np.random.default_rng(0)
    found = []
    for height, width in ((64, 64), (90, 40), (40, 130), (110, 110), (7, 5), (1, 9)):
        for _ in range(2 if height * width < 5000 else 1):
            p = disc(height, width, *rng.uniform(0, (height, width)), rng.uniform(1, max(height, width)))
            m = disc(height, width, *rng.uniform(0, (height, width)), rng.uniform(1, max(height, width)))
            found.append((p, m))
            found.append((p ^ (rng.random(p.shape) < 0.02), m ^ (rng.random(p.shape) < 0.02)))
        full, dot = np.ones((height, width), dtype=bool), np.zeros((height, width), dtype=bool)
        dot[height // 2, width // 2] = True
        found += [(full, full), (full, dot), (dot, np.zeros_like(dot)), (~full, ~full)]
    return found


@pytest.mark.parametrize(
    ("metric", "name"), [(iou, "iou"), (dice, "dice_score"), (boundary_iou_casam, "boundary_iou_casam")]
)
def test_scores_equal_the_golden_numbers(metric: Metric, name: str) -> None:
    golden = load_file(GOLDEN)
    scores = metric(golden["prediction"][:, 0] > 0.5, golden["mask"][:, 0] > 0.5)
    np.testing.assert_allclose(scores, golden[name], rtol=1e-5)


@pytest.mark.parametrize("metric", ALL)
def test_scores_equal_naive_loops_on_every_kind_of_mask(metric: Metric) -> None:
    for prediction, mask in pairs():
        assert metric(prediction, mask)[0] == pytest.approx(NAIVE[metric](prediction, mask), abs=1e-12)


def test_scores_of_two_overlapping_squares_equal_a_count_by_hand() -> None:
    # The diagonal of 100 x 100 is 141.4, 2% of it 2.8: a band of 3 px for the one, a 3 x 3 kernel for the other.
    prediction, mask = np.zeros((2, 100, 100), dtype=bool)
    prediction[20:40, 20:40] = True
    mask[20:40, 30:50] = True
    assert iou(prediction, mask)[0] == 200 / 600
    assert dice(prediction, mask)[0] == 400 / 800
    # Inner rings of 20^2 - 14^2 = 204 px; they share two horizontal strips of 3 x 10, their uprights lie apart.
    assert boundary_iou(prediction, mask)[0] == 60 / (204 + 204 - 60)
    # Bands of 22^2 - 16^2 = 228 px over columns 19..40 and 29..50; they share two horizontal strips of 3 x 12.
    assert boundary_iou_casam(prediction, mask)[0] == 72 / (228 + 228 - 72)


@pytest.mark.parametrize("metric", ALL)
def test_two_empty_masks_agree_and_one_empty_mask_scores_nothing(metric: Metric) -> None:
    empty, some = np.zeros((20, 20), dtype=bool), disc(20, 20, 10, 10, 4)
    assert metric(empty, empty).tolist() == [1.0]
    assert metric(empty, some).tolist() == [0.0]
    assert metric(some, empty).tolist() == [0.0]


@pytest.mark.parametrize("metric", ALL)
def test_a_mask_agrees_with_itself_and_order_does_not_matter(metric: Metric) -> None:
    first, second = disc(50, 60, 20, 20, 12), disc(50, 60, 26, 24, 15)
    assert metric(first, first).tolist() == [1.0]
    assert metric(first, second).tolist() == metric(second, first).tolist()


def test_boundary_scores_punish_a_shift_more_than_iou_does() -> None:
    mask, shifted = disc(200, 200, 100, 100, 60), disc(200, 200, 100, 106, 60)
    assert boundary_iou(shifted, mask)[0] < 0.7 * iou(shifted, mask)[0]
    assert boundary_iou_casam(shifted, mask)[0] < 0.7 * iou(shifted, mask)[0]


@pytest.mark.parametrize("metric", ALL)
def test_a_batch_scores_like_its_images_one_by_one(metric: Metric) -> None:
    predictions = np.stack([disc(40, 50, 20, 20, radius) for radius in (0, 5, 12)])
    masks = np.stack([disc(40, 50, 22, 24, radius) for radius in (3, 6, 9)])
    scores = metric(predictions, masks)
    assert (scores.dtype, scores.shape) == (np.float64, (3,))
    assert scores.tolist() == [metric(p, m)[0] for p, m in zip(predictions, masks, strict=True)]
    assert metric(predictions[:0], masks[:0]).shape == (0,)


@pytest.mark.parametrize("metric", ALL)
def test_arrays_in_any_memory_order_score_alike_and_stay_as_they_are(metric: Metric) -> None:
    prediction, mask = disc(50, 60, 20, 20, 12), disc(50, 60, 26, 24, 15)
    before = prediction.copy(), mask.copy()
    assert metric(np.asfortranarray(prediction), mask[::-1][::-1]).tolist() == metric(prediction, mask).tolist()
    assert np.array_equal(prediction, before[0])
    assert np.array_equal(mask, before[1])
