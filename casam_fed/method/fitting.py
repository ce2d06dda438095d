"""Steps of an optimizer on an alignment layer, from stored embeddings: what every way of training shares.

Every random choice is a function of the seed and the step. The loss is that of CA-SAM (arXiv 2511.17201, section 3); the
backbone's encoder never runs here.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from casam_fed.backbone.decoding import Prompts
from casam_fed.backbone.model import Backbone
from casam_fed.backbone.preparation import Frame
from casam_fed.config import MethodConfig
from casam_fed.data.prompts import central_point, draw_targets, jitter_box, tight_box
from casam_fed.errors import TrainingError
from casam_fed.method.alignment import AlignmentLayer
from casam_fed.method.embeddings import EmbeddingStore
from casam_fed.method.losses import segmentation_loss
from casam_fed.method.task_data import EncodedImage

__all__ = ["Batch", "Penalty", "adam", "batch_at", "draw_batch", "fit", "forward", "total_steps"]


@dataclass(frozen=True)
class Batch:
    """What one step works on: B images and P prompts on them.

    Attributes:
        embeddings: float32 [B, C, h, w], not aligned, on the backbone's device.
        prompts: P boxes or P points.
        masks: bool [P, S, S], the true masks at the backbone's square.
        frame: of one of the images; all share the square.
    """

    embeddings: Tensor
    prompts: Prompts
    masks: npt.NDArray[np.bool_]
    frame: Frame


Penalty = Callable[[AlignmentLayer, Batch, Tensor], Tensor]
"""Adds to the loss of a step, given the layer, the batch and its low-resolution logits [P, 1, 4h, 4w]."""


def total_steps(image_count: int, config: MethodConfig) -> int:
    """Return the number of steps: the epochs, but at least `min_steps`, since small sites need steps, not epochs."""
    return max(config.epochs * math.ceil(image_count / config.batch_size), config.min_steps)


def adam(layer: AlignmentLayer, config: MethodConfig) -> torch.optim.Optimizer:
    """Return the optimizer of the method: Adam without a schedule."""
    return torch.optim.Adam(layer.parameters(), lr=config.learning_rate)


def batch_at(images: Sequence[EncodedImage], step: int, size: int, seed: int) -> list[EncodedImage]:
    """Return the images of a step; every epoch visits each image once, in an order of its own."""
    per_epoch = math.ceil(len(images) / size)
    epoch, position = divmod(step, per_epoch)
    order = np.random.default_rng((seed, 1, epoch)).permutation(len(images))
    return [images[index] for index in order[position * size : (position + 1) * size]]


def fit(
    backbone: Backbone,
    store: EmbeddingStore,
    layer: AlignmentLayer,
    optimizer: torch.optim.Optimizer,
    config: MethodConfig,
    seed: int,
    steps: range,
    images_of: Callable[[int], Sequence[EncodedImage]],
    penalty: Penalty | None = None,
    after: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """Take `steps` on `layer`, which must be on the backbone's device; it is left in train mode.

    Args:
        backbone: decodes; its encoder is not used.
        store: holds the embeddings.
        layer, optimizer: are changed.
        config: prompts and learning rate.
        seed: of masks and prompts, together with the number of the step.
        steps: the numbers of the steps to take.
        images_of: the images of a step.
        penalty: added to the loss; None for none.
        after: called with each step's number and loss, once the step is taken.

    Raises:
        TrainingError: the loss is not finite.
    """
    layer.train()
    for step in steps:
        batch = draw_batch(store, images_of(step), config, np.random.default_rng((seed, 2, step)))
        loss, logits = forward(backbone, layer, batch)
        if penalty is not None:
            loss = loss + penalty(layer, batch, logits)
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss is {value} at step {step + 1} of {steps.stop}; lower learning_rate "
                f"(now {config.learning_rate:g}) and train again"
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        after(step, value)


def forward(backbone: Backbone, layer: AlignmentLayer, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the loss of a batch, a scalar, and its low-resolution logits [P, 1, 4h, 4w]; both carry gradients."""
    low, predicted_iou = backbone.decode(layer(batch.embeddings), batch.prompts)
    logits = batch.frame.to_square(low)[:, None]
    truth = torch.from_numpy(batch.masks)[:, None].to(logits.device, torch.float32)
    return segmentation_loss(logits, truth, predicted_iou).total, low


def draw_batch(
    store: EmbeddingStore, images: Sequence[EncodedImage], config: MethodConfig, rng: np.random.Generator
) -> Batch:
    """Draw masks of the images and prompts of one kind for them, boxes or points, and load the embeddings."""
    by_box = rng.random() >= config.point_share
    masks, owner, places = [], [], []
    for row, image in enumerate(images):
        targets = image.targets()
        jitter = config.box_jitter * image.frame.square / 1024
        for index in draw_targets(len(targets), config.masks_per_image, rng):
            mask = targets.mask(int(index))
            masks.append(mask)
            owner.append(row)
            if by_box:
                places.append(jitter_box(tight_box(mask), jitter, mask.shape, rng))
            else:
                places.append(central_point(mask, rng))
    rows, where = torch.tensor(owner), torch.from_numpy(np.stack(places))
    prompts = Prompts(rows, boxes=where) if by_box else Prompts(rows, points=where)
    embeddings = store.load([image.key for image in images]).to(store.backbone.device)
    return Batch(embeddings, prompts, np.stack(masks), images[0].frame)
