"""The bank log of an aggregator as it shows it, made in memory from a bank's snapshot."""

from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from casam_fed.audit.event import Event, bank_origin, sign_event
from casam_fed.audit.keys import fingerprint
from casam_fed.audit.merkle import in_memory, leaf_hash, tree_root
from casam_fed.audit.note import Checkpoint, Note, sign_checkpoint
from casam_fed.bank.snapshot import Snapshot
from casam_fed.host.files import sha256_bytes
from casam_fed.wire.exchange import Receipt

from ..wire.welcomes import AGGREGATOR

__all__ = ["ShownLog", "shown_log"]

TIME = "2026-11-25T07:10:43Z"


@dataclass(frozen=True)
class ShownLog:
    """Entries of a bank log, and who signs its checkpoints."""

    entries: tuple[bytes, ...]
    origin: str
    key: Ed25519PrivateKey

    def note(self, size: int | None = None) -> Note:
        """Return the signed checkpoint of the first `size` entries."""
        entries = self.entries[:size]
        root = tree_root(len(entries), in_memory([leaf_hash(entry) for entry in entries]))
        return sign_checkpoint(Checkpoint(self.origin, len(entries), root), self.key)

    def bundle(self, start: int) -> bytes:
        """Return the entries from `start` on, as they travel."""
        return b"".join(len(entry).to_bytes(2, "big") + entry for entry in self.entries[start:])

    def after(self, event: str, subjects: dict[str, str], **facts: Any) -> "ShownLog":
        """Return the log with one more event."""
        previous = sha256_bytes(self.entries[-1]) if self.entries else ""
        made = Event(self.origin, len(self.entries), previous, TIME, event, subjects, facts)
        return ShownLog((*self.entries, sign_event(made, self.key)), self.origin, self.key)

    def after_deciding(self, receipt: Receipt, site: str = "clinic") -> "ShownLog":
        """Return the log with a decision that admits nothing."""
        subjects = {"release": receipt.digest, "statement": "5" * 64}
        return self.after(receipt.outcome, subjects, site=site, task=site, size=1, code=receipt.code)


def shown_log(snapshot: Snapshot, key: Ed25519PrivateKey = AGGREGATOR, federation: str = "test") -> ShownLog:
    """Return the log that leads to a snapshot; the same snapshot gives the same log, a longer one a longer log."""
    name = fingerprint(key.public_key())
    log = ShownLog((), bank_origin(federation, name), key).after(
        "began",
        {"key": name, "backbone": snapshot.backbone_digest, "background": snapshot.background},
        federation=federation,
        backbone_name=snapshot.backbone,
        code="0.1.0",
        app="a" * 64,
    )
    for entry in snapshot.entries:
        log = log.after(
            "admitted",
            {"release": entry.digest, "statement": "5" * 64},
            site=entry.site,
            task=entry.task,
            size=entry.bytes,
            code="A001",
            entry=entry.sequence,
            by="rule",
        )
    for entry in snapshot.entries:
        if entry.status == "retired":
            facts = {"site": entry.site, "task": entry.task, "entry": entry.sequence, "reason": "other"}
            log = log.after("retired", {"release": entry.digest}, **facts)
    return log
