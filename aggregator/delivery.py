"""One delivery: meet the sites that are online, take the releases they offer, decide, and bring each site to the bank.

A site that fails costs only its own part: it is reported with its error and asked again in a later run. Everything is
keyed by digests, so that a run that was killed at any point is simply done again.
"""

import importlib
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from flwr.app import RecordDict
from flwr.serverapp import Grid

from aggregator.dialogue import Dialogue, Pushed, Waiting, bytes_of, text_of
from aggregator.home import Home
from aggregator.ledger import Ledger, Tail
from aggregator.witness import SiteWitness
from casam_fed.audit.announcement import RECEIPT
from casam_fed.audit.dsse import seal
from casam_fed.bank.snapshot import read_snapshot
from casam_fed.errors import CasamError, ExchangeError
from casam_fed.host.files import write_atomically
from casam_fed.wire.evaluation_report import RouteReport
from casam_fed.wire.exchange import (
    EVALUATE_STAGE,
    HELLO,
    LOG,
    SUBMIT,
    SYNC,
    Hello,
    Logs,
    Receipt,
    Request,
    StageReport,
    Submission,
    Synced,
    decode_json,
    encode_json,
)

if TYPE_CHECKING:
    from casam_fed.bank.layer_bank import LayerBank

__all__ = ["Result", "Timing", "deliver", "evaluate", "plain"]

_AT_ONCE = 4
"""Sites asked at the same time: what they send is held in memory, some 14 MB each."""

_PORTION_BYTES = 32 << 20
"""Objects sent to a site in one message; a site that lacks more gets several."""


@dataclass(frozen=True)
class Timing:
    """When sites are asked, and how long they are waited for.

    Attributes:
        hello, transfer, evaluate: seconds for each kind of answer; None: as long as the site is online.
        early: ask a site that never delivered for its release while it introduces itself. A SuperNode that has just
            answered takes the next message at once, but sleeps for three seconds where there is none.
    """

    hello: float | None = 45.0
    transfer: float | None = 180.0
    evaluate: float | None = 1800.0
    early: bool = True


_TIMING = Timing()


@dataclass
class Result:
    """What a run came to for one site: `error` is empty if all went well, `bank` the digest that the site holds now."""

    bank: str = ""
    admitted: str = ""
    error: str = ""
    bytes_up: int = 0
    bytes_down: int = 0


@dataclass
class _Delivery:
    """A run in progress."""

    dialogue: Dialogue
    home: Home
    say: Callable[[str], None]
    results: dict[str, Result]
    witness: SiteWitness
    ledger: Ledger
    timing: Timing
    hellos: dict[str, Hello] = field(default_factory=dict)

    def fail(self, site: str, error: Exception) -> None:
        self.results[site].error = str(error)
        self.say(f"{site}: {error}")

    def answers(self, pushed: Pushed, timeout: float | None) -> Iterator[tuple[str, RecordDict]]:
        """Yield the answers to what was pushed; sites that give none are failed."""
        for site, answer in self.dialogue.answers(pushed, timeout):
            if isinstance(answer, ExchangeError):
                self.fail(site, answer)
            else:
                yield site, answer

    def good(self) -> list[str]:
        return [site for site in self.hellos if not self.results[site].error]


def deliver(
    grid: Grid, home: Home, nodes: Mapping[str, int], say: Callable[[str], None], timing: Timing = _TIMING
) -> dict[str, Result]:
    """Run one delivery with the sites that are online.

    Args:
        grid: Flower's.
        home: the aggregator.
        nodes: site -> Flower's node, by the key that each was enrolled with.
        say: takes sentences for the operator.
        timing: of questions and answers.

    Raises:
        BankError, StorageError, KeyFileError: the aggregator itself is not in order; no site is at fault.
    """
    # torch takes seconds to import, and the sites take seconds to answer: both at once.
    threading.Thread(target=importlib.import_module, args=("aggregator.decisions",), daemon=True).start()
    run = _begun(grid, home, nodes, say, timing)
    pushed = run.dialogue.push(HELLO, {site: Request(logs=run.witness.shown(site)) for site in nodes})
    newcomers = [site for site in nodes if timing.early and not (home.admissions / site).exists()][:_AT_ONCE]
    early = run.dialogue.push(SUBMIT, dict.fromkeys(newcomers, Request()))
    _meet(run, pushed)
    _take(run, newcomers, early)
    for sites in _batches([site for site in run.good() if site not in newcomers]):
        _take(run, sites, None)
    for sites in _batches(run.good()):
        _bring(run, sites)
    return run.results


def evaluate(
    grid: Grid,
    home: Home,
    nodes: Mapping[str, int],
    say: Callable[[str], None],
    bank: str = "",
    timing: Timing = _TIMING,
) -> dict[str, Result]:
    """Ask sites for their aggregate scores under the bank they hold, and keep what they tell.

    Args:
        grid, home, nodes, say, timing: as for `deliver`.
        bank: digest of the bank that these sites were known to hold; empty for the present one. Scores that arrive when the
            bank has become another are not kept, for nobody can tell which bank they belong to: the sites are asked again.

    Raises:
        BankError, StorageError: the aggregator itself is not in order.
    """
    run = _begun(grid, home, nodes, say, timing)
    bank = bank or read_snapshot(home.bank).digest
    requests = {site: Request(logs=run.witness.shown(site)) for site in nodes}
    for site, answer in run.answers(run.dialogue.push(EVALUATE_STAGE, requests), timing.evaluate):
        try:
            report: StageReport = decode_json(StageReport, text_of(answer), f"site {site}")
        except ExchangeError as error:
            run.fail(site, error)
            continue
        if read_snapshot(home.bank).digest != bank:
            say(f"{site}: its scores came after the bank had changed, and are asked for again")
            continue
        write_atomically(home.reports / bank / f"{site}.json", encode_json(report).encode())
        run.results[site].bank = bank
        say(f"{site}: IoU {_iou(report.gaussian)}, plain SAM {_iou(report.zero_shot)}")
    return run.results


def _begun(grid: Grid, home: Home, nodes: Mapping[str, int], say: Callable[[str], None], timing: Timing) -> _Delivery:
    results = {site: Result() for site in nodes}
    return _Delivery(Dialogue(grid, nodes), home, say, results, SiteWitness(home), Ledger(home), timing)


def _iou(report: RouteReport) -> str:
    # A site tells the scores that it has: without a test image with something to segment there are none.
    return f"{report.scores['iou']:.3f}" if "iou" in report.scores else "unknown"


def _meet(run: _Delivery, pushed: Pushed) -> None:
    """Let the sites introduce themselves; a name must be the one that the node's key was enrolled for."""
    snapshot = read_snapshot(run.home.bank)
    for site, answer in run.answers(pushed, run.timing.hello):
        try:
            hello: Hello = decode_json(Hello, text_of(answer), f"site {site}")
            if hello.site != site:
                raise ExchangeError(f"the node enrolled for {site} uses another name; revoke it if that is no mistake")
            if hello.backbone_digest != snapshot.backbone_digest:
                raise ExchangeError(f"site {site} runs another backbone than {snapshot.backbone}")
            _witness(run, site, hello.logs)
        except CasamError as error:
            run.fail(site, error)
            continue
        run.hellos[site] = hello


def _take(run: _Delivery, sites: Sequence[str], early: Pushed | None) -> None:
    """Take and decide about the releases that these sites offer; those decided about already are not sent again.

    What was asked for `early`, before the site had said whether it offers anything, counts only if it does.
    """
    from aggregator.decisions import Decisions

    decisions = Decisions(run.home)
    offering = {site: hello.outbox[-1] for site in sites if (hello := run.hellos.get(site)) and hello.outbox}
    if early is None:
        fresh = [site for site, digest in offering.items() if not decisions.is_decided(digest, site)]
        early = run.dialogue.push(SUBMIT, dict.fromkeys(fresh, Request()))
    for site, answer in run.dialogue.answers(_only(early, offering, run.dialogue.nodes), run.timing.transfer):
        if isinstance(answer, ExchangeError):
            run.fail(site, answer)
            continue
        try:
            data = bytes_of(answer, "release", f"site {site}")
            submission: Submission = decode_json(Submission, text_of(answer), f"site {site}")
        except ExchangeError as error:
            run.fail(site, error)
            continue
        run.results[site].bytes_up = len(data)
        receipt = decisions.decide(data, submission.statement.encode(), site)
        run.say(f"{site}: {receipt.outcome} {receipt.code}, {len(data):,} bytes, digest {receipt.digest[:12]}")
        if receipt.outcome == "admitted":
            run.results[site].admitted = receipt.digest
        if {submission.digest, receipt.digest} != {offering[site]}:
            run.fail(site, ExchangeError(f"site {site} sent another release than it had offered; it is asked again"))


def _only(pushed: Pushed, sites: Collection[str], nodes: Mapping[str, int]) -> Pushed:
    """Return what was pushed to these sites: nobody waits for one that did not even introduce itself."""
    wanted = {nodes[site] for site in sites}
    numbers = {number: node for number, node in pushed.waiting.nodes.items() if node in wanted}
    kept = tuple(site for site in pushed.sites if site in sites)
    return Pushed(pushed.kind, kept, Waiting(numbers, pushed.waiting.activated))


def _witness(run: _Delivery, site: str, logs: Logs | None) -> None:
    """Cosign what a site shows of its release log.

    Raises:
        ExchangeError: it shows nothing.
        LogError: as `SiteWitness.hear`.
    """
    if logs is None:
        raise ExchangeError(f"site {site} shows no release log; let it run this version of casam-fed")
    run.witness.hear(site, logs, run.ledger.log())


def _bring(run: _Delivery, sites: Sequence[str]) -> None:
    """Bring these sites to the bank as it is now, in as many messages as what they lack of log and objects needs."""
    from aggregator.decisions import Decisions

    decisions = Decisions(run.home)
    bank, end = decisions.bank_now()
    snapshot = bank.snapshot()
    have = {site: set(run.hellos[site].have) for site in sites}
    known = {site: logs.size for site in sites if (logs := run.hellos[site].logs)}
    receipts = {site: decisions.receipt(run.hellos[site].outbox, site) for site in sites}
    while have:
        tail = {site: run.ledger.tail(known[site], end) for site in have}
        # Objects are only believed once the log names them.
        lacking = {
            site: [digest for digest in snapshot.object_digests if digest not in have[site]]
            if tail[site].is_last
            else []
            for site in have
        }
        portions = {site: _portion(bank, lacking[site]) for site in have}
        requests = {site: _request(run, site, tail[site], receipts[site]) for site in have}
        arrays = {site: portions[site] | ({LOG: tail[site].bundle} if tail[site].bundle else {}) for site in have}
        held, have = have, {}
        for site, answer in run.answers(run.dialogue.push(SYNC, requests, arrays), run.timing.transfer):
            try:
                synced: Synced = decode_json(Synced, text_of(answer), f"site {site}")
                _witness(run, site, synced.logs)
            except CasamError as error:
                run.fail(site, error)
                continue
            run.results[site].bytes_down += sum(map(len, arrays[site].values()))
            sent = held[site] | set(portions[site])
            known[site] = tail[site].size
            if tail[site].is_last:
                # One telling is enough, however many portions follow.
                receipts[site] = None
            if tail[site].is_last and synced.bank_digest == snapshot.digest:
                run.results[site].bank = snapshot.digest
            elif (portions[site] or not tail[site].is_last) and sent <= set(synced.have):
                # It holds more each time, so that this ends, whatever a site says.
                have[site] = sent
            else:
                run.fail(site, ExchangeError(f"site {site} does not hold what it was sent; see its log"))


def _request(run: _Delivery, site: str, tail: Tail, receipt: Receipt | None) -> Request:
    """Return a sync's request; a receipt goes with the end of the log, which has to show the decision."""
    request = Request(logs=replace(run.witness.shown(site), checkpoint=tail.checkpoint))
    if receipt is None or not tail.is_last:
        return request
    signed = seal(RECEIPT, encode_json(receipt).encode(), run.home.signing_key()).decode("ascii")
    return replace(request, receipt=receipt, receipt_envelope=signed)


def _portion(bank: "LayerBank", lacking: Sequence[str]) -> dict[str, bytes]:
    portion: dict[str, bytes] = {}
    for digest in lacking:
        data = bank.object_bytes(digest)
        if portion and sum(map(len, portion.values())) + len(data) > _PORTION_BYTES:
            break
        portion[digest] = data
    return portion


def _batches(sites: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(sites), _AT_ONCE):
        yield sites[start : start + _AT_ONCE]


def plain(results: Mapping[str, Result]) -> dict[str, dict[str, Any]]:
    """Return the results as JSON holds them."""
    return {site: asdict(result) for site, result in results.items()}
