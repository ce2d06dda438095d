"""Our envelopes read by another implementation of DSSE, securesystemslib's, and its envelopes by us."""

import json
import random

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, Signature, SSlibKey

from casam_fed.audit.dsse import pae, read_envelope, seal, unseal
from casam_fed.audit.keys import fingerprint
from casam_fed.errors import SignatureError

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
PRINT = fingerprint(KEY.public_key())
TYPE = "application/vnd.in-toto+json"
_RANDOMNESS = random.Random(1)
PAYLOADS = [b"", b"{}", b'{"a":1}\x00\xff\xfe', *(_RANDOMNESS.randbytes(length) for length in (1, 2, 3, 1000, 70_000))]
TYPES = [TYPE, "application/vnd.casam-fed.bank+json", "x", "typ\u00fc"]


def theirs(key: Ed25519PrivateKey) -> SSlibKey:
    """Return their form of a public key, named as we name it."""
    return SSlibKey.from_crypto(key.public_key(), keyid=fingerprint(key.public_key()))


def written(envelope: Envelope) -> bytes:
    """Return their envelope in the order and without the spaces that we ask for."""
    return json.dumps(envelope.to_dict(), separators=(",", ":")).encode()


def signed(payload: bytes, payload_type: str, *keys: Ed25519PrivateKey) -> Envelope:
    envelope = Envelope(payload, payload_type, {})
    for key in keys:
        envelope.sign(CryptoSigner(key, theirs(key)))
    return envelope


@pytest.mark.parametrize("payload_type", TYPES)
@pytest.mark.parametrize("payload", PAYLOADS, ids=len)
def test_they_verify_what_we_seal(payload, payload_type):
    data = seal(payload_type, payload, KEY)
    envelope = Envelope.from_dict(json.loads(data))
    assert (envelope.payload, envelope.payload_type) == (payload, payload_type)
    assert envelope.verify([theirs(KEY)], 1).keys() == {PRINT}
    assert envelope.pae() == pae(payload_type, payload)


@pytest.mark.parametrize("payload_type", TYPES)
@pytest.mark.parametrize("payload", PAYLOADS, ids=len)
def test_we_open_what_they_sign(payload, payload_type):
    data = written(signed(payload, payload_type, KEY))
    assert unseal(data, payload_type, {PRINT: KEY.public_key()}, "clinic") == payload
    assert data == seal(payload_type, payload, KEY)


def test_they_refuse_what_we_sealed_and_somebody_changed():
    envelope = Envelope.from_dict(json.loads(seal(TYPE, b"payload", KEY)))
    for changed in (
        Envelope(b"another", TYPE, envelope.signatures),
        Envelope(b"payload", "another", envelope.signatures),
        Envelope(b"payload", TYPE, {PRINT: Signature(PRINT, "00" * 64)}),
        Envelope(b"payload", TYPE, Envelope.from_dict(json.loads(seal(TYPE, b"payload", OTHER))).signatures),
    ):
        with pytest.raises(VerificationError):
            changed.verify([theirs(KEY)], 1)


def test_we_refuse_what_they_signed_and_somebody_changed():
    envelope = signed(b"payload", TYPE, KEY)
    for changed in (
        Envelope(b"another", TYPE, envelope.signatures),
        Envelope(b"payload", TYPE, {PRINT: Signature(PRINT, "00" * 64)}),
        signed(b"payload", TYPE, OTHER),
    ):
        with pytest.raises(SignatureError):
            unseal(written(changed), TYPE, {PRINT: KEY.public_key()}, "clinic")


def test_of_theirs_with_two_signatures_or_another_form_we_read_none():
    with pytest.raises(SignatureError, match="one signature"):
        read_envelope(written(signed(b"payload", TYPE, KEY, OTHER)), "clinic")
    with pytest.raises(SignatureError, match="written again on its way"):
        read_envelope(json.dumps(signed(b"payload", TYPE, KEY).to_dict()).encode(), "clinic")
