"""The rooms of the house and their order, stated once: tests hold the imports to it, and docs show the picture made of it.

`python tests/rooms.py` writes docs/images/rooms.svg anew.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

__all__ = ["PACKAGES", "PICTURE", "ROOMS", "ROOT", "Room", "drawn", "imports", "modules", "room_of"]

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs/images/rooms.svg"
PACKAGES = ("casam_fed", "site_client", "aggregator", "simulations")


@dataclass(frozen=True)
class Room:
    """A package, or a module that is a room of its own.

    Attributes:
        name: of the package or module.
        holds: what may live in it.
        level: it may import what lies on lower levels, and itself.
        torch: whether torch may be imported there.
    """

    name: str
    holds: str
    level: int
    torch: bool = True


def _levels(*rows: tuple[tuple[str, str, bool], ...]) -> tuple[Room, ...]:
    return tuple(Room(name, holds, level, torch) for level, row in enumerate(rows) for name, holds, torch in row)


ROOMS = _levels(
    (("casam_fed", "the version, and the names of what is public", False),),
    (("casam_fed.errors", "what is raised on bad input", False),),
    (
        ("casam_fed.canonical", "the one text of a JSON value", False),
        ("casam_fed.forms", "names, digests, sizes", False),
    ),
    (("casam_fed.host", "the machine: files, locks, processes, signals, the terminal", False),),
    (("casam_fed.audit", "what was signed: logs, proofs, exports, their verification", False),),
    (("casam_fed.config", "YAML to checked values", False),),
    (("casam_fed.wire", "the form of every message", False),),
    (("casam_fed.drawn", "drawn images with exact annotation", False),),
    (("casam_fed.data", "datasets, splits, prompts", False),),
    (("casam_fed.backbone", "the frozen SAM", True),),
    (("casam_fed.routing", "from an embedding to a task, or to unknown", True),),
    (("casam_fed.method", "how one task is learned", True),),
    (("casam_fed.bank", "releases, the bank that holds them, and its log", True),),
    (("casam_fed.inference", "what a bank does with images: masks, routes, scores", True),),
    (("casam_fed.segmenting", "a user's own files in, masks out", True),),
    (
        ("site_client", "the hospital: what may leave, and what is believed", True),
        ("aggregator", "admission, decisions, ledger, Flower's server", True),
    ),
    (("simulations", "streams on one machine, reports, sweeps, baselines", True),),
)
"""From the lowest to the highest level. Rooms of one level do not import each other."""


def modules() -> dict[str, Path]:
    """Return the name and file of every module of the four packages."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Yield the modules, of those `known`, that a module imports anywhere in its file, in functions too."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _nearest(alias.name, known)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            before = parts[: len(parts) - node.level + 1] if node.level else []
            source = ".".join([*before, *([node.module] if node.module else [])])
            for alias in node.names:
                yield from _nearest(f"{source}.{alias.name}", known)


def _nearest(dotted: str, known: dict[str, Path]) -> Iterator[str]:
    """Yield the module that a dotted name is, or is in."""
    while dotted and dotted not in known:
        dotted = dotted.rpartition(".")[0]
    if dotted:
        yield dotted


def room_of(module: str) -> Room:
    """Return the room that a module is in: the one with the longest fitting name."""
    fitting = [room for room in ROOMS if f"{module}.".startswith(f"{room.name}.")]
    return max(fitting, key=lambda room: len(room.name))


_WIDTH, _ROW, _GAP, _TEXT = 860, 40, 6, 13


def drawn() -> str:
    """Return the picture: one row a level, the highest first, as SVG."""
    levels = sorted({room.level for room in ROOMS}, reverse=True)
    height = len(levels) * (_ROW + _GAP) + 56
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        'font-family="sans-serif">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for place, level in enumerate(levels):
        row = [room for room in ROOMS if room.level == level]
        wide = (_WIDTH - 60 - _GAP * (len(row) - 1)) // len(row)
        for column, room in enumerate(row):
            lines += _box(room, 50 + column * (wide + _GAP), 10 + place * (_ROW + _GAP), wide)
    end = 10 + len(levels) * (_ROW + _GAP) - _GAP
    lines += [
        f'<path d="M25 14 V{end - 8}" stroke="#444444" stroke-width="2"/>',
        f'<path d="M19 {end - 12} L25 {end} L31 {end - 12} Z" fill="#444444"/>',
        f'<text x="50" y="{end + 26}" font-size="{_TEXT}" fill="#222222">Imports go down only, and to no room of the same '
        "row. Blue: torch is not imported.</text>",
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _box(room: Room, left: int, top: int, wide: int) -> list[str]:
    fill = "#f4efe6" if room.torch else "#e3eef9"
    name = f'<tspan font-weight="bold" font-family="monospace">{escape(room.name)}</tspan>'
    # Two rooms side by side have no space for one line.
    places = ((left + 12, top + 25),) if wide > _WIDTH // 2 else ((left + 12, top + 17), (left + 12, top + 33))
    texts = [f"{name}   {escape(room.holds)}"] if len(places) == 1 else [name, escape(room.holds)]
    return [
        f'<rect x="{left}" y="{top}" width="{wide}" height="{_ROW}" rx="5" fill="{fill}" stroke="#8a8a8a"/>',
        *(
            f'<text x="{x}" y="{y}" font-size="{_TEXT}" fill="#222222" xml:space="preserve">{text}</text>'
            for (x, y), text in zip(places, texts, strict=True)
        ),
    ]


if __name__ == "__main__":
    PICTURE.write_text(drawn(), encoding="utf-8")
    print(f"wrote {PICTURE.relative_to(ROOT)}")
