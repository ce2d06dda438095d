"""What an entry of a log says: an in-toto Statement v1 (https://in-toto.io/Statement/v1), one event each, signed.

Each event names its log, its place in it and the entry before, so that an entry fits nowhere else. Subjects are what it
speaks of, by SHA-256; the facts of each kind of event stand in `FORMS`, explained in docs/reference/log-entry.md, from
which the JSON schema is generated too (`casam_fed.audit.schema`). No free text, so that nothing can be hidden in a log, and
nothing private slips into one.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from casam_fed.audit.dsse import read_envelope, seal, unseal
from casam_fed.audit.forms import DIGEST, NAME, SIZES, is_time
from casam_fed.errors import NewerFormatError, SignatureError

__all__ = [
    "EVENT_TYPE",
    "FORMS",
    "HEAD",
    "MAX_ENTRY_BYTES",
    "ORIGINS",
    "PAYLOAD_TYPE",
    "REASONS",
    "STATEMENT_TYPE",
    "SUBJECT",
    "Event",
    "Form",
    "Value",
    "bank_origin",
    "open_event",
    "read_entry",
    "read_event",
    "sign_event",
    "site_origin",
]

PAYLOAD_TYPE = "application/vnd.in-toto+json"
EVENT_TYPE = "https://casam-fed.github.io/log-entry/v1"
MAX_ENTRY_BYTES = 65_535
"""An entry's length has two bytes in its bundle (C2SP tlog-tiles)."""

REASONS = ("site-request", "consent-withdrawn", "wrong-data", "harmful", "superseded", "other")
"""Why an entry of the bank is retired."""

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"

_VERSIONED = re.compile(r"https://casam-fed\.github\.io/log-entry/v[0-9]{1,4}")
_MOST_OBJECTS = 512


@dataclass(frozen=True)
class Value:
    """What one value of an event may be.

    Attributes:
        fits: tells whether something is one.
        schema: the same in JSON Schema 2020-12, as far as it can say it.
        name: of its definition in the schema of entries; "" where it is used but once.
    """

    fits: Callable[[Any], bool]
    schema: Mapping[str, Any]
    name: str = ""

    @property
    def reference(self) -> dict[str, Any]:
        """What stands for it in a schema in which everything with a name is defined."""
        return {"$ref": f"#/$defs/{self.name}"} if self.name else dict(self.schema)


def _text(pattern: str, name: str = "") -> Value:
    form = re.compile(pattern)
    return Value(
        lambda value: isinstance(value, str) and form.fullmatch(value) is not None,
        {"type": "string", "pattern": f"^{pattern}$"},
        name,
    )


def _choice(*choices: str) -> Value:
    return Value(lambda value: isinstance(value, str) and value in choices, {"enum": list(choices)})


def _list_of(most: int, name: str, **fields: Value) -> Value:
    def fits(value: Any) -> bool:
        return (
            isinstance(value, list)
            and len(value) <= most
            and all(isinstance(each, dict) and each.keys() == fields.keys() for each in value)
            and all(field.fits(each[key]) for each in value for key, field in fields.items())
        )

    items = {
        "type": "object",
        "required": sorted(fields),
        "additionalProperties": False,
        "properties": {key: field.reference for key, field in fields.items()},
    }
    return Value(fits, {"type": "array", "maxItems": most, "items": items}, name)


_name, _digest = _text(NAME.pattern, "name"), _text(DIGEST.pattern, "digest")
_name_or_none = _text(f"({NAME.pattern})?", "nameOrNone")
_digest_or_none = _text(f"({DIGEST.pattern})?", "digestOrNone")
_number = Value(
    lambda value: type(value) is int and value in SIZES,
    {"type": "integer", "minimum": SIZES.start, "exclusiveMaximum": SIZES.stop},
    "number",
)
# How many days a month has no pattern can say.
_time = Value(is_time, _text("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z").schema, "time")
_objects = _list_of(_MOST_OBJECTS, "objects", id=_digest, bytes=_number)

HEAD: Mapping[str, Value] = MappingProxyType({"sequence": _number, "previous": _digest_or_none, "time": _time})
"""What every event says beside the origin of its log and its kind."""
SUBJECT = _digest
"""By what an event names a subject: SHA-256."""
ORIGINS: Mapping[str, Value] = MappingProxyType(
    {log: _text(f"casam-fed/{log}/{NAME.pattern}/[0-9a-f]{{12}}") for log in ("site", "bank")}
)
"""Kind of log -> its names."""


@dataclass(frozen=True)
class Form:
    """What one kind of event consists of: roles of its subjects, those that may be absent, and its facts."""

    subjects: frozenset[str]
    facts: Mapping[str, Value]
    optional: frozenset[str] = field(default_factory=frozenset)


def _form(subjects: str, optional: str = "", /, **facts: Value) -> Form:
    return Form(frozenset(subjects.split()), MappingProxyType(facts), frozenset(optional.split()))


_DECIDED: dict[str, Value] = {"site": _name, "task": _name, "size": _number, "code": _name}

FORMS: Mapping[str, Mapping[str, Form]] = MappingProxyType(
    {
        "site": MappingProxyType(
            {
                "began": _form("key", site=_name, code=_name),
                "approved": _form(
                    "card release statement",
                    federation=_name,
                    task=_name,
                    size=_number,
                    images=_number,
                    patients=_number,
                    backbone=_digest,
                    app=_digest,
                    code=_name,
                    approved=_choice("person", "option"),
                ),
                "declined": _form("release", federation=_name, task=_name),
                "intent": _form(
                    "payload",
                    "release",
                    federation=_name,
                    kind=_name,
                    request=_digest_or_none,
                    size=_number,
                    objects=_objects,
                ),
                "sent": _form("message", intent=_number),
                "withheld": _form("request", federation=_name, kind=_name, code=_name),
                "receipt": _form(
                    "receipt release",
                    federation=_name,
                    outcome=_choice("admitted", "quarantined", "refused"),
                    code=_name,
                    decision=_number,
                ),
            }
        ),
        "bank": MappingProxyType(
            {
                "began": _form(
                    "backbone background key", federation=_name, backbone_name=_name, code=_name, app=_digest
                ),
                "enrolled": _form("key", site=_name),
                "revoked": _form("key", site=_name),
                "admitted": _form("release statement", **_DECIDED, entry=_number, by=_choice("rule", "person")),
                "quarantined": _form("release statement", **_DECIDED),
                "refused": _form("release", "statement", **(_DECIDED | {"task": _name_or_none})),
                "retired": _form("release", site=_name, task=_name, entry=_number, reason=_choice(*REASONS)),
            }
        ),
    }
)
"""Kind of log -> event -> its form."""


@dataclass(frozen=True)
class Event:
    """One entry of a log.

    Attributes:
        log: origin of the log, "casam-fed/site/NAME/FP" or "casam-fed/bank/FEDERATION/FP".
        sequence: index of the entry, from 0.
        previous: SHA-256 of the entry before, "" for the first.
        time: UTC, YYYY-MM-DDThh:mm:ssZ.
        event: its kind, a key of `FORMS`.
        subjects: role -> SHA-256.
        facts: what else the kind of event says.
    """

    log: str
    sequence: int
    previous: str
    time: str
    event: str
    subjects: Mapping[str, str]
    facts: Mapping[str, Any]


def site_origin(name: str, fingerprint: str) -> str:
    """Return the name of a site's release log, given the fingerprint of the key that signs it."""
    return f"casam-fed/site/{name}/{fingerprint[:12]}"


def bank_origin(federation: str, fingerprint: str) -> str:
    """Return the name of an aggregator's bank log, given the fingerprint of the key that signs it."""
    return f"casam-fed/bank/{federation}/{fingerprint[:12]}"


def sign_event(event: Event, key: Ed25519PrivateKey) -> bytes:
    """Return the signed envelope of an event, an entry; the same event and key give the same bytes.

    Raises:
        SignatureError: the event is not in its form, or too large for an entry.
    """
    _check(event, "this log")
    data = seal(PAYLOAD_TYPE, _payload(event), key)
    if len(data) > MAX_ENTRY_BYTES:
        raise SignatureError(f"an entry of {len(data):,} bytes does not fit into a log; at most {MAX_ENTRY_BYTES:,} do")
    return data


def open_event(data: bytes, keys: Mapping[str, Ed25519PublicKey], owner: str) -> Event:
    """Return the event of an entry, its signature checked against `keys` (by fingerprint); `owner` is whose log it is.

    Raises:
        SignatureError: as `casam_fed.audit.dsse.unseal` and `read_event`.
        NewerFormatError: as `read_event`.
    """
    return read_event(unseal(data, PAYLOAD_TYPE, keys, owner), owner)


def read_entry(data: bytes, owner: str) -> Event:
    """Return the event of an entry by its form; whose signature it bears is not asked.

    Raises:
        SignatureError: as `casam_fed.audit.dsse.read_envelope` and `read_event`.
        NewerFormatError: as `read_event`.
    """
    return read_event(read_envelope(data, owner).payload, owner)


def read_event(payload: bytes, owner: str) -> Event:
    """Return the event that a payload holds; whose signature it bears is not asked.

    Raises:
        SignatureError: it is not exactly an event.
        NewerFormatError: it is one of another version.
    """
    try:
        content = json.loads(payload.decode("ascii"))
        kind = content["predicateType"]
        if kind != EVENT_TYPE and isinstance(kind, str) and _VERSIONED.fullmatch(kind):
            raise NewerFormatError(
                f"an entry of {owner} has the form {kind}, which this version does not know; use a newer casam-fed"
            )
        predicate = dict(content["predicate"])
        head = {name: predicate.pop(name) for name in ("log", "sequence", "previous", "time", "event")}
        subjects = {each["name"]: each["digest"]["sha256"] for each in content["subject"]}
        event = Event(**head, subjects=subjects, facts=predicate)
        _check(event, owner)
        alike = _payload(event)
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError) as error:
        raise _unlike(owner) from error
    if alike != payload:
        raise _unlike(owner)
    return event


def _payload(event: Event) -> bytes:
    head = {name: getattr(event, name) for name in ("log", "sequence", "previous", "time", "event")}
    content = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": role, "digest": {"sha256": event.subjects[role]}} for role in sorted(event.subjects)],
        "predicateType": EVENT_TYPE,
        "predicate": {**event.facts, **head},
    }
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _check(event: Event, owner: str) -> None:
    log = next((kind for kind, origin in ORIGINS.items() if origin.fits(event.log)), "")
    if not log:
        raise _wrong(owner, "log")
    forms = FORMS[log]
    if not isinstance(event.event, str) or event.event not in forms:
        raise _wrong(owner, "event")
    form = forms[event.event]
    for name, value in HEAD.items():
        if not value.fits(getattr(event, name)):
            raise _wrong(owner, name)
    if (event.sequence == 0) == bool(event.previous):
        raise _wrong(owner, "sequence")
    roles = frozenset(event.subjects)
    if not form.subjects <= roles <= form.subjects | form.optional or not all(
        map(SUBJECT.fits, event.subjects.values())
    ):
        raise _wrong(owner, "subject")
    for name in event.facts.keys() | form.facts.keys():
        if name not in form.facts or name not in event.facts or not form.facts[name].fits(event.facts[name]):
            raise _wrong(owner, name if name in form.facts else "predicate")


def _wrong(owner: str, name: str) -> SignatureError:
    return SignatureError(f"an entry of {owner} has no valid '{name}'; it was not written by this version of casam-fed")


def _unlike(owner: str) -> SignatureError:
    return SignatureError(f"an entry of {owner} is no event in its one form; it was not written by casam-fed")
