"""One entry of a log, taken apart: its bytes, its place in the tree, its signature, and every field in a line."""

import hashlib
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from casam_fed.audit.check_folder import Folder, UnsuitableError, read_manifest
from casam_fed.audit.check_log import entries_of, owner_of, read_checkpoint, read_tree
from casam_fed.audit.dsse import Envelope, read_envelope
from casam_fed.audit.event import EVENT_TYPE, Event, read_event
from casam_fed.audit.merkle import inclusion_path
from casam_fed.audit.note import Checkpoint

__all__ = ["EVENTS", "FIELDS", "SUBJECTS", "Explained", "explain"]

EVENTS = {
    "began": "the log begins; this is always its first entry, and only that",
    "approved": "somebody let a release go, and the site signed a statement about it",
    "declined": "a person was asked whether a release may go, and said no",
    "intent": "a message is about to leave; this was on the disk before anything went",
    "sent": "the site's network process has taken over the message of an intent",
    "withheld": "an answer was kept back, and an error code goes in its place",
    "receipt": "the aggregator has told the site what it decided about a release",
    "enrolled": "a key of a site was let in",
    "revoked": "a key of a site was shut out",
    "admitted": "a release became an entry of the bank",
    "quarantined": "a release waits for a person at the aggregator",
    "refused": "a release was not taken",
    "retired": "an entry of the bank was withdrawn",
}
"""What each kind of event means."""

SUBJECTS = {
    "key": "SHA-256 of a public key in DER form, its fingerprint",
    "card": "SHA-256 of the release's card, in cards/",
    "release": "SHA-256 of the release's bytes, in releases/",
    "statement": "SHA-256 of the signed statement about the release, in statements/",
    "payload": "SHA-256 of the text that left, in payloads/",
    "message": "id of the message: SHA-256 of the last of the intent's objects",
    "request": "id of the message that was answered, or SHA-256 of nothing where it had none",
    "receipt": "SHA-256 of the aggregator's signed decision, in receipts/",
    "backbone": "SHA-256 of the weights that all sites share",
    "background": "SHA-256 of the bank's background statistics",
}
"""What each subject of an event is."""

FIELDS = {
    "log": "name of the log that this entry was written for, and of no other",
    "sequence": "number of the entry in its log, from 0",
    "previous": "SHA-256 of the bytes of the entry before; empty for the first",
    "time": "when it was written, UTC, by the clock of whoever keeps the log",
    "event": "what happened",
    "federation": "whose aggregator this is about",
    "site": "name of the hospital",
    "task": "what the release segments; empty where a refused release did not say",
    "code": "version of casam-fed; of a decision, its code (docs/reference/refusal-codes.md); of what was kept back, why",
    "size": "bytes: of the release, or of an intent's text and release together",
    "images": "training images, rounded down, as the card says",
    "patients": "patients whose images these are, rounded down, as the card says",
    "backbone": "SHA-256 of the weights that the release belongs to",
    "backbone_name": "name of the backbone",
    "app": "SHA-256 of the program through which a release may leave, or arrive",
    "approved": "person: somebody was asked; option: given on the command line",
    "kind": "kind of message that is answered",
    "request": "id of the message that is answered; empty where it has none",
    "objects": "what is put on the wire: SHA-256 and bytes of each object, the outermost last",
    "intent": "number of the entry that announced the message",
    "outcome": "admitted, quarantined (waits for a person) or refused",
    "decision": "number of the entry of the aggregator's log that says so",
    "entry": "number of the release among the bank's entries",
    "by": "rule: it passed all checks; person: the operator let it out of quarantine",
    "reason": "why it was withdrawn",
}
"""What each fact of an event is."""


@dataclass(frozen=True)
class Explained:
    """An entry of a log in an export.

    Attributes:
        data: its bytes, a signed envelope.
        envelope, event: what they hold; the signature has not been checked.
        leaf: its hash as a leaf of the log's tree.
        path: hashes from there to the root, leaf first.
        checkpoint: of the log.
    """

    data: bytes
    envelope: Envelope
    event: Event
    leaf: bytes
    path: tuple[bytes, ...]
    checkpoint: Checkpoint

    @property
    def digest(self) -> str:
        """SHA-256 of the bytes."""
        return hashlib.sha256(self.data).hexdigest()

    def plain(self) -> dict[str, Any]:
        """Return all of it as JSON holds it."""
        event = {name: getattr(self.event, name) for name in ("log", "sequence", "previous", "time", "event")}
        return {
            "bytes": self.data.decode("ascii"),
            "digest": self.digest,
            "leaf": self.leaf.hex(),
            "path": [each.hex() for each in self.path],
            "size": self.checkpoint.size,
            "root": self.checkpoint.root.hex(),
            "key": self.envelope.key,
            "signature": self.envelope.signature.hex(),
            "event": {**event, "subjects": dict(self.event.subjects), "facts": dict(self.event.facts)},
        }

    def lines(self) -> list[str]:
        """Return all of it for people."""
        size, root = self.checkpoint.size, self.checkpoint.root.hex()
        steps = [f"path       {each.hex()}" for each in self.path]
        return [
            f"entry {self.event.sequence} of {self.event.log}: {EVENTS[self.event.event]}",
            "",
            f"bytes      {self.data.decode('ascii')}",
            f"digest     {self.digest}  SHA-256 of these {len(self.data):,} bytes",
            f"leaf       {self.leaf.hex()}  SHA-256 of a zero byte and these (RFC 6962)",
            *(steps or ["path       empty: the log has one entry, whose leaf is the root"]),
            f"root       {root}  of the checkpoint with {size:,} entries, where the path leads to",
            f"key        {self.envelope.key}  fingerprint of the key that is said to have signed",
            f"signature  {self.envelope.signature.hex()}  Ed25519; casam-audit verify checks it",
            f"type       {self.envelope.payload_type}  in-toto statement, predicate {EVENT_TYPE}",
            "",
            *(f"{name:<13} {value}  {SUBJECTS[name]}" for name, value in sorted(self.event.subjects.items())),
            *(f"{name:<13} {getattr(self.event, name)}  {FIELDS[name]}" for name in _HEAD),
            *(f"{name:<13} {_shown(value)}  {FIELDS[name]}" for name, value in sorted(self.event.facts.items())),
        ]


_HEAD = ("log", "sequence", "previous", "time", "event")


def explain(export: Path, index: int, log: str = "") -> Explained:
    """Take one entry of an export apart; its log must be whole, and lead to its checkpoint.

    Args:
        export: folder that casam-audit export has made.
        index: number of the entry, from 0.
        log: "site" or "bank"; by default that of whoever the export is of.

    Raises:
        CheckError: it is no export, or the log is not whole (codes up to `root`).
        UnsuitableError: there is no such log or entry in it.
        SignatureError, NewerFormatError: the entry is not in its form.
    """
    folder = Folder(export)
    manifest = read_manifest(folder)
    kind = log or manifest.kind
    if kind not in manifest.logs:
        raise UnsuitableError(f"{export} is the export of a bank and holds no site's log; use --log bank")
    tree = read_tree(folder, kind, read_checkpoint(folder, kind))
    if not 0 <= index < tree.size:
        raise UnsuitableError(f"{owner_of(kind)} has entries 0 to {tree.size - 1}, not {index}; choose one of those")
    data = next(islice(entries_of(folder, kind, tree.size), index, None))
    envelope = read_envelope(data, owner_of(kind))
    event = read_event(envelope.payload, owner_of(kind))
    path = tuple(inclusion_path(index, tree.size, tree.hash_at))
    return Explained(data, envelope, event, tree.leaves[index], path, tree.note.checkpoint)


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(f"{each['id']} ({each['bytes']:,} bytes)" for each in value) or "none"
    return str(value)
