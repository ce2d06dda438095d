"""What a method has to show for one order of tasks and one seed: the numbers that a report is made of. Needs no torch."""

from collections.abc import Iterable, Mapping

import numpy as np
from pydantic.dataclasses import dataclass

from casam_fed.forms import STRICT
from casam_fed.inference.stage_matrix import StageMatrix

__all__ = ["Outcome", "UnseenScores"]


@dataclass(frozen=True, config=STRICT)
class UnseenScores:
    """A set that no task has seen, under the last stage.

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
class Outcome:
    """One row of a report, for one order and one seed.

    Attributes:
        row: method and, where it has several, way of routing.
        seed, order: which; order 0 is the stream's own.
        tasks: in that order.
        zero_shot: task -> IoU of plain SAM.
        final: metric -> task -> score at the end.
        matrix: IoU a[i][j]; None for a method that does not learn task after task.
        accuracy: share of test images sent to their own task; None where nothing is routed.
        smallest_recall: the same among the test images of the task with the fewest training images.
        unseen: name -> scores.
        bytes_up: site -> bytes sent, where something was exchanged.
        seconds: site -> seconds of training.
    """

    row: str
    seed: int
    order: int
    tasks: tuple[str, ...]
    zero_shot: Mapping[str, float]
    final: Mapping[str, Mapping[str, float]]
    matrix: tuple[tuple[float | None, ...], ...] | None
    accuracy: float | None
    smallest_recall: float | None
    unseen: Mapping[str, UnseenScores]
    bytes_up: Mapping[str, int]
    seconds: Mapping[str, float]

    @property
    def stage_matrix(self) -> StageMatrix | None:
        """The stage matrix."""
        return None if self.matrix is None else StageMatrix.from_rows(self.matrix)

    def scalars(self) -> dict[str, float | None]:
        """Return the numbers of the report's table, None where the method has none."""
        matrix = self.stage_matrix
        numbers: dict[str, float | None] = {
            "last": _mean(self.final["iou"].values()),
            "boundary_iou": _mean(self.final["boundary_iou"].values()),
            "accuracy": self.accuracy,
            "smallest_recall": self.smallest_recall,
        }
        for name in ("avg", "ff", "ff_max", "bwt"):
            numbers[name] = None if matrix is None else float(getattr(matrix, name))
        numbers["fwt"] = None if matrix is None else matrix.fwt([self.zero_shot[task] for task in self.tasks])
        return numbers


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
