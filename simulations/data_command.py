"""`casam data`: the datasets we can read, and a look at one before anything is trained on it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from casam_fed.config import from_mapping
from casam_fed.data.check import CheckReport, as_text, check_dataset
from casam_fed.data.dataset import DataBlock
from casam_fed.data.public_datasets import DATASETS
from casam_fed.errors import DataError
from casam_fed.host.command_line import parsed_options

__all__ = ["data"]


@click.group()
def data() -> None:
    """List the datasets we can read, and check one."""


@data.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_command(as_json: bool) -> None:
    """Show every dataset we can read: where its owner offers it, on which terms, and its files."""
    cards = [dataset.card for dataset in DATASETS.values()]
    if as_json:
        click.echo(json.dumps([asdict(card) for card in cards], indent=2))
        return
    for card in cards:
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
    block = {"kind": kind, "path": str(root.absolute()), **parsed_options(options)}
    reader = from_mapping(DataBlock, {"data": block}, "the options").data.reader(Path())
    sheets = None
    if overlay:
        # Whoever wants no picture does not wait for what paints it.
        from casam_fed.data.contact_sheet import CheckSheets

        sheets = CheckSheets(overlay)
    with tqdm(desc="reading", unit="image", leave=False, disable=None) as bar:

        def progress(_done: int, total: int) -> None:
            bar.total = total
            bar.update()

        report = check_dataset(reader, progress, sheets.add if sheets else lambda sample: None)
    if sheets:
        sheets.close()
    click.echo(json.dumps(_as_json(report), indent=2) if as_json else as_text(report, sheets))
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
    from casam_fed.drawn.nine import write_nine

    write_nine(out, size, seed, click.echo)


def _as_json(report: CheckReport) -> dict[str, Any]:
    record = asdict(report)
    record["sizes"] = [
        {"height": height, "width": width, "images": count} for (height, width), count in report.sizes.items()
    ]
    return record
