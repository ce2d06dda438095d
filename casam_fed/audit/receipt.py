"""The aggregator's decision about a release as it signs it: the receipt's canonical JSON in a DSSE envelope."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from casam_fed.audit.dsse import seal, unseal
from casam_fed.audit.keys import fingerprint

__all__ = ["PAYLOAD_TYPE", "open_receipt", "sign_receipt"]

PAYLOAD_TYPE = "application/vnd.casam-fed.receipt+json"


def sign_receipt(receipt: bytes, key: Ed25519PrivateKey) -> bytes:
    """Return the signed envelope of a receipt's bytes."""
    return seal(PAYLOAD_TYPE, receipt, key)


def open_receipt(data: bytes, key: Ed25519PublicKey) -> bytes:
    """Return the receipt's bytes from an envelope that the aggregator's `key` must have signed.

    Raises:
        SignatureError: as `casam_fed.audit.dsse.unseal`.
    """
    return unseal(data, PAYLOAD_TYPE, {fingerprint(key): key}, "the aggregator")
