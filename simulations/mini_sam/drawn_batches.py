"""Batches to pre-train on: drawn images with boxes and clicks, each batch a pure function of the seed and its number."""

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from casam_fed.backbone.preparation import normalise
from casam_fed.data.prompts import tight_box
from casam_fed.drawn.label_maps import Drawing, draw, draw_targets

__all__ = ["DrawnBatch", "DrawnBatches"]

_VIEWS = 2
"""Times a batch shows a drawing. Drawing costs about as much as training; another view of it costs next to nothing."""

_TIGHT_SHARE = 0.2
"""Share of the boxes that are not jittered."""


@dataclass(frozen=True)
class DrawnBatch:
    """B images and P prompts; a prompt is either a box or a click.

    Attributes:
        images: float32 [B, 3, S, S], normalised and padded.
        owner: int64 [P], the image of each prompt.
        masks: bool [P, S, S], what each prompt means.
        tight: float32 [P, 4], the tight boxes of the masks.
        boxes: float32 [P, 4], the same with jitter.
        points: float32 [P, 2], one pixel of each mask.
        clicked: bool [P], True where the point is the prompt, not the box.
    """

    images: Tensor
    owner: Tensor
    masks: Tensor
    tight: Tensor
    boxes: Tensor
    points: Tensor
    clicked: Tensor

    def to(self, device: torch.device) -> "DrawnBatch":
        """Return the same batch on `device`."""
        return DrawnBatch(*(getattr(self, field.name).to(device) for field in fields(self)))


class DrawnBatches(Dataset[DrawnBatch]):
    """The series of batches of one seed."""

    def __init__(self, seed: int, steps: int, size: int, images: int, boxes: int, clicks: int, jitter: float) -> None:
        """Plan `steps` batches of `images` images of `size` pixels, each with up to `boxes` boxes and `clicks` clicks.

        `jitter` is how far a side of a box may move, relative to the length of the box along it.
        """
        self._seed, self._steps, self._size = seed, steps, size
        self._images, self._boxes, self._clicks, self._jitter = images, boxes, clicks, jitter

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> DrawnBatch:
        rng = np.random.default_rng((self._seed, 1, step))
        images = torch.zeros(self._images, 3, self._size, self._size)
        owner, masks, prompts = [], [], []
        for row, view in enumerate(self._views(step, rng)):
            images[row] = normalise(view.image, self._size)
            for count, click in ((self._boxes, False), (self._clicks, True)):
                for mask in draw_targets(view, count, rng, single=click):
                    owner.append(row)
                    masks.append(_padded(mask, self._size))
                    prompts.append((*_boxes_and_point(mask, self._size, self._jitter, rng), click))
        tight, boxes, points, clicked = zip(*prompts, strict=True)
        return DrawnBatch(
            images,
            torch.tensor(owner),
            torch.from_numpy(np.stack(masks)),
            torch.from_numpy(np.stack(tight).astype(np.float32)),
            torch.from_numpy(np.stack(boxes).astype(np.float32)),
            torch.from_numpy(np.stack(points).astype(np.float32)),
            torch.tensor(clicked),
        )

    def _views(self, step: int, rng: np.random.Generator) -> list[Drawing]:
        fresh = -(-self._images // _VIEWS)
        drawings = [draw(self._seed, step * fresh + row, self._size) for row in range(fresh)]
        others = [_another_view(drawing, rng) for drawing in drawings for _ in range(_VIEWS - 1)]
        return (drawings + others)[: self._images]


def _another_view(drawing: Drawing, rng: np.random.Generator) -> Drawing:
    """Return the drawing turned, mirrored, its colour channels swapped, and in half of the cases as a negative."""
    turns, mirrored, negative = int(rng.integers(1, 4)), bool(rng.integers(2)), bool(rng.integers(2))
    image, labels = np.rot90(drawing.image, turns), np.rot90(drawing.labels, turns)
    if mirrored:
        image, labels = image[:, ::-1], labels[:, ::-1]
    image = image[..., rng.permutation(3)]
    if negative:
        image = 255 - image
    return Drawing(np.ascontiguousarray(image), np.ascontiguousarray(labels), drawing.layers)


def _padded(mask: npt.NDArray[np.bool_], size: int) -> npt.NDArray[np.bool_]:
    full = np.zeros((size, size), dtype=bool)
    full[: mask.shape[0], : mask.shape[1]] = mask
    return full


def _boxes_and_point(
    mask: npt.NDArray[np.bool_], size: int, jitter: float, rng: np.random.Generator
) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.floating], tuple[int, int]]:
    tight = tight_box(mask)
    sides = np.tile(tight[2:] - tight[:2] + 1, 2)
    moved = rng.uniform(-1, 1, 4) * jitter * sides * (rng.random() >= _TIGHT_SHARE)
    rows, columns = np.nonzero(mask)
    pick = rng.integers(len(rows))
    return tight, np.clip(tight + moved, 0, size - 1), (columns[pick], rows[pick])
