"""Thresholds: how badly may a task's own, unseen image score before it counts as unknown.

Scores come from folds the router was not trained on (CA-SAM, arXiv 2511.17201, threshold from K folds), grouped by patient:
with folds over slices a sharp router has seen the held-out patient and its threshold rejects new ones.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from casam_fed.data.split import patient_folds
from casam_fed.errors import TrainingError

__all__ = ["FoldPlan", "Threshold", "calibrate", "plan_folds", "threshold_from"]

_MIN_TRAINED = 2
"""Images a temporary router needs: one alone has no spread."""

FitScore = Callable[[Tensor, Tensor], Tensor]
"""(features to train on [m, C], held-out features [k, C]) -> scores of the held-out ones [k]."""


@dataclass(frozen=True)
class Threshold:
    """What a task's own held-out images score: their median, and the percentile above which an image is unknown.

    Attributes:
        median: median held-out score.
        value: the threshold, a high percentile of the held-out scores; finite like the median, and not below it.
    """

    median: float
    value: float


@dataclass(frozen=True)
class FoldPlan:
    """Held-out image indices of every fold, and what to tell about them.

    Attributes:
        held_out: int arrays; together they hold every image once.
        note: a sentence where the folds are not the ones asked for, else None.
    """

    held_out: tuple[np.ndarray, ...]
    note: str | None


def plan_folds(patients: Sequence[str], folds: int = 5, seed: int = 0, grouped: bool = True) -> FoldPlan:
    """Divide a task's images into folds, by patient where that is possible.

    Grouped: min(folds, patients) folds; no patient is on both sides of one. Where there is a single patient, or
    holding out one fold would leave fewer than 2 images to train on, patients cannot be held out and the folds are
    over images, with a note, because such a threshold is too strict for new patients. Not grouped, or after that
    fallback: min(folds, images) folds, or every image alone where even these would leave fewer than 2 images.

    Args:
        patients: the patient of every image.
        folds: number of folds wanted, at least 2.
        seed: of the shuffling.
        grouped: False plans folds over images whatever their patients (preset `paper`).

    Raises:
        TrainingError: fewer than 3 images.
    """
    assert folds >= 2, folds
    images = len(patients)
    if images <= _MIN_TRAINED:
        raise TrainingError(
            f"the task has {images} training image(s) and a threshold needs at least {_MIN_TRAINED + 1};"
            " add images or move some from the test split"
        )
    if not grouped:
        return FoldPlan(_folds_over_images(images, folds, seed), None)
    distinct = len(set(patients))
    if images - max(Counter(patients).values()) < _MIN_TRAINED:
        return FoldPlan(
            _folds_over_images(images, folds, seed),
            f"the {images} images of {distinct} patient(s) cannot be divided by patient, so the thresholds come from"
            " folds over images and may reject new patients",
        )
    held_out = tuple(patient_folds(patients, min(folds, distinct), seed))
    if min(images - len(fold) for fold in held_out) < _MIN_TRAINED:
        held_out = tuple(patient_folds(patients, distinct, seed))
    note = None
    if len(held_out) < folds or distinct < folds:
        note = f"the thresholds come from {len(held_out)} folds instead of {folds}: there are {distinct} patients"
    return FoldPlan(held_out, note)


def calibrate(
    features: Tensor,
    patients: Sequence[str],
    fit_score: FitScore,
    folds: int = 5,
    percentile: float = 97.0,
    seed: int = 0,
    grouped: bool = True,
) -> Threshold:
    """Score every image by a router trained without its fold, and take median and percentile over all folds.

    Args:
        features: pooled embeddings [n, C] of a task's training images.
        patients: the patient of every image.
        fit_score: trains a temporary router on the first features and scores the second.
        folds, seed, grouped: as in `plan_folds`.
        percentile: in [50, 100].

    Raises:
        TrainingError: fewer than 3 images, or a held-out score is not finite.
    """
    assert len(features) == len(patients), (len(features), len(patients))
    scores = torch.empty(len(features), dtype=torch.float64)
    for fold in plan_folds(patients, folds, seed, grouped).held_out:
        held_out = torch.zeros(len(features), dtype=torch.bool)
        held_out[torch.from_numpy(np.asarray(fold, dtype=np.int64))] = True
        scores[held_out] = fit_score(features[~held_out], features[held_out]).to(torch.float64)
    return threshold_from(scores, percentile)


def threshold_from(scores: Tensor, percentile: float = 97.0) -> Threshold:
    """Return the threshold of held-out scores [n], n >= 1; percentiles in [50, 100] interpolate linearly between ranks.

    Raises:
        TrainingError: a score is NaN or infinite.
    """
    assert 50 <= percentile <= 100, percentile
    values = scores.detach().to("cpu", torch.float64).numpy()
    if not np.isfinite(values).all():
        raise TrainingError(
            "held-out scores of the router are not finite, so it has no threshold;"
            " look for outliers among the training images"
        )
    median, value = np.percentile(values, [50.0, percentile], method="linear")
    return Threshold(median=float(median), value=float(value))


def _folds_over_images(images: int, folds: int, seed: int) -> tuple[np.ndarray, ...]:
    wanted = min(folds, images)
    if images - math.ceil(images / wanted) < _MIN_TRAINED:
        wanted = images
    return tuple(patient_folds([str(index) for index in range(images)], wanted, seed))
