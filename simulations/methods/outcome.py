"""What a method has to show for one order of tasks and one seed: the numbers that a report is made of. Needs no torch."""

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
from pydantic.dataclasses import dataclass

from casam_fed.forms import STRICT
from casam_fed.inference.stage_matrix import StageMatrix
from casam_fed.wire.evaluation_report import METRICS

__all__ = ["SCALARS", "Outcome", "Routing", "UnseenScores"]

_STAGED = ("avg", "ff", "ff_max", "bwt")

SCALARS = ("last", *_STAGED, "fwt", *METRICS[1:], "accuracy", "unknown_rate", "smallest_recall")
"""One number an outcome, in the order in which they are shown."""


@dataclass(frozen=True, config=STRICT)
class UnseenScores:
    """Images that no task of the bank, or none at all, has seen, after the last stage.

    Attributes:
        images: how many.
        iou, zero_shot: mean IoU as the method answers, and of plain SAM.
        unknown_rate: share sent to unknown; None where nothing is routed.
        auroc: of the strength of "unknown", these images against the test images of all tasks; None likewise.
    """

    images: int
    iou: float
    zero_shot: float
    unknown_rate: float | None = None
    auroc: float | None = None


@dataclass(frozen=True, config=STRICT)
class Routing:
    """Where the test images of all tasks were sent at the end.

    Attributes:
        accuracy: share sent to their own task.
        unknown_rate: share sent to unknown.
        smallest_recall: share sent to their own task among those of the task with the fewest training images.
    """

    accuracy: float
    unknown_rate: float
    smallest_recall: float


@dataclass(frozen=True, config=STRICT)
class Outcome:
    """One row of a report, for one order and one seed.

    Attributes:
        row: method and, where it has several, way of routing.
        seed, order: which; order 0 is the stream's own.
        tasks: in that order.
        zero_shot: metric -> task -> score of plain SAM.
        final: metric -> task -> score at the end.
        matrix: IoU a[i][j]; None for a method that does not learn task after task.
        unseen: name -> scores.
        bytes_up: site -> bytes sent, where something was exchanged.
        seconds: site -> seconds of training.
        routing: None where nothing is routed.
    """

    row: str
    seed: int
    order: int
    tasks: tuple[str, ...]
    zero_shot: Mapping[str, Mapping[str, float]]
    final: Mapping[str, Mapping[str, float]]
    matrix: tuple[tuple[float | None, ...], ...] | None
    unseen: Mapping[str, UnseenScores]
    bytes_up: Mapping[str, int]
    seconds: Mapping[str, float]
    routing: Routing | None = None

    @property
    def stage_matrix(self) -> StageMatrix | None:
        """The stage matrix."""
        return None if self.matrix is None else StageMatrix.from_rows(self.matrix)

    def scalars(self) -> dict[str, float | None]:
        """Return the numbers named in `SCALARS`, None where the method has none."""
        matrix, routing = self.stage_matrix, self.routing
        numbers: dict[str, float | None] = dict.fromkeys(SCALARS)
        for metric in METRICS:
            numbers["last" if metric == "iou" else metric] = float(np.mean(list(self.final[metric].values())))
        if matrix is not None:
            numbers |= {name: getattr(matrix, name) for name in _STAGED}
            numbers["fwt"] = matrix.fwt([self.zero_shot["iou"][task] for task in self.tasks])
        if routing is not None:
            numbers |= asdict(routing)
        return numbers

    def plain_sam(self) -> "Outcome":
        """Return the outcome of plain SAM on the same tasks: every stage scores alike."""
        scores = tuple(self.zero_shot["iou"][task] for task in self.tasks)
        return Outcome(
            row="zero-shot",
            seed=self.seed,
            order=self.order,
            tasks=self.tasks,
            zero_shot=self.zero_shot,
            final=self.zero_shot,
            matrix=(scores,) * len(scores),
            unseen={},
            bytes_up={},
            seconds={},
        )
