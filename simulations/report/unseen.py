"""Every task left out of the bank in turn: are its images recognised as unknown, and how well are they segmented?"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from simulations.report.results import UNKNOWN, Results, SeedRun

__all__ = ["binned_auroc", "left_out_numbers"]


def binned_auroc(unknown: npt.ArrayLike, known: npt.ArrayLike) -> float | None:
    """Return the AUROC of two histograms over the same bins: P(unknown > known) + P(same bin) / 2.

    This is the Mann-Whitney form of the area (Fawcett 2006, "An introduction to ROC analysis", section 7), ties counted
    half; images of one bin count as tied.

    Args:
        unknown: [bins] counts of the images that ought to have the higher values.
        known: [bins] counts of the images that ought to have the lower ones.

    Returns:
        0..1; None where either histogram is empty.
    """
    above, below = np.asarray(unknown, dtype=np.float64), np.asarray(known, dtype=np.float64)
    pairs = above.sum() * below.sum()
    if pairs == 0:
        return None
    lower = np.cumsum(below) - below
    return float((above * (lower + below / 2)).sum() / pairs)


def left_out_numbers(results: Results, task: str, router: str) -> list[dict[str, Any]] | None:
    """Return one mapping a seed for a task left out of the last bank; None where that was not measured.

    unknown_recall: share of the task's test images sent to unknown; auroc: of the strength of "unknown", the task's test
    images against those of all other tasks under the same reduced bank (None in a stream of one task); iou: of the
    task's test images as they were routed; zero_shot: the same with plain SAM; images: test images of the task.
    """
    if task not in results.runs[0].stages[-1].reports[task].without:
        return None
    return [_one_seed(run, results.tasks, task, router) for run in results.runs]


def _one_seed(run: SeedRun, tasks: Sequence[str], task: str, router: str) -> dict[str, Any]:
    last = run.stages[-1].reports
    own = last[task].without[task][router]
    images = sum(own.chosen.values())
    return {
        "unknown_recall": own.chosen.get(UNKNOWN, 0) / images,
        "auroc": binned_auroc(own.strengths, _strengths(run, [name for name in tasks if name != task], task, router)),
        "iou": own.scores["iou"],
        "zero_shot": last[task].zero_shot.scores["iou"],
        "images": images,
    }


def _strengths(run: SeedRun, tasks: Sequence[str], without: str, router: str) -> npt.NDArray[np.int64]:
    last = run.stages[-1].reports
    counts = np.array([last[task].without[without][router].strengths for task in tasks], dtype=np.int64)
    total: npt.NDArray[np.int64] = counts.sum(axis=0)
    return total
