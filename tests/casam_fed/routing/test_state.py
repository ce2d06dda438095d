"""Router tensors that no site could have computed are refused; small and many tasks take the same path as any other."""

import numpy as np
import pytest
import torch

from casam_fed.errors import DataError, ReleaseError, TrainingError
from casam_fed.routing.calibration import plan_folds
from casam_fed.routing.gaussian import Background, GaussianScorer, GaussianStatistics
from casam_fed.routing.state import RouterOptions, fit_routers, router_state_from, router_tensors
from casam_fed.routing.vae import TaskVAE, VAEScorer

C = 8
BACKGROUND = Background(torch.zeros(C, dtype=torch.float64), torch.ones(C, dtype=torch.float64))


def features(seed: int, count: int, channels: int = C) -> torch.Tensor:
    return torch.randn(count, channels, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    options = RouterOptions(vae_epochs=1)
    return router_tensors(fit_routers(features(0, 12), [f"p{i}" for i in range(12)], BACKGROUND, options))


def identity(value: float) -> torch.Tensor:
    return torch.eye(C, dtype=torch.float64) * value


def unsymmetric() -> torch.Tensor:
    changed = identity(1.0)
    changed[0, 1] = 0.5
    return changed


DEFECTS = {
    "missing": ("router.vae.mu_head.bias", None, "lacks"),
    "missing mean": ("router.gaussian.mean", None, "lacks"),
    "empty mean": ("router.gaussian.mean", torch.empty(0, dtype=torch.float64), "router.gaussian"),
    "undeclared": ("router.extra", torch.zeros(1), "undeclared"),
    "shape": ("router.thresholds", torch.zeros(2, 3, dtype=torch.float64), "shape"),
    "dtype": ("router.gaussian.mean", torch.zeros(C), "type"),
    "NaN": ("router.vae.encoder.bias", torch.full((128,), torch.nan), "NaN"),
    "no image": ("router.gaussian.count", torch.tensor(0), "count 0"),
    "unsymmetric": ("router.gaussian.covariance", unsymmetric(), "symmetric"),
    "negative variance": ("router.gaussian.covariance", identity(-1.0), "negative"),
    "no spread": ("router.gaussian.covariance", identity(0.0), "zero"),
    "rounding for a spread": ("router.gaussian.covariance", identity(1e-30), "zero"),
    "too many images": ("router.gaussian.count", torch.tensor(2**60), "count"),
    "huge mean": ("router.gaussian.mean", torch.full((C,), 1e200, dtype=torch.float64), "beyond"),
    "huge variance": ("router.gaussian.covariance", identity(1e200), "beyond"),
    "huge weight": ("router.vae.decoder1.weight", torch.full((128, 64), -1e30), "beyond"),
    "threshold below median": ("router.thresholds", torch.tensor([[2.0, 1.0]] * 2, dtype=torch.float64), "median"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_tensors_that_no_site_could_have_computed_are_refused(tensors, defect):
    name, value, reason = DEFECTS[defect]
    changed = {key: tensor for key, tensor in tensors.items() if key != name}
    if value is not None:
        changed[name] = value
    with pytest.raises(ReleaseError, match=reason):
        router_state_from(changed)


def test_the_least_shrunk_covariance_that_is_accepted_still_has_scores(tensors):
    """One entry that no router can be built from would stop the whole bank."""
    direction = torch.arange(1.0, C + 1, dtype=torch.float64)
    changed = {"router.gaussian.count": torch.tensor(10_000_000)}
    changed["router.gaussian.covariance"] = torch.outer(direction, direction)
    state = router_state_from(tensors | changed)
    assert torch.isfinite(GaussianScorer([state.gaussian], BACKGROUND).scores(features(1, 3))).all()


def test_tensors_of_the_alignment_layer_are_not_looked_at(tensors):
    assert router_state_from(tensors | {"alignment.norm.weight": torch.ones(3)}).gaussian.count == 12


def test_more_tasks_and_images_than_one_chunk_score_like_one_by_one():
    tasks, images, channels = 70, features(1, 600, 64), 64
    background = Background.from_features(features(2, 100, channels))
    sites = [GaussianStatistics.from_features(features(seed, 10, channels) + seed / 10) for seed in range(tasks)]
    expected = torch.cat([GaussianScorer([site], background).scores(images) for site in sites], dim=1)
    torch.testing.assert_close(GaussianScorer(sites, background).scores(images), expected, rtol=1e-12, atol=1e-9)

    vaes = [TaskVAE(channels, torch.Generator().manual_seed(seed)).requires_grad_(False) for seed in range(tasks)]
    expected = torch.stack([vae.score(images) for vae in vaes], dim=1).double()
    scores = VAEScorer([vae.state_dict() for vae in vaes]).scores(images)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)


def test_a_sampling_scorer_draws_the_latents_of_its_seed():
    vae = TaskVAE(C, torch.Generator().manual_seed(3)).requires_grad_(False)
    images, seed = features(4, 9), 11
    noise = torch.randn((9, 64), generator=torch.Generator().manual_seed(seed))
    scores = VAEScorer([vae.state_dict()], seed).scores(images)
    torch.testing.assert_close(scores[:, 0], vae.score(images, noise).double(), rtol=1e-5, atol=1e-5)


def test_an_empty_bank_and_an_empty_batch_have_scores_too():
    site = GaussianStatistics.from_features(features(0, 5))
    state = TaskVAE(C, torch.Generator().manual_seed(0)).state_dict()
    assert GaussianScorer([], BACKGROUND).scores(features(0, 3)).shape == (3, 0)
    assert VAEScorer([]).scores(features(0, 3)).shape == (3, 0)
    assert GaussianScorer([site], BACKGROUND).scores(features(0, 0)).shape == (0, 1)
    assert VAEScorer([state]).scores(features(0, 0)).shape == (0, 1)


def test_features_of_another_backbone_are_refused():
    site = GaussianStatistics.from_features(features(0, 5))
    state = TaskVAE(C, torch.Generator().manual_seed(0)).state_dict()
    for scorer in (GaussianScorer([site], BACKGROUND), VAEScorer([state])):
        with pytest.raises(DataError, match="9 channels"):
            scorer.scores(features(0, 3, 9))


@pytest.mark.parametrize("kept", [[], [1], [3, 0], [0, 1, 2, 3]])
def test_leaving_tasks_out_gives_the_bits_of_a_scorer_that_never_knew_them(kept):
    images = features(9, 40)
    background = Background.from_features(features(2, 100))
    sites = [GaussianStatistics.from_features(features(seed, 10) + seed / 10) for seed in range(4)]
    vaes = [TaskVAE(C, torch.Generator().manual_seed(seed)).state_dict() for seed in range(4)]
    whole = GaussianScorer(sites, background), VAEScorer(vaes), VAEScorer(vaes, seed=5)
    few_sites, few_vaes = [sites[number] for number in kept], [vaes[number] for number in kept]
    few = GaussianScorer(few_sites, background), VAEScorer(few_vaes), VAEScorer(few_vaes, seed=5)
    for scorer, expected in zip(whole, few, strict=True):
        before = scorer.scores(images)
        assert torch.equal(scorer.only(kept).scores(images), expected.scores(images))
        assert torch.equal(scorer.scores(images), before)


@pytest.mark.parametrize("count", [1, 4])
def test_statistics_without_spread_name_the_task(count):
    tasks = [GaussianStatistics.from_features(values) for values in (features(0, 5), torch.ones(count, C))]
    with pytest.raises(TrainingError, match="task 1"):
        GaussianScorer(tasks, BACKGROUND)


# images per patient -> number of folds, whether patients stay together, whether something is noted
PLANS = {
    "enough patients": ([3] * 8, 5, True, False),
    "fewer patients than folds": ([3] * 3, 3, True, True),
    "two patients": ([3, 3], 2, True, True),
    "six images, one of them of another patient": ([5, 1], 5, False, True),
    "one patient": ([6], 5, False, True),
    "three images": ([1, 1, 1], 3, True, True),
}


@pytest.mark.parametrize("case", PLANS)
def test_small_sites_still_have_folds_with_something_to_train_on(case):
    sizes, folds, together, noted = PLANS[case]
    patients = [f"p{number}" for number, size in enumerate(sizes) for _ in range(size)]
    plan = plan_folds(patients, 5)
    assert len(plan.held_out) == folds
    assert sorted(np.concatenate(plan.held_out).tolist()) == list(range(len(patients)))
    assert all(len(patients) - len(fold) >= 2 for fold in plan.held_out)
    owners = [{patients[index] for index in fold} for fold in plan.held_out]
    assert (sum(map(len, owners)) == len(sizes)) is together
    assert (plan.note is not None) is noted
