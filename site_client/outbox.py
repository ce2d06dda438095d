"""Releases of this site, and what is known of each: trained, approved to leave, decided upon.

work/seed-N/outbox/submission.json        the newest release, with the seconds it took
work/seed-N/outbox/DIGEST.safetensors     a release
work/seed-N/outbox/DIGEST.statement.json  its signed statement; by this a person let it go
work/seed-N/receipts/DIGEST.json          the aggregator's decision
"""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from casam_fed import __version__
from casam_fed.audit.keys import fingerprint
from casam_fed.audit.statement import Statement, open_statement, sign_statement
from casam_fed.enrolment import Welcome
from casam_fed.errors import ExchangeError
from casam_fed.exchange import Receipt, Submission, decode_json
from casam_fed.files import sha256_bytes, write_atomically
from site_client.home import SiteHome

__all__ = ["Outbox"]


class Outbox:
    """The outbox of a site's folder."""

    def __init__(self, home: SiteHome) -> None:
        """Look into the outbox of `home`; it may be empty."""
        self.home = home
        self.folder = home.outbox

    def newest(self) -> Submission | None:
        """Return the release that was trained last."""
        record = self.folder / "submission.json"
        return Submission(**json.loads(record.read_text())) if record.exists() else None

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

    def is_approved(self, digest: str) -> bool:
        """Return whether a person has let this release go."""
        return digest in self.releases() and self._statement_path(digest).exists()

    def approve(self, digest: str, size: int, task: str, welcome: Welcome, how: str) -> None:
        """Sign the statement by which a release may leave.

        Args:
            digest, size: of the release.
            task: its name.
            welcome: of the federation that it leaves for.
            how: "person" or "option".

        Raises:
            KeyFileError: as `SiteHome.signing_key`.
            StorageError: the disk is full or cannot be written.
        """
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
            time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )
        write_atomically(self._statement_path(digest), sign_statement(statement, self.home.signing_key()))

    def approved(self, digest: str) -> tuple[bytes, Submission]:
        """Return an approved release and what accompanies it, both checked once more.

        Raises:
            ExchangeError: the file is not what was approved.
            SignatureError: the statement was not signed with this site's key.
        """
        envelope = self._statement_path(digest).read_bytes()
        key = self.home.signing_key().public_key()
        statement = open_statement(envelope, {fingerprint(key): key}, "this site")
        data = self.path(digest).read_bytes()
        if sha256_bytes(data) != digest or statement.release != digest:
            raise ExchangeError(f"{self.path(digest)} is not the release that was approved; train and approve it again")
        newest = self.newest()
        seconds = newest.seconds if newest and newest.digest == digest else {}
        return data, replace(Submission(digest, seconds), statement=envelope.decode("ascii"))

    def _statement_path(self, digest: str) -> Path:
        return self.folder / f"{digest}.statement.json"
