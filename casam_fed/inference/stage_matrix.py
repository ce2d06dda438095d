"""The stage matrix a[i][j] of a stream of tasks, and the numbers continual learning reads off it.

Last, Avg and FF are those of CA-SAM (arXiv 2511.17201, experiments); BWT and FWT go back to Lopez-Paz and Ranzato 2017
(arXiv 1706.08840, section 3). Plain numbers: no images, no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["FORMULAS", "StageMatrix", "mean_of"]

FORMULAS: dict[str, str] = {
    "last": "Last = mean_j a[T-1][j]",
    "avg": "Avg = mean_i mean_{j<=i} a[i][j]",
    "ff": "FF = mean_{j<T-1} (a[j][j] - a[T-1][j]); 0 when T = 1",
    "ff_max": "FF_max = mean_{j<T-1} (max_{j<=l<T} a[l][j] - a[T-1][j]); 0 when T = 1",
    "bwt": "BWT = -FF",
    "fwt": "FWT = mean_{1<=j<T} (a[j-1][j] - zero_shot[j]); 0 when T = 1",
}
"""The formula of each number, to be printed beside it."""


@dataclass(frozen=True, eq=False)
class StageMatrix:
    """Scores a[i][j] of task j after stage i, both 0-based, T tasks admitted one a stage.

    On and below the diagonal every score is known. Above it task j has not been admitted yet: its score there serves
    the forward transfer and is NaN where nobody measured it.

    Attributes:
        values: float64 [T, T], T >= 1, in the unit of the score (0..1 for IoU); a read-only copy of what is passed.
    """

    values: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        """Take a read-only copy."""
        values = np.array(self.values, dtype=np.float64)
        assert values.size, "a stage matrix without a task"
        assert np.isfinite(values[np.tril_indices(len(values))]).all(), "a score on or below the diagonal is missing"
        values.flags.writeable = False
        object.__setattr__(self, "values", values)

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[float | None]]) -> "StageMatrix":
        """Build from one row a stage; row i holds its first i+1 to T scores, None or what is left off becomes NaN."""
        tasks = len(rows)
        values = np.full((tasks, tasks), np.nan)
        for stage, row in enumerate(rows):
            values[stage, : len(row)] = [np.nan if score is None else score for score in row]
        return cls(values)

    def to_rows(self) -> list[list[float | None]]:
        """Return T rows of T scores, None in place of NaN, so that JSON can hold them; `from_rows` undoes it."""
        return [[None if np.isnan(score) else float(score) for score in row] for row in self.values]

    def __eq__(self, other: object) -> bool:
        """Compare scores exactly; unmeasured ones are equal to each other."""
        if not isinstance(other, StageMatrix):
            return NotImplemented
        return np.array_equal(self.values, other.values, equal_nan=True)

    def __len__(self) -> int:
        """Return the number of tasks T, which is also that of stages."""
        return len(self.values)

    @property
    def last(self) -> float:
        """Mean score over all tasks after the last stage."""
        return float(self.values[-1].mean())

    @property
    def avg(self) -> float:
        """Average incremental score: the mean over stages of the mean over the tasks admitted so far."""
        return float(np.mean([self.values[stage, : stage + 1].mean() for stage in range(len(self))]))

    @property
    def ff(self) -> float:
        """Final forgetting: mean fall of each earlier task from its own stage to the last. 0 when T = 1."""
        return self._mean_fall(self.values.diagonal()[:-1])

    @property
    def ff_max(self) -> float:
        """Final forgetting from the best stage since each task joined, the last included; never below 0 or `ff`."""
        return self._mean_fall(np.array([self.values[task:, task].max() for task in range(len(self) - 1)]))

    @property
    def bwt(self) -> float:
        """Backward transfer, the negative of `ff`."""
        return 0.0 - self.ff

    def fwt(self, zero_shot: Sequence[float]) -> float:
        """Return the forward transfer: what the bank gives each later task, just before it joins, over zero-shot SAM.

        Args:
            zero_shot: score of each of the T tasks with the frozen backbone alone.

        Returns:
            Mean over tasks 1..T-1 of a[j-1][j] - zero_shot[j]; 0 when T = 1, NaN where one of them was not measured.
        """
        reference = np.asarray(zero_shot, dtype=np.float64)
        before = self.values.diagonal(offset=1)
        return float((before - reference[1:]).mean()) if before.size else 0.0

    def _mean_fall(self, top: npt.NDArray[np.float64]) -> float:
        return float((top - self.values[-1, :-1]).mean()) if top.size else 0.0


def mean_of(matrices: Sequence[StageMatrix]) -> StageMatrix:
    """Return the score by score mean of several runs of one stream; unmeasured in one run is unmeasured in the mean.

    Last, Avg, FF, BWT and FWT of the mean are the means of theirs; FF_max is at most theirs. There is at least one, and all
    are of one number of tasks.
    """
    return StageMatrix(np.mean([matrix.values for matrix in matrices], axis=0))
