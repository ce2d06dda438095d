"""One task, from stored embeddings to its alignment layer (arXiv 2511.17201, sections 3 and 4).

Every random choice is a function of the seed and the step, so a checkpoint is weights, optimizer and a step number, and a
killed training goes on to the same bits. The backbone's encoder never runs here.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from casam_fed.alignment import AlignmentLayer
from casam_fed.backbone.decoding import Prompts
from casam_fed.backbone.model import Backbone
from casam_fed.config import MethodConfig
from casam_fed.data.prompts import central_point, draw_targets, jitter_box, tight_box
from casam_fed.embeddings import EmbeddingStore
from casam_fed.errors import TrainingError
from casam_fed.files import sha256_bytes, write_atomically
from casam_fed.losses import segmentation_loss
from casam_fed.task_data import EncodedImage, TaskData

__all__ = ["Progress", "train_alignment"]

_CHECKPOINT_EVERY = 50

Reporter = Callable[["Progress"], None]


@dataclass(frozen=True)
class Progress:
    """Where a training stands after `step` of `steps`; `loss` is that step's total."""

    step: int
    steps: int
    loss: float


def total_steps(image_count: int, config: MethodConfig) -> int:
    """Return the number of steps: the epochs, but at least `min_steps`, since small sites need steps, not epochs."""
    return max(config.epochs * math.ceil(image_count / config.batch_size), config.min_steps)


def train_alignment(
    backbone: Backbone,
    store: EmbeddingStore,
    data: TaskData,
    config: MethodConfig,
    seed: int,
    checkpoint: Path | None = None,
    report: Reporter | None = None,
) -> AlignmentLayer:
    """Train the alignment layer of one task with Adam and return it in eval mode on the CPU.

    Args:
        backbone: decodes; its encoder is not used.
        store: holds the embeddings of all images of `data`.
        data: the task's training images; those without targets are left out.
        config: the method's choices.
        seed: of initialisation, order, masks and prompts.
        checkpoint: file written every 50 steps and removed at the end; if it is there, training goes on from it.
        report: called after every step.

    Raises:
        TrainingError: the loss is not finite, or the checkpoint belongs to another training or is damaged.
        StorageError: the checkpoint cannot be written.
    """
    images = data.with_targets
    if not images:
        raise TrainingError("no training image has anything to segment; check the masks")
    layer = AlignmentLayer(backbone.geometry.channels, config.blocks, config.start, seed=seed).to(backbone.device)
    optimizer = torch.optim.Adam(layer.parameters(), lr=config.learning_rate)
    steps = total_steps(len(images), config)
    identity = _identity(backbone, images, config, seed)
    first = _resume(checkpoint, identity, layer, optimizer) if checkpoint is not None else 0
    layer.train()
    for step in range(first, steps):
        chosen = _batch(images, step, config.batch_size, seed)
        loss = _loss(backbone, store, layer, chosen, config, np.random.default_rng((seed, 2, step)))
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss is {value} at step {step + 1} of {steps}; lower learning_rate "
                f"(now {config.learning_rate:g}) and train again"
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if checkpoint is not None and (step + 1) % _CHECKPOINT_EVERY == 0 and step + 1 < steps:
            _save(checkpoint, identity, layer, optimizer, step + 1)
        if report is not None:
            report(Progress(step + 1, steps, value))
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return layer.cpu().eval().requires_grad_(False)


def _batch(images: list[EncodedImage], step: int, size: int, seed: int) -> list[EncodedImage]:
    per_epoch = math.ceil(len(images) / size)
    epoch, position = divmod(step, per_epoch)
    order = np.random.default_rng((seed, 1, epoch)).permutation(len(images))
    return [images[index] for index in order[position * size : (position + 1) * size]]


def _loss(
    backbone: Backbone,
    store: EmbeddingStore,
    layer: AlignmentLayer,
    images: list[EncodedImage],
    config: MethodConfig,
    rng: np.random.Generator,
) -> Tensor:
    masks, prompts = _draw_prompts(images, config, rng)
    aligned = layer(store.load([image.key for image in images]).to(backbone.device))
    low, predicted_iou = backbone.decode(aligned, prompts)
    logits = images[0].frame.to_square(low)[:, None]
    truth = torch.from_numpy(masks)[:, None].to(logits.device, torch.float32)
    return segmentation_loss(logits, truth, predicted_iou).total


def _draw_prompts(
    images: list[EncodedImage], config: MethodConfig, rng: np.random.Generator
) -> tuple[np.ndarray, Prompts]:
    """Draw the masks bool [P, S, S] of a batch and prompts of one kind for them: boxes or points."""
    by_box = rng.random() >= config.point_share
    masks, owner, boxes, points = [], [], [], []
    for row, image in enumerate(images):
        targets = image.targets()
        jitter = config.box_jitter * image.frame.square / 1024
        for index in draw_targets(len(targets), config.masks_per_image, rng):
            mask = targets.mask(int(index))
            masks.append(mask)
            owner.append(row)
            if by_box:
                boxes.append(jitter_box(tight_box(mask), jitter, mask.shape, rng))
            else:
                points.append(central_point(mask, rng))
    rows = torch.tensor(owner)
    if by_box:
        return np.stack(masks), Prompts(rows, boxes=torch.from_numpy(np.stack(boxes)))
    return np.stack(masks), Prompts(rows, points=torch.from_numpy(np.stack(points)))


def _identity(backbone: Backbone, images: list[EncodedImage], config: MethodConfig, seed: int) -> str:
    """Return a digest of everything the result depends on, so that a checkpoint is used for its own training only."""
    facts = {
        "backbone": backbone.digest,
        "config": asdict(config),
        "seed": seed,
        "keys": [image.key for image in images],
    }
    return sha256_bytes(json.dumps(facts, sort_keys=True).encode())


def _save(path: Path, identity: str, layer: AlignmentLayer, optimizer: torch.optim.Optimizer, step: int) -> None:
    tensors = {f"layer.{name}": tensor for name, tensor in layer.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": tensor for name, tensor in state.items()}
    data = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(data, {"record": json.dumps({"identity": identity, "step": step}, sort_keys=True)}))


def _resume(path: Path, identity: str, layer: AlignmentLayer, optimizer: torch.optim.Optimizer) -> int:
    """Load a checkpoint into `layer` and `optimizer` and return its step; 0 where there is none."""
    if not path.exists():
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {})["record"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        step, owner = int(record["step"]), record["identity"]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"the checkpoint {path} is damaged; delete it to train from the start") from error
    if owner != identity:
        raise TrainingError(
            f"the checkpoint {path} belongs to a training with other data, options or seed; delete it or restore those"
        )
    layer.load_state_dict({name[6:]: tensor for name, tensor in tensors.items() if name.startswith("layer.")})
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("adam."):
            _, index, entry = name.split(".")
            states.setdefault(int(index), {})[entry] = tensor
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    return step
