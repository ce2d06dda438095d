"""The bank's snapshot as the aggregator signs it: the snapshot's canonical bytes in a DSSE envelope."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from casam_fed.audit.dsse import seal, unseal
from casam_fed.audit.keys import fingerprint

__all__ = ["PAYLOAD_TYPE", "open_snapshot", "sign_snapshot"]

PAYLOAD_TYPE = "application/vnd.casam-fed.bank+json"


def sign_snapshot(snapshot: bytes, key: Ed25519PrivateKey) -> bytes:
    """Return the signed envelope of a snapshot's bytes."""
    return seal(PAYLOAD_TYPE, snapshot, key)


def open_snapshot(data: bytes, key: Ed25519PublicKey) -> bytes:
    """Return the snapshot's bytes from an envelope that the aggregator's `key` must have signed.

    Raises:
        SignatureError: as `casam_fed.audit.dsse.unseal`.
    """
    return unseal(data, PAYLOAD_TYPE, {fingerprint(key): key}, "the aggregator")
