"""A new router is tested before it is trusted: what would it take from the bank's tasks, and from images of no task?

Samples stand for the images of every task (casam_fed.routing.neighbours), and features of blank, noise and drawn images
are the probes. Honest neighbours overlap; a router that claims everything, or leaves everything to `unknown`, shows at
once.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from torch import Tensor

from casam_fed.backbone.model import Backbone
from casam_fed.canonical import canonical_json
from casam_fed.drawn.label_maps import draw
from casam_fed.errors import BankError
from casam_fed.forms import NAME_PATTERN, STRICT
from casam_fed.routing.neighbours import KINDS, SAMPLES, SEED, Meeting
from casam_fed.routing.pooling import pool
from casam_fed.routing.route import UNKNOWN, RouterKind, route
from casam_fed.routing.state import build_router

__all__ = [
    "LIMITS",
    "Claim",
    "KindOverlap",
    "OverlapLimits",
    "OverlapTable",
    "measure_overlap",
    "probe_features",
]

_PROBES = 24
_PROBE_SEED = 20251118
"""Not the seed of the background statistics, whose drawn images everybody's scores were standardised with."""

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
        for kind in KINDS:
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
        with contextlib.suppress(ValidationError):
            # What is far longer than any table is not even looked at.
            table: OverlapTable = TypeAdapter(OverlapTable).validate_json(text[:_MAX_TEXT])
            if table.kinds.keys() == set(KINDS) and table.to_json() == text:
                return table
        raise BankError(
            "the overlap table is damaged, incomplete, or was written by something else; examine the release again, or "
            "delete the table"
        )


def measure_overlap(meeting: Meeting, probes: Mapping[str, Tensor]) -> OverlapTable:
    """Route samples of every task by the bank with the candidate in it, and the probes by the candidate alone.

    The candidate is the last of the bank, as it will be: of equal scores the first task wins. The same arguments give the
    same table on the same machine.

    Args:
        meeting: of the candidate with all tasks in force.
        probes: name -> pooled features [n, C] float32, n >= 1, of images that belong to no task.

    Raises:
        DataError: channels that differ, or a score that is NaN.
    """
    return OverlapTable(meeting.task, SAMPLES, SEED, {kind: _overlap(meeting, kind, probes) for kind in KINDS})


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


def _overlap(meeting: Meeting, kind: RouterKind, probes: Mapping[str, Tensor]) -> KindOverlap:
    tasks = [f"task {task}" for task in meeting.neighbours.tasks]
    claimed, silenced = (
        dict(zip(tasks, taken.double().mean(1).tolist(), strict=True)) for taken in meeting.taken(kind)
    )
    own = meeting.own_routes[kind].task + 1
    unknown, *shares = (torch.bincount(own, minlength=len(tasks) + 2).double() / len(own)).tolist()
    alone = build_router(kind, [meeting.router], meeting.neighbours.background)
    for name, features in probes.items():
        routes = route(alone.scores(features), [meeting.router.thresholds[kind]])
        # Which task of today's bank is nearer to noise says nothing for the candidate.
        claimed[f"probe {name}"] = (routes.task != UNKNOWN).double().mean().item()
    return KindOverlap(claimed, silenced, dict(zip([*tasks, f"task {meeting.task}"], shares, strict=True)), unknown)


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
