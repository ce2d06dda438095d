"""The gaussian router: raw statistics, and their scores for all tasks of a bank at once.

A task is described by count, mean and covariance of its pooled embeddings. Shrinkage: Chen, Wiesel, Eldar and Hero,
"Shrinkage Algorithms for MMSE Covariance Estimation", IEEE Trans. Signal Processing 58(10), 2010, eq. (23).
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from casam_fed.errors import DataError, TrainingError
from casam_fed.routing.features import checked_features

__all__ = ["Background", "GaussianScorer", "GaussianStatistics", "oas_shrinkage"]

_FLOOR = 0.1
"""Variance added to every standardised channel: nothing is believed to vary less than a tenth of what drawn images do.

A few tens of images leave most directions unseen, and OAS fills them with a share of the task's own mean variance. A site
of very uniform images would then deny its own new images, and its log det would claim those of more varied sites.
Chosen by three-fold routing of training images of four nuclei sites (docs/explanation/nuclei.md)."""

_CHUNK_BYTES = 8 << 20
"""Size of the largest temporary while scoring; about a last-level cache, so that whitened values are not sent to RAM."""

_BUILD_CHUNK = 64
"""Tasks whose covariances are factorised together while a scorer is built; bounds the memory of the building."""


@dataclass(frozen=True, eq=False)
class GaussianStatistics:
    """Count, mean and covariance of one task's pooled embeddings, raw: neither standardised nor shrunk.

    The covariance is normalised by 1/count (maximum likelihood, the S of Chen et al. 2010), not by 1/(count - 1).

    Attributes:
        count: number of features, at least 1.
        mean: float64 [C], finite.
        covariance: float64 [C, C], symmetric, finite.
    """

    count: int
    mean: Tensor
    covariance: Tensor

    @classmethod
    def from_features(cls, features: Tensor) -> "GaussianStatistics":
        """Compute the statistics of pooled embeddings [n, C], n >= 1, in float64.

        Raises:
            DataError: features hold NaN or infinity.
        """
        values = checked_features(features, None, torch.float64)
        assert len(values), "statistics of no images"
        mean = values.mean(dim=0)
        centred = values - mean
        covariance = centred.T @ centred / len(values)
        return cls(count=len(values), mean=mean, covariance=(covariance + covariance.T) / 2)


@dataclass(frozen=True, eq=False)
class Background:
    """Mean and standard deviation of every channel of the backbone's pooled embeddings of drawn images.

    One per backbone; carried with the bank so that everybody scores alike.

    Attributes:
        mean: float64 [C].
        std: float64 [C], positive, normalised by 1/n.

    Raises:
        DataError: wrong shape or dtype, NaN or infinity, or a standard deviation that is not positive.
    """

    mean: Tensor
    std: Tensor

    def __post_init__(self) -> None:
        shape = (max(1, self.mean.numel()),)
        sound = all(
            each.shape == shape and each.dtype == torch.float64 and bool(torch.isfinite(each).all())
            for each in (self.mean, self.std)
        )
        if not (sound and (self.std > 0).all()):
            raise DataError(
                "the background must be a mean and a standard deviation for every channel, float64 [C], without NaN or"
                " infinity, and no channel may stay the same; compute it again from a few hundred different drawn images"
            )

    @classmethod
    def from_features(cls, features: Tensor) -> "Background":
        """Compute the background of pooled embeddings [n, C] of drawn images, in float64.

        Raises:
            DataError: features hold NaN or infinity, or some channel never changes.
        """
        values = checked_features(features, None, torch.float64)
        return cls(mean=values.mean(dim=0), std=values.std(dim=0, correction=0))


def oas_shrinkage(covariance: Tensor, count: Tensor) -> Tensor:
    """Return the OAS shrinkage weight of covariances, between 0 (as measured) and 1 (mean variance times identity).

    Chen et al. 2010, eq. (23), with S normalised by 1/count:
    rho = min(1, ((1 - 2/p) tr(S^2) + tr(S)^2) / ((n + 1 - 2/p) (tr(S^2) - tr(S)^2 / p))).

    Args:
        covariance: float64 [..., C, C], symmetric.
        count: [...], number of features behind each covariance.

    Returns:
        rho, float64 [...]; 1 where S already is a multiple of the identity.
    """
    channels = covariance.shape[-1]
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
    squared = covariance.square().sum((-2, -1))
    numerator = (1 - 2 / channels) * squared + trace.square()
    denominator = (count + 1 - 2 / channels) * (squared - trace.square() / channels)
    return torch.where(denominator > 0, numerator / denominator, torch.ones_like(trace)).clamp(max=1.0)


class GaussianScorer:
    """Scores features against every task of a bank: squared Mahalanobis distance + log det, standardised and shrunk.

    Built once per snapshot of the bank: each covariance S is standardised by the background, shrunk (OAS), given a floor
    of 0.1 (in units of the background's variance) and factorised to L L^T; kept are L^-1, L^-1 mean and log det, all
    float64: 8 C^2 bytes a task, 0.5 GB for 1,000 tasks of 256 channels. float64 because rounding must not decide a route:
    near the minimum two tasks' scores may agree to many digits, and in float32 the scores carry errors that grow with the
    condition number of S.
    """

    def __init__(self, statistics: Sequence[GaussianStatistics], background: Background) -> None:
        """Factorise the statistics of T tasks (T may be 0), all of the background's C; scores come in the same order.

        Raises:
            TrainingError: a task's features have no spread at all (a single image, or all alike), or its covariance
                is not positive.
        """
        self._background = background
        channels = background.mean.numel()
        assert all(task.mean.numel() == channels for task in statistics), "statistics of another backbone"
        count = len(statistics)
        self._whitening = torch.empty((count, channels, channels), dtype=torch.float64)
        self._offset = torch.empty((count, channels), dtype=torch.float64)
        self._log_det = torch.empty(count, dtype=torch.float64)
        for start in range(0, count, _BUILD_CHUNK):
            self._factorise(statistics[start : start + _BUILD_CHUNK], start)

    def _factorise(self, statistics: Sequence[GaussianStatistics], start: int) -> None:
        std = self._background.std
        means = (torch.stack([task.mean for task in statistics]) - self._background.mean) / std
        covariances = torch.stack([task.covariance for task in statistics]) / torch.outer(std, std)
        counts = torch.tensor([task.count for task in statistics], dtype=torch.float64)
        average = covariances.diagonal(dim1=1, dim2=2).mean(1)
        rho = oas_shrinkage(covariances, counts)
        covariances *= (1 - rho)[:, None, None]
        covariances.diagonal(dim1=1, dim2=2).add_((rho * average)[:, None] + _FLOOR)
        factor, failed = torch.linalg.cholesky_ex(covariances)
        bad = torch.nonzero((failed > 0) | (average <= 0)).flatten()
        if len(bad):
            raise TrainingError(
                f"task {start + int(bad[0])} has statistics without a usable spread: its {int(counts[bad[0]])} image(s)"
                " look alike to the backbone; train the router on at least two different images"
            )
        rows = slice(start, start + len(statistics))
        identity = torch.eye(means.shape[1], dtype=torch.float64).expand_as(factor)
        whitening = torch.linalg.solve_triangular(factor, identity, upper=False)
        self._whitening[rows] = whitening
        self._offset[rows] = torch.matmul(whitening, means[:, :, None]).squeeze(2)
        self._log_det[rows] = 2 * factor.diagonal(dim1=1, dim2=2).log().sum(1)

    def only(self, tasks: Sequence[int]) -> "GaussianScorer":
        """Return the scorer of the tasks with these numbers, in this order, to the bit as if it had been built for them."""
        kept, rows = copy.copy(self), list(tasks)
        kept._whitening, kept._offset = self._whitening[rows], self._offset[rows]
        kept._log_det = self._log_det[rows]
        return kept

    def scores(self, features: Tensor) -> Tensor:
        """Return the score of every feature for every task, float64 [B, T] on the CPU; low means near.

        Args:
            features: pooled embeddings [B, C], any floating dtype; B may be 0.

        Raises:
            DataError: features are not of the bank's C, or hold NaN or infinity.
        """
        count, channels = self._offset.shape
        values = checked_features(features, channels, torch.float64)
        standardised = ((values - self._background.mean) / self._background.std).T.contiguous()
        images = standardised.shape[1]
        result = torch.empty((count, images), dtype=torch.float64)
        step = max(1, _CHUNK_BYTES // (8 * channels * max(1, images)))
        for start in range(0, count, step):
            rows = slice(start, start + step)
            whitened = torch.addmm(
                self._offset[rows].reshape(-1, 1), self._whitening[rows].flatten(0, 1), standardised, beta=-1
            )
            torch.sum(whitened.square_().unflatten(0, (-1, channels)), dim=1, out=result[rows])
        return (result + self._log_det[:, None]).T.contiguous()
