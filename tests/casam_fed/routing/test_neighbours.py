"""What is known of a bank's tasks gives a newcomer the table that all samples and all routers would give, to the bit."""

import functools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from casam_fed.errors import TrainingError
from casam_fed.routing import neighbours as module
from casam_fed.routing.calibration import Threshold
from casam_fed.routing.gaussian import Background, GaussianStatistics
from casam_fed.routing.neighbours import KINDS, SAMPLES, Nearest, Neighbours
from casam_fed.routing.overlap import measure_overlap
from casam_fed.routing.route import route
from casam_fed.routing.state import RouterOptions, RouterState, build_router, fit_routers

from .slow_overlap import drawn, slow_overlap

C = 8
BACKGROUND = Background(torch.zeros(C, dtype=torch.float64), torch.full((C,), 3.0, dtype=torch.float64))
PROBES = {"blank": torch.linspace(-40, 40, 24)[:, None].expand(24, C).contiguous()}


@functools.cache
def honest(seed: int, spread: float = 6.0) -> RouterState:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(20, C, generator=generator) + spread * torch.randn(1, C, generator=generator)
    return fit_routers(
        features, [f"p{index}" for index in range(20)], BACKGROUND, RouterOptions(seed=seed, vae_epochs=1)
    )


def moved(state: RouterState, generator: torch.Generator, far: float) -> RouterState:
    """A task whose images lie elsewhere; a millionth away, its scores tie with the other's, or all but."""
    shift = far * torch.randn(C, generator=generator).double()
    gaussian = replace(state.gaussian, mean=state.gaussian.mean + shift)
    return replace(
        state, gaussian=gaussian, vae={**state.vae, "decoder2.bias": state.vae["decoder2.bias"] + shift.float()}
    )


def routers(seed: int, count: int) -> dict[str, RouterState]:
    """So many tasks: near and far, copies of others, their sisters, and some that claim or silence everything."""
    generator, found = torch.Generator().manual_seed(seed), {}
    for number in range(count):
        kind, which = (int(torch.randint(0, 8, (), generator=generator)) for _ in range(2))
        state = moved(honest(which, 1.0 if kind < 5 else 6.0), generator, 0.5)
        if kind < 2 and found:
            state = moved(list(found.values())[which % len(found)], generator, kind * 3e-7)
        elif kind == 2:
            state = replace(state, thresholds={**state.thresholds, "vae": Threshold(0.0, 1e12)})
        elif kind == 3:
            state = replace(state, thresholds={**state.thresholds, "gaussian": Threshold(-1e9, -1e9)})
        found[f"task-{number}"] = state
    return found


def one_by_one(states: dict[str, RouterState]) -> Neighbours:
    known = Neighbours.of({}, BACKGROUND)
    for name, state in states.items():
        known = known.meet(name, state).after()
    return known


def again(known: Neighbours) -> Neighbours:
    """Return what comes back from the tensors that are kept."""
    found = Neighbours.from_tensors(known.tensors(), known.tasks, BACKGROUND) if known.tasks else known
    assert found is not None
    return found


@pytest.mark.parametrize("seed", range(24))
def test_the_table_is_the_slow_one_to_the_bit(seed):
    """However the bank has grown: all at once, one by one, read back, or after a task of it was retired."""
    states = routers(seed, seed + 1)
    *_, newcomer = states
    state = states.pop(newcomer)
    table = slow_overlap(newcomer, state, states, BACKGROUND, PROBES).to_json()
    grown = one_by_one(states)
    for known in (Neighbours.of(states, BACKGROUND), grown, again(grown)):
        assert measure_overlap(known.meet(newcomer, state), PROBES).to_json() == table
    if states:
        left = {name: each for name, each in states.items() if name != f"task-{len(states) // 2}"}
        shrunk = measure_overlap(Neighbours.of(left, BACKGROUND).meet(newcomer, state), PROBES).to_json()
        assert shrunk == slow_overlap(newcomer, state, left, BACKGROUND, PROBES).to_json()


@pytest.mark.parametrize("seed", range(6))
def test_what_is_kept_is_the_same_however_the_bank_has_grown(seed):
    """But for the last bits of a score, which depend on how many are computed at once on some processors."""
    states = routers(100 + seed, 11)
    at_once, grown = Neighbours.of(states, BACKGROUND), one_by_one(states)
    assert torch.equal(at_once.samples, grown.samples)
    for kind in KINDS:
        thresholds = [state.thresholds[kind] for state in states.values()]
        first, second = at_once.nearest[kind], grown.nearest[kind]
        assert torch.equal(first.claimed(thresholds), second.claimed(thresholds))
        torch.testing.assert_close(first.lowest, second.lowest, rtol=1e-12, atol=1e-12)


def test_samples_are_those_of_all_tasks_at_once_wherever_a_newcomer_stands():
    """Also across the eight that are drawn together."""
    states = routers(7, 18)
    assert torch.equal(one_by_one(states).samples, torch.stack(drawn([each.gaussian for each in states.values()])))


def test_a_sample_is_told_by_its_score_alone():
    """The shares of the slow way, counted from the scores of each task by itself."""
    states = {f"task-{number}": honest(number, 1.0) for number in range(4)}
    candidate = honest(4, 1.0)
    meeting = Neighbours.of(states, BACKGROUND).meet("new", candidate)
    for kind in KINDS:
        claimed, silenced = meeting.taken(kind)
        everybody = [*states.values(), candidate]
        for task, rows in enumerate(meeting.neighbours.samples):
            for place, feature in enumerate(rows):
                scores = [build_router(kind, [each], BACKGROUND).scores(feature[None]).item() for each in everybody]
                nearest = scores.index(min(scores))
                takes = nearest == 4 and scores[4] <= candidate.thresholds[kind].value
                before = scores.index(min(scores[:4]))
                known = scores[before] <= everybody[before].thresholds[kind].value
                assert bool(claimed[task, place]) == takes
                assert bool(silenced[task, place]) == (nearest == 4 and not takes and known)
    assert 0 < meeting.taken("gaussian")[0].double().mean() < 1


class TestNearest:
    def test_it_routes_as_all_scores_do(self):
        generator = torch.Generator().manual_seed(0)
        # A grid so coarse that many scores tie, and so fine that some only just do not.
        scores = 1.0 + 4e-7 * torch.randint(0, 6, (400, 9), generator=generator)
        found = Nearest.of(scores[:, :1])
        for task in range(1, 9):
            found = found.with_newcomer(scores[:, task], task)
            thresholds = [Threshold(0.0, 1.0 + 3e-7 * number) for number in range(task + 1)]
            assert torch.equal(found.claimed(thresholds), route(scores[:, : task + 1], thresholds).task >= 0)
            assert torch.equal(found.lowest, scores[:, : task + 1].amin(1))
            anew = Nearest.of(scores[:, : task + 1])
            assert all(torch.equal(getattr(found, name), getattr(anew, name)) for name in ("sample", "task", "score"))
        assert len(found.sample) > found.count == 400

    def test_it_holds_one_task_a_sample_where_none_tie(self):
        scores = torch.rand(50, 7, generator=torch.Generator().manual_seed(1)).double()
        assert torch.equal(Nearest.of(scores).task, scores.argmin(1))


def test_samples_follow_the_statistics_as_measured(monkeypatch):
    monkeypatch.setattr(module, "SAMPLES", 20_000)
    statistics = [honest(seed).gaussian for seed in range(3)]
    ((first, samples),) = module._drawn(statistics)
    assert (first, samples.shape) == (0, (3, 20_000, C))
    for task, features in zip(statistics, samples, strict=True):
        found = GaussianStatistics.from_features(features)
        torch.testing.assert_close(found.mean, task.mean, atol=0.05, rtol=0)
        torch.testing.assert_close(found.covariance, task.covariance, atol=0.08, rtol=0)


def test_few_images_can_be_drawn_from():
    features = torch.randn(3, C, generator=torch.Generator().manual_seed(0))
    ((_, samples),) = module._drawn([GaussianStatistics.from_features(features)])
    directions = torch.linalg.svd(samples[0] - features.double().mean(0))[1]
    assert (directions[2:] < 1e-2 * directions[0]).all()


def test_what_nothing_can_be_drawn_from_is_named_by_its_place():
    state = honest(0)
    flat = replace(state, gaussian=replace(state.gaussian, covariance=-torch.eye(C, dtype=torch.float64)))
    with pytest.raises(TrainingError, match="task 2 has statistics that nothing can be drawn from"):
        list(module._drawn([flat.gaussian], 2))


def _cut(tensors: dict[str, Tensor], end: int) -> dict[str, Tensor]:
    """Return what is kept of the vae's nearest tasks without its end."""
    return tensors | {name: each[:end] for name, each in tensors.items() if name.startswith("nearest.vae.")}


DAMAGE = {
    "a tensor less": lambda tensors: {name: each for name, each in tensors.items() if name != "samples"},
    "a tensor more": lambda tensors: tensors | {"image": torch.zeros(3)},
    "another type": lambda tensors: tensors | {"samples": tensors["samples"].float()},
    "fewer samples": lambda tensors: tensors | {"samples": tensors["samples"][:, :-1]},
    "NaN": lambda tensors: tensors | {"samples": tensors["samples"] * torch.nan},
    "infinity": lambda tensors: tensors | {"router.thresholds": tensors["router.thresholds"] / 0},
    "a sample of none": lambda tensors: tensors | {"nearest.vae.sample": tensors["nearest.vae.sample"].clamp(min=1)},
    "samples out of order": lambda tensors: tensors | {"nearest.vae.sample": tensors["nearest.vae.sample"].flip(0)},
    "the last sample missing": lambda tensors: _cut(tensors, -1),
    "no sample": lambda tensors: _cut(tensors, 0),
    "a task of none": lambda tensors: tensors | {"nearest.gaussian.task": tensors["nearest.gaussian.task"] + 2},
    "nothing": lambda tensors: {},
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_tensors_that_cannot_be_of_these_tasks_are_not_believed(damage):
    known = one_by_one({"a": honest(0), "b": honest(1)})
    assert Neighbours.from_tensors(DAMAGE[damage](known.tensors()), known.tasks, BACKGROUND) is None


def test_tensors_of_other_tasks_are_not_believed():
    known = one_by_one({"a": honest(0), "b": honest(1)})
    wide = Background(torch.zeros(2 * C, dtype=torch.float64), torch.ones(2 * C, dtype=torch.float64))
    assert Neighbours.from_tensors(known.tensors(), ("a",), BACKGROUND) is None
    assert Neighbours.from_tensors(known.tensors(), (), BACKGROUND) is None
    assert Neighbours.from_tensors(known.tensors(), ("a", "b"), wide) is None
    assert len(known.nearest["vae"].lowest) == 2 * SAMPLES
