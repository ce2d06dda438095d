"""From held-out scores to thresholds, and from scores to routes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from casam_fed.errors import DataError, TrainingError
from casam_fed.routing.calibration import Threshold, calibrate, plan_folds, threshold_from
from casam_fed.routing.gaussian import Background
from casam_fed.routing.route import UNKNOWN, route
from casam_fed.routing.state import (
    RouterOptions,
    build_router,
    expected_router_shapes,
    fit_routers,
    router_state_from,
    router_tensors,
)

C = 8
BACKGROUND = Background(torch.zeros(C, dtype=torch.float64), torch.full((C,), 3.0, dtype=torch.float64))
GOLDEN = json.loads((Path(__file__).parents[2] / "data" / "golden" / "threshold.json").read_text())


@pytest.mark.parametrize("percentile", [95, 97, 99])
def test_thresholds_equal_the_golden_percentiles(percentile):
    threshold = threshold_from(torch.tensor(GOLDEN["scores"], dtype=torch.float64), percentile)
    assert threshold.value == pytest.approx(GOLDEN[f"p{percentile}"], rel=1e-9)
    assert threshold.median == pytest.approx(np.median(GOLDEN["scores"]), rel=1e-9)


def test_an_image_goes_to_its_nearest_task_unless_that_finds_it_too_far():
    thresholds = [Threshold(0.0, 2.0), Threshold(10.0, 20.0)]
    routes = route(torch.tensor([[1.0, 5.0], [9.0, 3.0], [3.0, 9.0], [30.0, 25.0]]), thresholds)
    assert routes.nearest.tolist() == [0, 1, 0, 1]
    assert routes.task.tolist() == [0, 1, UNKNOWN, UNKNOWN]
    assert routes.score.tolist() == [1.0, 3.0, 3.0, 25.0]
    assert routes.strength.tolist() == [0.5, -0.7, 1.5, 1.5]


def test_in_an_empty_bank_everything_is_unknown():
    routes = route(torch.zeros(3, 0), [])
    assert routes.task.tolist() == [UNKNOWN] * 3
    assert routes.nearest.tolist() == [-1] * 3
    assert torch.isinf(routes.score).all()
    assert torch.isinf(routes.strength).all()


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(DataError, match="NaN"):
        route(torch.tensor([[float("nan")]]), [Threshold(0, 1)])


def test_rounding_does_not_decide_between_equal_tasks():
    routes = route(torch.tensor([[1.0 + 1e-9, 1.0]], dtype=torch.float64), [Threshold(0, 2), Threshold(0, 2)])
    assert routes.task.tolist() == [0]


@pytest.mark.parametrize("grouped", [True, False])
def test_held_out_folds_hold_every_image_once_and_patients_together(grouped):
    patients = [f"p{index // 3}" for index in range(24)]
    plan = plan_folds(patients, 5, seed=1, grouped=grouped)
    assert sorted(np.concatenate(plan.held_out).tolist()) == list(range(24))
    split = any(
        {patients[i] for i in fold} & {patients[i] for i in range(24) if i not in set(fold.tolist())}
        for fold in plan.held_out
    )
    assert split is not grouped


def test_calibration_scores_only_what_it_was_not_fitted_on():
    values = torch.arange(20, dtype=torch.float64)[:, None]

    def fit_score(trained: torch.Tensor, held_out: torch.Tensor) -> torch.Tensor:
        assert not set(trained.flatten().tolist()) & set(held_out.flatten().tolist())
        return held_out[:, 0]

    threshold = calibrate(values, [f"p{index}" for index in range(20)], fit_score, percentile=100.0)
    assert (threshold.median, threshold.value) == (9.5, 19.0)


def _site(seed: int, count: int = 40) -> tuple[torch.Tensor, list[str]]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, C, generator=generator) + 4.0 * seed, [f"p{index // 2}" for index in range(count)]


@pytest.fixture(scope="module")
def states():
    return [fit_routers(*_site(seed), BACKGROUND, RouterOptions(vae_epochs=1)) for seed in range(3)]


def test_separate_tasks_are_told_apart_and_far_images_are_unknown(states):
    router = build_router("gaussian", states, BACKGROUND)
    thresholds = [state.thresholds["gaussian"] for state in states]
    for seed in range(3):
        fresh = torch.randn(200, C, generator=torch.Generator().manual_seed(100 + seed)) + 4.0 * seed
        chosen = route(router.scores(fresh), thresholds).task
        assert (chosen == seed).float().mean() > 0.85
        assert not set(chosen.tolist()) - {seed, UNKNOWN}
    far = route(router.scores(torch.full((5, C), 60.0)), thresholds)
    assert far.task.tolist() == [UNKNOWN] * 5
    assert (far.strength > 5).all()


def test_a_state_survives_its_tensors(states):
    tensors = router_tensors(states[1])
    expected = expected_router_shapes(C)
    assert {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()} == expected
    again = router_state_from(tensors)
    assert again.thresholds == states[1].thresholds
    for kind in ("gaussian", "vae"):
        images = _site(1)[0]
        first, second = (build_router(kind, [state], BACKGROUND).scores(images) for state in (states[1], again))
        assert torch.equal(first, second)


def test_the_same_seed_gives_the_same_state_to_the_bit():
    options = [RouterOptions(seed=seed, vae_epochs=2) for seed in (1, 1, 2)]
    first, again, other = (router_tensors(fit_routers(*_site(1, 15), BACKGROUND, each)) for each in options)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_six_images_are_enough_and_two_are_not():
    assert fit_routers(*_site(0, 6), BACKGROUND).gaussian.count == 6
    with pytest.raises(TrainingError):
        fit_routers(*_site(0, 2), BACKGROUND)


def test_images_of_one_patient_are_calibrated_image_by_image_and_said_so():
    values, _ = _site(0, 8)
    assert fit_routers(values, ["same"] * 8, BACKGROUND).notes
