"""The overlap table the slow way: all samples routed by all routers, and one sample at a time."""

from collections.abc import Mapping

import torch
from torch import Tensor

from casam_fed.routing.gaussian import Background, GaussianStatistics
from casam_fed.routing.overlap import KindOverlap, OverlapTable
from casam_fed.routing.route import UNKNOWN, RouterKind, route
from casam_fed.routing.state import RouterState, build_router

SAMPLES, KINDS = 64, ("gaussian", "vae")


def drawn(tasks: list[GaussianStatistics]) -> list[Tensor]:
    """Return the samples of all tasks, [64, C] each, eight tasks drawn at once from one generator."""
    generator, found = torch.Generator().manual_seed(0), []
    for first in range(0, len(tasks), 8):
        some = tasks[first : first + 8]
        covariances = torch.stack([task.covariance for task in some])
        diagonal = covariances.diagonal(dim1=1, dim2=2)
        diagonal += 1e-6 * diagonal.mean(1, keepdim=True)
        factors = torch.linalg.cholesky(covariances)
        white = torch.randn((len(some), SAMPLES, factors.shape[1]), generator=generator, dtype=torch.float64)
        found += list(white @ factors.transpose(1, 2) + torch.stack([task.mean for task in some])[:, None, :])
    return found


def slow_overlap(
    candidate: str,
    state: RouterState,
    bank: Mapping[str, RouterState],
    background: Background,
    probes: Mapping[str, Tensor],
) -> OverlapTable:
    """Return the table of a candidate and a bank, all routed anew."""
    tasks, states = [*bank, candidate], [*bank.values(), state]
    samples = drawn([each.gaussian for each in states])
    kinds = {kind: _overlap(kind, tasks, states, samples, background, probes) for kind in KINDS}
    return OverlapTable(candidate, SAMPLES, 0, kinds)


def _overlap(
    kind: RouterKind,
    tasks: list[str],
    states: list[RouterState],
    samples: list[Tensor],
    background: Background,
    probes: Mapping[str, Tensor],
) -> KindOverlap:
    last, names = len(tasks) - 1, [f"task {task}" for task in tasks]
    thresholds = [state.thresholds[kind] for state in states]
    router = build_router(kind, states, background)
    claimed, silenced = {}, {}
    # As many at once as the old way had, where shares of all rows and all columns of a product are the same to the bit.
    for first in range(0, len(tasks), 8):
        scores = router.scores(torch.cat(samples[first : first + 8]))
        routes = route(scores, thresholds)
        known = route(scores[:, :last], thresholds[:last]).task != UNKNOWN
        taken = (routes.task == last).view(-1, SAMPLES).double().mean(1).tolist()
        silent = ((routes.nearest == last) & (routes.task == UNKNOWN) & known).view(-1, SAMPLES).double().mean(1)
        claimed |= dict(zip(names[first : first + 8], taken, strict=True))
        silenced |= dict(zip(names[first : first + 8], silent.tolist(), strict=True))
        own = routes.task[-SAMPLES:]
    del claimed[names[last]], silenced[names[last]]
    shares = [(own == number).double().mean().item() for number in range(-1, last + 1)]
    alone = build_router(kind, states[-1:], background)
    for name, features in probes.items():
        routes = route(alone.scores(features), thresholds[-1:])
        claimed[f"probe {name}"] = (routes.task != UNKNOWN).double().mean().item()
    return KindOverlap(claimed, silenced, dict(zip(names, shares[1:], strict=True)), shares[0])
