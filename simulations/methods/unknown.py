"""Images that no task of the bank has seen: those of a task left out of it, and sets that no site has.

Are they recognised as unknown, and how well are they segmented?
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from casam_fed.wire.evaluation_report import RouteReport
from simulations.methods.casam_results import UNKNOWN, Results, SeedRun
from simulations.methods.outcome import UnseenScores

__all__ = ["binned_auroc", "left_out_scores", "unseen_scores"]


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


def left_out_scores(results: Results, task: str, router: str) -> list[UnseenScores]:
    """Return the scores a seed of a task's test images when it is left out of the last bank; empty if not measured.

    Their strengths are compared with those of all other tasks under the same reduced bank.
    """
    sites = dict(zip(results.tasks, results.sites, strict=True))
    found = []
    for run in results.runs:
        reduced = {name: run.left_out.get(site, {}).get(task, {}) for name, site in sites.items()}
        if reduced[task]:
            others = [reduced[name][router] for name in results.tasks if name != task]
            found.append(_scores(reduced[task][router], run.last[task].zero_shot, others))
    return found


def unseen_scores(run: SeedRun, tasks: Sequence[str], name: str, router: str) -> UnseenScores:
    """Return the scores of a set that no site has under the whole last bank, compared with all tasks."""
    known = [run.last[task].by_way(router) for task in tasks]
    return _scores(run.unseen[name][router], run.unseen[name]["zero_shot"], known)


def _scores(own: RouteReport, plain: RouteReport, known: Sequence[RouteReport]) -> UnseenScores:
    images = sum(own.chosen.values())
    strengths = np.array([report.strengths for report in known], dtype=np.int64).sum(axis=0)
    return UnseenScores(
        images=images,
        iou=own.scores["iou"],
        zero_shot=plain.scores["iou"],
        unknown_rate=own.chosen.get(UNKNOWN, 0) / images,
        auroc=binned_auroc(own.strengths, strengths) if known else None,
    )
