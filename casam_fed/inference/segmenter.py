"""Image to route to mask: the bank at work.

An image's embedding is scored against every task of the bank; the alignment layer of the claiming task (or the identity,
when none claims it) changes the embedding; the frozen decoder turns it and the prompts into masks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from casam_fed.backbone.decoding import Prompts
from casam_fed.backbone.model import Backbone
from casam_fed.backbone.preparation import Frame
from casam_fed.bank.layer_bank import LayerBank
from casam_fed.method.alignment import AlignmentLayer, alignment_layer_from
from casam_fed.routing.gaussian import Background
from casam_fed.routing.route import RouterKind, Routes, route
from casam_fed.routing.state import RouterState, build_router

__all__ = ["IDENTITY", "BankRouter", "Segmenter", "bank_router", "decode_masks"]

IDENTITY = "identity"
"""Stands for "no alignment layer" wherever an entry's digest names the layer that an image takes."""

_PROMPTS_AT_ONCE = 64


@dataclass(frozen=True)
class BankRouter:
    """The routers of a bank's tasks, in admission order, read from the bank once.

    `tasks` names the T active entries.
    """

    tasks: tuple[str, ...]
    states: tuple[RouterState, ...]

    def only(self, numbers: Sequence[int]) -> "BankRouter":
        """Return the router of the tasks with these numbers, as if the others had never joined."""
        return BankRouter(
            tuple(self.tasks[number] for number in numbers), tuple(self.states[number] for number in numbers)
        )

    def scores(
        self, kind: RouterKind, features: Tensor, background: Background, sampled_seed: int | None = None
    ) -> Tensor:
        """Return float64 [B, T], the scores of pooled embeddings [B, C]; sampled VAE scores where a seed is given."""
        generator = None if sampled_seed is None else torch.Generator().manual_seed(sampled_seed)
        return build_router(kind, self.states, background, generator).scores(features)

    def routes(self, kind: RouterKind, scores: Tensor) -> Routes:
        """Return where scores [B, T] send the images."""
        return route(scores, [state.thresholds[kind] for state in self.states])


def bank_router(bank: LayerBank) -> BankRouter:
    """Read the routers of all active entries.

    Raises:
        BankError: an entry's file is missing or damaged.
    """
    entries = bank.entries()
    states = tuple(bank.load(entry.task).router for entry in entries)
    return BankRouter(tuple(entry.task for entry in entries), states)


@torch.no_grad()
def decode_masks(
    backbone: Backbone,
    layer: AlignmentLayer | None,
    embedding: Tensor,
    frame: Frame,
    boxes: npt.NDArray[np.floating],
    at: str = "source",
) -> npt.NDArray[np.bool_]:
    """Segment one image through an alignment layer.

    Args:
        backbone: decodes.
        layer: on the backbone's device; None for the identity, which is plain SAM.
        embedding: float32 [C, h, w].
        frame: where the image lies in the square.
        boxes: [N, 4], (x0, y0, x1, y1) first and last pixels at source resolution.
        at: "source" for masks at the source resolution, "square" for the backbone's square.

    Returns:
        bool [N, H, W] or [N, S, S]; the logits binarised at 0.
    """
    aligned = embedding[None].to(backbone.device)
    if layer is not None:
        aligned = layer(aligned)
    prompts = torch.from_numpy(frame.boxes_to_square(boxes))
    parts = []
    for chunk in prompts.split(_PROMPTS_AT_ONCE):
        rows = torch.zeros(len(chunk), dtype=torch.int64)
        logits, _ = backbone.decode(aligned, Prompts(rows, boxes=chunk))
        upsampled = frame.to_source(logits) if at == "source" else frame.to_square(logits)
        parts.append((upsampled > 0).cpu().numpy())
    return np.concatenate(parts)


class Segmenter:
    """Decodes masks from stored embeddings through the alignment layers of a bank; each layer is loaded once."""

    def __init__(self, backbone: Backbone, bank: LayerBank) -> None:
        self.backbone = backbone
        self.bank = bank
        self._layers: dict[str, AlignmentLayer] = {}

    def masks(
        self, embedding: Tensor, frame: Frame, boxes: npt.NDArray[np.floating], task: str | None, at: str = "source"
    ) -> npt.NDArray[np.bool_]:
        """Segment one image through the alignment layer of `task`; None takes the identity, which is plain SAM.

        Arguments and result otherwise as `decode_masks`.

        Raises:
            BankError: no such task, or its entry is damaged.
        """
        layer = None if task is None else self.layer(task)
        return decode_masks(self.backbone, layer, embedding, frame, boxes, at)

    def layer(self, task: str) -> AlignmentLayer:
        """Return the alignment layer of a task, on the backbone's device.

        Raises:
            BankError: no such task, or its entry is damaged.
        """
        if task not in self._layers:
            layer = alignment_layer_from(self.bank.load(task).alignment)
            self._layers[task] = layer.to(self.backbone.device).requires_grad_(False)
        return self._layers[task]
