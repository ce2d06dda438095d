"""Audit exports made of nothing: two hospitals and an aggregator that never were, with real keys, logs, releases.

`drafted` says what a good export holds before anything is signed, `written` signs and writes it. What a dishonest owner
of a log would do is done to the draft, what an outsider would do to the folder. The same draft gives the same bytes.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors.numpy import save

import casam_fed.audit
from casam_fed.audit.announcement import RECEIPT
from casam_fed.audit.dsse import read_envelope, seal
from casam_fed.audit.event import Event, bank_origin, sign_event, site_origin
from casam_fed.audit.keys import fingerprint, public_pem
from casam_fed.audit.merkle import HashAt, in_memory, inclusion_path, leaf_hash, tree_root
from casam_fed.audit.note import Checkpoint, Note, cosigned, sign_checkpoint
from casam_fed.audit.proof import Proof
from casam_fed.audit.statement import PAYLOAD_TYPE, Statement, sign_statement
from casam_fed.audit.tiles import Log

FEDERATION = "north"
SITE = "clinic"
OTHER_SITE = "harbour"
CODE = "0.2.0"
BACKBONE = "b" * 64
APP = "a" * 64


def key_of(number: int) -> Ed25519PrivateKey:
    """Return one of the keys that are used here, and nowhere else."""
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


BANK, CLINIC, HARBOUR, HARBOUR_BEFORE, STRANGER = map(key_of, range(1, 6))
BANK_LOG = bank_origin(FEDERATION, fingerprint(BANK.public_key()))
SITE_LOG = site_origin(SITE, fingerprint(CLINIC.public_key()))


def fingerprint_of(key: Ed25519PrivateKey) -> str:
    """Return the fingerprint of a key."""
    return fingerprint(key.public_key())


def digest_of(data: bytes | str) -> str:
    """Return a SHA-256 in hexadecimal."""
    return sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def canonical(content: Any) -> bytes:
    """Return JSON as everything signed is written."""
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode("ascii")


def time_of(minute: int) -> str:
    """Return a time, so many minutes after all begins."""
    return (datetime(2026, 11, 25, 7, tzinfo=UTC) + timedelta(minutes=minute)).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Made:
    """A release with what belongs to it."""

    site: str
    task: str
    data: bytes
    card: bytes
    statement: bytes

    @property
    def digest(self) -> str:
        """SHA-256 of the release."""
        return digest_of(self.data)


def made(
    task: str,
    site: str = SITE,
    key: Ed25519PrivateKey = CLINIC,
    metadata: Mapping[str, str] | None = None,
    stated: Mapping[str, Any] | None = None,
) -> Made:
    """Return a release of a few bytes, with a card and more metadata, if any, and a statement of it, some of it changed."""
    text = canonical(
        {
            "backbone": "tiny",
            "backbone_digest": BACKBONE,
            "blocks": 1,
            "channels": 2,
            "classes": [task],
            "hyperparameters": {"epochs": 24},
            "images": 20,
            "modality": "endoscopy",
            "patients": 10,
            "schema_version": 1,
            "seed": 0,
            "site": site,
            "start": "identity",
            "task": task,
            "unit": "class",
        }
    )
    tensors = {"alignment.0.weight": np.full((2, 2), len(task), np.float32)}
    data = save(tensors, {"card": text.decode(), **(metadata or {})})
    statement = Statement(
        release=digest_of(data),
        size=len(data),
        federation=FEDERATION,
        site=site,
        task=task,
        backbone=BACKBONE,
        app=APP,
        code=CODE,
        approved="person",
        time=time_of(0),
    )
    return Made(site, task, data, text, sign_statement(Statement(**{**vars(statement), **(stated or {})}), key))


POLYP, LESION, VESSEL, NODULE = map(made, ("polyp", "lesion", "vessel", "nodule"))
CELL, GLAND = (made(task, OTHER_SITE, HARBOUR) for task in ("cell", "gland"))


@dataclass
class Line:
    """An entry before it is signed, and what whoever signs it does besides.

    Attributes:
        content: gets the statement as it should be, and returns the one to sign, or its bytes.
        payload_type: of the envelope.
        key: signs in the place of the log's own.
        envelope: gets the signed entry, and returns what is put into the log.
    """

    event: str
    subjects: dict[str, str]
    facts: dict[str, Any]
    time: str
    content: Callable[[dict[str, Any]], Any] | None = None
    payload_type: str = PAYLOAD_TYPE
    key: Ed25519PrivateKey | None = None
    envelope: Callable[[bytes], bytes] = lambda data: data

    def signed(self, origin: str, index: int, previous: str, owner: Ed25519PrivateKey) -> bytes:
        """Return the entry."""
        event = Event(origin, index, previous, self.time, self.event, self.subjects, self.facts)
        if self.content is None and self.payload_type == PAYLOAD_TYPE:
            return self.envelope(sign_event(event, self.key or owner))
        content = _unchecked(event)
        signed = self.content(content) if self.content else content
        payload = signed if isinstance(signed, bytes) else canonical(signed)
        return self.envelope(seal(self.payload_type, payload, self.key or owner))


def _unchecked(event: Event) -> dict[str, Any]:
    """Return the statement of an event, which may be in no form that `sign_event` would sign."""
    head = {name: getattr(event, name) for name in ("log", "sequence", "previous", "time", "event")}
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": role, "digest": {"sha256": value}} for role, value in sorted(event.subjects.items())],
        "predicateType": "https://casam-fed.github.io/log-entry/v1",
        "predicate": {**event.facts, **head},
    }


@dataclass
class Signed:
    """How a log is signed: by whom, under which name, and what its witnesses have seen of it.

    Attributes:
        witnesses: file name -> name and key of the witness, and the number of entries that he had seen.
        entries, checkpoint, note: get what should be logged, signed and written, and return what is.
        cosign: gets the signed note that a witness should cosign, and returns the one that he does.
        time: POSIX, when the witnesses had seen the log.
    """

    origin: str
    key: Ed25519PrivateKey
    witnesses: dict[str, tuple[str, Ed25519PrivateKey, int]]
    entries: Callable[[list[bytes]], list[bytes]] = lambda entries: entries
    checkpoint: Callable[[Checkpoint], Checkpoint] = lambda checkpoint: checkpoint
    note: Callable[[Note], Note] = lambda note: note
    cosign: Callable[[Note], Note] = lambda note: note
    time: int = int(datetime(2026, 11, 25, 8, tzinfo=UTC).timestamp())


@dataclass
class Draft:
    """An export before it is signed.

    Attributes:
        lines: log ("site" or "bank") -> its entries.
        signed: log -> how it is signed.
        files: path -> bytes, beside the logs.
        proofs: path -> index of the entry of the bank log that is proven.
        proof: gets a proof as it should be, and returns the one that is written.
    """

    kind: str
    manifest: dict[str, Any]
    lines: dict[str, list[Line]]
    signed: dict[str, Signed]
    files: dict[str, bytes] = field(default_factory=dict)
    proofs: dict[str, int] = field(default_factory=dict)
    proof: Callable[[Proof], Proof] = lambda proof: proof

    def place(self, log: str, event: str, made: Made | None = None, nth: int = 0) -> int:
        """Return the index of the nth such event, about a release if one is given."""
        found = [
            index
            for index, line in enumerate(self.lines[log])
            if line.event == event and (made is None or line.subjects.get("release") == made.digest)
        ]
        return found[nth]

    def line(self, log: str, event: str, made: Made | None = None, nth: int = 0) -> Line:
        """Return the nth such entry."""
        return self.lines[log][self.place(log, event, made, nth)]

    def append(
        self, log: str, event: str, subjects: Mapping[str, str], facts: Mapping[str, Any], time: str = ""
    ) -> Line:
        """Append an entry, a minute after the last, and return it."""
        line = Line(event, dict(subjects), dict(facts), time or time_of(len(self.lines[log])))
        self.lines[log].append(line)
        return line

    def keep(self, folder: str, data: bytes) -> str:
        """Put a file under its digest into a folder, and return the digest."""
        self.files[f"{folder}/{digest_of(data)}.json"] = data
        return digest_of(data)


def drafted(kind: str) -> Draft:
    """Return a good export of a kind, "site" or "bank"."""
    lines: dict[str, list[Line]] = {"site": [], "bank": []}
    site_witness = {"bank": (BANK_LOG, BANK, 18)}
    bank_witnesses = {SITE: (SITE_LOG, CLINIC, 11)}
    if kind == "bank":
        bank_witnesses[OTHER_SITE] = (site_origin(OTHER_SITE, fingerprint_of(HARBOUR)), HARBOUR, 12)
    draft = Draft(
        kind,
        {
            "format": 1,
            "kind": kind,
            "federation": FEDERATION,
            "site": SITE if kind == "site" else "",
            "made": time_of(60),
            "code": CODE,
        },
        lines,
        {"bank": Signed(BANK_LOG, BANK, bank_witnesses), "site": Signed(SITE_LOG, CLINIC, site_witness)},
    )
    _draft_bank_log(draft)
    if kind == "site":
        _draft_site_log(draft)
    else:
        del draft.lines["site"]
        for each in (CELL, POLYP, GLAND):
            draft.files[f"releases/{each.digest}.safetensors"] = each.data
            draft.keep("cards", each.card)
        for each in (CELL, POLYP, GLAND, VESSEL, LESION):
            draft.keep("statements", each.statement)
    return draft


def decided(each: Made, code: str = "A001", **facts: Any) -> tuple[dict[str, str], dict[str, Any]]:
    """Return subjects and facts of a decision."""
    subjects = {"release": each.digest, "statement": digest_of(each.statement)}
    return subjects, {"site": each.site, "task": each.task, "size": len(each.data), "code": code, **facts}


def approved(each: Made) -> tuple[dict[str, str], dict[str, Any]]:
    """Return subjects and facts of an approval."""
    subjects = {"release": each.digest, "card": digest_of(each.card), "statement": digest_of(each.statement)}
    facts = {"federation": FEDERATION, "task": each.task, "size": len(each.data), "images": 20, "patients": 10}
    return subjects, {**facts, "backbone": BACKBONE, "app": APP, "code": CODE, "approved": "person"}


def receipt_of(
    each: Made, outcome: str, code: str, sequence: int | None, key: Ed25519PrivateKey = BANK, reason: str = 'so "it" is'
) -> bytes:
    """Return the signed decision that a site is told."""
    content = {"digest": each.digest, "outcome": outcome, "sequence": sequence, "code": code, "reason": reason}
    return seal(RECEIPT, canonical(content), key)


def _draft_bank_log(draft: Draft) -> None:
    subjects = {"key": fingerprint_of(BANK), "backbone": BACKBONE, "background": "d" * 64}
    draft.append(
        "bank", "began", subjects, {"federation": FEDERATION, "backbone_name": "tiny", "code": CODE, "app": APP}
    )
    draft.append("bank", "enrolled", {"key": fingerprint_of(CLINIC)}, {"site": SITE})
    for event, key in (("enrolled", HARBOUR_BEFORE), ("revoked", HARBOUR_BEFORE), ("enrolled", HARBOUR)):
        draft.append("bank", event, {"key": fingerprint_of(key)}, {"site": OTHER_SITE})
    draft.append("bank", "quarantined", *decided(POLYP, "Q201"))
    draft.append("bank", "admitted", *decided(CELL, entry=0, by="rule"))
    draft.append("bank", "refused", *decided(LESION, "R112"))
    facts = {"site": OTHER_SITE, "task": "", "size": 7, "code": "R104"}
    draft.append("bank", "refused", {"release": digest_of("garbage")}, facts)
    draft.append("bank", "admitted", *decided(VESSEL, entry=1, by="rule"))
    draft.append("bank", "admitted", *decided(POLYP, "Q201", entry=2, by="person"))
    draft.append("bank", "quarantined", *decided(GLAND, "Q201"))
    facts = {"site": SITE, "task": VESSEL.task, "entry": 1, "reason": "wrong-data"}
    draft.append("bank", "retired", {"release": VESSEL.digest}, facts)


def _draft_site_log(draft: Draft) -> None:
    draft.append("site", "began", {"key": fingerprint_of(CLINIC)}, {"site": SITE, "code": CODE})
    leave(draft, "query.hello", '{"site":"clinic","task":"polyp"}')
    for each, told in (
        (POLYP, ("quarantined", "Q201", None)),
        (LESION, ("refused", "R112", None)),
        (VESSEL, ("admitted", "A001", 1)),
    ):
        draft.append("site", "approved", *approved(each))
        draft.files[f"releases/{each.digest}.safetensors"] = each.data
        draft.keep("cards", each.card)
        draft.keep("statements", each.statement)
        if each is LESION:
            draft.append("site", "declined", {"release": NODULE.digest}, {"federation": FEDERATION, "task": "nodule"})
        leave(draft, "train.submit", f'{{"digest":"{each.digest}"}}', each)
        if each is VESSEL:
            _keep_back(draft)
        tell(draft, each, *told)
    tell(draft, POLYP, "admitted", "Q201", 2)
    leave(draft, "evaluate.stage", '{"seconds":1.5}')
    tell(draft, VESSEL, "refused", "R115", None)


def leave(draft: Draft, kind: str, payload: str, each: Made | None = None) -> None:
    """Append to the site log that a message leaves, and has left."""
    index = len(draft.lines["site"])
    subjects = {"payload": draft.keep("payloads", payload.encode())} | ({"release": each.digest} if each else {})
    message = digest_of(f"message {index}")
    objects = [{"id": digest_of(f"part {index}"), "bytes": 100}, {"id": message, "bytes": 200}]
    size = len(payload) + (len(each.data) if each else 0)
    facts = {"federation": FEDERATION, "kind": kind, "request": digest_of(f"request {index}"), "size": size}
    draft.append("site", "intent", subjects, {**facts, "objects": objects})
    draft.append("site", "sent", {"message": message}, {"intent": index})


def _keep_back(draft: Draft) -> None:
    """Append that an answer was kept back, and that one word is to go in its place; it never went."""
    facts = {"federation": FEDERATION, "kind": "query.sync", "code": "Undeclared"}
    draft.append("site", "withheld", {"request": digest_of("request")}, facts)
    subjects = {"payload": draft.keep("payloads", b"Undeclared")}
    facts = {"federation": FEDERATION, "kind": "query.sync", "request": "", "size": 10, "objects": []}
    draft.append("site", "intent", subjects, facts)


def tell(draft: Draft, each: Made, outcome: str, code: str, sequence: int | None) -> None:
    """Append to the site log that the last decision of the bank about a release has come."""
    decision = [index for index, line in enumerate(draft.lines["bank"]) if line.subjects.get("release") == each.digest]
    event = {"admitted": ("admitted",), "quarantined": ("quarantined",), "refused": ("refused", "retired")}[outcome]
    index = next(place for place in reversed(decision) if draft.lines["bank"][place].event in event)
    subjects = {"release": each.digest, "receipt": draft.keep("receipts", receipt_of(each, outcome, code, sequence))}
    facts = {"federation": FEDERATION, "outcome": outcome, "code": code, "decision": index}
    draft.append("site", "receipt", subjects, facts)
    draft.proofs[f"receipts/{each.digest}.tlog-proof"] = index


def written(draft: Draft, folder: Path) -> None:
    """Sign a draft and write it into a new folder."""
    folder.mkdir(parents=True)
    for log in draft.lines:
        note, hash_at = _write_log(draft, log, folder / log)
        if log == "bank":
            for path, index in draft.proofs.items():
                hashes = tuple(inclusion_path(index, note.checkpoint.size, hash_at))
                _write(folder / path, draft.proof(Proof(index, hashes, note)).data)
    for path, data in draft.files.items():
        _write(folder / path, data)
    _write(folder / "export.json", canonical(draft.manifest) + b"\n")
    for name in ("VERIFY.md", "verify.sh"):
        shutil.copy(Path(casam_fed.audit.__file__).parent / name, folder)


def entries_of(lines: Iterable[Line], origin: str, key: Ed25519PrivateKey) -> list[bytes]:
    """Return the entries of a log, each with the digest of the one before."""
    entries: list[bytes] = []
    for line in lines:
        previous = digest_of(entries[-1]) if entries else ""
        entries.append(line.signed(origin, len(entries), previous, key))
    return entries


def _write_log(draft: Draft, log: str, folder: Path) -> tuple[Note, HashAt]:
    how = draft.signed[log]
    entries = how.entries(entries_of(draft.lines[log], how.origin, how.key))
    hash_at = in_memory([leaf_hash(entry) for entry in entries])

    def note_at(size: int) -> Note:
        return sign_checkpoint(Checkpoint(how.origin, size, tree_root(size, hash_at)), how.key)

    true = note_at(len(entries))
    Log.mirror(folder, entries, true)
    (folder / ".lock").unlink(missing_ok=True)
    note = how.note(sign_checkpoint(how.checkpoint(true.checkpoint), how.key))
    (folder / "checkpoint").write_bytes(note.data)
    for name, (witness, key, size) in how.witnesses.items():
        seen = how.cosign(note_at(min(size, len(entries))))
        _write(folder / "witnessed" / name, cosigned(seen, witness, key, how.time).data)
    return note, hash_at


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


KEYS = {"bank": BANK, "clinic": CLINIC, "harbour": HARBOUR, "stranger": STRANGER}
GIVEN = {"site": ("bank", "clinic"), "bank": ("bank", "clinic", "harbour")}
"""Kind of export -> keys that an auditor gives, the bank's first."""


def write_keys(folder: Path) -> None:
    """Write the public keys, as PEM, into a new folder."""
    folder.mkdir(parents=True)
    for name, key in KEYS.items():
        (folder / f"{name}.pem").write_text(public_pem(key.public_key()))


def payload_of(entry: bytes) -> bytes:
    """Return what an envelope holds."""
    return read_envelope(entry, "a test").payload
