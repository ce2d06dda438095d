"""Releases of this site, and what is known of each: trained, approved to leave, decided upon.

work/seed-N/outbox/submission.json        the newest release, with the seconds it took
work/seed-N/outbox/DIGEST.safetensors     a release
work/seed-N/outbox/DIGEST.statement.json  its signed statement; by this a person let it go
work/seed-N/receipts/DIGEST.json          the aggregator's decision
"""

from dataclasses import replace
from pathlib import Path

from casam_fed import __version__
from casam_fed.audit.keys import fingerprint
from casam_fed.audit.statement import Statement, open_statement, sign_statement
from casam_fed.errors import EnrolmentError, ExchangeError, SignatureError
from casam_fed.host.clock import utc_now
from casam_fed.host.files import sha256_bytes, write_atomically
from casam_fed.wire.enrolment import Welcome
from casam_fed.wire.exchange import Receipt, Submission, decode_json
from site_client.home import SiteHome
from site_client.release_log import ReleaseLog

__all__ = ["Outbox"]


class Outbox:
    """The outbox of a site's folder."""

    def __init__(self, home: SiteHome) -> None:
        """Look into the outbox of `home`; it may be empty."""
        self.home = home
        self.folder = home.outbox

    def newest(self) -> Submission | None:
        """Return the release that was trained last.

        Raises:
            ExchangeError: its file is gone, or the record of it is damaged.
        """
        record = self.folder / "submission.json"
        if not record.exists():
            return None
        newest: Submission = decode_json(Submission, record.read_text(errors="replace"), str(record))
        if not self.path(newest.digest).is_file():
            raise ExchangeError(f"{self.path(newest.digest)} is gone; restore it, or run casam-site train --again")
        return newest

    def forget_newest(self) -> None:
        """Let the next training make a new release; the old one stays in its file."""
        (self.folder / "submission.json").unlink(missing_ok=True)

    def releases(self) -> list[str]:
        """Return the digests of all releases."""
        return [path.stem for path in sorted(self.folder.glob("*.safetensors"))]

    def path(self, digest: str) -> Path:
        """Return the file of a release."""
        return self.folder / f"{digest}.safetensors"

    def receipt_path(self, digest: str) -> Path:
        """Return where the decision about a release is kept."""
        return self.folder.parent / "receipts" / f"{digest}.json"

    def receipt(self, digest: str) -> Receipt | None:
        """Return the decision about a release, once there is one."""
        path = self.receipt_path(digest)
        receipt: Receipt | None = decode_json(Receipt, path.read_text(), str(path)) if path.exists() else None
        return receipt

    def undecided(self) -> list[str]:
        """Return the approved releases without a final decision, the newest last; only the newest can be among them."""
        newest = self.newest()
        if newest is None or not self.is_approved(newest.digest):
            return []
        receipt = self.receipt(newest.digest)
        return [newest.digest] if receipt is None or receipt.outcome == "quarantined" else []

    def is_approved(self, digest: str, envelope: str | None = None) -> bool:
        """Return whether a person has let this release go, to the federation and by the app of the welcome in force.

        Args:
            digest: of the release.
            envelope: what is said to be its statement; None: it is not looked at.

        Raises:
            KeyFileError: as `SiteHome.signing_key`.
        """
        if digest not in self.releases() or not self._statement_path(digest).exists():
            return False
        try:
            welcome, statement = self.home.welcome(), self._statement(digest)
        except (EnrolmentError, SignatureError):
            return False
        if envelope is not None and envelope.encode() != self._statement_path(digest).read_bytes():
            return False
        said = (statement.release, statement.federation, statement.site, statement.backbone, statement.app)
        return said == (digest, welcome.federation, welcome.site, welcome.backbone_digest, welcome.app)

    def approve(self, digest: str, size: int, task: str, welcome: Welcome, how: str) -> None:
        """Sign the statement by which a release may leave.

        Args:
            digest, size: of the release.
            task: its name.
            welcome: of the federation that it leaves for.
            how: "person" or "option".

        Raises:
            KeyFileError: as `SiteHome.signing_key`.
            ReleaseError: the file is no release.
            LogError, StorageError: the release log is damaged, or the disk is full; then it may not leave.
        """
        from casam_fed.bank.release import parse

        statement = Statement(
            release=digest,
            size=size,
            federation=welcome.federation,
            site=self.home.settings.name,
            task=task,
            backbone=welcome.backbone_digest,
            app=welcome.app,
            code=__version__,
            approved=how,
            time=utc_now(),
        )
        envelope = sign_statement(statement, self.home.signing_key())
        ReleaseLog(self.home).approved(statement, envelope, parse(self.path(digest).read_bytes()).card)
        write_atomically(self._statement_path(digest), envelope)

    def approved(self, digest: str) -> tuple[bytes, Submission]:
        """Return an approved release and what accompanies it, both checked once more.

        Raises:
            ExchangeError: nobody has approved it, or the file is not what was approved.
            KeyFileError: as `SiteHome.signing_key`.
        """
        if not self.is_approved(digest):
            raise ExchangeError(f"the release {digest[:12]} was not approved; run casam-site join")
        envelope = self._statement_path(digest).read_bytes()
        data = self.path(digest).read_bytes()
        if sha256_bytes(data) != digest:
            raise ExchangeError(f"{self.path(digest)} is not the release that was approved; train and approve it again")
        newest = self.newest()
        seconds = newest.seconds if newest and newest.digest == digest else {}
        return data, replace(Submission(digest, seconds), statement=envelope.decode("ascii"))

    def _statement(self, digest: str) -> Statement:
        key = self.home.signing_key().public_key()
        return open_statement(self._statement_path(digest).read_bytes(), {fingerprint(key): key}, "this site")

    def _statement_path(self, digest: str) -> Path:
        return self.folder / f"{digest}.statement.json"
