"""Numbers and tables as markdown; every number of a page is written here, so all are rounded alike."""

import re
from collections.abc import Iterable, Sequence

__all__ = ["NONE", "number", "percent", "plain", "plural", "shown", "table"]

NONE = "n/a"
"""Stands where nothing was measured."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a markdown table; columns of numbers, never the first, are aligned to the right."""
    lines = list(rows)
    numeric = [False]
    for column in range(1, len(head)):
        numeric.append(all(re.match(rf"[\d*+-]|{NONE}", line[column]) for line in lines))
    rule = ["---:" if right else "---" for right in numeric]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *lines])


def plain(words: str) -> str:
    """Escape what markdown would read as a table column, markup or a new line."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", " ".join(words.split()))


def shown(value: float) -> float:
    """Round to three decimals, without a negative zero."""
    return round(float(value), 3) + 0.0


def number(value: float | None, deviation: float | None = None) -> str:
    """Write a score, with its deviation where there is one."""
    if value is None:
        return NONE
    return f"{shown(value):.3f}" + ("" if deviation is None else f" ± {shown(deviation):.3f}")


def percent(share: float) -> str:
    """Write a share of 0..1."""
    return f"{100 * share:.1f}%"


def plural(count: int, noun: str) -> str:
    """Write a count with its noun."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
