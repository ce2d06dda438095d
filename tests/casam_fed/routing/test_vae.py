"""Pooling and the VAE router against the golden numbers, and all tasks at once against one by one."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from casam_fed.errors import DataError
from casam_fed.routing.pooling import pool
from casam_fed.routing.vae import TaskVAE, VAEScorer, train_vae, vae_shapes

GOLDEN = Path(__file__).parents[2] / "data" / "golden"


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "vae.safetensors")


@pytest.fixture(scope="module")
def golden_vae(golden) -> TaskVAE:
    vae = train_vae(golden["feature"], seed=0, epochs=0)
    vae.load_state_dict({name: golden[name] for name in vae_shapes(32)})
    return vae


@pytest.mark.parametrize(("temperature", "name"), [(1.0, "pooled_t1"), (0.1, "pooled_t01")])
def test_pooling_equals_the_golden_numbers(temperature, name):
    values = load_file(GOLDEN / "pooling.safetensors")
    torch.testing.assert_close(pool(values["embedding"], temperature), values[name], rtol=1e-5, atol=1e-6)


def test_the_vae_equals_the_golden_numbers(golden, golden_vae):
    reconstruction, mu, logvar = golden_vae(golden["feature"], golden["noise"])
    for value, name in ((reconstruction, "reconstruction"), (mu, "mu"), (logvar, "logvar")):
        torch.testing.assert_close(value, golden[name], rtol=1e-5, atol=1e-6)
    beta = float(golden["beta"])
    mean = golden_vae.score(golden["feature"], beta=beta)
    sampled = golden_vae.score(golden["feature"], golden["noise"], beta)
    torch.testing.assert_close(mean, golden["score_mean"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(sampled, golden["score_sampled"], rtol=1e-5, atol=1e-6)


def test_a_vae_of_256_channels_has_the_papers_number_of_parameters():
    assert sum(torch.Size(shape).numel() for shape in vae_shapes(256).values()) == 90_752


def _features(seed: int, count: int = 20) -> torch.Tensor:
    return torch.randn(count, 16, generator=torch.Generator().manual_seed(seed)) + seed


def test_all_tasks_at_once_equal_one_by_one():
    vaes = [train_vae(_features(seed), seed, epochs=2) for seed in range(5)]
    images = _features(9, 7)
    scores = VAEScorer([vae.state_dict() for vae in vaes]).scores(images)
    expected = torch.stack([vae.score(images) for vae in vaes], dim=1)
    torch.testing.assert_close(scores.to(expected.dtype), expected, rtol=1e-5, atol=1e-5)


def test_a_sampled_latent_scores_by_its_seed_and_alike_every_time():
    states = [train_vae(_features(seed), seed, epochs=2).state_dict() for seed in range(2)]
    images = _features(3, 4)
    scorers = [VAEScorer(states, seed) for seed in (None, 0, 1)]
    mean, first, other = (scorer.scores(images) for scorer in scorers)
    assert not torch.equal(mean, first)
    assert not torch.equal(first, other)
    for scorer, before in zip(scorers, (mean, first, other), strict=True):
        assert torch.equal(scorer.scores(images), before)


def test_training_is_seeded_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    first, again, other = (train_vae(_features(1), seed, epochs=2) for seed in (4, 4, 5))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first.state_dict()[name], again.state_dict()[name]) for name in vae_shapes(16))
    assert not torch.equal(first.state_dict()["encoder.weight"], other.state_dict()["encoder.weight"])


def test_training_lowers_the_score_of_its_own_images():
    images = _features(2, 60)
    assert (
        train_vae(images, 0, epochs=20).score(images).mean() < 0.8 * train_vae(images, 0, epochs=0).score(images).mean()
    )


def test_features_that_are_not_finite_are_refused():
    broken = _features(0)
    broken[1, 1] = float("nan")
    with pytest.raises(DataError):
        train_vae(broken, 0, epochs=1)
