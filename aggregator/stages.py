"""A stream of tasks, stage by stage: ask for a release, admit it, let every site sync, collect aggregate scores."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid
from pydantic import TypeAdapter

from aggregator.dialogue import Dialogue, meet
from casam_fed.bank.layer_bank import LayerBank
from casam_fed.bank.release import parse
from casam_fed.bank.snapshot import Entry
from casam_fed.errors import ExchangeError
from casam_fed.routing.gaussian import Background
from casam_fed.wire.exchange import Hello, Receipt, StageReport

__all__ = ["StreamPlan", "run_stream"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class StreamPlan:
    """What a stream consists of.

    Attributes:
        sites: names in the order in which they join.
        seeds: every seed is a stream of its own, with its own bank.
        backbone, backbone_digest: which backbone all sites must run.
        background: the background statistics that the banks carry.
        folder: where the banks are kept, one below `banks/seed-N`.
    """

    sites: tuple[str, ...]
    seeds: tuple[int, ...]
    backbone: str
    backbone_digest: str
    background: Background
    folder: Path


def run_stream(grid: Grid, plan: StreamPlan, say: Say) -> dict[str, Any]:
    """Run the stream for every seed and return what was collected, JSON-compatible, by seed.

    Raises:
        ExchangeError: a site is missing, fails, or runs another backbone or configuration.
        BankError, ReleaseError, StorageError: a release is refused or the bank cannot be written.
    """
    collected: dict[str, Any] = {}
    for seed in plan.seeds:
        started = time.monotonic()
        dialogue, hellos = meet(grid, plan.sites, seed, say)
        _check_alike(plan, hellos)
        bank = LayerBank.create(
            plan.folder / "banks" / f"seed-{seed}", plan.backbone, plan.backbone_digest, plan.background
        )
        collected[str(seed)] = _one_seed(dialogue, hellos, bank, plan, seed, say)
        collected[str(seed)]["seconds"]["total"] = time.monotonic() - started
    return collected


def _one_seed(
    dialogue: Dialogue, hellos: dict[str, Hello], bank: LayerBank, plan: StreamPlan, seed: int, say: Say
) -> dict[str, Any]:
    tasks = {site: hello.task for site, hello in hellos.items()}
    have = {site: set(hello.have) for site, hello in hellos.items()}
    result: dict[str, Any] = {
        "stages": [],
        "bytes_up": {},
        "bytes_down": dict.fromkeys(plan.sites, 0),
        "seconds": {},
    }
    _sync(dialogue, bank, seed, have, {}, result)
    for stage, site in enumerate(plan.sites):
        last = stage == len(plan.sites) - 1
        say(f"seed {seed}, stage {stage + 1} of {len(plan.sites)}: {site} joins")
        data, submission = dialogue.submit(site, seed)
        entry = _admit(bank, data, submission.digest, site, tasks[site])
        result["bytes_up"][site] = len(data)
        result["seconds"][site] = dict(submission.seconds)
        say(f"admitted {entry.task}: {len(data):,} bytes, digest {entry.digest[:12]}")
        _sync(dialogue, bank, seed, have, {site: Receipt(entry.digest, "admitted", entry.sequence)}, result)
        reports = dialogue.evaluate(seed, last)
        result["stages"].append(
            {"task": entry.task, "reports": {tasks[name]: _report(report) for name, report in reports.items()}}
        )
        say(_row(plan.sites[: stage + 1], reports))
    for site, report in reports.items():
        result["seconds"][site]["evaluate"] = report.seconds
    result["bank_digest"] = bank.snapshot().digest
    return result


def _admit(bank: LayerBank, data: bytes, digest: str, site: str, task: str) -> Entry:
    release = parse(data)
    if (release.digest, release.card.site, release.card.task) != (digest, site, task):
        raise ExchangeError(f"the release of {site} is not the one it announced; let the site send it again")
    return bank.admit(release)


def _sync(
    dialogue: Dialogue,
    bank: LayerBank,
    seed: int,
    have: dict[str, set[str]],
    receipts: dict[str, Receipt],
    result: dict[str, Any],
) -> None:
    """Bring every site to the bank's snapshot, sending only the objects it lacks, and check that it arrived."""
    snapshot = bank.snapshot()
    objects = {
        site: {digest: bank.object_bytes(digest) for digest in snapshot.object_digests if digest not in held}
        for site, held in have.items()
    }
    for site, synced in dialogue.sync(seed, snapshot.data, objects, receipts).items():
        if synced.bank_digest != snapshot.digest:
            raise ExchangeError(f"site {site} holds another bank after its sync; delete its copy and run again")
        have[site] = set(synced.have)
        result["bytes_down"][site] += len(snapshot.data) + sum(map(len, objects[site].values()))


def _check_alike(plan: StreamPlan, hellos: dict[str, Hello]) -> None:
    for site, hello in hellos.items():
        if hello.backbone_digest != plan.backbone_digest:
            raise ExchangeError(f"site {site} runs another backbone than {plan.backbone}; use the same everywhere")
    if len({hello.config_digest for hello in hellos.values()}) > 1:
        raise ExchangeError("the sites do not share one method configuration; use the same YAML everywhere")


def _report(report: StageReport) -> dict[str, Any]:
    plain: dict[str, Any] = TypeAdapter(StageReport).dump_python(report, mode="json")
    return plain


def _row(joined: Sequence[str], reports: dict[str, StageReport]) -> str:
    cells = [
        f"{site} {reports[site].gaussian.scores['iou']:.3f} (SAM {reports[site].zero_shot.scores['iou']:.3f})"
        for site in joined
    ]
    return "IoU " + ", ".join(cells)
