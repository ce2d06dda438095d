"""Boxes and clicks from CSV or JSON: which file, which class, where; pixels of the file counted from 0.

    file,class,x0,y0,x1,y1          boxes; z0,z1 too in a volume
    file,class,x,y,positive         clicks; z too in a volume; positive is 1 or 0, 1 where the column is missing

JSON has a list of objects with these keys. `file` is the name of a file, or as much of its path as tells it apart; it may
be missing where one file is segmented. A box is a target of its own, all clicks of a class in a file are one, and go with
the box of that class; where there are several boxes, a column `target` joins the rows of a target.
"""

import csv
import io
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from casam_fed.errors import DataError
from casam_fed.host.files import reason_of
from casam_fed.segmenting.case import Marked

__all__ = ["marked_in", "read_prompts"]

_MOST_BYTES: Final = 64 << 20
_BOX: Final = (("x0", "x1"), ("y0", "y1"), ("z0", "z1"))
_CLICK: Final = ("x", "y", "z")
_KEYS: Final = {
    "boxes": ({"class", "x0", "y0", "x1", "y1"}, {"file", "target", "z0", "z1"}),
    "points": ({"class", "x", "y"}, {"file", "target", "z", "positive"}),
}


@dataclass(frozen=True)
class _Row:
    """A row of a prompt file: a box has low and high, a click has a point."""

    file: str
    label: str
    target: str
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    point: tuple[float, ...] = ()
    positive: bool = True


@dataclass
class _Target:
    label: str
    boxes: list[_Row] = field(default_factory=list)
    clicks: list[_Row] = field(default_factory=list)


def read_prompts(files: Sequence[Path], boxes: Path | None, points: Path | None) -> dict[Path, list[Marked]]:
    """Return what is marked in each of the files.

    Args:
        files: that are segmented.
        boxes, points: CSV or JSON files as above; None where there is none.

    Raises:
        DataError: a prompt file is unreadable, a row of it makes no sense, or names none, or several, of the files.
    """
    rows: dict[Path, list[_Row]] = {path: [] for path in files}
    for kind, path in (("boxes", boxes), ("points", points)):
        if path is not None:
            for where, row in _rows(path, kind):
                rows[_file_of(row.file, files, where)].append(row)
    return {path: list(_targets(path, found)) for path, found in rows.items()}


def marked_in(
    boxes: Mapping[str, Iterable[Sequence[float]]], points: Mapping[str, Iterable[Sequence[float]]]
) -> list[Marked]:
    """Return what is marked by class name -> boxes (x0, y0, x1, y1) or (x0, y0, z0, x1, y1, z1), and -> clicks inside.

    Clicks of a class, (x, y) or (x, y, z), go with its box where it has one.

    Raises:
        DataError: a box or click of another length, no finite number, or clicks with several boxes.
    """
    rows = []
    for label, corners in boxes.items():
        for values in corners:
            numbers = tuple(map(float, values))
            if len(numbers) not in (4, 6) or not all(map(math.isfinite, numbers)):
                raise DataError(
                    f"a box of '{label}' is {list(numbers)}; give (x0, y0, x1, y1), or (x0, y0, z0, x1, y1, z1) in a volume"
                )
            half = len(numbers) // 2
            rows.append(_Row("", label, "", numbers[:half], numbers[half:]))
    for label, clicks in points.items():
        for values in clicks:
            numbers = tuple(map(float, values))
            if len(numbers) not in (2, 3) or not all(map(math.isfinite, numbers)):
                raise DataError(f"a click on '{label}' is {list(numbers)}; give (x, y), or (x, y, z) in a volume")
            rows.append(_Row("", label, "", point=numbers))
    return list(_targets(Path("the image"), rows))


def _rows(path: Path, kind: str) -> Iterator[tuple[str, _Row]]:
    """Yield every row with the words that say where it stands."""
    for where, values in _read(path):
        needed, more = _KEYS[kind]
        given = {key for key, value in values.items() if value not in ("", None)}
        if lacking := sorted(needed - given):
            raise DataError(
                f"{where}: '{lacking[0]}' is missing; {kind} have {', '.join(sorted(needed))}, and may have "
                f"{', '.join(sorted(more))}"
            )
        if strange := sorted(str(key) for key in given - needed - more):
            raise DataError(
                f"{where}: '{strange[0]}' means nothing for {kind}; remove it, they may have "
                f"{', '.join(sorted(needed | more))}"
            )
        label, file, target = (str(values.get(key) or "").strip() for key in ("class", "file", "target"))
        if not label or len(label) > 64 or not label.isprintable():
            raise DataError(
                f"{where}: the class {label[:70]!r} is no name; give 1 to 64 characters that can be printed"
            )
        if kind == "boxes":
            if ("z0" in given) != ("z1" in given):
                raise DataError(f"{where}: a box in a volume has z0 and z1; give both, alike for a single plane")
            axes = [pair for pair in _BOX if pair[0] in given]
            low, high = (tuple(_number(values[pair[end]], pair[end], where) for pair in axes) for end in (0, 1))
            yield where, _Row(file, label, target, low, high)
        else:
            point = tuple(_number(values[axis], axis, where) for axis in _CLICK if axis in given)
            positive = str(values["positive"]).strip().lower() if "positive" in given else "1"
            if positive not in ("0", "1", "true", "false"):
                raise DataError(
                    f"{where}: positive is {positive[:20]!r}; write 1 for a click inside, 0 for one outside"
                )
            yield where, _Row(file, label, target, point=point, positive=positive in ("1", "true"))


def _read(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the rows of a CSV or JSON file as they stand there."""
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {path}: {reason_of(error)}; give the path of a CSV or JSON file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8; save it as CSV or JSON in UTF-8") from error
    if len(data) > _MOST_BYTES:
        raise DataError(f"{path} has more than {_MOST_BYTES >> 20} MiB; split it")
    if path.suffix.lower() == ".json":
        try:
            rows = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is no JSON ({str(error)[:80]}); mend it there") from error
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError(
                f"{path} must hold a list of objects, one a prompt; see docs/how-to/segment-with-the-bank.md"
            )
        yield from ((f"{path}, prompt {number}", row) for number, row in enumerate(rows, start=1))
        return
    reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    try:
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                raise DataError(f"{where} has not as many values as the first line has names; mend that line")
            yield where, {str(key).strip(): value.strip() for key, value in row.items()}
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num} is no CSV ({error}); mend that line") from error


def _number(value: object, key: str, where: str) -> float:
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{where}: {key} is {str(value)[:40]!r}; give a number of pixels, counted from 0")
    return number


def _file_of(name: str, files: Sequence[Path], where: str) -> Path:
    if not name:
        if len(files) == 1:
            return files[0]
        raise DataError(f"{where} names no file, and {len(files)} are segmented; add a column 'file'")
    wanted = Path(name).parts
    found = [path for path in files if path.parts[-len(wanted) :] == wanted]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{where}: {name!r} may be {found[0]} or {found[1]}; give more of its path")
    raise DataError(
        f"{where}: {name!r} is none of the {len(files)} files that are segmented; correct it, or give that file"
    )


def _targets(path: Path, rows: Sequence[_Row]) -> Iterator[Marked]:
    targets: dict[tuple[str, str], _Target] = defaultdict(lambda: _Target(""))
    for row in rows:
        target = targets[row.label, row.target]
        target.label = row.label
        (target.boxes if row.low else target.clicks).append(row)
    for (label, name), target in targets.items():
        inside, outside = (tuple(row.point for row in target.clicks if row.positive == kind) for kind in (True, False))
        if len(target.boxes) > 1 and (name or target.clicks):
            raise DataError(
                f"{path}: '{label}' has {len(target.boxes)} boxes"
                + (
                    f" for target {name!r}, and a target has one; number the others otherwise"
                    if name
                    else " and clicks, so that it is unknown which go together; join them by a column 'target'"
                )
            )
        if not target.boxes and not inside:
            raise DataError(f"{path}: '{label}' has clicks outside only; add one inside, or a box")
        for box in target.boxes or [_Row("", label, name)]:
            yield Marked(label, box.low, box.high, inside, outside)
