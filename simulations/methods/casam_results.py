"""The results of a run as the aggregator wrote them, checked before anything is computed from them."""

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from casam_fed.errors import SimulationError
from casam_fed.wire.evaluation_report import METRICS, STRENGTH_EDGES, RouteReport

__all__ = ["ROUTERS", "ROUTES", "UNKNOWN", "Results", "SeedRun", "TaskReports", "read_results"]

ROUTERS = ("gaussian", "vae")
"""Ways that may send an image to another task than its own, or to none."""

ROUTES = ("oracle", *ROUTERS)

UNKNOWN = "unknown"

_OPEN = ConfigDict(extra="ignore")


@dataclass(frozen=True, config=_OPEN)
class TaskReports:
    """One task's test images at one stage, once per way; `without` maps a left-out task to the routers' reports."""

    zero_shot: RouteReport
    oracle: RouteReport
    gaussian: RouteReport
    vae: RouteReport
    without: Mapping[str, Mapping[str, RouteReport]] = field(default_factory=dict)

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
class SeedRun:
    """One stream from the empty bank to the last stage; `unseen` maps a set that no site has to its reports by way."""

    bank_digest: str
    stages: tuple[StageResult, ...]
    bytes_up: Mapping[str, int]
    bytes_down: Mapping[str, int]
    seconds: Mapping[str, float | Mapping[str, float]]
    notes: Mapping[str, tuple[str, ...]]
    counts: Mapping[str, Mapping[str, int]]
    unseen: Mapping[str, Mapping[str, RouteReport]] = field(default_factory=dict)


@dataclass(frozen=True, config=_OPEN)
class Results:
    """A whole run; `sites` and `tasks` are in the order in which they joined, `seeds` in ascending order."""

    stream: str
    sites: Annotated[tuple[str, ...], Field(min_length=1)]
    tasks: tuple[str, ...]
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    backbone: Mapping[str, str]
    seeds: Annotated[Mapping[int, SeedRun], Field(min_length=1)]
    seconds: Mapping[str, float]
    peak_rss_mb: float | None = None

    @property
    def runs(self) -> list[SeedRun]:
        """The runs, one a seed."""
        return list(self.seeds.values())


def read_results(results: Mapping[str, Any]) -> Results:
    """Parse what the aggregator collected.

    Raises:
        SimulationError: a part is missing or malformed, or stages, tasks and reports do not fit together.
    """
    try:
        parsed = TypeAdapter(Results).validate_python(dict(results))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise _broken(f"'{place}' cannot be read ({first['msg']})") from error
    if len(parsed.sites) != len(parsed.tasks) or len(set(parsed.tasks)) != len(parsed.tasks):
        raise _broken(f"{len(parsed.sites)} sites came with the tasks {', '.join(parsed.tasks)}")
    for seed, run in parsed.seeds.items():
        if tuple(stage.task for stage in run.stages) != parsed.tasks:
            raise _broken(f"the stages of seed {seed} are not the tasks of the stream in their order")
        for number, stage in enumerate(run.stages):
            _check_reports(stage.reports, parsed.tasks, f"stage {number} of seed {seed}")
        for what, known in (("bytes_up", run.bytes_up), ("bytes_down", run.bytes_down), ("counts", run.counts)):
            if absent := sorted(set(parsed.sites) - set(known)):
                raise _broken(f"'{what}' of seed {seed} lacks the site '{absent[0]}'")
        for name, ways in run.unseen.items():
            if set(ways) != {"zero_shot", *ROUTERS}:
                raise _broken(f"the unseen set '{name}' of seed {seed} was not scored by plain SAM and both routers")
            for way, part in ways.items():
                _check_part(part, parsed.tasks, f"the unseen set '{name}' of seed {seed}")
                if way in ROUTERS:
                    _check_strengths(part, f"the unseen set '{name}' of seed {seed}")
    if len({frozenset(run.unseen) for run in parsed.seeds.values()}) > 1:
        raise _broken("the seeds were not scored on the same unseen sets")
    return replace(parsed, seeds=dict(sorted(parsed.seeds.items())))


def _check_reports(reports: Mapping[str, TaskReports], tasks: tuple[str, ...], where: str) -> None:
    if set(reports) != set(tasks):
        odd = sorted(set(reports) ^ set(tasks))
        raise _broken(f"{where} does not report exactly the tasks of the stream (see '{odd[0]}')")
    if len({frozenset(report.without) for report in reports.values()}) > 1:
        raise _broken(f"the tasks of {where} were not all scored with the same tasks left out")
    for task, report in reports.items():
        routed = [report.gaussian, report.vae]
        for left_out, ways in report.without.items():
            if left_out not in tasks or set(ways) != set(ROUTERS):
                raise _broken(f"'{task}' in {where} was not scored by both routers without '{left_out}'")
            routed += ways.values()
        for part in (report.zero_shot, report.oracle, *routed):
            _check_part(part, tasks, f"'{task}' in {where}")
        for part in routed:
            _check_strengths(part, f"'{task}' in {where}")


def _check_part(part: RouteReport, tasks: tuple[str, ...], where: str) -> None:
    if set(part.scores) != set(METRICS) or part.images == 0:
        raise _broken(f"{where} has no score in each of {', '.join(METRICS)}")
    if set(part.chosen) - {*tasks, UNKNOWN} or sum(part.chosen.values()) < part.images:
        raise _broken(f"{where} does not tell of every image to which task of the stream it was sent")


def _check_strengths(part: RouteReport, where: str) -> None:
    if len(part.strengths) != len(STRENGTH_EDGES) + 1:
        raise _broken(f"{where} has {len(part.strengths)} bins of strengths, not {len(STRENGTH_EDGES) + 1}")


def _broken(what: str) -> SimulationError:
    return SimulationError(f"the results of the run are not whole: {what}; run the stream again with one version")
