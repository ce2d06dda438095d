"""The checks of what a site was told: signed receipts, and the proofs that the aggregator's log holds each decision.

Forms: DSSE envelopes (`casam_fed.audit.announcement`), C2SP tlog-proof; inclusion as RFC 9162, section 2.1.3.2.
"""

import json
import re
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from casam_fed.audit.announcement import RECEIPT
from casam_fed.audit.check_events import SiteHistory
from casam_fed.audit.check_files import MAX_RELEASE_BYTES, path_of
from casam_fed.audit.check_folder import CheckError, Folder
from casam_fed.audit.check_log import Tree
from casam_fed.audit.dsse import is_signed, read_envelope
from casam_fed.audit.event import MAX_ENTRY_BYTES, Event
from casam_fed.audit.forms import DIGEST, SIZES
from casam_fed.audit.keys import fingerprint
from casam_fed.audit.merkle import check_inclusion, inclusion_path
from casam_fed.audit.note import check_signed
from casam_fed.audit.proof import MAX_PROOF_BYTES, read_proof
from casam_fed.canonical import canonical_json
from casam_fed.errors import LogError, SignatureError

__all__ = ["check_receipts"]

_OUTCOMES = ("admitted", "quarantined", "refused")
_CODE = re.compile(r"[A-Z0-9]{0,8}")
_REASON = re.compile(r"[ -~]{0,600}")
_FIELDS = {"digest", "outcome", "sequence", "code", "reason"}
_ASK = "ask the site, and the aggregator's operator, what was decided"


def check_receipts(folder: Folder, site: SiteHistory, bank: Tree, public: Ed25519PublicKey) -> None:
    """Check every receipt of a site's log, and for each release the proof of the last decision about it.

    Args:
        folder: the export.
        site: its log.
        bank: the aggregator's.
        public: the aggregator's key.

    Raises:
        CheckError: as the first that is missing or wrong; codes receipt- and proof-.
    """
    last: dict[str, Event] = {}
    for event in site.receipts:
        _check_receipt(folder, event, public)
        last[event.subjects["release"]] = event
    for event in last.values():
        _check_proof(folder, event, bank, public)


def _check_receipt(folder: Folder, event: Event, public: Ed25519PublicKey) -> None:
    path = path_of("receipt", event.subjects["receipt"])
    if folder.digest(path, MAX_RELEASE_BYTES, "receipt-missing", "receipt-digest") != event.subjects["receipt"]:
        raise CheckError("receipt-digest", f"{path} is not the receipt of that digest; {_ASK}")
    data = folder.read(path, MAX_ENTRY_BYTES, "receipt-missing", "receipt-form")
    try:
        envelope = read_envelope(data, "the aggregator")
        told = _told(envelope.payload)
    except (SignatureError, ValueError, RecursionError) as error:
        raise CheckError("receipt-form", f"{path} is no signed receipt in its one form; {_ASK}") from error
    if envelope.payload_type != RECEIPT:
        raise CheckError("receipt-form", f"{path} is not of the kind {RECEIPT}; {_ASK}")
    if envelope.key != fingerprint(public) or not is_signed(envelope, public):
        raise CheckError("receipt-signature", f"{path} was not signed with the aggregator's key; {_ASK}")
    said = (event.subjects["release"], event.facts["outcome"], event.facts["code"])
    if (told["digest"], told["outcome"], told["code"]) != said:
        raise CheckError(
            "receipt-release", f"{path} tells of another decision than entry {event.sequence} of the site's log; {_ASK}"
        )


def _told(payload: bytes) -> dict[str, Any]:
    """Return what a receipt says; raise ValueError where it is not in its one form (`casam_fed.wire.exchange.Receipt`)."""
    told = json.loads(payload.decode("ascii"))
    if not isinstance(told, dict) or told.keys() != _FIELDS:
        raise ValueError("other fields")
    texts = {"digest": DIGEST, "code": _CODE, "reason": _REASON}
    if not all(isinstance(told[name], str) and form.fullmatch(told[name]) for name, form in texts.items()):
        raise ValueError("a text is not in its form")
    number = told["sequence"]
    if told["outcome"] not in _OUTCOMES or not (number is None or (type(number) is int and number in SIZES)):
        raise ValueError("outcome or number is not in its form")
    if canonical_json(told).encode("ascii") != payload:
        raise ValueError("written otherwise")
    return told


def _check_proof(folder: Folder, event: Event, bank: Tree, public: Ed25519PublicKey) -> None:
    path = path_of("proof", event.subjects["release"])
    data = folder.read(path, MAX_PROOF_BYTES, "proof-missing", "proof-form")
    try:
        proof = read_proof(data, "the aggregator")
    except LogError as error:
        raise CheckError("proof-form", f"{path} is no proof in its one form; {_ASK}") from error
    decision = event.facts["decision"]
    if proof.index != decision or decision >= bank.size:
        raise CheckError(
            "proof-index", f"{path} is of entry {proof.index}, and the decision is entry {decision}; {_ASK}"
        )
    seen = proof.note.checkpoint
    if len(proof.path) != _length(decision, seen.size):
        raise CheckError(
            "proof-path", f"{path} has too many or too few hashes for a log of {seen.size} entries; {_ASK}"
        )
    try:
        check_inclusion(bank.leaves[decision], decision, seen.size, proof.path, seen.root)
    except LogError as error:
        raise CheckError(
            "proof-root", f"{path} does not lead from the decision to the root of its checkpoint; {_ASK}"
        ) from error
    try:
        check_signed(proof.note, public)
    except LogError as error:
        raise CheckError(
            "proof-checkpoint", f"the checkpoint in {path} is not signed by the aggregator; {_ASK}"
        ) from error
    if not bank.has_seen(proof.note):
        raise CheckError("proof-checkpoint", f"the checkpoint in {path} is not one of the aggregator's log; {_ASK}")


def _length(index: int, size: int) -> int:
    """Return how many hashes lead from an entry to the root of a log of that size."""
    return len(inclusion_path(index, size, lambda level, place: b""))
