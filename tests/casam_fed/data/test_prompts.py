"""Targets, boxes and points: checked against slow versions that are obviously right."""

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from casam_fed.data.prompts import (
    Target,
    central_point,
    draw_targets,
    drop_vanished,
    jitter_box,
    resize_labels,
    targets_of,
    tight_box,
    tight_boxes,
)
from casam_fed.data.sample import Sample

H, W = 20, 30


def sample_of(masks: dict[str, np.ndarray], instances: dict[str, np.ndarray] | None = None) -> Sample:
    shape = next(iter(masks.values())).shape
    return Sample("a", "a", np.zeros((*shape, 3), dtype=np.uint8), masks, instances or {})


def heart() -> Sample:
    """Two classes of which one has two parts that touch at a corner and a third apart; a third class is absent."""
    lv, rv = np.zeros((H, W), dtype=bool), np.zeros((H, W), dtype=bool)
    lv[2:6, 3:9] = True
    rv[1:3, 12:14] = rv[3:5, 14:16] = rv[10:15, 20:30] = True
    return sample_of({"lv": lv, "la": np.zeros((H, W), dtype=bool), "rv": rv})


def cells(seed: int = 0, count: int = 300, size: int = 256) -> Sample:
    rng = np.random.default_rng(seed)
    labels = np.zeros((size, size), dtype=np.int32)
    for label in range(1, count + 1):
        y, x, h, w = *rng.integers(0, size - 14, 2), *rng.integers(1, 14, 2)
        labels[y : y + h, x : x + w] = label
    return sample_of({"cell": labels > 0}, {"cell": labels})


def slow_box(mask: np.ndarray) -> list[int]:
    points = [(x, y) for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x]]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return [min(xs), min(ys), max(xs), max(ys)]


def slow_half(mask: np.ndarray) -> list[tuple[int, int]]:
    points = [(x, y) for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x]]
    cx, cy = (float(np.mean([point[axis] for point in points])) for axis in (0, 1))
    return sorted(points, key=lambda p: (p[1] - cy) ** 2 + (p[0] - cx) ** 2)[: (len(points) + 1) // 2]


# Targets


def test_by_class_the_targets_are_the_classes_present() -> None:
    sample = heart()
    targets = targets_of(sample, "class")
    assert targets.labels.dtype == np.int32
    assert targets.targets == (Target(0, 1, "lv"), Target(2, 1, "rv"))
    assert len(targets) == 2
    assert targets.dropped == 0
    for index, name in enumerate(("lv", "rv")):
        np.testing.assert_array_equal(targets.mask(index), sample.masks[name])
        assert targets.mask(index).dtype == np.bool_


def test_by_instance_the_targets_are_those_of_the_annotation() -> None:
    sample = cells()
    targets = targets_of(sample, "instance")
    values = [value for value in np.unique(sample.instances["cell"]).tolist() if value]
    assert [target.label for target in targets.targets] == values
    for index, value in enumerate(values):
        np.testing.assert_array_equal(targets.mask(index), sample.instances["cell"] == value)


def test_without_instances_they_are_components_that_join_at_corners() -> None:
    sample = heart()
    targets = targets_of(sample, "instance")
    assert [target.class_name for target in targets.targets] == ["lv", "rv", "rv"]
    np.testing.assert_array_equal(targets.mask(0), sample.masks["lv"])
    np.testing.assert_array_equal(targets.mask(1) | targets.mask(2), sample.masks["rv"])
    assert sorted(int(targets.mask(index).sum()) for index in (1, 2)) == [8, 50]


def test_overlapping_classes_keep_their_own_pixels() -> None:
    whole, core = np.ones((4, 4), dtype=bool), np.eye(4, dtype=bool)
    targets = targets_of(sample_of({"whole": whole, "core": core}), "class")
    np.testing.assert_array_equal(targets.mask(0), whole)
    np.testing.assert_array_equal(targets.mask(1), core)


def test_small_targets_are_dropped_only_when_asked_and_counted() -> None:
    sample = heart()
    assert len(targets_of(sample, "instance")) == 3
    large = targets_of(sample, "instance", min_pixels=9)
    assert ([target.class_name for target in large.targets], large.dropped) == (["lv", "rv"], 1)
    exact = targets_of(sample, "instance", min_pixels=8)
    assert (len(exact), exact.dropped) == (3, 0)
    assert targets_of(sample, "class", min_pixels=30).dropped == 1


def test_an_empty_annotation_has_no_targets() -> None:
    for unit in ("class", "instance"):
        targets = targets_of(sample_of({"lv": np.zeros((5, 6), dtype=bool)}), unit)
        assert (len(targets), targets.dropped, targets.labels.shape) == (0, 0, (1, 5, 6))
        assert tight_boxes(targets).shape == (0, 4)


# Resizing


@pytest.mark.parametrize("shape", [(H, W), (7, 11), (40, 60), (33, 9), (1, 1)])
def test_labels_are_resized_by_the_value_under_each_pixel_centre(shape: tuple[int, int]) -> None:
    targets = targets_of(heart(), "instance")
    resized = resize_labels(targets, shape)
    h, w = shape
    for k, y, x in np.ndindex(3, h, w):
        source = targets.labels[k, int((y + 0.5) * H / h), int((x + 0.5) * W / w)]
        assert resized.labels[k, y, x] == source
    assert resized.targets == targets.targets
    assert list(resized.vanished) == [i for i in range(len(targets)) if not resized.mask(i).any()]


def test_targets_that_vanish_keep_their_place_until_they_are_dropped() -> None:
    targets = targets_of(cells(), "instance", min_pixels=4)
    resized = resize_labels(targets, (40, 40))
    gone = [index for index in range(len(targets)) if not resized.mask(index).any()]
    assert 0 < len(gone) < len(targets)
    assert list(resized.vanished) == gone
    kept = drop_vanished(resized)
    assert kept.targets == tuple(target for i, target in enumerate(targets.targets) if i not in gone)
    assert (kept.dropped, kept.vanished) == (targets.dropped + len(gone), ())
    assert len(tight_boxes(kept)) == len(kept)


# Boxes


def test_a_tight_box_holds_the_first_and_last_foreground_pixels() -> None:
    mask = heart().masks["lv"]
    box = tight_box(mask)
    assert (box.dtype, box.tolist()) == (np.float32, [3, 2, 8, 5])
    rng = np.random.default_rng(1)
    for density in (0.002, 0.01, 0.3):
        mask = rng.random((H, W)) < density
        mask[rng.integers(H), rng.integers(W)] = True
        assert tight_box(mask).tolist() == slow_box(mask)


@pytest.mark.parametrize("unit", ["class", "instance"])
def test_all_boxes_at_once_equal_one_box_at_a_time(unit: str) -> None:
    for sample in (heart(), cells(1), cells(2, count=40, size=64)):
        targets = targets_of(sample, unit)
        boxes = tight_boxes(targets)
        assert boxes.dtype == np.float32
        np.testing.assert_array_equal(boxes, np.stack([tight_box(targets.mask(i)) for i in range(len(targets))]))


def test_jitter_moves_every_side_by_up_to_so_many_pixels_either_way() -> None:
    rng = np.random.default_rng(0)
    box = np.array([50, 60, 80, 90], dtype=np.float32)
    moves = np.stack([jitter_box(box, 5, (200, 200), rng) - box for _ in range(2000)])
    assert moves.dtype == np.float32
    assert (np.abs(moves) <= 5).all()
    assert (moves.min(axis=0) < -4.9).all()
    assert (moves.max(axis=0) > 4.9).all()
    assert (np.abs(moves.mean(axis=0)) < 0.3).all()
    assert np.abs(np.corrcoef(moves.T) - np.eye(4)).max() < 0.1
    np.testing.assert_array_equal(jitter_box(box, 0, (200, 200), rng), box)


def test_jittered_boxes_stay_in_the_image_near_the_box_and_upright() -> None:
    rng = np.random.default_rng(0)
    for _ in range(2000):
        x, y = np.sort(rng.integers(0, W, 2)), np.sort(rng.integers(0, H, 2))
        box = np.array([x[0], y[0], x[0] + (x[1] - x[0]) // 8, y[0] + (y[1] - y[0]) // 8])
        x0, y0, x1, y1 = moved = jitter_box(box, 5, (H, W), rng)
        assert 0 <= x0 <= x1 <= W - 1
        assert 0 <= y0 <= y1 <= H - 1
        assert (np.abs(moved - box) <= 5).all()


# Points


@pytest.mark.parametrize(
    "mask", [heart().masks["lv"], heart().masks["rv"], np.eye(9, dtype=bool)[:, :7], np.ones((4, 4), dtype=bool)]
)
def test_the_central_point_is_drawn_evenly_from_the_nearer_half(mask: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    half = slow_half(mask)
    points = [central_point(mask, rng) for _ in range(200 * len(half))]
    assert (points[0].dtype, points[0].shape) == (np.float32, (2,))
    counts = Counter((int(x), int(y)) for x, y in points)
    assert set(counts) == set(half)
    assert min(counts.values()) > 120
    assert max(counts.values()) < 280


def test_the_central_point_of_one_pixel_is_that_pixel() -> None:
    mask = np.zeros((H, W), dtype=bool)
    mask[7, 21] = True
    assert central_point(mask, np.random.default_rng(0)).tolist() == [21, 7]


def test_prompts_depend_on_the_generator_alone() -> None:
    mask = heart().masks["lv"]
    first, second = (
        [central_point(mask, rng).tolist(), jitter_box([3, 2, 8, 5], 5, (H, W), rng).tolist()]
        for rng in (np.random.default_rng(9), np.random.default_rng(9))
    )
    assert first == second


# Draws


def test_targets_are_drawn_without_replacement_when_there_are_enough() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        assert len(set(draw_targets(7, 5, rng).tolist())) == 5
    assert sorted(draw_targets(5, 5, rng).tolist()) == list(range(5))
    assert {int(i) for _ in range(200) for i in draw_targets(7, 5, rng)} == set(range(7))


def test_targets_are_drawn_with_replacement_when_there_are_fewer() -> None:
    rng = np.random.default_rng(0)
    drawn = np.stack([draw_targets(2, 5, rng) for _ in range(200)])
    assert drawn.shape == (200, 5)
    assert set(drawn.ravel().tolist()) == {0, 1}
    assert (drawn == 0).all(axis=1).any(), "independent draws may all fall on one target"


def test_the_data_package_needs_no_torch() -> None:
    modules = "casam_fed.data.folder, casam_fed.data.split, casam_fed.data.prompts"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
