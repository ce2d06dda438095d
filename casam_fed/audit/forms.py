"""The forms that names, digests, times and numbers have in everything that is signed or exported."""

import re
from datetime import datetime

__all__ = ["DIGEST", "NAME", "SIZES", "is_time"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
DIGEST = re.compile(r"[0-9a-f]{64}")
"""SHA-256 (FIPS 180-4)."""
SIZES = range(1 << 53)
"""Beyond it JSON readers disagree about a number (RFC 8259, section 6)."""

_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


def is_time(value: object) -> bool:
    """Tell whether a value is UTC as YYYY-MM-DDThh:mm:ssZ, and a time that a calendar has."""
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True
