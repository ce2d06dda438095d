"""The overlay: four panels that show what the arguments hold, where they hold it."""

import io

import numpy as np
import pytest
from PIL import Image

from simulations.overlays import draw_overlay

MARGIN, CAPTION = 10, 26


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 120, dtype=np.uint8)


def box(height: int, width: int, *sides: int) -> np.ndarray:
    mask = np.zeros((1, height, width), dtype=bool)
    top, bottom, left, right = sides
    mask[0, top:bottom, left:right] = True
    return mask


def panels(png: bytes, height: int, width: int) -> list[np.ndarray]:
    """Cut the four panels, brought to the longest side of 320 px, out of the sheet."""
    sheet = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    cell = max(width, 180)
    return [
        sheet[MARGIN + CAPTION :][:height, left : left + width]
        for left in (MARGIN + number * (cell + MARGIN) for number in range(4))
    ]


def touched(panel: np.ndarray, plain: np.ndarray) -> np.ndarray:
    return (np.abs(panel - plain) > 8).any(axis=-1)


def test_every_panel_shows_its_own_masks_and_the_first_none() -> None:
    truth, zero_shot, ours = box(64, 64, 10, 30, 10, 30), box(64, 64, 40, 60, 5, 60), box(64, 64, 10, 30, 12, 32)
    shown = panels(draw_overlay(grey(64, 64), truth, zero_shot, ours, 0.1, 0.8), 320, 320)
    assert (shown[0] == 120).all()
    for panel, masks in zip(shown[1:], (truth, zero_shot, ours), strict=True):
        inside = masks[0].repeat(5, axis=0).repeat(5, axis=1)
        coloured = touched(panel, shown[0])
        assert (coloured & inside).sum() == inside.sum()
        assert (coloured & ~inside).sum() < 0.1 * inside.sum()


def test_an_outline_stands_out_from_its_filling() -> None:
    mask = box(64, 64, 16, 48, 16, 48)
    panel = panels(draw_overlay(grey(64, 64), mask, mask, mask, 1, 1), 320, 320)[1]
    middle, edge = panel[160, 160], panel[160, 80]
    assert np.abs(edge - middle).max() > 60
    assert edge.tolist() == [255, 196, 0]


def test_targets_have_colours_of_their_own_that_are_the_same_in_every_panel_and_repeat_after_ten() -> None:
    masks = np.zeros((12, 120, 120), dtype=bool)
    for number in range(12):
        masks[number, 10 * number : 10 * number + 8, 20:100] = True
    first, second = panels(draw_overlay(grey(120, 120), masks, masks, masks, 1, 1), 320, 320)[1:3]
    colours = [tuple(first[round((10 * number + 4) * 320 / 120), 160].tolist()) for number in range(12)]
    assert len(set(colours[:10])) == 10
    assert colours[10:] == colours[:2]
    assert (first == second).all()


@pytest.mark.parametrize(("height", "width"), [(30, 60), (64, 64), (200, 700), (900, 100), (1, 5)])
def test_the_longest_side_of_a_panel_is_320_px(height: int, width: int) -> None:
    empty = np.zeros((0, height, width), dtype=bool)
    scale = 320 / max(height, width)
    tall, wide = max(1, round(height * scale)), max(1, round(width * scale))
    png = draw_overlay(grey(height, width), empty, empty, empty, 0, 0)
    size = Image.open(io.BytesIO(png)).size
    assert size == (4 * (max(wide, 180) + MARGIN) + MARGIN, tall + CAPTION + 2 * MARGIN)
    assert all((panel == 120).all() for panel in panels(png, tall, wide))


def test_the_numbers_are_written_above_their_panels() -> None:
    empty = np.zeros((1, 64, 64), dtype=bool)

    def captions(zero: float, ours: float) -> list[np.ndarray]:
        png = draw_overlay(grey(64, 64), empty, empty, empty, zero, ours)
        sheet = np.asarray(Image.open(io.BytesIO(png)).convert("L"))[: MARGIN + CAPTION]
        return [sheet[:, MARGIN + number * 330 :][:, :320] for number in range(4)]

    before, other = captions(0.25, 0.5), captions(0.25, 0.75)
    assert all((caption < 128).any() for caption in before)
    assert [(a == b).all() for a, b in zip(before, other, strict=True)] == [True, True, True, False]


def test_the_same_arguments_give_the_same_bytes() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    mask = box(40, 50, 5, 20, 5, 40)
    assert draw_overlay(image, mask, mask, mask, 1, 1) == draw_overlay(image, mask, mask, mask, 1, 1)
