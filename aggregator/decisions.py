"""What was decided about each release, on disk: one record per site and release, kept for good, and what is quarantined.

    admissions/SITE/DIGEST.json          outcome, code, reason, statement and overlap table
    quarantine/SITE/DIGEST.safetensors   a release that waits for a person

The bank's log and the bank are written before the record that speaks of them. After a crash in between the site, which has
no receipt yet, offers its release again and is told of the entry that it has.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from aggregator.admission import AdmissionLimits, Decision, EnrolledSite, Standing, examine
from aggregator.home import Home
from aggregator.kept_neighbours import keep_neighbours, neighbours_of
from aggregator.ledger import Ledger
from aggregator.records import DecisionRecord, own_file, read_record, read_records, record_path, write_record
from aggregator.sites import read_sites
from casam_fed.bank.layer_bank import LayerBank
from casam_fed.bank.release import Release, parse
from casam_fed.bank.snapshot import Entry, read_snapshot
from casam_fed.errors import BankError
from casam_fed.host.clock import utc_now
from casam_fed.host.files import as_storage_error, sha256_bytes, sha256_file, write_atomically
from casam_fed.host.locks import only_one
from casam_fed.wire.exchange import Receipt

__all__ = ["Decisions"]


class Decisions:
    """Decides about releases and remembers it."""

    def __init__(self, home: Home) -> None:
        """Work in the folder of an aggregator."""
        self.home = home
        self.ledger = Ledger(home)

    def is_decided(self, digest: str, site: str) -> bool:
        """Return whether this site's release was admitted or is in quarantine; one refused may be offered again.

        One that is missing from the quarantine counts as not decided: the site is asked for it once more.
        """
        if not record_path(self.home, site, digest).exists():
            return False
        outcome = self.record(site, digest).outcome
        return outcome == "admitted" or (outcome == "quarantined" and self._quarantined(site, digest).exists())

    def receipt(self, outbox: Sequence[str], site: str) -> Receipt | None:
        """Return the decision about the newest release of a site's outbox, once there is one.

        A site that offers a release that was admitted and then retired is told that.
        """
        if not outbox or not record_path(self.home, site, outbox[-1]).exists():
            return None
        return self._told(self.record(site, outbox[-1]))

    def record(self, site: str, digest: str) -> DecisionRecord:
        """Return a decision.

        Raises:
            BankError: there is none, or its file is damaged.
        """
        return read_record(self.home, site, digest)

    def records(self) -> list[DecisionRecord]:
        """Return all decisions, the oldest first.

        Raises:
            BankError: a file is damaged.
        """
        return read_records(self.home)

    def decide(self, data: bytes, envelope: bytes, site: str) -> Receipt:
        """Examine a release, carry out what is decided, and return what the site is told.

        What was admitted or is in quarantine stays as it was decided, whatever now comes with the same bytes.

        Raises:
            BankError, StorageError: the aggregator's own files are not in order or the disk is full; nothing is decided.
        """
        digest = sha256_bytes(data)
        with self._alone():
            if self.is_decided(digest, site):
                return self._told(self.record(site, digest))
            bank = self.ledger.open_bank()
            decision = examine(data, envelope, site, self._standing(bank))
            record = _record(digest, site, decision, envelope, self._carry_out(decision, data, envelope, site, bank))
            write_record(self.home, record)
        return record.receipt

    def _carry_out(self, decision: Decision, data: bytes, envelope: bytes, site: str, bank: LayerBank) -> int | None:
        """Do what was decided, log it, and return the number of the entry, if the release has one."""
        code, task = decision.code, decision.statement.task if decision.statement else ""
        if decision.entry is not None:
            return decision.entry.sequence
        if decision.outcome == "admitted":
            assert decision.release is not None
            assert decision.meeting is not None
            entry = bank.admit(
                decision.release, record=lambda entry: self.ledger.admitted(entry, envelope, code, "rule")
            )
            keep_neighbours(decision.meeting.after(), bank, self.home.kept)
            return entry.sequence
        digest = sha256_bytes(data)
        if decision.outcome == "quarantined":
            write_atomically(self._quarantined(site, digest), data)
            self.ledger.quarantined(digest, envelope, site, task, len(data), code)
        else:
            self.ledger.refused(digest, envelope if decision.statement else b"", site, task, len(data), code)
        return None

    def bank_now(self) -> tuple[LayerBank, int]:
        """Return the bank, in line with its log, and the number of entries that the log has.

        Raises:
            BankError, LogError, StorageError: as `aggregator.ledger.Ledger.open_bank`.
        """
        with self._alone():
            return self.ledger.open_bank(), self.ledger.log().size

    def accept(self, task: str, site: str | None = None) -> DecisionRecord:
        """Admit a quarantined release, the newest of its site, because a person has looked at it.

        Args:
            task: its task.
            site: whose it is; needed where several sites named their task so.

        Raises:
            BankError: none waits for that task, or several sites' do, or the bank refuses it.
            StorageError: the disk is full or cannot be written.
        """
        with self._alone():
            return self._accept(task, site)

    def _accept(self, task: str, site: str | None) -> DecisionRecord:
        waiting = [
            record
            for record in self.records()
            if record.outcome == "quarantined" and record.task == task and site in (None, record.site)
        ]
        if len(owners := sorted({record.site for record in waiting})) != 1:
            raise BankError(
                f"releases of task {task} wait from {', '.join(owners)}; choose one with --site"
                if owners
                else f"no release of task {task} is in quarantine; casam-aggregator bank list shows those that are"
            )
        old = waiting[-1]
        release = self.quarantined(old)
        bank = self.ledger.open_bank()
        if obstacle := _obstacle(release, bank.snapshot().entries):
            raise BankError(obstacle)
        statement = old.statement.encode("ascii")
        sequence = bank.admit(
            release, record=lambda entry: self.ledger.admitted(entry, statement, old.code, "person")
        ).sequence
        record = replace(
            old, outcome="admitted", sequence=sequence, accepted=utc_now(), reason="accepted by the operator"
        )
        write_record(self.home, record)
        self._quarantined(old.site, old.digest).unlink(missing_ok=True)
        return record

    def retire(self, task: str, reason: str) -> Entry:
        """Withdraw a task for one of `casam_fed.audit.event.REASONS`, and return its retired entry.

        Raises:
            BankError: no such task.
            LogError, StorageError: the log is damaged, or the disk is full; the bank stays as it was.
        """
        with self._alone():
            return self.ledger.open_bank().retire(task, record=lambda entry: self.ledger.retired(entry, reason))

    def quarantined(self, record: DecisionRecord) -> Release:
        """Return a release that waits for a person, checked once more.

        Raises:
            BankError: its file is missing or damaged.
        """
        path = self._quarantined(record.site, record.digest)
        defect = f"is missing; {record.site} is asked for it again when it comes online"
        with contextlib.suppress(FileNotFoundError), as_storage_error("read", path):
            data = path.read_bytes()
            if sha256_bytes(data) == record.digest:
                return parse(data)
            defect = f"is not the release that was quarantined; delete it: {record.site} is then asked for it again"
        raise BankError(f"{path} {defect}")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold a lock while something is decided: what was examined must still be so when it is written.

        Deliveries are processes of their own, and a person may accept a release meanwhile. The system frees the lock when
        its process ends, however it ends.
        """
        with only_one(self.home.path / "decisions.lock"):
            yield

    def _told(self, record: DecisionRecord) -> Receipt:
        entries = [entry for entry in read_snapshot(self.home.bank).entries if entry.digest == record.digest]
        if record.outcome == "admitted" and entries and all(entry.status == "retired" for entry in entries):
            reason = f"the release is entry {entries[0].sequence}, which was retired; another seed makes a new one"
            return Receipt(record.digest, "refused", None, "R115", reason)
        return record.receipt

    def _standing(self, bank: LayerBank) -> Standing:
        config = self.home.config
        with own_file(self.home.app):
            app = sha256_file(self.home.app)
        return Standing(
            federation=config.federation,
            app=app,
            backbone=bank.snapshot().backbone,
            backbone_digest=bank.snapshot().backbone_digest,
            background=bank.background,
            probes=_probes(self.home.probes),
            sites=_enrolled(self.home.sites),
            entries=bank.snapshot().entries,
            neighbours=lambda: neighbours_of(bank, self.home.kept),
            limits=AdmissionLimits(images=config.minimum_images),
        )

    def _quarantined(self, site: str, digest: str) -> Path:
        return self.home.quarantine / site / f"{digest}.safetensors"


def _record(digest: str, site: str, decision: Decision, envelope: bytes, sequence: int | None) -> DecisionRecord:
    statement = decision.statement
    return DecisionRecord(
        digest=digest,
        site=site,
        task=statement.task if statement else "",
        outcome=decision.outcome,
        code=decision.code,
        reason=decision.sentence,
        time=utc_now(),
        sequence=sequence,
        statement=envelope.decode("ascii") if statement else "",
        overlap=decision.overlap.to_json() if decision.overlap else "",
    )


def _probes(path: Path) -> dict[str, Tensor]:
    with own_file(path):
        probes: dict[str, Tensor] = load_file(path)
    return probes


def _obstacle(release: Release, entries: Sequence[Entry]) -> str:
    """Return why a release can no longer be admitted, or "": the bank may have changed since it was examined."""
    for entry in entries:
        same = entry.digest == release.digest
        if same and entry.status == "retired":
            return f"this release is entry {entry.sequence}, which was retired; another seed makes a new one"
        if entry.status == "active" and not same and entry.task.casefold() == release.card.task.casefold():
            return f"task {entry.task} of {entry.site} has another release in force; retire that first"
    return ""


def _enrolled(folder: Path) -> Mapping[str, EnrolledSite]:
    return {
        name: EnrolledSite(
            keys={pair.fingerprint: pair.public for pair in record.keys if not pair.ended},
            revoked=frozenset(pair.fingerprint for pair in record.keys if pair.ended),
        )
        for name, record in read_sites(folder).items()
    }
