"""Batches to pre-train on: prompts that belong to their masks, and the same batch for the same seed and number."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from scipy import ndimage

from simulations.mini_sam.drawn_batches import DrawnBatch, DrawnBatches

SIZE, IMAGES = 96, 5


@pytest.fixture(scope="module")
def batches() -> DrawnBatches:
    return DrawnBatches(seed=3, steps=4, size=SIZE, images=IMAGES, boxes=3, clicks=2, jitter=0.08)


@pytest.fixture(scope="module")
def batch(batches) -> DrawnBatch:
    return batches[1]


def test_a_batch_depends_on_its_seed_and_number_only(batches, batch):
    again, other = batches[1], batches[2]
    seed = DrawnBatches(seed=4, steps=4, size=SIZE, images=IMAGES, boxes=3, clicks=2, jitter=0.08)[1]
    for field in fields(batch):
        assert torch.equal(getattr(batch, field.name), getattr(again, field.name))
    assert not torch.equal(batch.images, other.images)
    assert not torch.equal(batch.images, seed.images)
    assert len(batches) == 4


def test_all_images_differ_and_own_prompts(batch):
    assert batch.images.shape == (IMAGES, 3, SIZE, SIZE)
    assert len({image.numpy().tobytes() for image in batch.images}) == IMAGES
    assert set(batch.owner.tolist()) == set(range(IMAGES))
    assert batch.masks.shape == (len(batch.owner), SIZE, SIZE)
    for row in range(IMAGES):
        clicks = batch.clicked[batch.owner == row]
        assert clicks.sum() <= 2
        assert (~clicks).sum() <= 3
    assert batch.clicked.any()
    assert not batch.clicked.all()


def test_boxes_are_around_their_masks_and_points_inside(batch):
    for mask, tight, box, point in zip(batch.masks, batch.tight, batch.boxes, batch.points, strict=True):
        rows, columns = torch.nonzero(mask, as_tuple=True)
        assert tight.tolist() == [columns.min(), rows.min(), columns.max(), rows.max()]
        sides = (tight[2:] - tight[:2] + 1).repeat(2)
        assert ((box - tight).abs() <= 0.08 * sides + 1e-4).all()
        assert box.min() >= 0
        assert box.max() <= SIZE - 1
        assert mask[int(point[1]), int(point[0])]
    assert (batch.boxes != batch.tight).any()
    assert (batch.boxes == batch.tight).all(dim=1).any()


def test_a_click_means_one_connected_thing_and_a_box_may_mean_many(batches):
    every = [batches[step] for step in range(4)]
    clicked = [ndimage.label(mask)[1] for batch in every for mask in batch.masks[batch.clicked].numpy()]
    boxed = [ndimage.label(mask)[1] for batch in every for mask in batch.masks[~batch.clicked].numpy()]
    assert set(clicked) == {1}
    assert np.max(boxed) > 3


def test_another_view_shows_the_same_drawing_turned(batches):
    """Five images are three drawings and other views of the first two; turning keeps the number of pixels drawn on."""
    images = batches[0].images
    drawn = [(image != 0).any(0).sum() for image in images]
    assert drawn[3] == drawn[0]
    assert drawn[4] == drawn[1]
    assert not torch.equal(images[3], images[0])
