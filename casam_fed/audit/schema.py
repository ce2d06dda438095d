"""The JSON schema of log entries (JSON Schema 2020-12), generated from `casam_fed.audit.event.FORMS`.

    python -m casam_fed.audit.schema > docs/reference/log-entry.schema.json

What JSON Schema cannot say, only `casam_fed.audit.event` checks: which days a month has, that the first entry alone has
none before it, and that an event is written in one way.
"""

import json
from collections.abc import Mapping
from typing import Any

from casam_fed.audit.event import EVENT_TYPE, FORMS, HEAD, ORIGINS, STATEMENT_TYPE, SUBJECT, Form, Value

__all__ = ["schema", "schema_text"]


def schema() -> dict[str, Any]:
    """Return the schema of an entry's payload: one alternative for each kind of event."""
    kinds = [(log, event, form) for log, events in FORMS.items() for event, form in events.items()]
    values = [SUBJECT, *HEAD.values(), *(value for _, _, form in kinds for value in form.facts.values())]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"{EVENT_TYPE}/schema.json",
        "title": "An entry of an audit log of casam-fed (the payload of its DSSE envelope)",
        **_object(
            {
                "_type": {"const": STATEMENT_TYPE},
                "predicateType": {"const": EVENT_TYPE},
                "subject": {"type": "array", "items": {"$ref": "#/$defs/subject"}},
                "predicate": {"type": "object"},
            }
        ),
        "oneOf": [_alternative(log, event, form) for log, event, form in kinds],
        "$defs": {
            "subject": _object({"name": {"type": "string"}, "digest": _object({"sha256": SUBJECT.reference})}),
            **{f"{log}Log": dict(origin.schema) for log, origin in ORIGINS.items()},
            **{value.name: dict(value.schema) for value in values if value.name},
        },
    }


def schema_text() -> str:
    """Return the schema as docs/reference/log-entry.schema.json has it."""
    return json.dumps(schema(), indent=1) + "\n"


def _alternative(log: str, event: str, form: Form) -> dict[str, Any]:
    predicate = {
        "log": {"$ref": f"#/$defs/{log}Log"},
        "event": {"const": event},
        **_references(HEAD),
        **_references(form.facts),
    }
    return {
        "title": f"{log}: {event}",
        "properties": {"subject": _subjects(form), "predicate": _object(predicate)},
    }


def _subjects(form: Form) -> dict[str, Any]:
    """Return the schema of subjects: each role that must be there once, and no other than these."""
    roles = sorted(form.subjects | form.optional)
    return {
        "minItems": len(form.subjects),
        "maxItems": len(roles),
        "items": {"properties": {"name": {"enum": roles}}},
        "allOf": [
            {"contains": {"properties": {"name": {"const": role}}}, "minContains": 1, "maxContains": 1}
            for role in sorted(form.subjects)
        ],
    }


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of an object that has exactly these properties."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": sorted(properties),
        "properties": dict(properties),
    }


def _references(values: Mapping[str, Value]) -> dict[str, Any]:
    return {name: value.reference for name, value in values.items()}


if __name__ == "__main__":
    print(schema_text(), end="")
