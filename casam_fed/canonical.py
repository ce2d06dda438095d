"""The one text that a JSON value has wherever its bytes are signed, hashed or compared."""

import json
from typing import Any

__all__ = ["canonical_json"]


def canonical_json(value: Any) -> str:
    """Return the canonical JSON of a plain value: sorted keys, no spaces, ASCII.

    Raises:
        ValueError: the value holds NaN or infinity, which JSON does not have (RFC 8259, section 6).
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
