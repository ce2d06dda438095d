"""One task, from stored embeddings to its alignment layer (arXiv 2511.17201, sections 3 and 4).

A checkpoint is weights, optimizer and a step number, and a killed training goes on to the same bits.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from casam_fed.backbone.model import Backbone
from casam_fed.config import MethodConfig
from casam_fed.errors import TrainingError
from casam_fed.host.files import sha256_bytes, write_atomically
from casam_fed.method.alignment import AlignmentLayer
from casam_fed.method.embeddings import EmbeddingStore
from casam_fed.method.fitting import adam, batch_at, fit, total_steps
from casam_fed.method.task_data import EncodedImage, TaskData

__all__ = ["Progress", "train_alignment"]

_CHECKPOINT_EVERY = 50

Reporter = Callable[["Progress"], None]


@dataclass(frozen=True)
class Progress:
    """Where a training stands after `step` of `steps`; `loss` is that step's total."""

    step: int
    steps: int
    loss: float


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
    layer = AlignmentLayer(backbone.geometry.channels, config.blocks, config.start, seed=seed).to(backbone.device)
    optimizer = adam(layer, config)
    steps = total_steps(len(images), config)
    identity = _identity(backbone, images, config, seed)
    first = _resume(checkpoint, identity, layer, optimizer) if checkpoint is not None else 0

    def after(step: int, loss: float) -> None:
        if checkpoint is not None and (step + 1) % _CHECKPOINT_EVERY == 0 and step + 1 < steps:
            _save(checkpoint, identity, layer, optimizer, step + 1)
        if report is not None:
            report(Progress(step + 1, steps, loss))

    def images_of(step: int) -> list[EncodedImage]:
        return batch_at(images, step, config.batch_size, seed)

    fit(backbone, store, layer, optimizer, config, seed, range(first, steps), images_of, after=after)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return layer.cpu().eval().requires_grad_(False)


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
