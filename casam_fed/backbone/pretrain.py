"""Pre-training of the mini SAM on drawn images only.

AdamW with a warm-up, a plateau and a linear descent; box and point prompts of random regions. The cross-entropy is taken
inside a window around each target, where foreground and background weigh about the same: over the whole image it would
either never leave the empty mask or, class-balanced, swell small objects.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from casam_fed.backbone.catalogue import Geometry
from casam_fed.backbone.decoding import Prompts, decode_pairs
from casam_fed.backbone.drawn import draw, draw_targets
from casam_fed.backbone.preparation import normalise
from casam_fed.backbone.sam_modules import Sam, build_sam
from casam_fed.data.prompts import tight_box
from casam_fed.errors import TrainingError

__all__ = ["PretrainOptions", "pretrain"]

_CLICK_WEIGHT = 6.0


@dataclass(frozen=True)
class PretrainOptions:
    """How the mini SAM is pre-trained; every field is recorded beside the weights.

    `plateau` is the share of the steps before the learning rate descends to zero; `workers` draw images in parallel.
    """

    steps: int = 6000
    images: int = 16
    prompts: int = 6
    learning_rate: float = 8e-4
    weight_decay: float = 0.05
    warmup: int = 200
    plateau: float = 0.5
    box_jitter: float = 0.08
    point_share: float = 0.3
    seed: int = 0
    workers: int = 1


@dataclass(frozen=True)
class _Batch:
    images: Tensor  # float32 [B, 3, S, S], normalised and padded
    masks: Tensor  # bool [P, S, S]
    owner: Tensor  # int64 [P]
    boxes: Tensor  # float32 [P, 4], tight
    jittered: Tensor  # float32 [P, 4]
    points: Tensor  # float32 [P, 2]


class _DrawnBatches(Dataset[_Batch]):
    """Batch `i` of the endless series, a pure function of the seed and `i`."""

    def __init__(self, options: PretrainOptions, size: int) -> None:
        self.options, self.size = options, size

    def __len__(self) -> int:
        return self.options.steps

    def __getitem__(self, step: int) -> _Batch:
        options, size = self.options, self.size
        rng = np.random.default_rng((options.seed, 1, step))
        images = torch.zeros(options.images, 3, size, size)
        masks, owner, boxes, jittered, points = [], [], [], [], []
        for row in range(options.images):
            drawing = draw(options.seed, step * options.images + row, size)
            height, width = drawing.labels.shape
            images[row] = normalise(drawing.image, size)
            for mask in draw_targets(drawing, options.prompts, rng):
                full = np.zeros((size, size), dtype=bool)
                full[:height, :width] = mask
                box = tight_box(full)
                sides = np.tile(box[2:] - box[:2] + 1, 2)
                jitter = rng.uniform(-1, 1, 4) * options.box_jitter * sides * (rng.random() < 0.8)
                ys, xs = np.nonzero(full)
                pick = rng.integers(len(xs))
                masks.append(full)
                owner.append(row)
                boxes.append(box)
                jittered.append(np.clip(box + jitter, 0, size - 1))
                points.append((xs[pick], ys[pick]))
        return _Batch(
            images,
            torch.from_numpy(np.stack(masks)),
            torch.tensor(owner),
            torch.from_numpy(np.stack(boxes).astype(np.float32)),
            torch.from_numpy(np.stack(jittered).astype(np.float32)),
            torch.tensor(points, dtype=torch.float32),
        )


def pretrain(
    geometry: Geometry,
    options: PretrainOptions,
    work: Path,
    device: torch.device,
    report: Callable[[str], None],
) -> Sam:
    """Pre-train a SAM of `geometry` and return it; `work` keeps a checkpoint from which a later call goes on.

    Raises:
        TrainingError: the loss is no longer finite.
    """
    torch.manual_seed(options.seed)
    sam = build_sam(geometry).to(device).train()
    optimizer = torch.optim.AdamW(sam.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
    step = _resume(work, sam, optimizer)
    start, first, smooth_box, smooth_point = time.monotonic(), step, math.nan, math.nan
    for batch in _batches(options, geometry.image_size, step):
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * _schedule(step, options)
        loss, box_iou, point_iou = _loss(sam, batch, options, step, device)
        if not math.isfinite(loss.item()):
            raise TrainingError(f"pre-training diverged at step {step}; lower the learning rate and start again")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(sam.parameters(), 1.0)
        optimizer.step()
        step += 1
        smooth_box = box_iou if math.isnan(smooth_box) else 0.98 * smooth_box + 0.02 * box_iou
        smooth_point = point_iou if math.isnan(smooth_point) else 0.98 * smooth_point + 0.02 * point_iou
        if step % 50 == 0:
            pace = (time.monotonic() - start) / (step - first)
            left = pace * (options.steps - step) / 60
            report(
                f"step {step}/{options.steps}  loss {loss.item():.3f}  box IoU {smooth_box:.3f}  "
                f"point IoU {smooth_point:.3f}  {pace:.2f} s/step, {left:.0f} min left"
            )
        if step % 250 == 0:
            _save(work, sam, optimizer, step)
    return sam.eval()


def _batches(options: PretrainOptions, size: int, first: int) -> Iterator[_Batch]:
    dataset = _DrawnBatches(options, size)
    loader: DataLoader[_Batch] = DataLoader(
        dataset,
        batch_size=None,
        sampler=range(first, options.steps),
        num_workers=options.workers,
        prefetch_factor=2 if options.workers else None,
    )
    return iter(loader)


def _schedule(step: int, options: PretrainOptions) -> float:
    descent = (options.steps - step) / max(1.0, options.steps * (1 - options.plateau))
    return min(1.0, (step + 1) / options.warmup, descent)


def _loss(
    sam: Sam, batch: _Batch, options: PretrainOptions, step: int, device: torch.device
) -> tuple[Tensor, float, float]:
    order = torch.randperm(len(batch.owner), generator=torch.Generator().manual_seed(options.seed * 7919 + step))
    cut = round(options.point_share * len(order))
    by_point, by_box = order[:cut], order[cut:]
    prompts = (
        (by_box, Prompts(batch.owner[by_box], boxes=batch.jittered[by_box])),
        (by_point, Prompts(batch.owner[by_point], points=batch.points[by_point])),
    )
    with torch.autocast(device.type, torch.bfloat16):
        embeddings = sam.image_encoder(batch.images.to(device))
        outputs = [decode_pairs(sam, embeddings, prompt.to(device)) for _, prompt in prompts]
    logits = torch.cat([output[0] for output in outputs]).float()
    predicted = torch.cat([output[1] for output in outputs]).float()
    rows = torch.cat([by_box, by_point])
    side = logits.shape[-1]
    truth = F.interpolate(batch.masks[rows, None].float(), (side, side), mode="area").to(device)
    window = _window(batch.boxes[rows].to(device) * side / batch.masks.shape[-1], side)
    # A click leaves the extent open; an honest hedge below one half would be an empty mask, so foreground weighs more.
    clicked = torch.arange(len(rows), device=device) >= len(by_box)
    weight = torch.where(clicked, _CLICK_WEIGHT, 1.0).view(-1, 1, 1, 1)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, weight=1 + (weight - 1) * truth, reduction="none")
    near = (entropy * window).sum((1, 2, 3)) / window.sum((1, 2, 3))
    far = entropy.mean((1, 2, 3))
    probability = logits.sigmoid()
    overlap, total = (probability * truth).sum((1, 2, 3)), (probability + truth).sum((1, 2, 3))
    dice = 1 - (2 * overlap + 1) / (total + 1)
    with torch.no_grad():
        inside, target = logits > 0, truth > 0.5
        union = (inside | target).sum((1, 2, 3)).clamp(min=1)
        iou = (inside & target).sum((1, 2, 3)) / union
    loss = (near + far + dice).mean() + F.mse_loss(predicted[:, 0], iou)
    boxes = len(by_box)
    return loss, iou[:boxes].mean().item(), iou[boxes:].mean().item()


def _window(boxes: Tensor, side: int) -> Tensor:
    """Return float [P, 1, side, side], 1 inside each box grown by half its side (at least 2 pixels)."""
    grow = ((boxes[:, 2:] - boxes[:, :2] + 1) / 2).clamp(min=2)
    low, high = boxes[:, :2] - grow, boxes[:, 2:] + grow
    axis = torch.arange(side, device=boxes.device)
    columns = (axis >= low[:, :1]) & (axis <= high[:, :1])
    rows = (axis >= low[:, 1:]) & (axis <= high[:, 1:])
    return (rows[:, :, None] & columns[:, None, :]).float()[:, None]


def _save(work: Path, sam: Sam, optimizer: torch.optim.Optimizer, step: int) -> None:
    work.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": value for name, value in sam.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    tensors["step"] = torch.tensor(step)
    temporary = work / "pretrain.part"
    save_file({name: value.contiguous() for name, value in tensors.items()}, temporary)
    temporary.replace(work / "pretrain.safetensors")


def _resume(work: Path, sam: Sam, optimizer: torch.optim.Optimizer) -> int:
    path = work / "pretrain.safetensors"
    if not path.exists():
        return 0
    tensors = load_file(path)
    step = int(tensors.pop("step"))
    model = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    sam.load_state_dict(model)
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, field = name.split(".")
            states.setdefault(int(index), {})[field] = value
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    return step


def options_record(options: PretrainOptions) -> dict[str, float]:
    """Return the options as plain numbers, to be written beside the weights."""
    return asdict(options)
