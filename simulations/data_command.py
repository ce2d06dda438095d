"""`casam data`: the datasets we can read, and a look at one before anything is trained on it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from casam_fed.data.catalogue import DATASETS
from casam_fed.errors import DataError

__all__ = ["data"]

_SHOWN = 20


@click.group()
def data() -> None:
    """List the datasets we can read, and check one."""


@data.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_command(as_json: bool) -> None:
    """Show every dataset we can read: where its owner offers it, on which terms, and its files."""
    if as_json:
        click.echo(json.dumps([asdict(card) for card in DATASETS.values()], indent=2))
        return
    for card in DATASETS.values():
        counts = "" if card.counts is None else f"; {card.counts[0]} training and {card.counts[1]} test in the paper"
        click.echo(f"{card.name:13} {card.title}")
        click.echo(f"{'':13} {card.modality}: {', '.join(card.classes) or 'classes named by the dataset'}{counts}")
        click.echo(f"{'':13} files    {card.layout}")
        click.echo(f"{'':13} from     {card.where}")
        click.echo(f"{'':13} licence  {card.licence}\n")


@data.command("check")
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--as", "kind", required=True, help="A dataset of `casam data list`, or `folder`.")
@click.option("--set", "options", multiple=True, metavar="KEY=VALUE", help="An option of the data block of a stream.")
@click.option("--overlay", type=click.Path(path_type=Path), help="Write contact sheets of all images into this folder.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check_command(root: Path, kind: str, options: tuple[str, ...], overlay: Path | None, as_json: bool) -> None:
    """Read the whole dataset at ROOT and report counts, sizes, intensities, and problems file by file.

    Exit code 1 when anything is wrong.
    """
    from tqdm import tqdm

    from casam_fed.config import from_mapping
    from casam_fed.data.check import check_dataset
    from casam_fed.data.dataset import DataBlock, open_reader

    block = {"kind": kind, "path": str(root.absolute()), **_parsed(options)}
    reader = open_reader(from_mapping(DataBlock, {"data": block}, "the options").data, Path())
    sheets = _Sheets(overlay) if overlay else None
    with tqdm(desc="reading", unit="image", leave=False, disable=None) as bar:

        def progress(_done: int, total: int) -> None:
            bar.total = total
            bar.update()

        report = check_dataset(reader, progress, sheets.add if sheets else lambda sample: None)
    if sheets:
        sheets.close()
    click.echo(json.dumps(_as_json(report), indent=2) if as_json else _as_text(report, sheets))
    if report.problems:
        raise DataError(f"{len(report.problems)} problems in {root}; see the report above")


@data.group("phantom")
def phantom() -> None:
    """Draw datasets."""


@phantom.command("nine")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A new folder.")
@click.option("--size", type=click.Choice(["small", "medium"]), default="small", show_default=True)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
def nine_command(out: Path, size: str, seed: int) -> None:
    """Draw the nine datasets of the paper's stream as phantoms, each in its owner's own format."""
    from casam_fed.data.phantoms.nine import write_nine

    write_nine(out, size, seed, click.echo)


class _Sheets:
    """Writes contact sheets as they fill up."""

    def __init__(self, folder: Path) -> None:
        from casam_fed.data.contact_sheet import ContactSheets

        self._folder, self._pages, self._count = folder, ContactSheets(), 0

    def add(self, sample: Any) -> None:
        self._write(self._pages.add(sample))

    def close(self) -> None:
        self._write(self._pages.flush())

    def __str__(self) -> str:
        return f"{self._count} contact sheets in {self._folder}"

    def _write(self, page: bytes | None) -> None:
        from casam_fed.files import write_atomically

        if page is not None:
            self._count += 1
            write_atomically(self._folder / f"sheet-{self._count:03d}.png", page)


def _parsed(options: tuple[str, ...]) -> dict[str, Any]:
    """Read KEY=VALUE options; values are YAML, as in a stream."""
    import yaml

    values: dict[str, Any] = {}
    for option in options:
        key, separator, value = option.partition("=")
        if not separator:
            raise click.UsageError(f"--set {option}: write KEY=VALUE, as in --set test_fraction=0.3")
        values[key] = yaml.safe_load(value)
    return values


def _as_json(report: Any) -> dict[str, Any]:
    record = asdict(report)
    record["sizes"] = [
        {"height": height, "width": width, "images": count} for (height, width), count in report.sizes.items()
    ]
    return record


def _as_text(report: Any, sheets: _Sheets | None) -> str:
    sizes = sorted(report.sizes.items(), key=lambda item: -item[1])
    rows = [
        ("images", str(report.images)),
        ("patients", str(report.patients)),
        ("split by the owner", ", ".join(f"{split} {count}" for split, count in sorted(report.splits.items()))),
        *((f"with {name}", str(count)) for name, count in report.classes.items()),
        ("sizes (height x width)", ", ".join(f"{h} x {w}: {count}" for (h, w), count in sizes[:5])),
    ]
    if len(sizes) > 5:
        rows.append(("", f"and {len(sizes) - 5} other sizes"))
    if report.intensity:
        low, high, mean = report.intensity
        rows.append(("intensity", f"{low} to {high}, mean {mean:.1f}"))
    if sheets:
        rows.append(("overlays", str(sheets)))
    lines = [f"{name:24} {value}" for name, value in rows]
    lines += [f"note: {note}" for note in report.notes]
    lines += [f"{problem.kind}: {problem.sentence}" for problem in report.problems[:_SHOWN]]
    if len(report.problems) > _SHOWN:
        lines.append(f"and {len(report.problems) - _SHOWN} more problems; --json lists them all")
    lines.append("nothing is wrong" if not report.problems else f"{len(report.problems)} problems")
    return "\n".join(lines)
