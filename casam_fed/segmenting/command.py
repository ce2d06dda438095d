"""What `casam segment` and `casam-site segment` share: their options, and files in, masks and segment.json out."""

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import numpy as np
from scipy.special import expit

from casam_fed import __version__
from casam_fed.data.layout import without_suffix
from casam_fed.errors import CasamError, DataError, StorageError
from casam_fed.host.files import write_atomically
from casam_fed.host.printable import printable
from casam_fed.segmenting.case import SUFFIXES, Case, Marked
from casam_fed.segmenting.decoding import Decoder
from casam_fed.segmenting.prompt_file import read_prompts
from casam_fed.segmenting.writing import label_map, mask_name, overlay, write_mask

if TYPE_CHECKING:
    from casam_fed.segmenting.opened import CaseRoute, Found, OpenedBank

__all__ = ["Wishes", "options", "segment_files"]

Command = TypeVar("Command", bound=Callable[..., Any])

_REPORT = "segment.json"


@dataclass(frozen=True)
class Wishes:
    """What a user asked for on the command line; see `options`."""

    files: tuple[Path, ...]
    boxes: Path | None
    points: Path | None
    out: Path
    task: str
    channel: int
    per_class: bool
    probabilities: bool
    overlays: bool
    overwrite: bool


def options(command: Command) -> Command:
    """Add the arguments and options that make up `Wishes`."""
    path = click.Path(path_type=Path)
    for decorate in reversed(
        (
            click.argument("files", nargs=-1, required=True, type=path),
            click.option("--boxes", type=path, help="CSV or JSON with file,class,x0,y0,x1,y1[,z0,z1]."),
            click.option("--points", type=path, help="CSV or JSON with file,class,x,y[,z][,positive]."),
            click.option("--out", required=True, type=path, help="Folder for masks, overlays and segment.json."),
            click.option("--task", default="auto", show_default=True, help="Overrule the router; none is plain SAM."),
            click.option("--channel", default=0, show_default=True, type=click.IntRange(0), help="Of a volume."),
            click.option("--per-class", is_flag=True, help="One mask file a class in place of a label map."),
            click.option(
                "--probabilities", is_flag=True, help="Also how sure the decoder is, 0 to 1, one file a class."
            ),
            click.option("--overlays/--no-overlays", default=True, show_default=True, help="Pictures to look at."),
            click.option("--overwrite", is_flag=True, help="Replace masks that are there already."),
        )
    ):
        command = decorate(command)
    return command


def segment_files(open_bank: "Callable[[], OpenedBank]", wishes: Wishes) -> None:
    """Segment files one by one, and write what was found of each as soon as it is.

    Args:
        open_bank: loads the bank, once the files and prompts are known to make sense.
        wishes: of the user.

    Raises:
        DataError: files or prompts are wrong; or, when all others are done, some files could not be segmented.
        StorageError: masks are there already, or cannot be written.
        CasamError: as the parts say.
    """
    files = _listed(wishes.files)
    prompts = read_prompts(files, wishes.boxes, wishes.points)
    stems = _stems(files)
    _require_new(wishes, stems)
    rows: list[dict[str, Any]] = []
    failed: list[str] = []
    with Decoder() as decoder:
        decoder.start()
        opened = open_bank()
        opened.require_task(wishes.task, sorted({each.label for marked in prompts.values() for each in marked}))
        for number, path in enumerate(files, start=1):
            try:
                case = decoder.read(path, wishes.channel)
                row = _segmented(opened, wishes, case, prompts[path], stems[path])
            except StorageError:
                raise
            except CasamError as error:
                failed.append(str(error))
                row = {"file": str(path), "error": str(error)}
                _say(f"{number} of {len(files)}  {path.name}: failed")
            else:
                _say(f"{number} of {len(files)}  {path.name}: {row['route']['why']}")
                for note in row["notes"]:
                    _say(f"    note: {note}")
            rows.append(row)
            report = {"made_by": f"casam-fed {__version__}", "bank": opened.digest, "files": rows}
            write_atomically(wishes.out / _REPORT, json.dumps(report, indent=1, allow_nan=False).encode())
    click.echo(f"{len(files) - len(failed)} of {len(files)} segmented: {wishes.out}")
    if failed:
        listed = "".join(f"\n  {sentence}" for sentence in failed)
        raise DataError(f"{len(failed)} of {len(files)} files could not be segmented, the others are done:{listed}")


def _say(sentence: str) -> None:
    """Print a sentence that may quote a file's name, or what was read in a file."""
    click.echo(printable(sentence))


def _segmented(opened: "OpenedBank", wishes: Wishes, case: Case, marked: Sequence[Marked], stem: str) -> dict[str, Any]:
    found = opened.segment_marked(case, marked, task=wishes.task, with_logits=wishes.probabilities)
    labels = label_map(found.masks)
    files = {}
    if wishes.per_class:
        for number, (label, mask) in enumerate(found.masks.items(), start=1):
            files[label] = mask_name(case, stem, f"mask-{number}")
            write_mask(case, mask.astype(np.uint8), wishes.out / files[label])
    else:
        files["labels"] = mask_name(case, stem)
        write_mask(case, labels.values, wishes.out / files["labels"])
    for number, (label, logits) in enumerate(found.logits.items(), start=1):
        files[f"probability of {label}"] = mask_name(case, stem, f"probability-{number}", ".tif")
        write_mask(case, expit(logits), wishes.out / files[f"probability of {label}"])
    if wishes.overlays:
        files["overlay"] = f"{stem}.overlay.png"
        write_atomically(wishes.out / files["overlay"], _overlay(case, found))
    return {
        "file": str(case.path),
        "out": files,
        "classes": dict(labels.numbers),
        "pixels": {label: int(mask.sum()) for label, mask in found.masks.items()},
        "overlapping_pixels": labels.overlapping,
        "route": _as_json(found.route),
        "notes": list(found.notes),
    }


def _overlay(case: Case, found: "Found") -> bytes:
    masks = {label: case.to_planes(mask) for label, mask in found.masks.items()}
    fullest = int(np.argmax(np.sum([mask.sum(axis=(1, 2)) for mask in masks.values()], axis=0)))
    route = found.route
    taken = f"segmented by {route.task} of {route.site}" if route.task else "plain SAM: no task of the bank was taken"
    plane = f"plane {fullest}, " if case.volume is not None else ""
    return overlay(case, masks, fullest, f"{plane}{taken}", warn=route.task is None)


def _as_json(route: "CaseRoute") -> dict[str, Any]:
    """Return a route for JSON, which knows no infinity: what there is none of is null."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in asdict(route).items()
    }


def _listed(given: Sequence[Path]) -> list[Path]:
    """Return the files, those of a folder in the order of their names."""
    files: list[Path] = []
    for path in given:
        if path.is_dir():
            inside = [
                each
                for each in sorted(path.iterdir())
                if each.name.lower().endswith(SUFFIXES) and not each.name.startswith(".") and each.is_file()
            ]
            if not inside:
                raise DataError(f"the folder {path} holds no image; give files of one of {', '.join(SUFFIXES)}")
            files += inside
        else:
            files.append(path)
    return list(dict.fromkeys(files))


def _stems(files: Sequence[Path]) -> dict[Path, str]:
    """Return what the names of each file's masks begin with: its own name, and more of it where two are alike."""
    plain = {path: without_suffix(path) for path in files}
    times = Counter(plain.values())
    named = {
        path: "_".join(path.parts[-2:]).replace(os.sep, "") if times[stem] > 1 else stem for path, stem in plain.items()
    }
    if len(set(named.values())) < len(files):
        raise DataError("two files have the same name in folders of the same name; segment them into different --out")
    return named


def _require_new(wishes: Wishes, stems: dict[Path, str]) -> None:
    if wishes.overwrite or not wishes.out.is_dir():
        return
    there = {path.name for path in wishes.out.iterdir()}
    for stem in stems.values():
        if taken := sorted(
            name
            for name in there
            if name.startswith(tuple(f"{stem}.{what}" for what in ("mask", "overlay", "probability")))
        ):
            raise StorageError(f"{wishes.out / taken[0]} is there already; give another --out, or --overwrite")
    if _REPORT in there:
        raise StorageError(f"{wishes.out / _REPORT} is there already; give another --out, or --overwrite")
