"""Requests and welcomes: only what the other person meant passes, and nothing they write moves the cursor."""

import base64
import json

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from casam_fed.audit.dsse import seal
from casam_fed.audit.keys import fingerprint, public_pem
from casam_fed.errors import EnrolmentError
from casam_fed.wire.enrolment import (
    EnrolmentRequest,
    Welcome,
    node_key_pem,
    open_request,
    open_welcome,
    sign_request,
    welcome_json,
)

from .welcomes import welcome_for

KEY = Ed25519PrivateKey.from_private_bytes(b"s" * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
REQUEST_TYPE = "application/vnd.casam-fed.request+json"
SMALL_ORDER_PEM = (
    "-----BEGIN PUBLIC KEY-----\n"
    + base64.b64encode(bytes.fromhex("302a300506032b6570032100") + (1).to_bytes(32, "little")).decode()
    + "\n-----END PUBLIC KEY-----\n"
)


def spki(key) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.PEM, form).decode("ascii")


NODE = spki(ec.generate_private_key(ec.SECP384R1()).public_key())


def request(**changes: str) -> EnrolmentRequest:
    values = {"site": "clinic", "signing_key": public_pem(KEY.public_key()), "node_key": NODE, "code": "0.1.0"}
    return EnrolmentRequest(**{**values, **changes})


def sealed(fields: dict, key: Ed25519PrivateKey = KEY, kind: str = REQUEST_TYPE) -> bytes:
    return seal(kind, json.dumps(fields).encode(), key)


FIELDS = {
    "site": "clinic",
    "signing_key": public_pem(KEY.public_key()),
    "node_key": NODE,
    "code": "0.1.0",
    "kind": "casam-request/1",
}


def test_a_request_survives_the_way_and_is_named_by_its_signing_key():
    opened = open_request(sign_request(request(), KEY))
    assert opened == request()
    assert opened.fingerprint == fingerprint(KEY.public_key())


def test_a_newline_that_a_mail_program_added_does_no_harm():
    assert open_request(b"\n" + sign_request(request(), KEY) + b"\r\n") == request()


def test_a_request_is_signed_with_the_key_it_names():
    with pytest.raises(EnrolmentError, match="cannot be used: site clinic signed with a key that is not known"):
        open_request(sign_request(request(), OTHER))


def test_a_request_cannot_be_put_together_from_two():
    """The envelope may name the right key: the signature still has to be by it."""
    envelope = json.loads(sign_request(request(), OTHER))
    envelope["signatures"][0]["keyid"] = fingerprint(KEY.public_key())
    with pytest.raises(EnrolmentError, match="does not fit"):
        open_request(json.dumps(envelope, separators=(",", ":")).encode())


def test_another_site_name_under_the_same_signature_is_refused():
    envelope = json.loads(sign_request(request(), KEY))
    payload = base64.b64decode(envelope["payload"]).replace(b'"clinic"', b'"rivals"')
    envelope["payload"] = base64.b64encode(payload).decode()
    with pytest.raises(EnrolmentError, match="does not fit"):
        open_request(json.dumps(envelope, separators=(",", ":")).encode())


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no envelope"),
        (b"{}", "no envelope"),
        (b"x" * ((64 << 10) + 1), "has 65,537 bytes"),
        (sealed(FIELDS, kind="application/vnd.in-toto+json"), "another kind"),
        (sealed({**FIELDS, "extra": 1}), "'extra'"),
        (sealed({k: v for k, v in FIELDS.items() if k != "site"}), "'site'"),
        (sealed({**FIELDS, "site": "../aggregator"}), "'site'"),
        (sealed({**FIELDS, "site": "clinic\n"}), "'site'"),
        (sealed({**FIELDS, "code": "rm -rf"}), "'code'"),
        (sealed({**FIELDS, "kind": "casam-welcome/1"}), "'kind'"),
        (sealed({**FIELDS, "signing_key": NODE}), "no Ed25519 key"),
        (sealed({**FIELDS, "signing_key": SMALL_ORDER_PEM}), "no Ed25519 key"),
        (sealed({**FIELDS, "node_key": public_pem(KEY.public_key())}), "no EC P-384"),
        (sealed({**FIELDS, "node_key": spki(ec.generate_private_key(ec.SECP256R1()).public_key())}), "no EC P-384"),
        (sealed({**FIELDS, "node_key": NODE + "# and more"}), "no EC P-384"),
        (sealed({**FIELDS, "node_key": NODE.replace("\n", "\r\n")}), "no EC P-384"),
    ],
)
def test_anything_else_is_refused_with_its_reason(data, why):
    with pytest.raises(EnrolmentError, match=why):
        open_request(data)


def test_a_node_key_has_one_form_only():
    assert node_key_pem(NODE) == NODE
    body = NODE.splitlines()
    joined = "\n".join([body[0], "".join(body[1:-1]), body[-1], ""])
    with pytest.raises(EnrolmentError):
        node_key_pem(joined)


def test_a_welcome_survives_the_way():
    welcome = welcome_for(request())
    assert open_welcome(welcome_json(welcome)) == welcome
    assert welcome.fingerprint == fingerprint(welcome.key)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "casam.hospital.org:65535", "[::1]:8443", "[fe80::1]:443"])
def test_addresses_that_a_site_can_connect_to_pass(address):
    assert open_welcome(changed(address=address)).address == address


def changed(**fields: object) -> bytes:
    content = json.loads(welcome_json(welcome_for(request())))
    return json.dumps({**content, **fields}).encode()


METHOD_FIELDS = json.loads(changed())["method"]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "the top"),
        (b"[]", "the top"),
        (b"\xff\xfe", "the top"),
        (b" " * ((64 << 10) + 1), "has 65,537 bytes"),
        (changed(extra=1), "'extra'"),
        (changed(federation="two words"), "'federation'"),
        (changed(site="../x"), "'site'"),
        (changed(site_key="A" * 64), "'site_key'"),
        (changed(app="a" * 63), "'app'"),
        (changed(address="hospital.org"), "'address'"),
        (changed(address="hospital.org:8443\n"), "'address'"),
        (changed(address="https://hospital.org:8443"), "'address'"),
        (changed(address="hospital.org:0"), "'address'"),
        (changed(address="hospital.org:65536"), "'address' has no valid port"),
        (changed(address="hospital.org:100000"), "'address'"),
        (changed(address="--insecure:8443"), "'address'"),
        (changed(ca="no certificate"), "'ca' is no certificate"),
        (changed(ca="-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "'ca' is no certificate"),
        (changed(ca="Zertifikat für alle"), "'ca' is no certificate"),
        (changed(ca="x" * 8193), "'ca'"),
        (changed(aggregator_key=NODE), "no Ed25519 key"),
        (changed(aggregator_key=SMALL_ORDER_PEM), "no Ed25519 key"),
        (changed(backbone="vit_b"), "method is for another backbone"),
        (changed(method={**METHOD_FIELDS, "epochs": 0}), "'method.epochs'"),
        (changed(method={**METHOD_FIELDS, "learning_rate": "NaN"}), "'method.learning_rate'"),
        (changed(method={**METHOD_FIELDS, "command": "rm"}), "'method.command'"),
        (changed(kind="casam-welcome/2"), "'kind'"),
    ],
)
def test_a_welcome_that_is_none_is_refused_with_its_reason(data, why):
    with pytest.raises(EnrolmentError, match=why):
        open_welcome(data)


def test_what_others_write_cannot_move_the_cursor():
    """An unknown key is quoted in the message, which ends at a terminal."""
    for opened in (
        lambda: open_welcome(changed(**{"\x1b[2J\u202e": 1})),
        lambda: open_request(sealed({**FIELDS, "\x1b[2J\u202e": 1})),
    ):
        with pytest.raises(EnrolmentError, match="x1b") as caught:
            opened()
        assert str(caught.value).isprintable()


def test_a_welcome_is_a_value_that_cannot_be_changed():
    with pytest.raises(AttributeError):
        welcome_for(request()).app = "b" * 64
    assert isinstance(welcome_for(request()), Welcome)
