"""Images that no task of the bank has seen: those of a task left out of it, and sets that no site has.

Are they recognised as unknown, and how well are they segmented?
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from casam_fed.wire.evaluation_report import RouteReport
from simulations.methods.casam_results import UNKNOWN, Results, SeedRun

__all__ = ["binned_auroc", "left_out_numbers", "unseen_numbers"]


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


def unseen_numbers(results: Results, name: str, router: str) -> list[dict[str, Any]]:
    """Return one mapping a seed for a set that no site has, as `left_out_numbers`; the bank is the whole last one."""
    return [_one_set(run, results.tasks, name, router) for run in results.runs]


def _one_seed(run: SeedRun, tasks: Sequence[str], task: str, router: str) -> dict[str, Any]:
    last = run.stages[-1].reports
    others = [last[name].without[task][router] for name in tasks if name != task]
    return _numbers(last[task].without[task][router], last[task].zero_shot, others)


def _one_set(run: SeedRun, tasks: Sequence[str], name: str, router: str) -> dict[str, Any]:
    known = [run.stages[-1].reports[task].by_way(router) for task in tasks]
    return _numbers(run.unseen[name][router], run.unseen[name]["zero_shot"], known)


def _numbers(own: RouteReport, plain: RouteReport, known: Sequence[RouteReport]) -> dict[str, Any]:
    images = sum(own.chosen.values())
    strengths = np.array([report.strengths for report in known], dtype=np.int64).sum(axis=0)
    return {
        "unknown_recall": own.chosen.get(UNKNOWN, 0) / images,
        "auroc": binned_auroc(own.strengths, strengths) if known else None,
        "iou": own.scores["iou"],
        "zero_shot": plain.scores["iou"],
        "images": images,
    }
