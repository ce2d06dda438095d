"""The content of run.json: everything that the page shows, plain values only, None where nothing was measured.

`rows` compares methods over seeds and orders. What only CA-SAM has (`routes`, `left_out`, `bank_digests`, ...) is that of
its runs in the stream's own order. Formulas are those of `casam_fed.inference.stage_matrix`; deviations are sample standard
deviations, None for one run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from casam_fed.inference.stage_matrix import StageMatrix, mean_of
from casam_fed.wire.evaluation_report import METRICS
from simulations.methods.casam_results import ROUTERS, ROUTES, Results
from simulations.methods.method_list import METHODS
from simulations.methods.outcome import SCALARS, Outcome, UnseenScores
from simulations.methods.unknown import left_out_scores
from simulations.stream_config import StreamConfig, method_record
from simulations.sweep.folder import CellResult
from simulations.sweep.plan import Cell

__all__ = ["TOLERANCE", "rows_of", "run_numbers"]

TOLERANCE = 0.01
"""How far the IoU on an unseen set may fall below plain SAM's."""

_OF_ROUTES = ("last", "avg", "ff", "ff_max", "bwt", "fwt", "accuracy", "unknown_rate")


def run_numbers(
    stream: StreamConfig,
    orders: Sequence[Sequence[str]],
    cells: Mapping[Cell, CellResult],
    casam: Results | None,
) -> dict[str, Any]:
    """Return the content of run.json.

    Args:
        stream: what was run.
        orders: of the tasks, the stream's own first.
        cells: what each has left.
        casam: of the cells of casam in the stream's own order, where there are any.
    """
    outcomes = [outcome for result in cells.values() for outcome in result.outcomes]
    own = [outcome for outcome in outcomes if outcome.row == outcomes[0].row and outcome.order == 0]
    # Every method is scored beside plain SAM, which needs no cell of its own; one outcome an order: seeds do not matter.
    scored = {} if "zero-shot" in {outcome.row for outcome in outcomes} else {one.order: one for one in outcomes[::-1]}
    unaided = [outcome.plain_sam() for outcome in scored.values()]
    peaks = [result.peak_rss_mb for result in cells.values() if result.peak_rss_mb is not None]
    seconds: dict[str, Any] = {
        "total": sum(result.wall_s for result in cells.values()),
        "cells": {str(cell): result.wall_s for cell, result in cells.items()},
    }
    run = {
        "stream": stream.stream,
        "tasks": list(orders[0]),
        "seeds": list(stream.seeds),
        "orders": [list(order) for order in orders],
        "methods": list(dict.fromkeys(cell.method.name for cell in cells)),
        "zero_shot": {task: _mean([outcome.zero_shot["iou"][task] for outcome in own]) for task in orders[0]},
        "rows": rows_of([*outcomes, *unaided]),
        "seconds": seconds,
        "peak_rss_mb": round(max(peaks)) if peaks else None,
        "config": method_record(stream),
        "baselines": asdict(stream.baselines),
    }
    if casam is not None:
        run |= _casam(casam, outcomes)
        seconds["seeds"] = {str(seed): _plain(found.seconds) for seed, found in casam.seeds.items()}
    return run


def rows_of(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return row -> its numbers, in the order of the methods' list."""
    return {row: _row(found) for row, found in _by_row(outcomes).items()}


def _by_row(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Group outcomes by row, in the order of the methods' list, each in the order of orders and seeds."""
    names = [row for method in METHODS.values() for row in method.rows]
    grouped = {name: [outcome for outcome in outcomes if outcome.row == name] for name in names}
    return {name: sorted(found, key=lambda o: (o.order, o.seed)) for name, found in grouped.items() if found}


def _row(found: Sequence[Outcome]) -> dict[str, Any]:
    """Return a row's numbers.

    `matrix`, `final`, `curve` (mean IoU of the tasks that have joined) and `forgetting` (their mean fall since they joined)
    are means over seeds; the first two of the stream's own order only, for tasks stand elsewhere in the others.
    """
    scalars = [outcome.scalars() for outcome in found]
    own = [outcome for outcome in found if outcome.order == 0]
    matrices = [matrix for outcome in found if (matrix := outcome.stage_matrix) is not None]
    staged = [matrix for outcome in own if (matrix := outcome.stage_matrix) is not None]
    curves = [_curves(matrix) for matrix in matrices]
    return {
        "runs": len(found),
        **{name: _mean_and_std([numbers[name] for numbers in scalars]) for name in SCALARS},
        "matrix": mean_of(staged).to_rows() if staged else None,
        "final": {
            metric: {task: _mean_and_std([outcome.final[metric][task] for outcome in own]) for task in own[0].tasks}
            for metric in METRICS
        },
        "curve": np.mean([curve for curve, _ in curves], axis=0).tolist() if curves else None,
        "forgetting": np.mean([fall for _, fall in curves], axis=0).tolist() if curves else None,
        "unseen": {name: _unseen([outcome.unseen[name] for outcome in found]) for name in found[0].unseen},
        "bytes_up": _means([outcome.bytes_up for outcome in found]),
        "seconds": _means([outcome.seconds for outcome in found]),
        "per_run": [
            {"seed": outcome.seed, "order": outcome.order, **numbers}
            for outcome, numbers in zip(found, scalars, strict=True)
        ],
    }


def _curves(matrix: StageMatrix) -> tuple[list[float], list[float]]:
    values, stages = matrix.values, range(len(matrix))
    joined = [float(values[stage, : stage + 1].mean()) for stage in stages]
    falls = [float((values.diagonal()[: stage + 1] - values[stage, : stage + 1]).mean()) for stage in stages]
    return joined, falls


def _unseen(scores: Sequence[UnseenScores]) -> dict[str, Any]:
    iou, plain = (_mean([getattr(score, key) for score in scores]) for key in ("iou", "zero_shot"))
    return {
        "images": scores[0].images,
        "iou": _mean_and_std([score.iou for score in scores]),
        "zero_shot": plain,
        "difference": iou - plain,
        "harmless": iou >= plain - TOLERANCE,
        "unknown_rate": _mean_and_std([score.unknown_rate for score in scores]),
        "auroc": _mean_and_std([score.auroc for score in scores]),
    }


def _casam(results: Results, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return what only CA-SAM has.

    `confusion` [T][T+1] counts test images at the last stage summed over seeds, row = their own task, column = the task
    they were sent to, last column unknown.
    """
    tasks = results.tasks
    rows = _by_row(outcomes)
    own = {way: [outcome for outcome in rows[f"casam {way}"] if outcome.order == 0] for way in ROUTES}
    by_seed = {str(seed): run for seed, run in results.seeds.items()}
    left_out = {task: {router: left_out_scores(results, task, router) for router in ROUTERS} for task in tasks}
    return {
        "sites": list(results.sites),
        "routes": {way: _route(results, way, found) for way, found in own.items()},
        "bytes_up": _whole_means(results, "bytes_up"),
        "bytes_down": _whole_means(results, "bytes_down"),
        "counts": {site: asdict(counts) for site, counts in results.runs[0].counts.items()},
        "notes": {
            site: list(dict.fromkeys(note for run in results.runs for note in run.notes.get(site, ())))
            for site in results.sites
        },
        "bank_digest": results.runs[0].bank_digest,
        "bank_digests": {seed: run.bank_digest for seed, run in by_seed.items()},
        "left_out": {
            task: {router: _over_seeds(scores) for router, scores in found.items()}
            for task, found in left_out.items()
            if all(found.values())
        },
        "unseen": {
            name: {router: _over_seeds([outcome.unseen[name] for outcome in own[router]]) for router in ROUTERS}
            for name in results.runs[0].unseen
        },
        "admissions": {seed: [asdict(admission) for admission in run.admissions] for seed, run in by_seed.items()},
        "devices": {seed: dict(run.devices) for seed, run in by_seed.items()},
        "verified": {seed: run.verified for seed, run in by_seed.items()},
        "backbone": dict(results.backbone),
        "versions": dict(results.versions),
    }


def _route(results: Results, way: str, found: Sequence[Outcome]) -> dict[str, Any]:
    scalars = [outcome.scalars() for outcome in found]
    matrices = [run.matrix(results.tasks, way) for run in results.runs]
    return {
        "matrix": mean_of(matrices).to_rows(),
        **_means_beside_std({name: [numbers[name] for numbers in scalars] for name in _OF_ROUTES}),
        "confusion": np.sum([run.confusion(results.tasks, way) for run in results.runs], axis=0).tolist(),
        "metrics": {metric: float(np.mean([numbers[metric] for numbers in scalars])) for metric in METRICS[1:]},
        "per_seed": {
            str(outcome.seed): {**{name: numbers[name] for name in _OF_ROUTES}, "matrix": matrix.to_rows()}
            for outcome, numbers, matrix in zip(found, scalars, matrices, strict=True)
        },
    }


def _over_seeds(scores: Sequence[UnseenScores]) -> dict[str, Any]:
    names = {"unknown_recall": "unknown_rate", "auroc": "auroc", "iou": "iou", "zero_shot": "zero_shot"}
    values = {name: [getattr(score, kept) for score in scores] for name, kept in names.items()}
    return {**_means_beside_std(values), "images": round(_mean([score.images for score in scores]))}


def _means_beside_std(values: Mapping[str, Sequence[float | None]]) -> dict[str, Any]:
    """Return name -> mean, and under "std" name -> deviation."""
    spreads = {name: _mean_and_std(found) or {"mean": None, "std": None} for name, found in values.items()}
    return {
        **{name: value["mean"] for name, value in spreads.items()},
        "std": {name: value["std"] for name, value in spreads.items()},
    }


def _mean_and_std(values: Sequence[float | None]) -> dict[str, float | None] | None:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    return {"mean": _mean(known), "std": float(np.std(known, ddof=1)) if len(known) > 1 else None}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _means(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: _mean([value[key] for value in values]) for key in values[0]}


def _whole_means(results: Results, what: str) -> dict[str, int]:
    return {site: round(_mean([getattr(run, what)[site] for run in results.runs])) for site in results.sites}


def _plain(seconds: Mapping[str, Any]) -> dict[str, Any]:
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in seconds.items()}
