"""The gaussian router: statistics, OAS shrinkage, and all tasks in one computation."""

import numpy as np
import pytest
import torch

from casam_fed.errors import DataError
from casam_fed.routing.gaussian import Background, GaussianScorer, GaussianStatistics, oas_shrinkage

C = 6
PLAIN = Background(torch.zeros(C, dtype=torch.float64), torch.ones(C, dtype=torch.float64))


def features(count: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(C, C, generator=generator, dtype=torch.float64)
    return torch.randn(count, C, generator=generator, dtype=torch.float64) @ mixing + shift


def slow_score(statistics: GaussianStatistics, background: Background, feature: torch.Tensor) -> float:
    """One task, one image, straight from the definitions (OAS: Chen et al. 2010, equation 23; floor: docs/adr/0004)."""
    scale = background.std.numpy()
    mean = (statistics.mean.numpy() - background.mean.numpy()) / scale
    covariance = statistics.covariance.numpy() / np.outer(scale, scale)
    n, p = statistics.count, len(mean)
    trace, square = np.trace(covariance), np.trace(covariance @ covariance)
    rho = min(1.0, ((1 - 2 / p) * square + trace**2) / ((n + 1 - 2 / p) * (square - trace**2 / p)))
    shrunk = (1 - rho) * covariance + (rho * trace / p + 0.1) * np.eye(p)
    distance = (feature.numpy() - background.mean.numpy()) / scale - mean
    return float(distance @ np.linalg.inv(shrunk) @ distance + np.linalg.slogdet(shrunk)[1])


def test_a_site_of_uniform_images_neither_denies_its_own_nor_claims_those_of_a_varied_site():
    """Both seen in training images of real sites before there was a floor."""
    generator = torch.Generator().manual_seed(5)
    background = Background(torch.zeros(64, dtype=torch.float64), torch.ones(64, dtype=torch.float64))
    uniform = 0.001 * torch.randn(30, 64, generator=generator, dtype=torch.float64)
    varied = 0.02 * torch.randn(60, 64, generator=generator, dtype=torch.float64) + 0.05
    varied[:, :4] *= 20
    tasks = [GaussianStatistics.from_features(uniform), GaussianStatistics.from_features(varied[:40])]
    scorer = GaussianScorer(tasks, background)
    moved = 0.01 * torch.randn(20, 64, generator=generator, dtype=torch.float64)
    assert (scorer.scores(moved).argmin(dim=1) == 0).all()
    assert (scorer.scores(varied[40:]).argmin(dim=1) == 1).all()


def test_all_tasks_at_once_equal_the_definition_one_by_one():
    background = Background.from_features(features(300, 99, 1.0))
    tasks = [GaussianStatistics.from_features(features(count, seed, seed)) for seed, count in enumerate((4, 12, 60))]
    images = features(5, 7)
    scores = GaussianScorer(tasks, background).scores(images)
    expected = [[slow_score(task, background, image) for task in tasks] for image in images]
    assert scores.shape == (5, 3)
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-9)


def test_permuting_the_tasks_permutes_the_scores():
    tasks = [GaussianStatistics.from_features(features(10, seed)) for seed in range(4)]
    images = features(3, 50)
    order = [2, 0, 3, 1]
    scores = GaussianScorer(tasks, PLAIN).scores(images)
    assert torch.equal(GaussianScorer([tasks[i] for i in order], PLAIN).scores(images), scores[:, order])


def test_few_images_shrink_more_than_many():
    few, many = (GaussianStatistics.from_features(features(count, 1)) for count in (5, 5000))
    values = [float(oas_shrinkage(each.covariance[None], torch.tensor([each.count])).squeeze()) for each in (few, many)]
    assert 0 < values[1] < 0.01 < values[0] <= 1


def test_the_background_takes_out_the_scale_of_a_channel():
    """A channel measured in other units changes neither the distances nor the order of the tasks."""
    units = torch.tensor([1.0, 1000.0, 0.01, 1.0, 5.0, 1.0], dtype=torch.float64)
    drawn, images = features(300, 5), features(4, 6)
    samples = [features(20, seed, 2.0 * seed) for seed in range(3)]

    def scores(scale: torch.Tensor) -> torch.Tensor:
        tasks = [GaussianStatistics.from_features(sample * scale) for sample in samples]
        return GaussianScorer(tasks, Background.from_features(drawn * scale)).scores(images * scale)

    torch.testing.assert_close(scores(units), scores(torch.ones_like(units)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused(value):
    broken = features(5, 0)
    broken[2, 3] = value
    scorer = GaussianScorer([GaussianStatistics.from_features(features(9, 1))], PLAIN)
    for use in (GaussianStatistics.from_features, Background.from_features, scorer.scores):
        with pytest.raises(DataError):
            use(broken)
