"""CA-SAM's rows of a sweep, read off what the aggregator collected."""

import numpy as np

from casam_fed.wire.evaluation_report import METRICS
from simulations.methods.casam_results import ROUTERS, Results
from simulations.methods.outcome import Outcome, UnseenScores
from simulations.methods.unknown import unseen_numbers
from simulations.report.numbers import confusion_of, matrix_of

__all__ = ["casam_outcomes"]


def casam_outcomes(results: Results, order: int) -> list[Outcome]:
    """Return the outcomes of a run of one seed: routed by each router, and with every image sent to its own task."""
    return [_outcome(results, way, order) for way in (*ROUTERS, "oracle")]


def _outcome(results: Results, way: str, order: int) -> Outcome:
    ((seed, run),) = results.seeds.items()
    tasks, last = results.tasks, run.stages[-1].reports
    accuracy, smallest = None, None
    if way in ROUTERS:
        confusion = confusion_of(run, tasks, way)
        accuracy = float(confusion.diagonal().sum() / confusion.sum())
        row = int(np.argmin([run.counts[site]["train"] for site in results.sites]))
        smallest = float(confusion[row, row] / confusion[row].sum())
    trained = {site: run.seconds.get(site, {}) for site in results.sites}
    return Outcome(
        row=f"casam {way}",
        seed=seed,
        order=order,
        tasks=tasks,
        zero_shot={task: last[task].zero_shot.scores["iou"] for task in tasks},
        final={metric: {task: last[task].by_way(way).scores[metric] for task in tasks} for metric in METRICS},
        matrix=tuple(tuple(row) for row in matrix_of(run, tasks, way).to_rows()),
        accuracy=accuracy,
        smallest_recall=smallest,
        unseen={name: _unseen(results, name, way) for name in run.unseen} if way in ROUTERS else {},
        bytes_up=dict(run.bytes_up),
        seconds={site: float(parts["train"]) for site, parts in trained.items() if isinstance(parts, dict)},
    )


def _unseen(results: Results, name: str, way: str) -> UnseenScores:
    (numbers,) = unseen_numbers(results, name, way)
    return UnseenScores(
        numbers["images"], numbers["iou"], numbers["zero_shot"], numbers["unknown_recall"], numbers["auroc"]
    )
