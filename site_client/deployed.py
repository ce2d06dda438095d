"""A deployed site as its handlers see it: releases only what was approved, and believes only what the aggregator signed."""

import functools
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from casam_fed.audit.announcement import RECEIPT, SNAPSHOT, open_announcement
from casam_fed.backbone.catalogue import backbone_card
from casam_fed.bank import LayerBank
from casam_fed.errors import BankError, ExchangeError, WithheldError
from casam_fed.evaluation_report import withheld
from casam_fed.exchange import Hello, Receipt, StageReport, Submission, Synced, encode_json
from casam_fed.files import sha256_bytes, sha256_file, write_atomically
from casam_fed.snapshot import Snapshot
from site_client.home import SiteHome
from site_client.outbox import Outbox
from site_client.site import Site, versions

__all__ = ["DeployedSite"]


class DeployedSite:
    """Answers the aggregator for one hospital. It never trains: that is done before, without network."""

    def __init__(self, home: SiteHome) -> None:
        """Read the site's welcome.

        Raises:
            EnrolmentError, KeyFileError: as `SiteHome.welcome`.
        """
        self.home = home
        self.welcome = home.welcome()
        self.outbox = Outbox(home)

    def hello(self) -> Hello:
        """Introduce the site; quick, because it needs neither the backbone nor the data."""
        return Hello(
            site=self.home.settings.name,
            task=self.home.settings.site.task_name,
            backbone_digest=backbone_card(self.welcome.backbone).sha256,
            config_digest=self.welcome.method.digest,
            versions=versions(),
            have=tuple(self._held()),
            outbox=tuple(self.outbox.undecided()),
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
        """
        if open_announcement(envelope, RECEIPT, self.welcome.key) != encode_json(receipt).encode():
            raise ExchangeError("the aggregator signed another receipt than it sent")
        if receipt.digest not in self.outbox.releases():
            raise ExchangeError("the aggregator sent a receipt for a release that never left this site")
        write_atomically(self.outbox.receipt_path(receipt.digest), encode_json(receipt).encode())
        self.home.say(f"the aggregator says: {receipt.outcome} {receipt.code} {receipt.reason}".rstrip())

    def sync(self, envelope: bytes, objects: Mapping[str, bytes]) -> Synced:
        """Bring the copy of the bank to a signed snapshot that follows the one held here.

        The objects may come in portions: until all are here they wait in a folder of their own, the copy stays as it is,
        and the answer's `bank_digest` is empty.

        Raises:
            SignatureError: not signed by the aggregator that a person confirmed.
            BankError, ReleaseError: an earlier entry was taken back, or an object is not what it claims; the copy stays.
        """
        snapshot = Snapshot.parse(open_announcement(envelope, SNAPSHOT, self.welcome.key))
        self._check_follows(snapshot)
        if snapshot.backbone_digest != self.welcome.backbone_digest:
            raise ExchangeError("the aggregator's bank belongs to another backbone than its welcome says")
        self._forget_unnamed(snapshot)
        for digest, data in objects.items():
            if digest not in snapshot.object_digests or sha256_bytes(data) != digest:
                raise ExchangeError("the aggregator sent an object that its snapshot does not name")
            write_atomically(self._incoming / f"{digest}.safetensors", data)
        if not set(snapshot.object_digests) <= set(self._held()):
            return Synced("", tuple(self._held()))
        waiting = {path.stem: path.read_bytes() for path in self._incoming.glob("*.safetensors")}
        waiting = {digest: data for digest, data in waiting.items() if sha256_bytes(data) == digest}
        synced = self._site.sync(snapshot.data, waiting)
        write_atomically(self.home.seen, snapshot.data)
        write_atomically(self.home.signed_bank, envelope)
        shutil.rmtree(self._incoming, ignore_errors=True)
        self.home.say(f"the bank has {len(snapshot.active)} tasks, digest {snapshot.digest[:12]}")
        return synced

    def evaluate(self, _last: bool) -> StageReport:
        """Score the site's test images under its copy of the bank; small groups are kept back from what leaves.

        Raises:
            WithheldError: there are too few test images to tell anything.
        """
        # Never with tasks left out, whatever is asked: each such bank would be one more question about the same images.
        report = self._site.evaluate(False)
        bank = LayerBank(self.home.bank).snapshot()
        write_atomically(self.home.stage(bank.digest), encode_json(report).encode())
        self.home.say(f"scored the test images under bank {bank.digest[:12]}")
        least = self.home.settings.minimum_images
        if report.zero_shot.images < least:
            raise WithheldError(f"fewer than {least} test images: their scores stay here")
        ways = {name: withheld(getattr(report, name), least) for name in ("zero_shot", "oracle", "gaussian", "vae")}
        return replace(report, **ways, without={}, seconds=0.0)

    def _check_follows(self, snapshot: Snapshot) -> None:
        """Stop where the bank takes something back: an aggregator that does that once is not asked again by itself."""
        if not self.home.seen.exists():
            return
        try:
            snapshot.check_follows(Snapshot.parse(self.home.seen.read_bytes()))
        except BankError as error:
            write_atomically(self.home.stopped, str(error).encode())
            raise

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
    def _site(self) -> Site:
        home = self.home
        return Site(home.settings.site, home.method(self.welcome), home.path, home.work, home.settings.seed, home.say)
