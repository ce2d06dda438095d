"""`casam segment`: masks of a researcher's own images by the bank of a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from casam_fed.segmenting.command import Wishes, options, segment_files

if TYPE_CHECKING:
    from casam_fed.segmenting.opened import OpenedBank

__all__ = ["segment"]


@click.command()
@click.option(
    "--bank",
    required=True,
    type=click.Path(path_type=Path),
    help="A bank, or a folder of a run or site that holds one.",
)
@options
@click.option("--router", type=click.Choice(["gaussian", "vae"]), default="gaussian", show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cuda, mps or cpu.")
def segment(bank: Path, router: Any, device: str, **wishes: Any) -> None:
    """Segment what is marked in FILES: pictures, volumes, or folders of them. Needs no network.

    Each file is sent to the task of the bank that knows it, or to plain SAM where none does; segment.json says why.
    How-to: docs/how-to/segment-with-the-bank.md.
    """

    def opened() -> "OpenedBank":
        from casam_fed.segmenting.opened import open_bank

        return open_bank(bank, router=router, device=device)

    segment_files(opened, Wishes(**wishes))
