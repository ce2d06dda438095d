"""results.json: what was collected of CA-SAM on a stream, whole or refused before anything is computed from it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from casam_fed.errors import SimulationError
from casam_fed.inference.stage_matrix import StageMatrix
from casam_fed.wire.evaluation_report import METRICS, STRENGTH_EDGES, RouteReport
from simulations.kept_json import read_kept

__all__ = ["ROUTERS", "ROUTES", "UNKNOWN", "Admission", "Results", "SeedRun", "TaskReports", "merged", "read_results"]

ROUTERS = ("gaussian", "vae")
"""Ways that may send an image to another task than its own, or to none."""

ROUTES = ("oracle", *ROUTERS)

UNKNOWN = "unknown"

_OPEN = ConfigDict(extra="ignore")


@dataclass(frozen=True, config=_OPEN)
class TaskReports:
    """One task's test images at one stage, once per way."""

    zero_shot: RouteReport
    oracle: RouteReport
    gaussian: RouteReport
    vae: RouteReport

    def by_way(self, way: str) -> RouteReport:
        """Return the report of zero_shot, oracle, gaussian or vae."""
        report: RouteReport = getattr(self, way)
        return report


@dataclass(frozen=True, config=_OPEN)
class StageResult:
    """The task that joined at a stage, and the reports of all tasks after it."""

    task: str
    reports: Mapping[str, TaskReports]


@dataclass(frozen=True, config=_OPEN)
class Overlap:
    """The share 0..1 of the samples of one source, a task or images of none, that a new task's router of a kind takes."""

    kind: str
    source: str
    share: Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, config=_OPEN)
class Admission:
    """What admission said of a release with which code, who let it in, and the largest overlap that was measured."""

    task: str
    site: str
    outcome: Literal["admitted", "quarantined"]
    code: Annotated[str, Field(pattern=r"^[AQ]\d{3}$")]
    by: Literal["rule", "person"]
    overlap: Overlap | None = None


@dataclass(frozen=True, config=_OPEN)
class Counts:
    """Images of a site for training and testing."""

    train: int
    test: int


@dataclass(frozen=True, config=_OPEN)
class SeedRun:
    """One stream from the empty bank to the last stage.

    Attributes:
        bank_digest: of the last bank.
        stages: in their order.
        bytes_up, bytes_down: site -> bytes of its release, and of what it fetched of the bank.
        seconds: site -> what it did -> seconds, and `total`.
        notes: site -> sentences about its data.
        counts: site -> its images.
        unseen: a set that no site has -> zero_shot or router -> report under the last bank.
        left_out: site -> the task left out of the last bank -> router -> report of the site's test images.
        admissions: one a release, in the order of the stages.
        devices: site -> where it computed, e.g. "cpu".
        verified: what the check of the exported logs says, "" where none was made.
    """

    bank_digest: str
    stages: tuple[StageResult, ...]
    bytes_up: Mapping[str, int]
    bytes_down: Mapping[str, int]
    seconds: Mapping[str, float | Mapping[str, float]]
    notes: Mapping[str, tuple[str, ...]]
    counts: Mapping[str, Counts]
    unseen: Mapping[str, Mapping[str, RouteReport]] = field(default_factory=dict)
    left_out: Mapping[str, Mapping[str, Mapping[str, RouteReport]]] = field(default_factory=dict)
    admissions: tuple[Admission, ...] = ()
    devices: Mapping[str, str] = field(default_factory=dict)
    verified: str = ""

    @property
    def last(self) -> Mapping[str, TaskReports]:
        """The reports of all tasks after the last stage."""
        return self.stages[-1].reports

    def matrix(self, tasks: Sequence[str], way: str) -> StageMatrix:
        """Return the IoU a[i][j] of a way, above the diagonal too: every stage scores all tasks of the stream."""
        return StageMatrix.from_rows(
            [[stage.reports[task].by_way(way).scores["iou"] for task in tasks] for stage in self.stages]
        )

    def confusion(self, tasks: Sequence[str], way: str) -> npt.NDArray[np.int64]:
        """Return int64 [T, T+1]: where the test images of each task were sent at the last stage, last column unknown."""
        names = (*tasks, UNKNOWN)
        return np.array([[self.last[task].by_way(way).chosen.get(name, 0) for name in names] for task in tasks])


@dataclass(frozen=True, config=_OPEN)
class Seconds:
    """How long the whole run took."""

    total: float


@dataclass(frozen=True, config=_OPEN)
class Results:
    """A whole run; `sites` and `tasks` are in the order in which they joined, `seeds` in ascending order."""

    sites: Annotated[tuple[str, ...], Field(min_length=1)]
    tasks: tuple[str, ...]
    versions: Mapping[str, str]
    backbone: Mapping[str, str]
    seeds: Annotated[Mapping[int, SeedRun], Field(min_length=1)]
    seconds: Seconds
    peak_rss_mb: float | None = None

    @property
    def runs(self) -> list[SeedRun]:
        """The runs, one a seed."""
        return list(self.seeds.values())

    @model_validator(mode="after")
    def _fits_together(self) -> "Results":
        for defect in _defects(self):
            raise ValueError(defect)
        return self


def read_results(path: Path) -> Results:
    """Parse what was collected of a run.

    Raises:
        SimulationError: a part is missing or malformed, or stages, tasks and reports do not fit together.
    """
    return read_kept(path, Results)


def merged(results: Sequence[Results]) -> Results:
    """Return runs of one stream with a seed each as one with all seeds; all else is the first one's.

    Raises:
        SimulationError: they are of different streams.
    """
    first = results[0]
    seeds = {seed: run for one in results for seed, run in one.seeds.items()}
    if len({(one.sites, one.tasks) for one in results}) + len({frozenset(run.unseen) for run in seeds.values()}) > 2:
        raise SimulationError(
            "the seeds of this run were not all scored on the same tasks and unseen sets; run again with --overwrite"
        )
    return replace(first, seeds=dict(sorted(seeds.items())))


def _defects(results: Results) -> Iterator[str]:
    sites, tasks = results.sites, results.tasks
    if len(sites) != len(tasks) or len(set(tasks)) != len(tasks):
        yield f"{len(sites)} sites came with the tasks {', '.join(tasks)}"
    for seed, run in results.seeds.items():
        if tuple(stage.task for stage in run.stages) != tasks:
            yield f"the stages of seed {seed} are not the tasks of the stream in their order"
        for number, stage in enumerate(run.stages):
            where = f"stage {number} of seed {seed}"
            if odd := sorted(set(stage.reports) ^ set(tasks)):
                yield f"{where} does not report exactly the tasks of the stream (see '{odd[0]}')"
            for task, report in stage.reports.items():
                scored = {way: report.by_way(way) for way in ("zero_shot", *ROUTES)}
                yield from _defects_of_ways(scored, tasks, f"'{task}' in {where}")
        for what, known in (("bytes_up", run.bytes_up), ("bytes_down", run.bytes_down), ("counts", run.counts)):
            if absent := sorted(set(sites) - set(known)):
                yield f"'{what}' of seed {seed} lacks the site '{absent[0]}'"
        for name, ways in run.unseen.items():
            where = f"the unseen set '{name}' of seed {seed}"
            if set(ways) != {"zero_shot", *ROUTERS}:
                yield f"{where} was not scored by plain SAM and both routers"
            yield from _defects_of_ways(ways, tasks, where)
        yield from _defects_of_left_out(run, sites, tasks, seed)


def _defects_of_left_out(run: SeedRun, sites: Sequence[str], tasks: Sequence[str], seed: int) -> Iterator[str]:
    left_out = {task for found in run.left_out.values() for task in found}
    for site in sites if left_out else ():
        found = run.left_out.get(site, {})
        where = f"site '{site}' of seed {seed} with a task left out"
        if set(found) != left_out or not left_out <= set(tasks):
            yield f"{where}: not the same tasks as at the other sites"
        for ways in found.values():
            if set(ways) != set(ROUTERS):
                yield f"{where}: not scored by both routers"
            yield from _defects_of_ways(ways, tasks, where)


def _defects_of_ways(ways: Mapping[str, RouteReport], tasks: Sequence[str], where: str) -> Iterator[str]:
    for way, report in ways.items():
        if set(report.scores) != set(METRICS) or report.images == 0:
            yield f"{where} has no score in each of {', '.join(METRICS)}"
        if set(report.chosen) - {*tasks, UNKNOWN} or sum(report.chosen.values()) < report.images:
            yield f"{where} does not tell of every image to which task of the stream it was sent"
        if way in ROUTERS and len(report.strengths) != len(STRENGTH_EDGES) + 1:
            yield f"{where} has {len(report.strengths)} bins of strengths, not {len(STRENGTH_EDGES) + 1}"
