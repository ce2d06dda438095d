"""Signed envelopes: DSSE 1.0 (https://github.com/secure-systems-lab/dsse) with one Ed25519 signature.

The signature covers the payload's type and bytes, so that one kind of document can never pass for another. An envelope is
kept as it was written and never serialised again: its own bytes are what logs and digests speak of.
"""

import base64
import json
from collections.abc import Mapping
from contextlib import suppress
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
    with suppress(ValueError, KeyError, TypeError, RecursionError, AttributeError):
        # What is too large is cut, and then is no JSON.
        fields = json.loads(data[:MAX_ENVELOPE_BYTES].decode("ascii"))
        (signature,) = fields["signatures"]
        envelope = Envelope(
            fields["payloadType"], _bytes(fields["payload"]), signature["keyid"], _bytes(signature["sig"])
        )
        typed = isinstance(envelope.payload_type, str) and isinstance(envelope.key, str)
        if typed and _written(envelope) == data:
            return envelope
    raise SignatureError(
        f"{sender} sent no envelope with one signature of at most {MAX_ENVELOPE_BYTES:,} bytes, or one that was written "
        "again on its way; ask for the original bytes, and run the same version at both ends"
    )


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
    key = keys.get(envelope.key)
    if envelope.payload_type != payload_type:
        wrong = f"{sender} sent an envelope of another kind than {payload_type}; nothing was read"
    elif key is None:
        wrong = f"{sender} signed with a key that is not known here; enrol that key, or sign with the enrolled one"
    elif not is_signed(envelope, key):
        wrong = f"the signature of {sender} does not fit; what was signed is not what arrived"
    else:
        return envelope.payload
    raise SignatureError(wrong)


def _written(envelope: Envelope) -> bytes:
    """Return the one form in which an envelope is written."""
    signature = {"keyid": envelope.key, "sig": _text(envelope.signature)}
    fields = {"payload": _text(envelope.payload), "payloadType": envelope.payload_type, "signatures": [signature]}
    return json.dumps(fields, separators=(",", ":")).encode("ascii")


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
