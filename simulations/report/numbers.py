"""The numbers of a run: one stage matrix and one confusion a route and seed, then means and deviations over the seeds.

Formulas are those of `casam_fed.inference.stage_matrix`; all deviations are sample standard deviations over seeds, None
for one seed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from casam_fed.inference.stage_matrix import StageMatrix, mean_of
from casam_fed.wire.evaluation_report import METRICS
from simulations.methods.casam_results import ROUTERS, ROUTES, UNKNOWN, Results, SeedRun
from simulations.methods.unknown import left_out_numbers, unseen_numbers

__all__ = ["SCALARS", "confusion_of", "final_scores", "matrix_of", "spread", "summarise"]

SCALARS = ("last", "avg", "ff", "ff_max", "bwt", "fwt", "accuracy", "unknown_rate")
"""One number a route and seed, in the order in which they are shown."""


def summarise(results: Results) -> dict[str, Any]:
    """Return the content of run.json, plain values only, None where nothing was measured.

    Scores are IoU, means over seeds; `confusion` [T][T+1] counts test images at the last stage summed over seeds, row =
    their own task, column = the task they were sent to, last column unknown.
    """
    first = results.runs[0]
    return {
        "stream": results.stream,
        "tasks": list(results.tasks),
        "seeds": list(results.seeds),
        "zero_shot": {
            task: float(np.mean([run.stages[0].reports[task].zero_shot.scores["iou"] for run in results.runs]))
            for task in results.tasks
        },
        "routes": {way: _route(results, way) for way in ROUTES},
        "bytes_up": {site: _whole_mean([run.bytes_up[site] for run in results.runs]) for site in results.sites},
        "seconds": {
            **results.seconds,
            "seeds": {str(seed): _plain(run.seconds) for seed, run in results.seeds.items()},
        },
        "peak_rss_mb": results.peak_rss_mb,
        "bank_digest": first.bank_digest,
        "bank_digests": {str(seed): run.bank_digest for seed, run in results.seeds.items()},
        "left_out": _left_out(results),
        "unseen": {
            name: {router: _over_seeds(unseen_numbers(results, name, router)) for router in ROUTERS}
            for name in first.unseen
        },
        "versions": dict(results.versions),
        "config": dict(results.config),
    }


def matrix_of(run: SeedRun, tasks: Sequence[str], way: str, metric: str = "iou") -> StageMatrix:
    """Return a[i][j] of one seed and way, above the diagonal too: every stage scores all tasks of the stream."""
    rows = [[stage.reports[task].by_way(way).scores[metric] for task in tasks] for stage in run.stages]
    return StageMatrix.from_rows(rows)


def confusion_of(run: SeedRun, tasks: Sequence[str], way: str) -> npt.NDArray[np.int64]:
    """Return int64 [T, T+1]: where the test images of each task were sent at the last stage, last column unknown."""
    reports = run.stages[-1].reports
    return np.array([[reports[task].by_way(way).chosen.get(name, 0) for name in (*tasks, UNKNOWN)] for task in tasks])


def final_scores(results: Results, way: str, metric: str) -> tuple[float, float | None]:
    """Return mean and deviation over seeds of a metric's mean over tasks at the last stage."""
    return spread([matrix_of(run, results.tasks, way, metric).last for run in results.runs])


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and sample standard deviation; None in place of the latter for a single value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def _route(results: Results, way: str) -> dict[str, Any]:
    matrices = [matrix_of(run, results.tasks, way) for run in results.runs]
    confusions = [confusion_of(run, results.tasks, way) for run in results.runs]
    numbers = [_scalars(run, results.tasks, way) for run in results.runs]
    spreads = {name: spread([seed[name] for seed in numbers]) for name in SCALARS}
    return {
        "matrix": mean_of(matrices).to_rows(),
        **{name: mean for name, (mean, _) in spreads.items()},
        "confusion": np.sum(confusions, axis=0).tolist(),
        "std": {name: deviation for name, (_, deviation) in spreads.items()},
        "metrics": {metric: final_scores(results, way, metric)[0] for metric in METRICS if metric != "iou"},
        "per_seed": {
            str(seed): {**values, "matrix": matrix.to_rows()}
            for seed, values, matrix in zip(results.seeds, numbers, matrices, strict=True)
        },
    }


def _scalars(run: SeedRun, tasks: Sequence[str], way: str) -> dict[str, float]:
    matrix, confusion = matrix_of(run, tasks, way), confusion_of(run, tasks, way)
    zero_shot = [run.stages[0].reports[task].zero_shot.scores["iou"] for task in tasks]
    images = confusion.sum()
    return {
        "last": matrix.last,
        "avg": matrix.avg,
        "ff": matrix.ff,
        "ff_max": matrix.ff_max,
        "bwt": matrix.bwt,
        "fwt": matrix.fwt(zero_shot),
        "accuracy": float(confusion.diagonal().sum() / images),
        "unknown_rate": float(confusion[:, -1].sum() / images),
    }


def _left_out(results: Results) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for task in results.tasks:
        for router in ROUTERS:
            numbers = left_out_numbers(results, task, router)
            if numbers is not None:
                found.setdefault(task, {})[router] = _over_seeds(numbers)
    return found


def _over_seeds(numbers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    means: dict[str, Any] = {}
    deviations: dict[str, float | None] = {}
    for name in ("unknown_recall", "auroc", "iou", "zero_shot"):
        values = [seed[name] for seed in numbers]
        means[name], deviations[name] = (None, None) if None in values else spread(values)
    return {**means, "images": _whole_mean([seed["images"] for seed in numbers]), "std": deviations}


def _whole_mean(values: Sequence[int]) -> int:
    return round(float(np.mean(values)))


def _plain(seconds: Mapping[str, Any]) -> dict[str, Any]:
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in seconds.items()}
