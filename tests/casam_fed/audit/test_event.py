"""Entries: one form, checked alike by our reader and by the published JSON schema."""

import copy
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from casam_fed.audit.dsse import seal
from casam_fed.audit.event import (
    EVENT_TYPE,
    FORMS,
    MAX_ENTRY_BYTES,
    PAYLOAD_TYPE,
    Event,
    bank_origin,
    open_event,
    read_event,
    sign_event,
    site_origin,
)
from casam_fed.audit.keys import fingerprint
from casam_fed.audit.schema import schema_text
from casam_fed.errors import NewerFormatError, SignatureError

PUBLISHED = Path(__file__).parents[3] / "docs" / "reference" / "log-entry.schema.json"
SCHEMA = json.loads(PUBLISHED.read_text())
CHECK = jsonschema.Draft202012Validator(SCHEMA)
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PRINT = fingerprint(KEY.public_key())
DIGEST = "d" * 64
SAMPLES: dict[str, Any] = {
    **dict.fromkeys(["site", "federation", "task", "kind", "code", "backbone_name"], "name-1.0_x"),
    **dict.fromkeys(["size", "images", "patients", "intent", "decision", "entry"], 7),
    **dict.fromkeys(["backbone", "app", "request"], DIGEST),
    "approved": "person",
    "objects": [{"id": DIGEST, "bytes": 3}],
    "outcome": "admitted",
    "by": "rule",
    "reason": "superseded",
}
KINDS = [(log, event) for log, events in FORMS.items() for event in events]


def event_of(log: str, kind: str, *, optional: bool = True, **changes: Any) -> Event:
    form = FORMS[log][kind]
    roles = form.subjects | (form.optional if optional else frozenset())
    origin = site_origin("clinic", PRINT) if log == "site" else bank_origin("north", PRINT)
    values = {
        "log": origin,
        "sequence": 3,
        "previous": "e" * 64,
        "time": "2026-11-25T07:10:43Z",
        "event": kind,
        "subjects": dict.fromkeys(sorted(roles), DIGEST),
        "facts": {name: SAMPLES[name] for name in form.facts},
    }
    return Event(**{**values, **changes})


def content_of(event: Event) -> dict[str, Any]:
    """The statement of an event, written here without our code."""
    subjects = [{"name": role, "digest": {"sha256": digest}} for role, digest in sorted(event.subjects.items())]
    head = {name: getattr(event, name) for name in ("log", "sequence", "previous", "time", "event")}
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "predicateType": EVENT_TYPE,
        "subject": subjects,
        "predicate": {**event.facts, **head},
    }


def written(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def readable(content: Any) -> bool:
    try:
        read_event(written(content), "a test")
    except SignatureError:
        return False
    return True


@pytest.mark.parametrize(("log", "kind"), KINDS)
@pytest.mark.parametrize("optional", [True, False])
def test_every_kind_is_signed_opened_and_fits_the_schema(log, kind, optional):
    event = event_of(log, kind, optional=optional)
    data = sign_event(event, KEY)
    assert open_event(data, {PRINT: KEY.public_key()}, "a test") == event
    assert data == seal(PAYLOAD_TYPE, written(content_of(event)), KEY)
    assert CHECK.is_valid(content_of(event))


def damages(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Every fact left out, replaced by something else, or joined by another; and the same for all around them."""
    found = []

    def also(change: Any) -> None:
        damaged = copy.deepcopy(content)
        change(damaged)
        found.append(damaged)

    for name in content["predicate"]:
        also(lambda c, name=name: c["predicate"].pop(name))
        for value in (
            None,
            -1,
            1.5,
            True,
            "",
            "free text, with blanks",
            "x" * 65,
            [],
            {},
            2**53,
            [{"id": "x", "bytes": 1}],
        ):
            also(lambda c, name=name, value=value: c["predicate"].update({name: value}))
    also(lambda c: c["predicate"].update(note="patient 7"))
    also(lambda c: c.update(note="patient 7"))
    also(lambda c: c.update(subject=[]))
    also(lambda c: c["subject"].append({"name": "image", "digest": {"sha256": DIGEST}}))
    also(lambda c: c["subject"][0].update(uri="https://example.org"))
    also(lambda c: c["subject"][0]["digest"].update(sha256=DIGEST.upper()))
    also(lambda c: c["subject"][0]["digest"].update(md5="d" * 32))
    also(lambda c: c.update(_type="https://in-toto.io/Statement/v0.1"))
    for name in list(content):
        also(lambda c, name=name: c.pop(name))
    return found


@pytest.mark.parametrize(("log", "kind"), KINDS)
def test_our_reader_and_the_schema_refuse_the_same(log, kind):
    content = content_of(event_of(log, kind))
    refused = 0
    for damaged in damages(content):
        fits = readable(damaged)
        # What belongs together across fields only code can check: the first entry alone has nothing before it.
        if (damaged.get("predicate") or {}).get("previous") == "":
            assert not fits
            continue
        assert fits == CHECK.is_valid(damaged), damaged
        refused += not fits
    assert refused > 60


def test_only_the_first_entry_has_none_before_it():
    sign_event(event_of("site", "began", sequence=0, previous=""), KEY)
    for sequence, previous in ((0, "e" * 64), (1, "")):
        with pytest.raises(SignatureError, match="no valid 'sequence'"):
            sign_event(event_of("site", "began", sequence=sequence, previous=previous), KEY)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text + b" ",
        lambda text: b" " + text,
        lambda text: json.dumps(json.loads(text)).encode(),
        lambda text: text.replace(b'"event":"sent"', b'"event":"sent","event":"sent"'),
        lambda text: text.replace(b"sent", b"\\u0073ent", 1),
        lambda text: text.replace(b'"intent":7', b'"intent":7.0'),
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text[:-1],
        lambda text: b"[" * 100_000,
    ],
)
def test_the_same_in_another_form_is_refused(change):
    text = written(content_of(event_of("site", "sent")))
    assert change(text) != text
    with pytest.raises(SignatureError):
        read_event(change(text), "a test")


@pytest.mark.parametrize("time", ["2026-02-30T00:00:00Z", "2026-11-25T24:00:00Z", "2026-11-25 07:10:43Z"])
def test_a_time_that_never_was_is_refused(time):
    with pytest.raises(SignatureError, match="no valid 'time'"):
        sign_event(event_of("site", "sent", time=time), KEY)


def test_an_event_of_the_other_log_is_refused():
    with pytest.raises(SignatureError, match="no valid 'event'"):
        sign_event(replace(event_of("bank", "admitted"), log=site_origin("clinic", PRINT)), KEY)


def test_another_key_is_refused():
    other = Ed25519PrivateKey.generate()
    with pytest.raises(SignatureError, match="not known here"):
        open_event(sign_event(event_of("site", "sent"), other), {PRINT: KEY.public_key()}, "a test")


def test_a_newer_version_is_told_apart_from_a_damaged_one():
    content = content_of(event_of("site", "sent"))
    content["predicateType"] = EVENT_TYPE.replace("v1", "v2")
    with pytest.raises(NewerFormatError, match="use a newer casam-fed"):
        read_event(written(content), "a test")
    content["predicateType"] = "https://example.org/v2"
    with pytest.raises(SignatureError):
        read_event(written(content), "a test")


def test_an_entry_too_large_for_a_bundle_is_not_signed():
    objects = [{"id": DIGEST, "bytes": 2**52}] * 512
    with pytest.raises(SignatureError, match=f"at most {MAX_ENTRY_BYTES:,}"):
        sign_event(event_of("site", "intent", facts={**event_of("site", "intent").facts, "objects": objects}), KEY)


def test_the_published_schema_is_generated_from_the_forms():
    """After a change of the forms: python -m casam_fed.audit.schema > docs/reference/log-entry.schema.json."""
    assert PUBLISHED.read_text() == schema_text()
    run = subprocess.run([sys.executable, "-m", "casam_fed.audit.schema"], capture_output=True, text=True, check=True)
    assert run.stdout == schema_text()


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
