"""Envelopes: what was signed is what arrived, byte by byte, or nothing is read."""

import base64
import json
import random
import shutil
import subprocess
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from casam_fed.audit.dsse import MAX_ENVELOPE_BYTES, pae, read_envelope, seal, unseal
from casam_fed.audit.keys import fingerprint, public_pem
from casam_fed.errors import CasamError, SignatureError

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
KEYS = {fingerprint(KEY.public_key()): KEY.public_key()}
TYPE = "application/vnd.in-toto+json"
PAYLOAD = b'{"a":1}\x00\xff\xfe'
GOOD = seal(TYPE, PAYLOAD, KEY)


def opened(data: bytes) -> bytes:
    return unseal(data, TYPE, KEYS, "clinic")


def changed(**changes: Any) -> bytes:
    return packed(json.loads(GOOD) | changes)


def packed(fields: Any) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def with_signature(**changes: Any) -> bytes:
    return changed(signatures=[json.loads(GOOD)["signatures"][0] | changes])


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_what_is_signed_is_the_encoding_of_the_specification():
    """The example of https://github.com/secure-systems-lab/dsse/blob/master/protocol.md."""
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert pae("", b"") == b"DSSEv1 0  0 "


def test_lengths_count_bytes_and_not_signs():
    assert pae("ü", "ü".encode()) == b"DSSEv1 2 \xc3\xbc 2 \xc3\xbc"


def test_type_and_payload_cannot_be_shifted_into_each_other():
    assert len({pae("a", b"b c"), pae("a b", b"c"), pae("a 3 b", b"c")}) == 3


def test_what_was_sealed_comes_back():
    assert opened(GOOD) == PAYLOAD
    assert seal(TYPE, PAYLOAD, KEY) == GOOD
    assert opened(seal(TYPE, b"", KEY)) == b""
    envelope = read_envelope(GOOD, "clinic")
    assert (envelope.payload_type, envelope.payload, len(envelope.signature)) == (TYPE, PAYLOAD, 64)
    assert envelope.key == fingerprint(KEY.public_key())


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_verifies_the_signature(tmp_path):
    (tmp_path / "key.pem").write_text(public_pem(KEY.public_key()))
    (tmp_path / "signature").write_bytes(read_envelope(GOOD, "clinic").signature)
    for message, fits in ((pae(TYPE, PAYLOAD), True), (PAYLOAD, False)):
        (tmp_path / "message").write_bytes(message)
        command = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", "key.pem", "-in", "message"]
        done = subprocess.run([*command, "-sigfile", "signature"], cwd=tmp_path, capture_output=True, check=False)
        assert (done.returncode == 0) is fits


def test_no_byte_of_an_envelope_can_be_changed():
    randomness = random.Random(1)
    for place in range(len(GOOD)):
        for _ in range(3):
            data = bytearray(GOOD)
            data[place] ^= randomness.randrange(1, 256)
            with pytest.raises(SignatureError):
                opened(bytes(data))


def test_no_part_of_an_envelope_is_an_envelope():
    for end in range(len(GOOD)):
        with pytest.raises(SignatureError):
            opened(GOOD[:end])


@pytest.mark.parametrize("known", [{}, {fingerprint(OTHER.public_key()): OTHER.public_key()}], ids=["none", "another"])
def test_an_unknown_key_is_refused(known):
    with pytest.raises(SignatureError, match="clinic signed with a key that is not known here"):
        unseal(GOOD, TYPE, known, "clinic")


def test_a_key_is_not_taken_for_another():
    with pytest.raises(SignatureError, match="does not fit"):
        unseal(GOOD, TYPE, {fingerprint(KEY.public_key()): OTHER.public_key()}, "clinic")
    with pytest.raises(SignatureError, match="does not fit"):
        opened(with_signature(sig=text(OTHER.sign(pae(TYPE, PAYLOAD)))))


def test_one_kind_of_document_does_not_pass_for_another():
    with pytest.raises(SignatureError, match="another kind"):
        unseal(GOOD, "application/vnd.casam-fed.bank+json", KEYS, "clinic")
    relabelled = changed(payloadType="application/vnd.casam-fed.bank+json")
    with pytest.raises(SignatureError, match="does not fit"):
        unseal(relabelled, "application/vnd.casam-fed.bank+json", KEYS, "clinic")


def test_a_signature_of_the_payload_alone_is_refused():
    with pytest.raises(SignatureError, match="does not fit"):
        opened(with_signature(sig=text(KEY.sign(PAYLOAD))))


@pytest.mark.parametrize("length", [0, 1, 63, 65, 128])
def test_a_signature_of_another_length_is_refused(length):
    with pytest.raises(SignatureError, match="does not fit"):
        opened(with_signature(sig=text((json.loads(GOOD)["signatures"][0]["sig"].encode() * 2)[:length])))


SIGNATURE = json.loads(GOOD)["signatures"][0]
NOT_ENVELOPES = {
    "empty": b"",
    "no signature": changed(signatures=[]),
    "two signatures": changed(signatures=[SIGNATURE, SIGNATURE]),
    "signatures no list": changed(signatures={"0": SIGNATURE}),
    "signatures a text": changed(signatures="s"),
    "signatures null": changed(signatures=None),
    "a list": b"[]",
    "a number": b"1",
    "a text": b'"payload"',
    "null": b"null",
    "payload a number": changed(payload=1),
    "payload null": changed(payload=None),
    "payload no base64": changed(payload="%%%"),
    "payload no ascii": changed(payload="ü"),
    "payload without padding": changed(payload="YQ"),
    "lacks payload": packed({"payloadType": TYPE, "signatures": [SIGNATURE]}),
    "lacks type": packed({"payload": "", "signatures": [SIGNATURE]}),
    "lacks signatures": packed({"payload": "", "payloadType": TYPE}),
    "lacks keyid": changed(signatures=[{"sig": SIGNATURE["sig"]}]),
    "lacks sig": changed(signatures=[{"keyid": SIGNATURE["keyid"]}]),
    "lists nested a million deep": b"[" * 1_000_000,
    "objects nested a million deep": b'{"a":' * 1_000_000,
    "nested in its place": GOOD.replace(b'"payloadType":"' + TYPE.encode() + b'"', b'"payloadType":' + b"[" * 100_000),
    "a number of a million digits": b"9" * 1_000_000,
    "a byte order mark": b"\xef\xbb\xbf" + GOOD,
    "utf-16": GOOD.decode().encode("utf-16"),
    "not ascii": GOOD[:-1] + "ü".encode(),
}


@pytest.mark.parametrize("defect", NOT_ENVELOPES)
def test_what_is_no_envelope_is_refused(defect):
    with pytest.raises(SignatureError, match="clinic sent no envelope with one signature"):
        opened(NOT_ENVELOPES[defect])


ALTERED = {
    "spaces": json.dumps(json.loads(GOOD)).encode(),
    "indented": json.dumps(json.loads(GOOD), indent=1).encode(),
    "other order": packed(dict(reversed(json.loads(GOOD).items()))),
    "a newline after": GOOD + b"\n",
    "a space before": b" " + GOOD,
    "escaped": GOOD.replace(b"application/", b"application\\/"),
    "escaped sign": GOOD.replace(b"application/", b"\\u0061pplication/"),
    "more in it": changed(note="x"),
    "more in the signature": with_signature(cert="x"),
    "a field twice": GOOD.replace(b'{"payload":', b'{"payload":"","payload":', 1),
    "payload with a line break": changed(payload=text(PAYLOAD)[:4] + "\n" + text(PAYLOAD)[4:]),
    "payload with other last bits": changed(payload=text(b"ab")[:2] + "J="),
    "payload url-safe": changed(payload=base64.urlsafe_b64encode(PAYLOAD).decode()),
    "signature with other last bits": with_signature(sig=SIGNATURE["sig"][:-3] + "x=="),
    "type a number": changed(payloadType=1),
    "type not a number": changed(payloadType=float("nan")),
    "type a list": changed(payloadType=[TYPE]),
    "type null": changed(payloadType=None),
    "key a list": with_signature(keyid=[]),
    "key null": with_signature(keyid=None),
    "key an object": with_signature(keyid={}),
}


@pytest.mark.parametrize("defect", ALTERED)
def test_only_the_form_that_was_signed_passes(defect):
    with pytest.raises(SignatureError):
        opened(ALTERED[defect])


@pytest.mark.parametrize(
    "defect", ["spaces", "other order", "more in it", "a field twice", "signature with other last bits"]
)
def test_an_envelope_that_was_written_again_says_so(defect):
    with pytest.raises(SignatureError, match="written again on its way"):
        opened(ALTERED[defect])


def test_a_surrogate_in_type_or_key_is_refused():
    for data in (changed(payloadType="\ud800"), with_signature(keyid="\ud800")):
        with pytest.raises(SignatureError):
            opened(data)


def test_an_envelope_that_is_too_large_is_not_looked_at():
    with pytest.raises(SignatureError, match="of at most 16,777,216 bytes"):
        opened(b"[" * (MAX_ENVELOPE_BYTES + 1))


def test_random_bytes_are_refused():
    randomness = random.Random(2)
    for _ in range(500):
        with pytest.raises(SignatureError):
            opened(randomness.randbytes(randomness.randrange(400)))


def test_errors_are_ours():
    assert issubclass(SignatureError, CasamError)
