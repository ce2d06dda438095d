"""Drawn images: the same everywhere in a series, endless, and worth prompting."""

import itertools

import numpy as np
import pytest
from scipy import ndimage

from casam_fed.drawn.label_maps import Drawing, draw, draw_targets

DRAWINGS = 12


@pytest.fixture(scope="module")
def drawings() -> list[Drawing]:
    return [draw(3, index, 96) for index in range(DRAWINGS)]


def test_a_drawing_depends_on_its_seed_and_number_and_nothing_else(drawings):
    np.random.seed(99)
    backwards = [draw(3, index, 96) for index in reversed(range(DRAWINGS))]
    for drawing, again in zip(drawings, reversed(backwards), strict=True):
        assert np.array_equal(drawing.image, again.image)
        assert np.array_equal(drawing.labels, again.labels)
        assert drawing.layers == again.layers


def test_other_seeds_and_other_numbers_are_other_drawings(drawings):
    images = [*(drawing.image for drawing in drawings), draw(4, 0, 96).image]
    assert len({image.tobytes() for image in images}) == DRAWINGS + 1


@pytest.mark.parametrize("size", [64, 96, 256])
def test_the_longest_side_is_the_requested_one(size):
    shapes = set()
    for index in range(3):
        drawing = draw(4, index, size)
        assert drawing.image.dtype == np.uint8
        assert drawing.image.shape == (*drawing.labels.shape, 3)
        assert max(drawing.labels.shape) == size
        assert min(drawing.labels.shape) >= 0.6 * size - 1
        shapes.add(drawing.labels.shape)
    assert len(shapes) > 1, "some are square and some are not"


def test_labels_start_with_the_regions_and_go_on_layer_by_layer(drawings):
    for drawing in drawings:
        assert drawing.layers[0] >= 1
        assert list(drawing.layers) == sorted(drawing.layers)
        assert drawing.labels.min() >= 0
        assert drawing.labels.max() < drawing.layers[-1]
    assert any(drawing.labels.max() >= drawing.layers[0] for drawing in drawings)


def test_drawings_differ_in_brightness_and_contrast(drawings):
    assert np.ptp([drawing.image.mean() for drawing in drawings]) > 30
    assert all(drawing.image.std() > 1 for drawing in drawings)


def test_masks_are_of_fair_size_and_each_is_a_part_a_label_or_a_layer(drawings):
    kinds = []
    for index, drawing in enumerate(drawings):
        masks = draw_targets(drawing, 8, np.random.default_rng(index))
        assert masks.shape == (len(masks), *drawing.labels.shape)
        assert masks.dtype == bool
        assert len(masks) <= 8
        assert all(24 <= mask.sum() <= 0.7 * mask.size for mask in masks)
        kinds += [kind_of(drawing, mask) for mask in masks]
    assert len(kinds) > 2 * DRAWINGS
    assert set(kinds) == {"part", "label", "layer"}
    assert kinds.count("part") > len(kinds) / 3


def test_single_masks_are_connected(drawings):
    for index, drawing in enumerate(drawings):
        for mask in draw_targets(drawing, 8, np.random.default_rng(index), single=True):
            assert ndimage.label(mask)[1] == 1


def kind_of(drawing: Drawing, mask: np.ndarray) -> str:
    """Return whether a mask is one connected part of one label, all parts of one label, or all objects of one layer."""
    label = drawing.labels[mask][0]
    same = drawing.labels == label
    parts, count = ndimage.label(same)
    if np.array_equal(parts == parts[mask][0], mask):
        return "part"
    if np.array_equal(same, mask):
        assert count > 1
        return "label"
    (begin, end) = next(pair for pair in itertools.pairwise(drawing.layers) if pair[0] <= label < pair[1])
    assert np.array_equal((drawing.labels >= begin) & (drawing.labels < end), mask)
    return "layer"


def test_the_same_generator_state_draws_the_same_masks(drawings):
    first, again = (draw_targets(drawings[0], 3, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(first, again)


def test_a_drawing_without_any_fitting_region_has_no_targets():
    labels = np.zeros((40, 50), dtype=np.int32)
    labels[0, :10] = 1
    empty = Drawing(np.zeros((40, 50, 3), dtype=np.uint8), labels, (1, 2))
    for seed in range(8):
        assert draw_targets(empty, 4, np.random.default_rng(seed)).shape == (0, 40, 50)


def test_a_speck_is_no_target_and_all_specks_together_may_be_one():
    labels = np.zeros((40, 40), dtype=np.int32)
    labels[::2, ::2] = 1
    specks = Drawing(np.zeros((40, 40, 3), dtype=np.uint8), labels, (1, 2))
    drawn = [draw_targets(specks, 4, np.random.default_rng(seed), min_pixels=24) for seed in range(8)]
    assert {len(masks) for masks in drawn} == {0, 1}
    assert all(np.array_equal(mask, labels == 1) for masks in drawn for mask in masks)


def test_a_layer_of_one_object_is_that_object():
    """Whatever the way a label is drawn, its part, itself and its layer are the same here."""
    labels = np.zeros((40, 40), dtype=np.int32)
    for label in (1, 2, 3):
        labels[4:12, 10 * label : 10 * label + 8] = label
    single = Drawing(np.zeros((40, 40, 3), dtype=np.uint8), labels, (1, 2, 3, 4))
    for seed in range(16):
        masks = draw_targets(single, 4, np.random.default_rng(seed))
        assert sorted(int(labels[mask][0]) for mask in masks) == [1, 2, 3]
        assert all(np.array_equal(labels == labels[mask][0], mask) for mask in masks)
