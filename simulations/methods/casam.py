"""CA-SAM's rows of a report, read off what was collected of a run."""

import numpy as np

from casam_fed.wire.evaluation_report import METRICS
from simulations.methods.casam_results import ROUTERS, Results
from simulations.methods.outcome import Outcome, Routing
from simulations.methods.unknown import unseen_scores

__all__ = ["casam_outcomes"]


def casam_outcomes(results: Results, order: int) -> tuple[Outcome, ...]:
    """Return the outcomes: for each seed routed by each router, and with every image sent to its own task."""
    return tuple(_outcome(results, seed, way, order) for seed in results.seeds for way in (*ROUTERS, "oracle"))


def _outcome(results: Results, seed: int, way: str, order: int) -> Outcome:
    run, tasks = results.seeds[seed], results.tasks
    confusion = run.confusion(tasks, way)
    smallest = int(np.argmin([run.counts[site].train for site in results.sites]))
    scores = {
        part: {metric: {task: run.last[task].by_way(part).scores[metric] for task in tasks} for metric in METRICS}
        for part in ("zero_shot", way)
    }
    trained = {site: run.seconds.get(site, {}) for site in results.sites}
    return Outcome(
        row=f"casam {way}",
        seed=seed,
        order=order,
        tasks=tasks,
        zero_shot=scores["zero_shot"],
        final=scores[way],
        matrix=tuple(map(tuple, run.matrix(tasks, way).to_rows())),
        unseen={name: unseen_scores(run, tasks, name, way) for name in run.unseen} if way in ROUTERS else {},
        bytes_up=dict(run.bytes_up),
        seconds={site: float(parts["train"]) for site, parts in trained.items() if isinstance(parts, dict)},
        routing=Routing(
            accuracy=float(confusion.diagonal().sum() / confusion.sum()),
            unknown_rate=float(confusion[:, -1].sum() / confusion.sum()),
            smallest_recall=float(confusion[smallest, smallest] / confusion[smallest].sum()),
        ),
    )
