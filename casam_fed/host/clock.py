"""Points in time as records and statements hold them."""

from datetime import UTC, datetime

__all__ = ["utc_now"]


def utc_now() -> str:
    """Return the present time, UTC, as YYYY-MM-DDThh:mm:ssZ (RFC 3339)."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
