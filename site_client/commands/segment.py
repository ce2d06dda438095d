"""`casam-site segment`: masks of a hospital's own images by the bank that it has fetched."""

from typing import TYPE_CHECKING, Any

import click

from casam_fed.host.command_line import folder_argument
from casam_fed.segmenting.command import Wishes, options, segment_files
from site_client.home import SiteHome

if TYPE_CHECKING:
    from casam_fed.segmenting.opened import OpenedBank

__all__ = ["segment"]


@click.command()
@folder_argument
@options
@click.option("--blind", is_flag=True, help="Do not ask this site's own task first: route as a server would.")
def segment(folder: Any, blind: bool, **wishes: Any) -> None:
    """Segment what is marked in FILES: pictures, volumes, or folders of them, with the bank that this site holds.

    Needs no network, and nothing leaves: masks, overlays and segment.json go to --out. This site's own task is asked
    first whether it knows an image, then the other tasks of the bank; where none does, plain SAM segments it.
    How-to: docs/how-to/segment-with-the-bank.md.
    """
    home = SiteHome(folder)
    method = home.method(home.welcome())
    own = None if blind else home.settings.site.name

    def opened() -> "OpenedBank":
        import torch

        from casam_fed.segmenting.opened import open_bank

        torch.set_num_threads(method.threads)
        place = home.bank if home.bank.is_dir() else folder
        return open_bank(place, router=method.router, device=method.device, own=own)

    segment_files(opened, Wishes(**wishes))
