"""Signed envelopes: DSSE 1.0 (https://github.com/secure-systems-lab/dsse) with one Ed25519 signature.

The signature covers the payload's type and bytes, so that one kind of document can never pass for another. An envelope is
kept as it was written and never serialised again: its own bytes are what logs and digests speak of.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from casam_fed.audit.keys import fingerprint
from casam_fed.errors import SignatureError

__all__ = ["MAX_ENVELOPE_BYTES", "Envelope", "is_signed", "pae", "read_envelope", "seal", "unseal"]

MAX_ENVELOPE_BYTES = 16 << 20


@dataclass(frozen=True)
class Envelope:
    """A parsed envelope whose signature has not been checked.

    Attributes:
        payload_type: media type of the payload.
        payload: its bytes.
        key: fingerprint of the key that is said to have signed.
        signature: 64 bytes.
    """

    payload_type: str
    payload: bytes
    key: str
    signature: bytes


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the pre-authentication encoding, the bytes that are signed."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def seal(payload_type: str, payload: bytes, key: Ed25519PrivateKey) -> bytes:
    """Return an envelope, JSON bytes, signed with `key`; the same arguments give the same bytes."""
    signature = key.sign(pae(payload_type, payload))
    return _written(Envelope(payload_type, payload, fingerprint(key.public_key()), signature))


def read_envelope(data: bytes, sender: str) -> Envelope:
    """Take an envelope apart without checking its signature; only the form that `seal` writes passes.

    Raises:
        SignatureError: too large, no envelope, or not exactly one signature.
    """
    if len(data) > MAX_ENVELOPE_BYTES:
        raise SignatureError(
            f"{sender} sent an envelope of {len(data):,} bytes; at most {MAX_ENVELOPE_BYTES:,} are read"
        )
    try:
        fields = json.loads(data.decode("ascii"))
        (signature,) = fields["signatures"]
        envelope = Envelope(
            fields["payloadType"], _bytes(fields["payload"]), signature["keyid"], _bytes(signature["sig"])
        )
        alike = _written(envelope)
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError) as error:
        raise SignatureError(
            f"{sender} sent no envelope with one signature; run the same version at both ends"
        ) from error
    if alike != data or not isinstance(envelope.payload_type, str) or not isinstance(envelope.key, str):
        raise SignatureError(f"{sender} sent an envelope that was written again on its way; ask for the original bytes")
    return envelope


def is_signed(envelope: Envelope, key: Ed25519PublicKey) -> bool:
    """Tell whether an envelope's signature, of its payload and that payload's type, is by `key`."""
    try:
        key.verify(envelope.signature, pae(envelope.payload_type, envelope.payload))
    except InvalidSignature:
        return False
    return True


def unseal(data: bytes, payload_type: str, keys: Mapping[str, Ed25519PublicKey], sender: str) -> bytes:
    """Return the payload of an envelope after checking its type and its signature by one of `keys` (by fingerprint).

    Raises:
        SignatureError: as `read_envelope`; another type, an unknown key, or a signature that does not fit.
    """
    envelope = read_envelope(data, sender)
    if envelope.payload_type != payload_type:
        raise SignatureError(f"{sender} sent an envelope of another kind than {payload_type}; nothing was read")
    key = keys.get(envelope.key)
    if key is None:
        raise SignatureError(
            f"{sender} signed with a key that is not known here; enrol that key, or sign with the enrolled one"
        )
    if not is_signed(envelope, key):
        raise SignatureError(f"the signature of {sender} does not fit; what was signed is not what arrived")
    return envelope.payload


def _written(envelope: Envelope) -> bytes:
    """Return the one form in which an envelope is written."""
    signature = {"keyid": envelope.key, "sig": _text(envelope.signature)}
    fields = {"payload": _text(envelope.payload), "payloadType": envelope.payload_type, "signatures": [signature]}
    return json.dumps(fields, separators=(",", ":")).encode("ascii")


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
