"""A join, step by step; each step leaves its result in the site's folder, so that a join cut short goes on from there."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from casam_fed.bank.snapshot import Snapshot, read_snapshot
from casam_fed.errors import ExchangeError
from casam_fed.wire.enrolment import Welcome
from casam_fed.wire.exchange import EVALUATE_STAGE, Receipt, StageReport, Submission, decode_json
from site_client.home import SiteHome
from site_client.online import Online, online
from site_client.outbox import Outbox
from site_client.release_log import ReleaseLog

__all__ = ["Approval", "Stage", "ensure_trained", "join", "stage_row", "sync"]

Say = Callable[[str], None]

Approval = Callable[[Submission], Literal["person", "option"] | None]
"""Asks whether a release may leave, and says how it was allowed; None: a person said no."""


@dataclass(frozen=True)
class Stage:
    """What a site has after a join: the bank, and its own scores under it."""

    snapshot: Snapshot
    report: StageReport


def join(home: SiteHome, welcome: Welcome, approve: Approval, say: Say, seconds: float, keep_serving: bool) -> Stage:
    """Deliver this site's release, train it first where there is none, and come back with the bank and a stage row.

    Args:
        home: the site.
        welcome: of the aggregator that a person has confirmed.
        approve: asks for the release's leave, where it was not given before.
        say: takes sentences for the engineer.
        seconds: the longest to wait for each answer of the aggregator.
        keep_serving: stay online after that, until interrupted.

    Raises:
        CasamError: as the parts say; a release that was refused is an ExchangeError with its code.
    """
    submission = ensure_trained(home, welcome, say)
    outbox = Outbox(home)
    known = outbox.receipt(submission.digest)
    admitted = known is not None and known.outcome == "admitted"
    if not admitted:
        # Whoever joins again wants it looked at again: the aggregator's reasons may have gone.
        outbox.receipt_path(submission.digest).unlink(missing_ok=True)
    if not admitted and not outbox.is_approved(submission.digest):
        _let_go(home, outbox, submission, welcome, approve)
    synced = _synced_at(home)
    with online(home, welcome, say) as connection:
        say(f"connecting to {welcome.address}")
        receipt = connection.wait_for(
            lambda: outbox.receipt(submission.digest), f"receipt for {submission.digest[:12]}", seconds
        )
        if receipt.outcome != "admitted":
            connection.linger()
            raise _not_admitted(receipt)
        stage = _stage(home, connection, seconds, synced)
        if all(entry.digest != submission.digest for entry in stage.snapshot.active):
            raise ExchangeError("the aggregator has retired this release; change `seed` in site.yaml for a new one")
        say(stage_row(home.settings.site.task_name, stage.snapshot, stage.report))
        connection.linger()
        if keep_serving:
            say("serving later stages; Ctrl-C ends it")
            with contextlib.suppress(KeyboardInterrupt):
                _serve(home, connection, stage, say)
    return stage


def _let_go(home: SiteHome, outbox: Outbox, submission: Submission, welcome: Welcome, approve: Approval) -> None:
    """Ask for the release's leave, and log the answer, whichever it is."""
    task = home.settings.site.task_name
    how = approve(submission)
    if how is None:
        ReleaseLog(home).declined(submission.digest, welcome.federation, task)
        raise ExchangeError("the release was declined and stays here; casam-site join asks again")
    outbox.approve(submission.digest, outbox.path(submission.digest).stat().st_size, task, welcome, how)


def sync(home: SiteHome, welcome: Welcome, say: Say, seconds: float) -> Stage:
    """Fetch the bank as it is now, without delivering anything new.

    Raises:
        CasamError: as the parts say.
    """
    synced = _synced_at(home)
    with online(home, welcome, say) as connection:
        say(f"connecting to {welcome.address}")
        stage = _stage(home, connection, seconds, synced)
        connection.linger()
        return stage


def ensure_trained(home: SiteHome, welcome: Welcome, say: Say) -> Submission:
    """Return the newest release, trained now where there is none. Needs no network.

    Raises:
        DataError, TrainingError, StorageError, BackboneError: as their messages say.
    """
    newest = Outbox(home).newest()
    if newest is not None:
        return newest
    from site_client.answering import work_of

    return work_of(home, welcome, say).train()


def stage_row(task: str, snapshot: Snapshot, report: StageReport) -> str:
    """Return one line: the stage, and this site's scores under its bank."""
    own = report.gaussian.chosen.get(task, 0)
    total = sum(report.gaussian.chosen.values())
    scores = ", ".join(
        f"{name} {way.scores['iou']:.3f}"
        for name, way in (
            ("plain SAM", report.zero_shot),
            ("own layer", report.oracle),
            ("gaussian", report.gaussian),
            ("vae", report.vae),
        )
    )
    return f"stage {len(snapshot.active)}, {task}: IoU {scores}; {own} of {total} test images routed to {task}"


def _stage(home: SiteHome, connection: Online, seconds: float, before: int) -> Stage:
    """Wait until a bank has arrived after `before` and the test images are scored under it."""
    release_log = ReleaseLog(home)
    told = release_log.size()

    def look() -> Stage | None:
        if _synced_at(home) == before:
            return None
        # Scores of an earlier time are not enough: the aggregator wants its answer, even where it is the same.
        answered = any(
            event.event == "intent" and event.facts["kind"] == EVALUATE_STAGE for event in release_log.events(told)
        )
        return _scored(home) if answered else None

    return connection.wait_for(look, "bank and its scores", seconds)


def _serve(home: SiteHome, connection: Online, shown: Stage, say: Say) -> None:
    """Stay online until interrupted, and show the row of every later stage once its scores are there."""
    while True:
        connection.pause()
        found = _scored(home)
        if found is not None and found.snapshot != shown.snapshot:
            shown = found
            say(stage_row(home.settings.site.task_name, shown.snapshot, shown.report))


def _scored(home: SiteHome) -> Stage | None:
    """Return the bank held here and this site's scores under it, once there are any."""
    snapshot = read_snapshot(home.bank)
    path = home.stage(snapshot.digest)
    if not path.exists():
        return None
    return Stage(snapshot, decode_json(StageReport, path.read_text(), str(path)))


def _synced_at(home: SiteHome) -> int:
    """Return when the copy of the bank was last brought to a snapshot, in nanoseconds; 0 before the first."""
    path = home.bank / "bank.json"
    return path.stat().st_mtime_ns if path.exists() else 0


def _not_admitted(receipt: Receipt) -> ExchangeError:
    if receipt.outcome == "refused":
        return ExchangeError(
            f"the aggregator refused the release with {receipt.code}: {receipt.reason} (docs/reference/refusal-codes.md)"
        )
    return ExchangeError(
        f"the aggregator's operator has to look at the release first ({receipt.code}: {receipt.reason}); "
        "run casam-site join again when they have accepted it"
    )
