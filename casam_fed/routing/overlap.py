"""A new router is tested before it is trusted: what would it take from the bank's tasks, and from images of no task?

Nobody's images are here, so samples stand for them: of every task from its released mean and covariance, and features
of blank, noise and drawn images as probes. Honest neighbours overlap; a router that claims everything, or leaves
everything to `unknown`, shows at once.

The samples follow the statistics as measured, not as the scorer believes them (shrunk, with a floor). Thresholds come
from real images, which lie nearer than a covariance with a floor predicts: of believed samples of the nine phantom
datasets 94 to 100% were unknown, so that nobody could be seen to take any. Measured ones went where the images went:
with msd_prostate as the newcomer 36% of promise12's samples and 22% of its images by gaussian, the other way round 36%
and 38% by vae.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from torch import Tensor

from casam_fed.backbone.model import Backbone
from casam_fed.canonical import canonical_json
from casam_fed.drawn.label_maps import draw
from casam_fed.errors import BankError, TrainingError
from casam_fed.forms import NAME_PATTERN, STRICT
from casam_fed.routing.gaussian import Background, GaussianStatistics
from casam_fed.routing.pooling import pool
from casam_fed.routing.route import UNKNOWN, RouterKind, route
from casam_fed.routing.state import RouterState, build_router

__all__ = [
    "LIMITS",
    "SAMPLES",
    "Claim",
    "KindOverlap",
    "OverlapLimits",
    "OverlapTable",
    "measure_overlap",
    "probe_features",
]

SAMPLES = 64
"""Samples a task: a share of a half is then known to a sixteenth (standard error)."""

_TOGETHER = 8
"""Tasks whose samples are routed at once; bounds the memory with many tasks."""

_JITTER = 1e-6
"""Of the mean variance, added to every direction: few images leave most of them without any, and factors need some."""

_PROBES = 24
_PROBE_SEED = 20251118
"""Not the seed of the background statistics, whose drawn images everybody's scores were standardised with."""

_KINDS: tuple[RouterKind, ...] = get_args(RouterKind)
_MAX_TEXT = 8 << 20

Share = Annotated[float, Field(ge=0, le=1)]
Source = Annotated[str, Field(pattern=r"^(task|probe) [A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]


class Claim(NamedTuple):
    """What a candidate takes: by which router, from which source (`task NAME` or `probe NAME`), and how much of it."""

    kind: RouterKind
    source: str
    share: float


@dataclass(frozen=True, config=STRICT)
class OverlapLimits:
    """The largest shares a candidate may take, per router: of one task, of all on average, of one kind of probe."""

    task: dict[RouterKind, Share]
    mean: dict[RouterKind, Share]
    probe: dict[RouterKind, Share]


LIMITS = OverlapLimits(
    task={"gaussian": 0.75, "vae": 1.0}, mean={"gaussian": 0.75, "vae": 0.75}, probe={"gaussian": 0.2, "vae": 0.2}
)
"""Measured on honest tasks of the mini SAM: the nine phantom datasets, and phantoms of ten modalities with 12, 24 and 80
images, the latter twice, from two hospitals.

One task: between tasks of alike size at most .52 by either router, two hospitals of one modality included. A hospital
with 80 images takes up to all of one with 12 or 24. By gaussian that is its own modality or the sister's (10 and 8 of
100 pairs above .75), and a person should see it, as the newcomer replaces the old task in all but name. By vae it is
others too (22 and 14 of 100): such a VAE scores little more than the distance to a mean, and that of a small task is
learned badly. So one task is no limit for a vae. On average over a bank of ten, a newcomer of 80 images took at most
.18 by gaussian and .45 by vae from tasks of 12, and .07 and .05 from tasks of 80; the limit is no lower because a bank
may hold one task, a sister's. Alone, no task claimed blank or noise, and at most .12 of the drawn images.
"""


@dataclass(frozen=True, config=STRICT)
class KindOverlap:
    """What happens by one of the two routers.

    Attributes:
        claimed: source -> share of its samples that the candidate claims. Probes are routed by the candidate alone: which
            task of today's bank is nearer to noise says nothing for the candidate.
        silenced: source of kind task -> share that a task of the bank claimed before and that now is unknown, because the
            candidate is nearest without claiming.
        own: source of kind task, the candidate's own included -> share of the candidate's own samples that it claims.
        unknown: share of the candidate's own samples that nobody claims.
    """

    claimed: dict[Source, Share]
    silenced: dict[Source, Share]
    own: dict[Source, Share]
    unknown: Share


@dataclass(frozen=True, config=STRICT)
class OverlapTable:
    """What a candidate takes from everybody else and what they take from it; sources are `task NAME` or `probe NAME`.

    Attributes:
        candidate: its task.
        samples: samples behind every share of a task.
        seed: of the samples.
        kinds: router -> its overlaps.
    """

    candidate: Annotated[str, Field(pattern=NAME_PATTERN)]
    samples: Annotated[int, Field(ge=1)]
    seed: int
    kinds: dict[RouterKind, KindOverlap]

    @property
    def claims(self) -> list[Claim]:
        """What is taken from every source, the largest share first; what is silenced counts as taken."""
        found = [
            Claim(kind, source, min(1.0, share + overlap.silenced.get(source, 0.0)))
            for kind, overlap in self.kinds.items()
            for source, share in overlap.claimed.items()
        ]
        return sorted(found, key=lambda claim: (-claim.share, claim.kind, claim.source))

    @property
    def worst(self) -> Claim | None:
        """The largest share taken from one source; None where there is neither task nor probe."""
        return next(iter(self.claims), None)

    def beyond(self, limits: OverlapLimits = LIMITS) -> Claim | None:
        """Return the largest share that is above its limit, or None; the average over tasks has the source `all tasks`."""
        above = []
        for kind in _KINDS:
            tasks = [claim for claim in self.claims if claim.kind == kind and claim.source.startswith("task ")]
            probes = [claim for claim in self.claims if claim.kind == kind and claim.source.startswith("probe ")]
            mean = Claim(kind, "all tasks", sum(claim.share for claim in tasks) / max(1, len(tasks)))
            for claims, limit in ((tasks, limits.task), ([mean], limits.mean), (probes, limits.probe)):
                above += [claim for claim in claims if claim.share > limit[kind]]
        return max(above, key=lambda claim: claim.share, default=None)

    def to_json(self) -> str:
        """Return the one canonical JSON text: sorted keys, no spaces, ASCII."""
        plain = TypeAdapter(OverlapTable).dump_python(self, mode="json")
        return canonical_json(plain)

    @staticmethod
    def from_json(text: str) -> "OverlapTable":
        """Read a table that was kept beside an entry.

        Raises:
            BankError: not a table, not canonical, or without both routers.
        """
        mend = "examine the release again, or delete the table"
        if len(text) > _MAX_TEXT:
            raise BankError(f"an overlap table of {len(text):,} characters is not read; {mend}")
        try:
            table = TypeAdapter(OverlapTable).validate_json(text)
        except ValidationError as error:
            raise BankError(f"the overlap table is damaged; {mend}") from error
        if table.kinds.keys() != set(_KINDS) or table.to_json() != text:
            raise BankError(f"the overlap table is incomplete or was written by something else; {mend}")
        return table


def measure_overlap(
    candidate: str,
    state: RouterState,
    entries: Mapping[str, RouterState],
    background: Background,
    probes: Mapping[str, Tensor],
    samples: int = SAMPLES,
    seed: int = 0,
) -> OverlapTable:
    """Route samples of every task by the bank with the candidate in it, and the probes by the candidate alone.

    The candidate is the last of the bank, as it will be: of equal scores the first task wins. The same arguments give the
    same table on the same machine.

    Args:
        candidate: its task, not one of `entries`.
        state: its routers.
        entries: task -> routers, all tasks in force.
        background: of the bank.
        probes: name -> pooled features [n, C] float32, n >= 1, of images that belong to no task.
        samples: number drawn from each task.
        seed: of the samples.

    Raises:
        DataError: channels that differ, or a score that is NaN.
        TrainingError: a task's statistics have no usable spread.
    """
    tasks = [*entries, candidate]
    states = [*entries.values(), state]
    counts = {kind: _Taken(kind, tasks, states, background) for kind in _KINDS}
    for first, drawn in _batches([each.gaussian for each in states], samples, seed):
        for count in counts.values():
            count.add_tasks(first, drawn)
    for name, features in probes.items():
        for count in counts.values():
            count.add_probe(name, features)
    return OverlapTable(candidate, samples, seed, {kind: count.overlap() for kind, count in counts.items()})


def probe_features(backbone: Backbone) -> dict[str, Tensor]:
    """Return pooled features of images of no task: `blank`, `noise` and `drawn`, each float32 [24, C] on the CPU.

    Drawn from a fixed seed; one image is encoded at a time, as for the background statistics, so that the features do not
    depend on a batch. No task should claim them: who does answers for images it has never seen anything like.
    """
    size = backbone.geometry.image_size
    drawn = {
        "blank": _blank_images(size),
        "noise": _noise_images(size),
        "drawn": (draw(_PROBE_SEED, index, size).image for index in range(_PROBES)),
    }
    return {
        name: torch.cat([pool(backbone.embed([image])).cpu() for image in images]) for name, images in drawn.items()
    }


def _batches(tasks: Sequence[GaussianStatistics], samples: int, seed: int) -> Iterator[tuple[int, Tensor]]:
    """Yield (number of the first task, features [k, samples, C] float64 of k tasks) for all tasks in order."""
    generator = torch.Generator().manual_seed(seed)
    for first in range(0, len(tasks), _TOGETHER):
        some = tasks[first : first + _TOGETHER]
        means = torch.stack([task.mean for task in some])
        covariances = torch.stack([task.covariance for task in some])
        diagonal = covariances.diagonal(dim1=1, dim2=2)
        diagonal += _JITTER * diagonal.mean(1, keepdim=True)
        factors, failed = torch.linalg.cholesky_ex(covariances)
        if failed.any():
            raise TrainingError(
                f"task {first + int(failed.nonzero()[0])} has statistics that nothing can be drawn from;"
                " train the router on at least two different images"
            )
        white = torch.randn((len(some), samples, means.shape[1]), generator=generator, dtype=torch.float64)
        yield first, white @ factors.transpose(1, 2) + means[:, None, :]


class _Taken:
    """Counts by one router what the last task of a bank, the candidate, takes."""

    def __init__(
        self, kind: RouterKind, tasks: Sequence[str], states: Sequence[RouterState], background: Background
    ) -> None:
        self._tasks = [f"task {task}" for task in tasks]
        self._thresholds = [state.thresholds[kind] for state in states]
        self._router = build_router(kind, states, background)
        self._alone = build_router(kind, states[-1:], background)
        self._claimed: dict[str, float] = {}
        self._silenced: dict[str, float] = {}
        self._own: dict[str, float] = {}
        self._unknown = 0.0

    def add_tasks(self, first: int, drawn: Tensor) -> None:
        """Route samples [k, n, C] of the k tasks from number `first` on."""
        last = len(self._tasks) - 1
        scores = self._router.scores(drawn.flatten(0, 1))
        routes = route(scores, self._thresholds)
        # Who is nearest without claiming still takes: the image is unknown, whatever the second nearest would say.
        known = route(scores[:, :last], self._thresholds[:last]).task != UNKNOWN
        silenced = (routes.nearest == last) & (routes.task == UNKNOWN) & known
        for offset, (task, silent) in enumerate(
            zip(routes.task.view(drawn.shape[:2]), silenced.view(drawn.shape[:2]), strict=True)
        ):
            if first + offset == last:
                shares = torch.bincount(task + 1, minlength=last + 2).double() / len(task)
                self._unknown, *own = shares.tolist()
                self._own = dict(zip(self._tasks, own, strict=True))
            else:
                self._claimed[self._tasks[first + offset]] = _share(task == last)
                self._silenced[self._tasks[first + offset]] = _share(silent)

    def add_probe(self, name: str, features: Tensor) -> None:
        """Route probe features [n, C] by the candidate alone."""
        routes = route(self._alone.scores(features), self._thresholds[-1:])
        self._claimed[f"probe {name}"] = _share(routes.task != UNKNOWN)

    def overlap(self) -> KindOverlap:
        """Return what was counted."""
        return KindOverlap(self._claimed, self._silenced, self._own, self._unknown)


def _share(chosen: Tensor) -> float:
    return chosen.double().mean().item()


def _blank_images(size: int) -> Iterator[npt.NDArray[np.uint8]]:
    for level in np.linspace(0, 255, _PROBES).astype(np.uint8):
        yield np.full((size, size, 3), level, dtype=np.uint8)


def _noise_images(size: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield noise of every strength around grey levels, grey and coloured in turn."""
    rng = np.random.default_rng(_PROBE_SEED)
    for number, strength in enumerate(np.geomspace(4, 128, _PROBES)):
        level = rng.uniform(32, 224)
        values = rng.normal(level, strength, (size, size, 3 if number % 2 else 1))
        yield np.broadcast_to(values.clip(0, 255).astype(np.uint8), (size, size, 3)).copy()
