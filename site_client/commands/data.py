"""`casam-site check` and `train`: all that happens to images, and none of it needs a network."""

from pathlib import Path

import click

from casam_fed.errors import DataError
from casam_fed.host.command_line import folder_argument
from site_client.home import SiteHome

__all__ = ["check", "train"]


@click.command()
@folder_argument
@click.option("--overlay", type=click.Path(path_type=Path), help="Write contact sheets of all images into this folder.")
def check(folder: Path, overlay: Path | None) -> None:
    """Look at all images and masks: counts, sizes, intensities, problems file by file.

    Exit code 1 when anything is wrong. The overlays show images: they are for this site's eyes only.
    """
    from casam_fed.data.check import as_text, check_dataset
    from casam_fed.data.contact_sheet import CheckSheets
    from casam_fed.data.dataset import open_dataset

    home = SiteHome(folder)
    dataset = open_dataset(home.settings.data, home.path, home.work / "split.json")
    sheets = CheckSheets(overlay) if overlay else None
    report = check_dataset(dataset.reader, look=sheets.add if sheets else lambda sample: None)
    if sheets:
        sheets.close()
    click.echo(as_text(report, sheets))
    click.echo(f"split: {len(dataset.train)} images for training, {len(dataset.test)} for testing, no patient in both")
    if report.problems:
        raise DataError(f"{len(report.problems)} problems in the data; see the report above")
    click.echo(f"Next: casam-site train {folder}")


@click.command()
@folder_argument
@click.option("--again", is_flag=True, help="Train anew, though there is a release.")
def train(folder: Path, again: bool) -> None:
    """Train the alignment layer and its routers on this site's images, and put the release into the outbox.

    Interrupt it when you like and run it again: it goes on from the last checkpoint.
    """
    from site_client.join import ensure_trained
    from site_client.outbox import Outbox

    home = SiteHome(folder)
    welcome = home.welcome()
    if again:
        Outbox(home).forget_newest()
    submission = ensure_trained(home, welcome, click.echo)
    spent = ", ".join(f"{part} {seconds:.1f} s" for part, seconds in submission.seconds.items())
    click.echo(f"release {submission.digest}\n  {spent}")
    click.echo(f"Next: casam-site preview {folder}")
