"""The checks of what a site was told: signed receipts, and the proofs that the aggregator's log holds each decision.

Forms: DSSE envelopes (`casam_fed.audit.announcement`), C2SP tlog-proof; inclusion as RFC 9162, section 2.1.3.2.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from casam_fed.audit.announcement import RECEIPT
from casam_fed.audit.check_events import SiteHistory
from casam_fed.audit.check_files import MAX_RELEASE_BYTES, path_of
from casam_fed.audit.check_folder import Finding, Folder, as_check_error, end_at_first
from casam_fed.audit.check_log import Tree
from casam_fed.audit.dsse import is_signed, read_envelope
from casam_fed.audit.event import MAX_ENTRY_BYTES, Event
from casam_fed.audit.forms import DIGEST, SIZES
from casam_fed.audit.keys import fingerprint
from casam_fed.audit.merkle import check_inclusion, inclusion_path
from casam_fed.audit.note import check_signed
from casam_fed.audit.proof import MAX_PROOF_BYTES, read_proof
from casam_fed.canonical import canonical_json

__all__ = ["check_receipts"]

_ASK = "ask the site, and the aggregator's operator, what was decided"


def _text(form: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(form, value) is not None


_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "digest": _text(DIGEST.pattern),
    "outcome": _text("admitted|quarantined|refused"),
    "sequence": lambda value: value is None or (type(value) is int and value in SIZES),
    "code": _text(r"[A-Z0-9]{0,8}"),
    "reason": _text(r"[ -~]{0,600}"),
}


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
    end_at_first(_of_receipts(folder, site, bank, public))


def _of_receipts(folder: Folder, site: SiteHistory, bank: Tree, public: Ed25519PublicKey) -> Iterator[Finding]:
    last: dict[str, Event] = {}
    for event in site.receipts:
        yield from _of_receipt(folder, event, public)
        last[event.subjects["release"]] = event
    for event in last.values():
        yield from _of_proof(folder, event, bank, public)


def _of_receipt(folder: Folder, event: Event, public: Ed25519PublicKey) -> Iterator[Finding]:
    path = path_of("receipt", event.subjects["receipt"])
    if folder.digest(path, MAX_RELEASE_BYTES, "receipt-missing", "receipt-digest") != event.subjects["receipt"]:
        yield "receipt-digest", f"{path} is not the receipt of that digest; {_ASK}"
    data = folder.read(path, MAX_ENTRY_BYTES, "receipt-missing", "receipt-form")
    unlike = ("receipt-form", f"{path} is no signed receipt in its one form; {_ASK}")
    with as_check_error(*unlike):
        envelope = read_envelope(data, "the aggregator")
    told = _told(envelope.payload)
    if told is None or envelope.payload_type != RECEIPT:
        yield unlike
        return
    if envelope.key != fingerprint(public) or not is_signed(envelope, public):
        yield "receipt-signature", f"{path} was not signed with the aggregator's key; {_ASK}"
    if told != (event.subjects["release"], event.facts["outcome"], event.facts["code"]):
        what = f"tells of another decision than entry {event.sequence} of the site's log"
        yield "receipt-release", f"{path} {what}; {_ASK}"


def _told(payload: bytes) -> tuple[str, str, str] | None:
    """Return the release, outcome and code that a receipt tells; None where it is not in its one form.

    That form is the canonical JSON of a `casam_fed.wire.exchange.Receipt`.
    """
    try:
        told = json.loads(payload.decode("ascii"))
        alike = canonical_json(told).encode("ascii") == payload
    except (ValueError, RecursionError):
        return None
    if not (alike and isinstance(told, dict) and told.keys() == _FIELDS.keys()):
        return None
    if not all(fits(told[name]) for name, fits in _FIELDS.items()):
        return None
    return told["digest"], told["outcome"], told["code"]


def _of_proof(folder: Folder, event: Event, bank: Tree, public: Ed25519PublicKey) -> Iterator[Finding]:
    path = path_of("proof", event.subjects["release"])
    data = folder.read(path, MAX_PROOF_BYTES, "proof-missing", "proof-form")
    with as_check_error("proof-form", f"{path} is no proof in its one form; {_ASK}"):
        proof = read_proof(data, "the aggregator")
    decision, seen = event.facts["decision"], proof.note.checkpoint
    if proof.index != decision or decision >= bank.size:
        yield "proof-index", f"{path} is of entry {proof.index}, and the decision is entry {decision}; {_ASK}"
        return
    if len(proof.path) != _length(decision, seen.size):
        yield "proof-path", f"{path} has too many or too few hashes for a log of {seen.size} entries; {_ASK}"
    with as_check_error("proof-root", f"{path} does not lead from the decision to the root of its checkpoint; {_ASK}"):
        check_inclusion(bank.leaves[decision], decision, seen.size, proof.path, seen.root)
    with as_check_error("proof-checkpoint", f"the checkpoint in {path} is not signed by the aggregator; {_ASK}"):
        check_signed(proof.note, public)
    if not bank.has_seen(proof.note):
        yield "proof-checkpoint", f"the checkpoint in {path} is not one of the aggregator's log; {_ASK}"


def _length(index: int, size: int) -> int:
    """Return how many hashes lead from an entry to the root of a log of that size."""
    return len(inclusion_path(index, size, lambda level, place: b""))
