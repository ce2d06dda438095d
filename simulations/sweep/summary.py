"""The numbers of a sweep: for every row the mean and sample standard deviation over its seeds and orders."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from casam_fed.inference.stage_matrix import StageMatrix, mean_of
from casam_fed.wire.evaluation_report import METRICS
from simulations.methods.method_list import METHODS
from simulations.methods.outcome import Outcome
from simulations.report.numbers import spread

__all__ = ["SCALARS", "TOLERANCE", "by_row", "summarise_sweep"]

SCALARS = ("last", "avg", "ff", "ff_max", "bwt", "fwt", "boundary_iou", "accuracy", "smallest_recall")
"""One number an outcome, in the order in which they are shown."""

TOLERANCE = 0.01
"""How far the IoU on an unseen set may fall below plain SAM's."""


def by_row(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Group outcomes by row, in the order of the catalogue, each in the order of seeds and orders."""
    names = [row for method in METHODS.values() for row in method.rows]
    grouped = {name: [outcome for outcome in outcomes if outcome.row == name] for name in names}
    return {name: sorted(found, key=lambda o: (o.order, o.seed)) for name, found in grouped.items() if found}


def summarise_sweep(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return row -> its numbers, plain values only, None where a row has none.

    `matrix`, `final`, `curve` (mean IoU of the tasks that have joined) and `forgetting` (their mean fall since they joined)
    are means over seeds; the first two of the stream's own order only, for tasks stand elsewhere in the others.
    """
    return {row: _row(found) for row, found in by_row(outcomes).items()}


def _row(found: Sequence[Outcome]) -> dict[str, Any]:
    scalars = [outcome.scalars() for outcome in found]
    own_order = [outcome for outcome in found if outcome.order == 0]
    matrices = [outcome.stage_matrix for outcome in found]
    curves = [_curves(matrix) for matrix in matrices if matrix is not None]
    first = [
        matrix for matrix, outcome in zip(matrices, found, strict=True) if matrix is not None and outcome.order == 0
    ]
    return {
        "runs": len(found),
        **{name: _mean_and_std([numbers[name] for numbers in scalars]) for name in SCALARS},
        "matrix": mean_of(first).to_rows() if first else None,
        "final": {
            metric: {
                task: float(np.mean([outcome.final[metric][task] for outcome in own_order]))
                for task in own_order[0].tasks
            }
            for metric in METRICS
        }
        if own_order
        else None,
        "curve": np.mean([curve for curve, _ in curves], axis=0).tolist() if curves else None,
        "forgetting": np.mean([fall for _, fall in curves], axis=0).tolist() if curves else None,
        "unseen": {name: _unseen(found, name) for name in found[0].unseen},
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


def _unseen(found: Sequence[Outcome], name: str) -> dict[str, Any]:
    scores = [outcome.unseen[name] for outcome in found]
    iou, plain = (float(np.mean([getattr(score, key) for score in scores])) for key in ("iou", "zero_shot"))
    return {
        "images": scores[0].images,
        "iou": _mean_and_std([score.iou for score in scores]),
        "zero_shot": plain,
        "difference": iou - plain,
        "harmless": iou >= plain - TOLERANCE,
        "unknown_rate": _mean_and_std([score.unknown_rate for score in scores]),
        "auroc": _mean_and_std([score.auroc for score in scores]),
    }


def _mean_and_std(values: Sequence[float | None]) -> dict[str, float | None] | None:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    mean, deviation = spread(known)
    return {"mean": mean, "std": deviation}


def _means(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([value[key] for value in values])) for key in values[0]}
