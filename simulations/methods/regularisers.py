"""Penalties that keep a shared layer near what it knew: elastic weight consolidation and learning without forgetting."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from casam_fed.backbone.model import Backbone
from casam_fed.config import MethodConfig
from casam_fed.method.alignment import AlignmentLayer
from casam_fed.method.embeddings import EmbeddingStore
from casam_fed.method.fitting import Batch, Penalty, draw_batch, forward
from casam_fed.method.task_data import EncodedImage

__all__ = ["Consolidation", "distillation", "fisher_diagonal"]

_FISHER_IMAGES = 60


@dataclass
class Consolidation:
    """Elastic weight consolidation (Kirkpatrick et al. 2017, arXiv 1612.00796, eq. 3).

    With one Fisher diagonal F_k and one anchor theta_k a task, the penalty is sum_k strength/2 F_k (theta - theta_k)^2. Up
    to a constant that is strength/2 F (theta - anchor)^2 with F = sum_k F_k and anchor = sum_k F_k theta_k / F, so two
    numbers a weight are enough for any number of tasks.

    Attributes:
        precision: parameter name -> F.
        pull: parameter name -> sum_k F_k theta_k.
    """

    precision: dict[str, Tensor] = field(default_factory=dict)
    pull: dict[str, Tensor] = field(default_factory=dict)

    def learn(self, layer: AlignmentLayer, fisher: dict[str, Tensor]) -> None:
        """Add a task whose training has just ended."""
        for name, parameter in layer.named_parameters():
            weight = parameter.detach()
            self.precision[name] = self.precision.get(name, torch.zeros_like(weight)) + fisher[name]
            self.pull[name] = self.pull.get(name, torch.zeros_like(weight)) + fisher[name] * weight

    def penalty(self, strength: float) -> Penalty:
        """Return the penalty of all tasks learned so far."""
        anchor = {
            name: self.pull[name] / total.clamp(min=torch.finfo(total.dtype).tiny)
            for name, total in self.precision.items()
        }

        def add(layer: AlignmentLayer, _batch: Batch, _logits: Tensor) -> Tensor:
            terms = [
                (self.precision[name] * (parameter - anchor[name]).square()).sum()
                for name, parameter in layer.named_parameters()
            ]
            return 0.5 * strength * torch.stack(terms).sum()

        return add


def fisher_diagonal(
    backbone: Backbone,
    store: EmbeddingStore,
    layer: AlignmentLayer,
    images: Sequence[EncodedImage],
    config: MethodConfig,
    seed: int,
) -> dict[str, Tensor]:
    """Return the empirical Fisher diagonal: the mean square of the loss's gradient over up to 60 images, one at a time."""
    chosen = np.random.default_rng((seed, 4)).permutation(len(images))[:_FISHER_IMAGES]
    totals = {name: torch.zeros_like(parameter) for name, parameter in layer.named_parameters()}
    for index in chosen.tolist():
        batch = draw_batch(store, [images[index]], config, np.random.default_rng((seed, 5, index)))
        loss, _ = forward(backbone, layer, batch)
        gradients = torch.autograd.grad(loss, list(layer.parameters()))
        for total, gradient in zip(totals.values(), gradients, strict=True):
            total += gradient.square() / len(chosen)
    return totals


def distillation(backbone: Backbone, layer: AlignmentLayer, strength: float, temperature: float) -> Penalty:
    """Return the penalty of learning without forgetting (Li and Hoiem 2016, arXiv 1606.09282, eq. 2 and 3).

    The new task's images go through the layer as it was before that task, too, and the new answer is held to the old one:
    cross-entropy of the two probabilities of foreground at a temperature T, times T^2 (Hinton et al. 2015, section 2), so
    that its gradient keeps its size.
    """
    old = copy.deepcopy(layer).eval().requires_grad_(False)

    def add(_layer: AlignmentLayer, batch: Batch, logits: Tensor) -> Tensor:
        with torch.no_grad():
            before, _ = backbone.decode(old(batch.embeddings), batch.prompts)
        soft = (before / temperature).sigmoid()
        return strength * temperature**2 * functional.binary_cross_entropy_with_logits(logits / temperature, soft)

    return add
