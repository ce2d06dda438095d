"""`casam-site join` and `sync`: the only commands that connect."""

from pathlib import Path
from typing import Literal

import click

from casam_fed.host.command_line import confirmed, folder_argument
from casam_fed.wire.exchange import Submission
from site_client.commands.preview import preview_text
from site_client.commands.trust import trusted_welcome
from site_client.home import SiteHome

__all__ = ["join", "sync"]

_seconds_option = click.option(
    "--timeout", "seconds", default=900.0, show_default=True, help="Seconds to wait for each answer of the aggregator."
)


@click.command()
@folder_argument
@click.option("--yes", is_flag=True, help="Trust the aggregator in WELCOME.json and let the release go without asking.")
@click.option("--keep-serving", is_flag=True, help="Stay online afterwards, to score the banks of later stages.")
@_seconds_option
def join(folder: Path, yes: bool, keep_serving: bool, seconds: float) -> None:
    """Bring this site into the federation: train if need be, ask for approval, deliver, fetch the bank, score.

    Interrupt it when you like and run it again: it goes on where it was, and nothing is delivered twice.
    """
    from site_client.join import join as run_join

    home = SiteHome(folder)
    welcome = trusted_welcome(home, yes)

    def approve(submission: Submission) -> Literal["person", "option"] | None:
        click.echo(preview_text(home, submission.digest))
        if yes:
            return "option"
        return "person" if confirmed("May this leave the building?") else None

    run_join(home, welcome, approve, click.echo, seconds, keep_serving)
    click.echo(f"Next: casam-site status {folder}; casam-site sync {folder} fetches later stages.")


@click.command()
@folder_argument
@click.option("--yes", is_flag=True, help="Trust the aggregator in WELCOME.json without asking.")
@_seconds_option
def sync(folder: Path, yes: bool, seconds: float) -> None:
    """Fetch the bank as it is now and score the test images under it; a release that is approved already is offered."""
    from site_client.join import stage_row
    from site_client.join import sync as run_sync

    home = SiteHome(folder)
    stage = run_sync(home, trusted_welcome(home, yes), click.echo, seconds)
    click.echo(stage_row(home.settings.site.task_name, stage.snapshot, stage.report))
