"""Pre-training of the mini SAM on drawn images only.

AdamW with a warm-up, a plateau and a linear descent. The cross-entropy is taken inside a window around each target, where
foreground weighs as if it filled at least a fixed share: over the whole image it would never leave the empty mask;
balanced to halves, it would swell small objects. A linear head, dropped afterwards, has to read the image's colours at the
masks' resolution off the embedding: a box alone nearly tells a small object's mask, so prompts would teach the encoder
little of what lies inside a patch, and an alignment layer can only use what the embedding holds.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from casam_fed.backbone.backbones import Geometry
from casam_fed.backbone.decoding import Prompts, decode_pairs
from casam_fed.backbone.sam_modules import Sam, build_sam
from casam_fed.errors import TrainingError
from casam_fed.host.files import write_atomically
from simulations.mini_sam.drawn_batches import DrawnBatch, DrawnBatches

__all__ = ["PretrainOptions", "pretrain"]

_SHARE = 0.3
"""Foreground of a window weighs as if it filled this share of it, within the bounds below."""
_MOST_WEIGHT = 10.0
_CLICK_WEIGHT = 4.0
"""A click leaves the extent open; an honest hedge below one half would be an empty mask, so foreground weighs more."""

_COLOUR_WEIGHT = 0.5
_CHECKPOINT_EVERY, _REPORT_EVERY = 250, 50


@dataclass(frozen=True)
class PretrainOptions:
    """How the mini SAM is pre-trained; every field is recorded beside the weights.

    `boxes` and `clicks` are prompts an image; `plateau` is the share of the steps before the learning rate descends to
    zero; `workers` draw images in parallel.
    """

    steps: int = 6500
    images: int = 16
    boxes: int = 4
    clicks: int = 2
    learning_rate: float = 8e-4
    weight_decay: float = 0.05
    warmup: int = 200
    plateau: float = 0.5
    box_jitter: float = 0.08
    seed: int = 0
    workers: int = 1


def pretrain(
    geometry: Geometry,
    options: PretrainOptions,
    work: Path,
    device: torch.device,
    report: Callable[[str], None],
) -> Sam:
    """Pre-train a SAM of `geometry` and return it; `work` keeps a checkpoint from which a later call goes on.

    Raises:
        TrainingError: the loss is no longer finite, or the checkpoint is damaged or belongs to other options.
        StorageError: the checkpoint cannot be written.
    """
    torch.manual_seed(options.seed)
    sam = build_sam(geometry)
    colours = nn.Conv2d(geometry.channels, 3 * 4**2, kernel_size=1)
    learner = nn.ModuleDict({"sam": sam, "colours": colours}).to(device).train()
    optimizer = torch.optim.AdamW(learner.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
    path, identity = work / "pretrain.safetensors", _identity(geometry, options)
    step = _resume(path, identity, learner, optimizer)
    start, first, recent_box, recent_click = time.monotonic(), step, math.nan, math.nan
    for batch in _batches(options, geometry.image_size, step):
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * _schedule(step, options)
        loss, box_iou, click_iou = _loss(sam, colours, batch.to(device))
        if not math.isfinite(loss.item()):
            raise TrainingError(f"pre-training diverged at step {step}; lower the learning rate and start again")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        step += 1
        recent_box, recent_click = _smooth(recent_box, box_iou), _smooth(recent_click, click_iou)
        if step % _REPORT_EVERY == 0:
            pace = (time.monotonic() - start) / (step - first)
            report(
                f"step {step}/{options.steps}  loss {loss.item():.3f}  box IoU {recent_box:.3f}  "
                f"click IoU {recent_click:.3f}  {pace:.2f} s/step, {pace * (options.steps - step) / 60:.0f} min left"
            )
        if step % _CHECKPOINT_EVERY == 0 or step == options.steps:
            _save(path, identity, learner, optimizer, step)
    return sam.eval()


def _smooth(past: float, value: float) -> float:
    """Move an average over some fifty steps; a batch without such prompts has no value and changes nothing."""
    if math.isnan(past) or math.isnan(value):
        return value if math.isnan(past) else past
    return 0.98 * past + 0.02 * value


def _batches(options: PretrainOptions, size: int, first: int) -> Iterator[DrawnBatch]:
    batches = DrawnBatches(
        options.seed, options.steps, size, options.images, options.boxes, options.clicks, options.box_jitter
    )
    loader: DataLoader[DrawnBatch] = DataLoader(
        batches,
        batch_size=None,
        sampler=range(first, options.steps),
        num_workers=options.workers,
        prefetch_factor=2 if options.workers else None,
    )
    return iter(loader)


def _schedule(step: int, options: PretrainOptions) -> float:
    descent = (options.steps - step) / max(1.0, options.steps * (1 - options.plateau))
    return min(1.0, (step + 1) / options.warmup, descent)


def _loss(sam: Sam, colours: nn.Module, batch: DrawnBatch) -> tuple[Tensor, float, float]:
    """Return the loss of a batch, and the mean IoU of its box-prompted and of its clicked masks."""
    by_box, by_click = torch.nonzero(~batch.clicked).flatten(), torch.nonzero(batch.clicked).flatten()
    prompts = (
        Prompts(batch.owner[by_box], boxes=batch.boxes[by_box]),
        Prompts(batch.owner[by_click], points=batch.points[by_click]),
    )
    with torch.autocast(batch.images.device.type, torch.bfloat16):
        embeddings = sam.image_encoder(batch.images)
        outputs = [decode_pairs(sam, embeddings, prompt) for prompt in prompts if len(prompt)]
        seen = F.pixel_shuffle(colours(embeddings), 4)
    logits = torch.cat([output[0] for output in outputs]).float()
    predicted = torch.cat([output[1] for output in outputs]).float()
    rows = torch.cat([by_box, by_click])
    side = logits.shape[-1]
    truth = F.interpolate(batch.masks[rows, None].float(), (side, side), mode="area")
    entropy = _cross_entropy(logits, truth, batch.tight[rows] * side / batch.masks.shape[-1], batch.clicked[rows])
    probability = logits.sigmoid()
    overlap, total = (probability * truth).sum((1, 2, 3)), (probability + truth).sum((1, 2, 3))
    dice = 1 - (2 * overlap + 1) / (total + 1)
    with torch.no_grad():
        inside, target = logits > 0, truth > 0.5
        iou = (inside & target).sum((1, 2, 3)) / (inside | target).sum((1, 2, 3)).clamp(min=1)
    unread = F.mse_loss(seen.float(), F.adaptive_avg_pool2d(batch.images, side))
    loss = (entropy + dice).mean() + F.mse_loss(predicted[:, 0], iou) + _COLOUR_WEIGHT * unread
    return loss, iou[: len(by_box)].mean().item(), iou[len(by_box) :].mean().item()


def _cross_entropy(logits: Tensor, truth: Tensor, boxes: Tensor, clicked: Tensor) -> Tensor:
    """Return float [P]: the mean inside each target's window, plus what lies outside over the area of the image."""
    window = _window(boxes, logits.shape[-1])
    area = window.sum((1, 2, 3))
    share = (truth * window).sum((1, 2, 3)) / area
    weight = (_SHARE / share.clamp(min=1e-3)).clamp(1, _MOST_WEIGHT) * torch.where(clicked, _CLICK_WEIGHT, 1.0)
    entropy = F.binary_cross_entropy_with_logits(
        logits, truth, weight=1 + (weight.view(-1, 1, 1, 1) - 1) * truth, reduction="none"
    )
    return (entropy * window).sum((1, 2, 3)) / area + (entropy * (1 - window)).mean((1, 2, 3))


def _window(boxes: Tensor, side: int) -> Tensor:
    """Return float [P, 1, side, side], 1 inside each box grown by half its side (at least 2 pixels)."""
    grow = ((boxes[:, 2:] - boxes[:, :2] + 1) / 2).clamp(min=2)
    low, high = boxes[:, :2] - grow, boxes[:, 2:] + grow
    axis = torch.arange(side, device=boxes.device)
    columns = (axis >= low[:, :1]) & (axis <= high[:, :1])
    rows = (axis >= low[:, 1:]) & (axis <= high[:, 1:])
    return (rows[:, :, None] & columns[:, None, :]).float()[:, None]


def _identity(geometry: Geometry, options: PretrainOptions) -> str:
    """Return everything that the weights depend on; the number of workers does not count."""
    return json.dumps({**asdict(geometry), **asdict(options), "workers": None}, sort_keys=True)


def _save(path: Path, identity: str, learner: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    tensors = {f"model.{name}": value for name, value in learner.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_atomically(path, save(plain, {"identity": identity, "step": str(step)}))


def _resume(path: Path, identity: str, learner: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load a checkpoint into `learner` and `optimizer` and return its step; 0 where there is none."""
    if not path.exists():
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            record = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        step, owner = int(record["step"]), record["identity"]
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise TrainingError(f"the checkpoint {path} is damaged; delete it to train from the start") from error
    if owner != identity:
        raise TrainingError(f"the checkpoint {path} was made with other options; delete it, or go on with those")
    learner.load_state_dict({name[6:]: value for name, value in tensors.items() if name.startswith("model.")})
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, field = name.split(".")
            states.setdefault(int(index), {})[field] = value
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    return step
