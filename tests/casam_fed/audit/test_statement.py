"""Statements: exactly the fields of this version, each in its form, or the statement is refused though it is signed."""

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from casam_fed.audit.dsse import read_envelope, seal
from casam_fed.audit.keys import fingerprint
from casam_fed.audit.statement import PAYLOAD_TYPE, PREDICATE_TYPE, Statement, open_statement, sign_statement
from casam_fed.errors import SignatureError

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEYS = {fingerprint(KEY.public_key()): KEY.public_key()}
GOOD = Statement(
    release="a" * 64,
    size=1234,
    federation="north",
    site="clinic",
    task="polyp",
    backbone="b" * 64,
    app="c" * 64,
    code="0.1.0",
    approved="person",
    time="2026-11-25T07:10:43Z",
)


def content(**changes: Any) -> dict[str, Any]:
    return json.loads(read_envelope(sign_statement(GOOD, KEY), "clinic").payload) | changes


def opened(payload: Any) -> Statement:
    """Open what the right key signed, written as statements are; bytes as they are."""
    data = (
        payload if isinstance(payload, bytes) else json.dumps(payload, sort_keys=True, separators=(",", ":")).encode()
    )
    return open_statement(seal(PAYLOAD_TYPE, data, KEY), KEYS, "clinic")


def predicate(**changes: Any) -> dict[str, Any]:
    return content(predicate=content()["predicate"] | changes)


def test_a_statement_comes_back_as_it_was_signed():
    envelope = sign_statement(GOOD, KEY)
    assert open_statement(envelope, KEYS, "clinic") == GOOD
    assert sign_statement(GOOD, KEY) == envelope
    assert opened(content()) == GOOD


def test_the_payload_is_an_in_toto_statement():
    assert content() == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "release.safetensors", "digest": {"sha256": "a" * 64}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "size": 1234,
            "federation": "north",
            "site": "clinic",
            "task": "polyp",
            "backbone": "b" * 64,
            "app": "c" * 64,
            "code": "0.1.0",
            "approved": "person",
            "time": "2026-11-25T07:10:43Z",
        },
    }


def test_a_statement_fits_into_an_entry_of_the_log():
    long = replace(GOOD, federation="f" * 63, site="s" * 63, task="t" * 63, code="c" * 63, size=2**53 - 1)
    assert len(sign_statement(long, KEY)) < 65_535


@pytest.mark.parametrize("name", [field.name for field in fields(Statement) if field.name != "release"])
@pytest.mark.parametrize("value", [None, "", 1.5, True, [], {}, "\n", "x" * 5000], ids=str)
def test_every_field_has_one_form(name, value):
    with pytest.raises(SignatureError):
        opened(predicate(**{name: value}))


WRONG = {
    "negative size": {"size": -1},
    "size a float": {"size": 1234.0},
    "size as a text": {"size": "1234"},
    "size beyond what JSON readers agree on": {"size": 2**53},
    "size of four thousand digits": {"size": 10**4000},
    "upper-case digest": {"backbone": "B" * 64},
    "short digest": {"app": "c" * 63},
    "long digest": {"app": "c" * 65},
    "digest and a newline": {"app": "c" * 64 + "\n"},
    "name with a slash": {"site": "a/b"},
    "name that starts with a dot": {"site": ".."},
    "name and a newline": {"task": "polyp\n"},
    "name of other letters": {"task": "pölyp"},
    "name too long": {"federation": "f" * 64},
    "terminal escape": {"task": "\x1b[2J"},
    "surrogate": {"task": "\ud800"},
    "approved by somebody else": {"approved": "nobody"},
    "approved by two": {"approved": "personoption"},
    "time without zone": {"time": "2026-11-25T07:10:43"},
    "time of another zone": {"time": "2026-11-25T07:10:43+01:00"},
    "time with fractions": {"time": "2026-11-25T07:10:43.5Z"},
    "time that is none": {"time": "2026-13-45T99:99:99Z"},
    "day that is none": {"time": "2026-02-30T00:00:00Z"},
    "digits of another script": {"time": "٢٠٢٦-11-25T07:10:43Z"},
}


@pytest.mark.parametrize("defect", WRONG)
def test_a_value_out_of_its_form_is_refused_at_both_ends(defect):
    with pytest.raises(SignatureError, match="of clinic has no valid"):
        opened(predicate(**WRONG[defect]))
    with pytest.raises(AssertionError):
        sign_statement(replace(GOOD, **WRONG[defect]), KEY)


@pytest.mark.parametrize("digest", ["A" * 64, "a" * 63, "", None, 1])
def test_the_digest_of_the_release_has_one_form(digest):
    with pytest.raises(SignatureError):
        opened(content(subject=[{"name": "release.safetensors", "digest": {"sha256": digest}}]))
    with pytest.raises(AssertionError):
        sign_statement(replace(GOOD, release=digest), KEY)


SUBJECT = {"name": "release.safetensors", "digest": {"sha256": "a" * 64}}
OTHERWISE = {
    "more at the top": content(note="free text"),
    "more in the predicate": predicate(note="free text"),
    "more in the subject": content(subject=[SUBJECT | {"uri": "file:///home"}]),
    "more digests": content(subject=[SUBJECT | {"digest": {"sha256": "a" * 64, "sha1": "b"}}]),
    "two subjects": content(subject=[SUBJECT, SUBJECT]),
    "no subject": content(subject=[]),
    "subject a text": content(subject="s"),
    "subject an object": content(subject={"a": 1}),
    "another name": content(subject=[SUBJECT | {"name": "patient.dcm"}]),
    "another type": content(_type="https://in-toto.io/Statement/v0.1"),
    "another predicate": content(predicateType="https://slsa.dev/provenance/v1"),
    "predicate a list": content(predicate=[]),
    "predicate null": content(predicate=None),
    "predicate a text": content(predicate="size"),
    "a list": [],
    "a number": 1,
    "null": None,
    "a text": "predicate",
    "empty": b"",
    "spaces": json.dumps(content(), sort_keys=True).encode(),
    "other order": json.dumps(dict(reversed(content().items())), separators=(",", ":")).encode(),
    "a newline after": json.dumps(content(), sort_keys=True, separators=(",", ":")).encode() + b"\n",
    "a field twice": json.dumps(content(), sort_keys=True, separators=(",", ":"))
    .encode()
    .replace(b"{", b'{"_type":1,', 1),
    "nested a million deep": b"[" * 1_000_000,
    "nested in the predicate": b'{"predicate":' * 200_000,
    "a number of a million digits": b"9" * 1_000_000,
    "not ascii": '{"a":"ü"}'.encode(),
    "binary": bytes(range(256)),
}


@pytest.mark.parametrize("defect", OTHERWISE)
def test_only_a_statement_of_this_version_is_read(defect):
    with pytest.raises(SignatureError, match="the statement of clinic is not one of this version"):
        opened(OTHERWISE[defect])


@pytest.mark.parametrize("name", [field.name for field in fields(Statement) if field.name != "release"])
def test_no_field_may_be_missing(name):
    lacking = {key: value for key, value in content()["predicate"].items() if key != name}
    with pytest.raises(SignatureError, match="not one of this version"):
        opened(content(predicate=lacking))


@pytest.mark.parametrize("name", ["_type", "subject", "predicateType", "predicate"])
def test_no_part_may_be_missing(name):
    with pytest.raises(SignatureError, match="not one of this version"):
        opened({key: value for key, value in content().items() if key != name})


def test_a_statement_of_another_key_or_kind_is_not_opened():
    with pytest.raises(SignatureError, match="not known here"):
        open_statement(sign_statement(GOOD, KEY), {}, "clinic")
    payload = read_envelope(sign_statement(GOOD, KEY), "clinic").payload
    with pytest.raises(SignatureError, match="another kind"):
        open_statement(seal("application/json", payload, KEY), KEYS, "clinic")
