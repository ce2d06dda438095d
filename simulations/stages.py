"""A stream, stage by stage: the next site trains, its release is delivered, all get the bank and score their test images.

A stage is made of the parts of a deployed federation (`aggregator.delivery`, `site_client.answering`): admission,
decisions, logs, receipts and the gate are theirs. What is simulated is Flower's transport, and the two persons: the one who
lets a release go, and the one who accepts what admission has put aside.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from flwr.serverapp import Grid
from pydantic import TypeAdapter

from aggregator.decisions import Decisions
from aggregator.delivery import Timing, deliver, evaluate
from aggregator.records import DecisionRecord
from casam_fed.bank.snapshot import read_snapshot
from casam_fed.errors import ExchangeError, SimulationError
from casam_fed.host.line_log import append_event
from casam_fed.routing.overlap import OverlapTable
from casam_fed.wire.exchange import Request, StageReport, Submission, decode_json
from simulations.founding import Federation, found
from simulations.looks import look_at_unseen
from simulations.nodes import LEARN, LOOK, ask, meet
from simulations.run_folder import RunFolder
from simulations.stream_run import StreamRun
from simulations.verified import verified
from site_client.home import SiteHome
from site_client.outbox import Outbox

__all__ = ["run_seeds"]

_TIMING = Timing(None, None, None, early=False)
"""A simulated site that fails says so, one that takes long is waited for, and none sleeps between two messages."""


def run_seeds(grid: Grid, run: StreamRun) -> Iterator[tuple[int, dict[str, Any]]]:
    """Run the stream for each of its seeds that is not finished, and yield what each came to, JSON-compatible.

    Raises:
        CasamError: a site fails, a release is refused, or a folder cannot be written.
    """
    nodes = meet(grid, [site.name for site in run.stream.sites])
    run.folder.say(f"{len(nodes)} sites are online")
    for seed in run.stream.seeds:
        if not run.folder.seed(seed).results.exists():
            yield seed, _run_seed(grid, nodes, run, seed)


@dataclass
class _Seed:
    """A seed at work, and what was collected."""

    grid: Grid
    nodes: Mapping[str, int]
    run: StreamRun
    number: int
    federation: Federation
    stages: list[dict[str, Any]] = field(default_factory=list)
    admissions: list[dict[str, Any]] = field(default_factory=list)
    bytes_up: dict[str, int] = field(default_factory=dict)
    bytes_down: dict[str, int] = field(default_factory=dict)

    @property
    def folder(self) -> RunFolder:
        return self.run.folder

    def deliver(self, nodes: Mapping[str, int]) -> None:
        """Run one delivery with these sites; each must come out of it with the bank.

        Raises:
            ExchangeError: one does not.
        """
        home = self.federation.home
        results = deliver(self.grid, home, nodes, partial(append_event, home.progress), _TIMING)
        for site, result in results.items():
            if result.error:
                raise ExchangeError(result.error)
            self.bytes_up[site] = self.bytes_up.get(site, 0) + result.bytes_up
            self.bytes_down[site] = self.bytes_down.get(site, 0) + result.bytes_down


def _run_seed(grid: Grid, nodes: Mapping[str, int], run: StreamRun, number: int) -> dict[str, Any]:
    started = time.monotonic()
    federation = found(run.folder.begin(number), run.stream, run.root, number)
    seed = _Seed(grid, nodes, run, number, federation)
    for stage, site in enumerate(nodes):
        run.folder.say(f"seed {number}, stage {stage + 1} of {len(nodes)}: {site} joins")
        _join(seed, site)
        seed.deliver(nodes)
        _score(seed, list(nodes)[: stage + 1])
    ask(grid, nodes, LOOK, dict.fromkeys(nodes, Request()))
    sentence = verified(run.folder.seed(number), federation)
    run.folder.say(f"seed {number}: {sentence}")
    return {**_collected(seed, sentence), "seconds": _seconds(seed, time.monotonic() - started)}


def _join(seed: _Seed, site: str) -> None:
    """Let a site train and deliver; what admission puts aside is accepted, as a person would who has looked at it.

    Raises:
        SimulationError: the release was refused.
    """
    node = {site: seed.nodes[site]}
    ask(seed.grid, node, LEARN, {site: Request()})
    seed.deliver(node)
    home = seed.federation.sites[site]
    task = home.settings.site.task_name
    decisions = Decisions(seed.federation.home)
    record = decisions.record(site, _released(home).digest)
    if record.outcome == "refused":
        raise SimulationError(f"the release of {site} was refused with {record.code}: {record.reason}")
    by = "rule"
    if record.outcome == "quarantined":
        by = "person"
        decisions.accept(task, site)
    size = seed.bytes_up[site]
    seed.folder.say(f"admitted {task} ({record.code}): {size:,} bytes, digest {record.digest[:12]}")
    seed.admissions.append({"task": task, "site": site, "by": by, **_decided(record)})


def _released(home: SiteHome) -> Submission:
    newest = Outbox(home).newest()
    assert newest is not None
    return newest


def _decided(record: DecisionRecord) -> dict[str, Any]:
    worst = OverlapTable.from_json(record.overlap).worst if record.overlap else None
    return {"outcome": record.outcome, "code": record.code, "overlap": worst._asdict() if worst else None}


def _score(seed: _Seed, joined: Sequence[str]) -> None:
    """Let all sites score their test images, and read the exact scores from their folders, which the researcher owns.

    Raises:
        ExchangeError: a site fails.
    """
    home, sites = seed.federation.home, seed.federation.sites
    bank = read_snapshot(home.bank).digest
    say = partial(append_event, home.progress)
    for result in evaluate(seed.grid, home, seed.nodes, say, bank, _TIMING).values():
        if result.error:
            raise ExchangeError(result.error)
    reports = {site: _report_of(sites[site], bank) for site in sites}
    plain: dict[str, Any] = TypeAdapter(dict[str, StageReport]).dump_python(reports, mode="json")
    task_of = {site: sites[site].settings.site.task_name for site in sites}
    seed.stages.append(
        {"task": task_of[joined[-1]], "reports": {task_of[site]: report for site, report in plain.items()}}
    )
    cells = [
        f"{site} {reports[site].gaussian.scores['iou']:.3f} (SAM {reports[site].zero_shot.scores['iou']:.3f})"
        for site in joined
    ]
    seed.folder.say("IoU " + ", ".join(cells))


def _report_of(home: SiteHome, bank: str) -> StageReport:
    path = home.stage(bank)
    report: StageReport = decode_json(StageReport, path.read_text(), str(path))
    return report


def _collected(seed: _Seed, sentence: str) -> dict[str, Any]:
    home, sites = seed.federation.home, seed.federation.sites
    looks = {site: seed.folder.seed(seed.number).read_look(site) for site in sites}
    return {
        "stages": seed.stages,
        "admissions": seed.admissions,
        "bytes_up": seed.bytes_up,
        "bytes_down": seed.bytes_down,
        "bank_digest": read_snapshot(home.bank).digest,
        "counts": {site: look["counts"] for site, look in looks.items()},
        "notes": {site: look["notes"] for site, look in looks.items()},
        "devices": {site: look["device"] for site, look in looks.items()},
        "left_out": {site: look["left_out"] for site, look in looks.items()},
        "unseen": look_at_unseen(seed.run, home.bank, seed.number),
        "verified": sentence,
    }


def _seconds(seed: _Seed, total: float) -> dict[str, Any]:
    last = seed.stages[-1]["reports"]
    spent: dict[str, Any] = {}
    for site, home in seed.federation.sites.items():
        spent[site] = {**_released(home).seconds, "evaluate": last[home.settings.site.task_name]["seconds"]}
    return {**spent, "total": total}
