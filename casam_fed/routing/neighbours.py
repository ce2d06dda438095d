"""The tasks of a bank as a newcomer meets them: samples of each, and which routers are nearest to every sample.

Nobody's images are here, so samples stand for them, drawn from the mean and covariance that each task has released. What is
known of T tasks is kept from one newcomer to the next: then T samples of one kind meet one router, and samples of one kind
meet T routers, where each newcomer would let all T meet all T again.

The samples follow the statistics as measured, not as the scorer believes them (shrunk, with a floor). Thresholds come
from real images, which lie nearer than a covariance with a floor predicts: of believed samples of the nine phantom
datasets 94 to 100% were unknown, so that nobody could be seen to take any. Measured ones went where the images went:
with msd_prostate as the newcomer 36% of promise12's samples and 22% of its images by gaussian, the other way round 36%
and 38% by vae.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import get_args

import torch
from torch import Tensor

from casam_fed.errors import TrainingError
from casam_fed.routing.calibration import Threshold
from casam_fed.routing.gaussian import Background, GaussianStatistics
from casam_fed.routing.route import UNKNOWN, RouterKind, Routes, route, tied
from casam_fed.routing.state import RouterState, assembled, build_router, expected_router_shapes, router_tensors

__all__ = ["KINDS", "SAMPLES", "SEED", "Meeting", "Nearest", "Neighbours"]

KINDS: tuple[RouterKind, ...] = get_args(RouterKind)

SAMPLES = 64
"""Samples a task: a share of a half is then known to a sixteenth (standard error)."""

SEED = 0
"""Of the samples."""

_TOGETHER = 8
"""Tasks whose samples are routed at once; bounds the memory with many tasks."""

_COLUMNS = {"sample": torch.int64, "task": torch.int64, "score": torch.float64}
"""Of `Nearest`."""

_JITTER = 1e-6
"""Of the mean variance, added to every direction: few images leave most of them without any, and factors need some."""


@dataclass(frozen=True, eq=False)
class Nearest:
    """Which tasks may be nearest to each of N samples by one router, in the order of the samples, then of the tasks.

    Of each sample: the tasks whose score is lower than that of all before them, as far as it ties with the lowest of all.
    The first of these is the nearest. Another becomes it when a newcomer is so near that the first no longer ties.

    Attributes:
        sample: int64 [R], R >= N; every sample stands there at least once.
        task: int64 [R].
        score: float64 [R].
    """

    sample: Tensor
    task: Tensor
    score: Tensor

    @staticmethod
    def of(scores: Tensor, first: int = 0) -> "Nearest":
        """Return those of scores [N, T], T >= 1; the samples count from `first`."""
        lower = torch.ones_like(scores, dtype=torch.bool)
        lower[:, 1:] = scores[:, 1:] < scores.cummin(1).values[:, :-1]
        sample, task = torch.nonzero(lower & tied(scores, scores.amin(1, keepdim=True)), as_tuple=True)
        return Nearest(sample + first, task, scores[sample, task])

    @staticmethod
    def joined(parts: Iterable["Nearest"]) -> "Nearest":
        """Return those of several groups of samples that follow each other."""
        columns = zip(*((part.sample, part.task, part.score) for part in parts), strict=True)
        return Nearest(*(torch.cat(column) for column in columns))

    @cached_property
    def count(self) -> int:
        """Number of samples N."""
        return int(self.sample[-1]) + 1 if len(self.sample) else 0

    @cached_property
    def lowest(self) -> Tensor:
        """Lowest score of every sample, float64 [N]."""
        last = torch.searchsorted(self.sample, torch.arange(self.count), right=True) - 1
        return self.score[last]

    def claimed(self, thresholds: Sequence[Threshold]) -> Tensor:
        """Tell whose nearest task claims it, bool [N]."""
        first = torch.searchsorted(self.sample, torch.arange(self.count))
        return self.score[first] <= _limits(thresholds)[self.task[first]]

    def with_newcomer(self, scores: Tensor, task: int) -> "Nearest":
        """Return those after a task has come, whose number is above all others, with these scores [N]."""
        lowest = torch.minimum(self.lowest, scores)
        lower = torch.nonzero(scores < self.lowest).flatten()
        sample = torch.cat([self.sample, lower])
        number = torch.cat([self.task, torch.full_like(lower, task)])
        score = torch.cat([self.score, scores[lower]])
        kept = torch.nonzero(tied(score, lowest[sample])).flatten()
        # Stable: of one sample the newcomer, the highest number, stays last.
        order = kept[torch.argsort(sample[kept], stable=True)]
        return Nearest(sample[order], number[order], score[order])


@dataclass(frozen=True, eq=False)
class Neighbours:
    """T tasks in the order of their admission, with all that a newcomer needs to know of them.

    Attributes:
        background: of the bank.
        tasks: their names.
        routers: theirs.
        samples: float64 [T, SAMPLES, C].
        nearest: router -> the tasks nearest to the T * SAMPLES samples, in their order.
    """

    background: Background
    tasks: tuple[str, ...]
    routers: tuple[RouterState, ...]
    samples: Tensor
    nearest: Mapping[RouterKind, Nearest]

    @staticmethod
    def of(routers: Mapping[str, RouterState], background: Background) -> "Neighbours":
        """Return what is known of these tasks, name -> routers; all samples meet all routers.

        Raises:
            DataError: channels that differ, or a score that is NaN.
            TrainingError: a task's statistics have no usable spread.
        """
        states = tuple(routers.values())
        channels = background.mean.numel()
        samples = torch.empty((len(states), SAMPLES, channels), dtype=torch.float64)
        scorers = {kind: build_router(kind, states, background) for kind in KINDS}
        nothing = Nearest(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64), torch.empty(0).double())
        found = {kind: [nothing] for kind in KINDS}
        for first, drawn in _drawn([state.gaussian for state in states]):
            samples[first : first + len(drawn)] = drawn
            for kind, scorer in scorers.items():
                scores = scorer.scores(drawn.flatten(0, 1))
                # Routing finds the NaN that must not be compared.
                route(scores, [state.thresholds[kind] for state in states])
                found[kind].append(Nearest.of(scores, first * SAMPLES))
        return Neighbours(
            background, tuple(routers), states, samples, {kind: Nearest.joined(parts) for kind, parts in found.items()}
        )

    def meet(self, task: str, router: RouterState) -> "Meeting":
        """Let a newcomer's router score the samples of all tasks, and all routers and its own those of the newcomer.

        Args:
            task: its name, not one of `tasks`.
            router: its routers.

        Raises:
            DataError: channels that differ, or a score that is NaN.
            TrainingError: its statistics have no usable spread.
        """
        states = (*self.routers, router)
        scorers = {kind: build_router(kind, states, self.background) for kind in KINDS}
        ((_, drawn),) = _drawn([router.gaussian], len(self.tasks))
        others, own, claims, routes = {}, {}, {}, {}
        for kind, scorer in scorers.items():
            alone = build_router(kind, [router], self.background)
            others[kind] = torch.cat([alone.scores(some.flatten(0, 1)) for some in self.samples.split(_TOGETHER)])
            claims[kind] = route(others[kind], [router.thresholds[kind]]).task != UNKNOWN
            own[kind] = scorer.scores(drawn[0])
            routes[kind] = route(own[kind], [state.thresholds[kind] for state in states])
        return Meeting(self, task, router, drawn, others, own, claims, routes)

    def tensors(self) -> dict[str, Tensor]:
        """Return all but background and names, to be kept; of one task or more."""
        each = [router_tensors(router) for router in self.routers]
        tensors = {name: torch.stack([tensors[name] for tensors in each]) for name in each[0]}
        tensors["samples"] = self.samples
        for kind, nearest in self.nearest.items():
            for name in _COLUMNS:
                tensors[f"nearest.{kind}.{name}"] = getattr(nearest, name)
        return tensors

    @staticmethod
    def from_tensors(
        tensors: Mapping[str, Tensor], tasks: tuple[str, ...], background: Background
    ) -> "Neighbours | None":
        """Return what was kept of these tasks, one or more; None where the tensors cannot be theirs."""
        if not _fits(tensors, len(tasks), background.mean.numel()):
            return None
        names = [name for name in tensors if name.startswith("router.")]
        routers = tuple(assembled({name: tensors[name][place] for name in names}) for place in range(len(tasks)))
        nearest = {kind: Nearest(*(tensors[f"nearest.{kind}.{name}"] for name in _COLUMNS)) for kind in KINDS}
        return Neighbours(background, tasks, routers, tensors["samples"], nearest)


@dataclass(frozen=True, eq=False)
class Meeting:
    """What a newcomer and T tasks score of each other.

    Attributes:
        neighbours: the T tasks.
        task, router: the newcomer's.
        samples: its own, float64 [1, SAMPLES, C].
        others: router -> what the newcomer's scores on the samples of the T tasks, float64 [T * SAMPLES, 1].
        own: router -> what all T + 1, the newcomer's the last, score on its samples, float64 [SAMPLES, T + 1].
        claims: router -> which samples of the T tasks the newcomer would claim if it were alone, bool [T * SAMPLES].
        own_routes: router -> where its own samples go among T + 1 tasks.
    """

    neighbours: Neighbours
    task: str
    router: RouterState
    samples: Tensor
    others: Mapping[RouterKind, Tensor]
    own: Mapping[RouterKind, Tensor]
    claims: Mapping[RouterKind, Tensor]
    own_routes: Mapping[RouterKind, Routes]

    def taken(self, kind: RouterKind) -> tuple[Tensor, Tensor]:
        """Tell which samples of the T tasks the newcomer would claim, and which it would silence: two bool [T, SAMPLES].

        Silenced is what a task claims and then nobody: the newcomer is nearest without claiming it, whatever the second
        nearest would say.
        """
        before, scores, claims = self.neighbours.nearest[kind], self.others[kind][:, 0], self.claims[kind]
        known = before.claimed([router.thresholds[kind] for router in self.neighbours.routers])
        # The newcomer is the last: whoever ties with it goes first.
        is_nearest = ~tied(before.lowest, torch.minimum(before.lowest, scores))
        shape = (len(self.neighbours.tasks), SAMPLES)
        return (is_nearest & claims).view(shape), (is_nearest & ~claims & known).view(shape)

    def after(self) -> Neighbours:
        """Return what is known once the newcomer is one of the tasks."""
        known, number = self.neighbours, len(self.neighbours.tasks)
        nearest = {
            kind: Nearest.joined(
                [
                    known.nearest[kind].with_newcomer(self.others[kind][:, 0], number),
                    Nearest.of(self.own[kind], number * SAMPLES),
                ]
            )
            for kind in KINDS
        }
        samples = torch.cat([known.samples, self.samples])
        return Neighbours(known.background, (*known.tasks, self.task), (*known.routers, self.router), samples, nearest)


def _drawn(tasks: Sequence[GaussianStatistics], before: int = 0) -> Iterator[tuple[int, Tensor]]:
    """Yield (number of the first task, features [k, SAMPLES, C] float64 of k tasks) for all tasks in order.

    Samples depend on the place of a task among all: those of `before` others come first from the same generator.
    """
    generator = torch.Generator().manual_seed(SEED)
    for start in range(0, before, _TOGETHER):
        _noise(min(_TOGETHER, before - start), tasks[0].mean.numel(), generator)
    for first in range(0, len(tasks), _TOGETHER):
        some = tasks[first : first + _TOGETHER]
        means = torch.stack([task.mean for task in some])
        covariances = torch.stack([task.covariance for task in some])
        diagonal = covariances.diagonal(dim1=1, dim2=2)
        diagonal += _JITTER * diagonal.mean(1, keepdim=True)
        factors, failed = torch.linalg.cholesky_ex(covariances)
        if failed.any():
            raise TrainingError(
                f"task {before + first + int(failed.nonzero()[0])} has statistics that nothing can be drawn from;"
                " train the router on at least two different images"
            )
        white = _noise(len(some), means.shape[1], generator)
        yield first, white @ factors.transpose(1, 2) + means[:, None, :]


def _noise(tasks: int, channels: int, generator: torch.Generator) -> Tensor:
    # SAMPLES is a multiple of 16, the width in which torch draws: it draws for 8 tasks at once what it draws for each.
    return torch.randn((tasks, SAMPLES, channels), generator=generator, dtype=torch.float64)


def _limits(thresholds: Sequence[Threshold]) -> Tensor:
    return torch.tensor([threshold.value for threshold in thresholds], dtype=torch.float64)


def _fits(tensors: Mapping[str, Tensor], tasks: int, channels: int) -> bool:
    """Tell whether these are the tensors of so many tasks, and the numbers in them in range."""
    schema = {name: ((tasks, *shape), dtype) for name, (shape, dtype) in expected_router_shapes(channels).items()}
    schema["samples"] = ((tasks, SAMPLES, channels), torch.float64)
    for kind in KINDS:
        records = tensors.get(f"nearest.{kind}.sample", torch.empty(0)).numel()
        for name, dtype in _COLUMNS.items():
            schema[f"nearest.{kind}.{name}"] = ((records,), dtype)
    if not tasks or {name: (tuple(each.shape), each.dtype) for name, each in tensors.items()} != schema:
        return False
    for kind in KINDS:
        sample, task = tensors[f"nearest.{kind}.sample"], tensors[f"nearest.{kind}.task"]
        steps = sample.diff()
        if not len(sample) or sample[[0, -1]].tolist() != [0, tasks * SAMPLES - 1]:
            return False
        if steps.min() < 0 or steps.max() > 1 or task.min() < 0 or task.max() >= tasks:
            return False
    return all(bool(torch.isfinite(each).all()) for each in tensors.values())
