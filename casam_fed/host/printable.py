"""Text that somebody else wrote, made safe to show at a terminal."""

__all__ = ["printable"]


def printable(text: str) -> str:
    """Return a text with everything escaped that does not print: control characters, and marks that turn text around."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )
