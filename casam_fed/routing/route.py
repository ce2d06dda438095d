"""From scores to routes: which task of the bank claims an image, or `unknown` when none does (arXiv 2511.17201)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from casam_fed.errors import DataError
from casam_fed.routing.calibration import Threshold

__all__ = ["UNKNOWN", "Router", "RouterKind", "Routes", "route", "tied"]

RouterKind = Literal["gaussian", "vae"]

UNKNOWN = -1
"""The task number of an image that no task claims; it takes the identity."""

_TIE = 1e-6
"""Scores this close to the minimum, relative to it, count as equal: above the rounding of either router."""

_SPREAD = 1e-9
"""Least distance, relative, between median and threshold when a strength is computed: identical held-out scores."""


class Router(Protocol):
    """Scores features against every task of a bank."""

    def only(self, tasks: Sequence[int]) -> "Router":
        """Return the router of the tasks with these numbers, in this order, as if the others had never joined."""
        ...

    def scores(self, features: Tensor) -> Tensor:
        """Return float64 [B, T] for pooled embeddings [B, C]; low means near."""
        ...


@dataclass(frozen=True, eq=False)
class Routes:
    """Where each of B images goes.

    Attributes:
        task: int64 [B], the task that claims the image, or `UNKNOWN` (-1).
        nearest: int64 [B], the task of the lowest score whether it claims the image or not; -1 in an empty bank.
        score: float64 [B], of the nearest task; infinite in an empty bank.
        strength: float64 [B], of "unknown": (score - median) / (threshold - median) of the nearest task; 0 for a typical
            image of that task, 1 at its threshold, comparable between tasks; infinite in an empty bank.
        second: int64 [B], the task of the lowest score but for the nearest; -1 where there is none.
        second_score: float64 [B], its score; infinite where there is none.
    """

    task: Tensor
    nearest: Tensor
    score: Tensor
    strength: Tensor
    second: Tensor
    second_score: Tensor


def route(scores: Tensor, thresholds: Sequence[Threshold]) -> Routes:
    """Send every image to the task of its lowest score, or to `unknown` where that score exceeds the task's threshold.

    Scores that agree with the lowest within 1e-6 (relative) are a tie, and the first task wins it, so that rounding,
    which may depend on the batch, the machine or the number of threads, does not decide between equal tasks.

    Args:
        scores: floating-point [B, T], of a router; T = 0 makes every image unknown.
        thresholds: of the same router, one per task in the same order.

    Raises:
        DataError: a score is NaN.
    """
    assert scores.shape[1:] == (len(thresholds),), (scores.shape, len(thresholds))
    values = scores.detach().to("cpu", torch.float64)
    if torch.isnan(values).any():
        raise DataError("a router's score is NaN; check the image's embedding and the digests of the bank's entries")
    images, tasks = values.shape
    if tasks == 0:
        nobody = torch.full((images,), UNKNOWN, dtype=torch.int64)
        infinite = torch.full((images,), torch.inf, dtype=torch.float64)
        return Routes(nobody, nobody, infinite, infinite, nobody, infinite)
    lowest = values.min(dim=1, keepdim=True).values
    nearest = tied(values, lowest).to(torch.int64).argmax(dim=1)
    score = values.gather(1, nearest[:, None]).squeeze(1)
    limits = torch.tensor([[item.median, item.value] for item in thresholds], dtype=torch.float64)[nearest]
    median, value = limits.unbind(1)
    spread = torch.maximum(value - median, _SPREAD * value.abs().clamp(min=1.0))
    task = torch.where(score > value, torch.full_like(nearest, UNKNOWN), nearest)
    others = values.scatter(1, nearest[:, None], torch.inf)
    second_score, second = others.min(dim=1)
    return Routes(
        task=task,
        nearest=nearest,
        score=score,
        strength=(score - median) / spread,
        second=second if tasks > 1 else torch.full_like(nearest, UNKNOWN),
        second_score=second_score,
    )


def tied(scores: Tensor, lowest: Tensor) -> Tensor:
    """Tell which scores count as equal to the lowest, bool of their common shape; of equal tasks the first is nearest."""
    return scores <= lowest + _TIE * lowest.abs()
