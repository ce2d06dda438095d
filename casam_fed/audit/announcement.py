"""What the aggregator signs in a DSSE envelope beside its log: receipts, each as its canonical JSON."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from casam_fed.audit.dsse import unseal
from casam_fed.audit.keys import fingerprint

__all__ = ["RECEIPT", "open_announcement"]

RECEIPT = "application/vnd.casam-fed.receipt+json"


def open_announcement(data: bytes, payload_type: str, key: Ed25519PublicKey) -> bytes:
    """Return the content of an envelope that the aggregator's `key` must have signed (`casam_fed.audit.dsse.seal`).

    Raises:
        SignatureError: as `casam_fed.audit.dsse.unseal`.
    """
    return unseal(data, payload_type, {fingerprint(key): key}, "the aggregator")
