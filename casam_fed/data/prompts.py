"""Targets of an image and the prompts that stand in for a user's box or click on them.

Source: Wang et al., arXiv 2511.17201, and the authors' training: a jittered tight box, or a point near the centre. A
box is (x0, y0, x1, y1) float32, inclusive indices of the first and last foreground column and row; a point is (x, y).
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from casam_fed.data.sample import Sample

__all__ = [
    "Target",
    "TargetMap",
    "Unit",
    "central_point",
    "draw_targets",
    "drop_vanished",
    "jitter_box",
    "resize_labels",
    "targets_of",
    "tight_box",
    "tight_boxes",
]

Unit = Literal["class", "instance"]
Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Rng = np.random.Generator

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True)
class Target:
    """One thing to segment: the pixels of plane `plane` whose value is `label`."""

    plane: int
    label: int
    class_name: str


@dataclass(frozen=True, eq=False)
class TargetMap:
    """All targets of one image, without a mask for each.

    Attributes:
        labels: int32 [K, H, W], one plane a class (classes may overlap), 0 background.
        targets: the targets, in the order of classes and then of labels.
        dropped: how many targets were left out, for being too small or for having vanished.
        vanished: indices into `targets` that lost all their pixels when the map was resized.
    """

    labels: npt.NDArray[np.int32]
    targets: tuple[Target, ...]
    dropped: int = 0
    vanished: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.targets)

    def mask(self, index: int) -> Mask:
        """Return the mask of target `index`, bool [H, W]."""
        target = self.targets[index]
        mask: Mask = self.labels[target.plane] == target.label
        return mask


def targets_of(sample: Sample, unit: Unit, min_pixels: int = 1) -> TargetMap:
    """Return the targets of `sample`: the classes present (the paper's protocol), or every instance.

    Where the annotation does not tell instances apart, they are the 8-connected components of the class mask. Targets
    of fewer than `min_pixels` pixels are left out and counted in `dropped`.
    """
    planes = [_plane(sample, name, unit) for name in sample.masks]
    targets: list[Target] = []
    dropped = 0
    for plane, (name, labels) in enumerate(zip(sample.masks, planes, strict=True)):
        areas = np.bincount(labels.ravel())
        areas[0] = 0
        targets += [Target(plane, int(label), name) for label in np.flatnonzero(areas >= max(min_pixels, 1))]
        dropped += int(((areas > 0) & (areas < min_pixels)).sum())
    return TargetMap(np.stack(planes), tuple(targets), dropped)


def resize_labels(target_map: TargetMap, shape: tuple[int, int]) -> TargetMap:
    """Return the map at `shape` (h, w) by nearest neighbour (pixel centres), with the same list of targets.

    Targets that lost all their pixels stay in the list, so that indices keep their meaning, and are named in
    `vanished`; `drop_vanished` takes them out.
    """
    height, width = target_map.labels.shape[1:]
    rows, columns = _nearest(height, shape[0]), _nearest(width, shape[1])
    labels = target_map.labels[:, rows[:, None], columns[None, :]]
    present = [set(np.flatnonzero(np.bincount(plane.ravel())).tolist()) for plane in labels]
    vanished = tuple(i for i, target in enumerate(target_map.targets) if target.label not in present[target.plane])
    return replace(target_map, labels=labels, vanished=vanished)


def drop_vanished(target_map: TargetMap) -> TargetMap:
    """Return the map without its vanished targets, which are counted in `dropped`."""
    gone = set(target_map.vanished)
    targets = tuple(target for i, target in enumerate(target_map.targets) if i not in gone)
    return replace(target_map, targets=targets, dropped=target_map.dropped + len(gone), vanished=())


def tight_box(mask: Mask) -> Floats:
    """Return the tight box of a mask [H, W] that is not empty, float32 [4]."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    assert rows.size, "an empty mask has no box; prompt only targets that are present"
    return np.array([columns[0], rows[0], columns[-1], rows[-1]], dtype=np.float32)


def tight_boxes(target_map: TargetMap) -> Floats:
    """Return the tight box of every target, float32 [N, 4]; one pass over each plane whatever N.

    No target may have vanished; `drop_vanished` takes those out.
    """
    found = [ndimage.find_objects(plane) for plane in target_map.labels]
    boxes = np.empty((len(target_map), 4), dtype=np.float32)
    for index, target in enumerate(target_map.targets):
        objects = found[target.plane]
        where = objects[target.label - 1] if target.label <= len(objects) else None
        assert where is not None, f"target {index} ({target.class_name}) has no pixels; call drop_vanished first"
        rows, columns = where
        boxes[index] = columns.start, rows.start, columns.stop - 1, rows.stop - 1
    return boxes


def jitter_box(box: npt.ArrayLike, pixels: float, shape: tuple[int, int], rng: Rng) -> Floats:
    """Return `box` with each side moved by up to +-`pixels`, uniformly, within an image of `shape` (h, w); float32 [4].

    Sides that pass each other swap places, which leaves each within `pixels` of where it was.
    """
    height, width = shape
    moved = np.asarray(box, dtype=np.float64) + rng.uniform(-pixels, pixels, size=4)
    x0, x1 = np.sort(np.clip(moved[[0, 2]], 0, width - 1))
    y0, y1 = np.sort(np.clip(moved[[1, 3]], 0, height - 1))
    return np.array([x0, y0, x1, y1], dtype=np.float32)


def central_point(mask: Mask, rng: Rng) -> Floats:
    """Return a point (x, y), float32 [2], drawn evenly among the half of the mask's pixels nearest to its centroid.

    The half is rounded up; pixels at equal distance are taken in reading order, so that it is the same everywhere. The
    mask is not empty.
    """
    ys, xs = np.nonzero(mask)
    assert ys.size, "an empty mask has no central point; prompt only targets that are present"
    distances = (ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2
    half = (ys.size + 1) // 2
    # A partition finds the limit without sorting; its order is not defined, so only the value is used.
    limit = np.partition(distances, half - 1)[half - 1]
    near = distances < limit
    near[np.flatnonzero(distances == limit)[: half - int(near.sum())]] = True
    chosen = np.flatnonzero(near)[rng.integers(half)]
    return np.array([xs[chosen], ys[chosen]], dtype=np.float32)


def draw_targets(n_targets: int, count: int, rng: Rng) -> npt.NDArray[np.intp]:
    """Return `count` indices below `n_targets`, [count]; with replacement only where there are fewer targets than that."""
    assert n_targets >= 1, "an image without targets has none to draw; skip it in training"
    return rng.choice(n_targets, size=count, replace=n_targets < count).astype(np.intp)


def _plane(sample: Sample, name: str, unit: Unit) -> npt.NDArray[np.int32]:
    if unit == "instance" and name in sample.instances:
        return np.asarray(sample.instances[name], dtype=np.int32)
    mask = sample.masks[name]
    if unit == "instance":
        return np.asarray(ndimage.label(mask, structure=_EIGHT_NEIGHBOURS)[0], dtype=np.int32)
    return mask.astype(np.int32)


def _nearest(source: int, wanted: int) -> npt.NDArray[np.intp]:
    """Return the source index under the centre of each of `wanted` pixels, in integers so that no platform rounds."""
    return (2 * np.arange(wanted, dtype=np.intp) + 1) * source // (2 * wanted)
