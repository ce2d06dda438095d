"""How a site answers its aggregator: it releases only what was approved, and believes only what the aggregator signed."""

import functools
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from casam_fed.audit.announcement import RECEIPT, open_announcement
from casam_fed.backbone.backbones import backbone_card
from casam_fed.bank.layer_bank import LayerBank
from casam_fed.bank.snapshot import Snapshot
from casam_fed.errors import ExchangeError, WithheldError
from casam_fed.host.files import sha256_bytes, sha256_file, write_atomically
from casam_fed.wire.enrolment import Welcome
from casam_fed.wire.evaluation_report import withheld
from casam_fed.wire.exchange import Hello, Logs, Receipt, StageReport, Submission, Synced, encode_json
from site_client.home import SiteHome
from site_client.outbox import Outbox
from site_client.release_log import ReleaseLog
from site_client.witness import BankWitness
from site_client.work import SiteWork, versions

__all__ = ["AnsweringSite", "work_of"]


class AnsweringSite:
    """Answers the aggregator for one hospital. It never trains: that is done before, without network."""

    def __init__(self, home: SiteHome, say: Callable[[str], None] | None = None) -> None:
        """Read the site's welcome.

        Args:
            home: the site.
            say: takes sentences about the work on images; None: they go to the site's progress file, as all others do.

        Raises:
            EnrolmentError, KeyFileError: as `SiteHome.welcome`.
        """
        self.home = home
        self.welcome = home.welcome()
        self.outbox = Outbox(home)
        self.witness = BankWitness(home, self.welcome)
        self._say_work = say or home.say

    def hear(self, logs: Logs, tail: bytes) -> None:
        """Take in what the aggregator shows of its own log, and what it has cosigned of this site's.

        Raises:
            CasamError: as `BankWitness.hear`.
        """
        self.witness.hear(logs, tail)

    def hello(self, logs: Logs | None) -> Hello:
        """Introduce the site; quick, because it needs neither the backbone nor the data."""
        return Hello(
            site=self.home.settings.name,
            task=self.home.settings.site.task_name,
            backbone_digest=backbone_card(self.welcome.backbone).sha256,
            config_digest=self.welcome.method.digest,
            versions=versions(),
            have=tuple(self._held()),
            outbox=tuple(self.outbox.undecided()),
            logs=self.witness.shown(logs) if logs else None,
        )

    def release(self) -> tuple[bytes, Submission]:
        """Return the one approved release that the aggregator has not decided about.

        Raises:
            ExchangeError: there is none; a handler does not train.
        """
        waiting = self.outbox.undecided()
        if not waiting:
            raise ExchangeError("no approved release is waiting here; run casam-site join")
        self.home.say(f"sending the release {waiting[-1][:12]}")
        return self.outbox.approved(waiting[-1])

    def receive(self, receipt: Receipt, envelope: bytes) -> None:
        """Keep the aggregator's signed decision about a release of this site; decisions about others are not wanted.

        Raises:
            SignatureError: not signed by the aggregator that a person confirmed: Flower lets enrolled sites, too, send
                messages to each other.
            ExchangeError: the envelope holds another receipt, or no such release was ever approved here.
            LogError: the aggregator's log does not show that decision.
        """
        if open_announcement(envelope, RECEIPT, self.welcome.key) != encode_json(receipt).encode():
            raise ExchangeError("the aggregator signed another receipt than it sent")
        if receipt.digest not in self.outbox.releases():
            raise ExchangeError("the aggregator sent a receipt for a release that never left this site")
        decision = self.witness.decision(receipt)
        ReleaseLog(self.home).received(receipt, envelope, self.welcome.federation, decision)
        write_atomically(self.outbox.receipt_path(receipt.digest), encode_json(receipt).encode())
        self.home.say(f"the aggregator says: {receipt.outcome} {receipt.code} {receipt.reason}".rstrip())

    def sync(self, objects: Mapping[str, bytes], logs: Logs | None) -> Synced:
        """Bring the copy of the bank to what the aggregator's log says, as far as it was heard.

        The objects may come in portions: until all are here they wait in a folder of their own, the copy stays as it is,
        and the answer's `bank_digest` is empty.

        Raises:
            LogError, BankError, ReleaseError: there is no log, it contradicts itself, or an object is not what it claims;
                the copy stays.
            ExchangeError: the bank belongs to another backbone, or an object to no bank.
        """
        snapshot = self.witness.snapshot()
        if snapshot.backbone_digest != self.welcome.backbone_digest:
            raise ExchangeError("the aggregator's bank belongs to another backbone than its welcome says")
        self._forget_unnamed(snapshot)
        for digest, data in objects.items():
            if digest not in snapshot.object_digests or sha256_bytes(data) != digest:
                raise ExchangeError("the aggregator sent an object that its log does not name")
            write_atomically(self._incoming / f"{digest}.safetensors", data)
        shown = self.witness.shown(logs) if logs else None
        if not set(snapshot.object_digests) <= set(self._held()):
            return Synced("", tuple(self._held()), shown)
        waiting = {path.stem: path.read_bytes() for path in self._incoming.glob("*.safetensors")}
        waiting = {digest: data for digest, data in waiting.items() if sha256_bytes(data) == digest}
        self.work.mirror(snapshot, waiting)
        shutil.rmtree(self._incoming, ignore_errors=True)
        self.home.say(f"the bank has {len(snapshot.active)} tasks, digest {snapshot.digest[:12]}")
        return Synced(snapshot.digest, tuple(self._held()), shown)

    def evaluate(self) -> StageReport:
        """Score the site's test images under its copy of the bank; small groups are kept back from what leaves.

        Raises:
            WithheldError: there are too few test images to tell anything.
        """
        report = self.work.evaluate()
        bank = LayerBank(self.home.bank).snapshot()
        write_atomically(self.home.stage(bank.digest), encode_json(report).encode())
        self.home.say(f"scored the test images under bank {bank.digest[:12]}")
        least = self.home.settings.minimum_images
        if report.zero_shot.images < least:
            raise WithheldError(f"fewer than {least} test images: their scores stay here")
        ways = {name: withheld(getattr(report, name), least) for name in ("zero_shot", "oracle", "gaussian", "vae")}
        return replace(report, **ways, seconds=0.0)

    def _forget_unnamed(self, snapshot: Snapshot) -> None:
        """Remove what earlier portions have left that this snapshot does not need: it must not pile up."""
        for path in self._incoming.glob("*"):
            if path.stem not in snapshot.object_digests:
                path.unlink()

    @property
    def _incoming(self) -> Path:
        return self.home.seeded / "incoming"

    def _held(self) -> list[str]:
        """Return the digests of the objects that are here whole: one that is damaged is lacking, and is sent again."""
        folders = (self.home.bank / "objects", self._incoming)
        paths = [path for folder in folders for path in folder.glob("*.safetensors")]
        return sorted({path.stem for path in paths if sha256_file(path) == path.stem})

    @functools.cached_property
    def work(self) -> SiteWork:
        """The site's own work; made when it is first needed, as that loads the backbone and lists the data."""
        return work_of(self.home, self.welcome, self._say_work)


def work_of(home: SiteHome, welcome: Welcome, say: Callable[[str], None]) -> SiteWork:
    """Return the work of the site in a folder, by the method of a welcome."""
    return SiteWork(home.settings.site, home.method(welcome), home.path, home.work, home.settings.seed, say)
