"""`casam-site`: the hospital's command line, a ladder in which each step names the next."""

import click

from casam_fed import __version__
from casam_fed.host.command_line import LazyGroup, run_command

__all__ = ["main"]

_COMMANDS = {
    "init": ("site_client.commands.init:init", "Make this site's folder: settings, keys, REQUEST.json."),
    "doctor": ("site_client.commands.doctor:doctor", "Check this machine, the welcome and the way to the aggregator."),
    "check": ("site_client.commands.data:check", "Look at all images and masks before anything is trained."),
    "train": ("site_client.commands.data:train", "Train the alignment layer and its routers; needs no network."),
    "preview": ("site_client.commands.preview:preview", "Show everything that would leave, and what never does."),
    "join": ("site_client.commands.online:join", "Deliver the release, fetch the bank, score the test images."),
    "segment": ("site_client.commands.segment:segment", "Segment your own images with the bank that was fetched."),
    "status": ("site_client.commands.status:status", "Show how far this site is, and what has left it."),
    "sync": ("site_client.commands.online:sync", "Fetch the bank as it is now, without delivering anything."),
    "rotate": ("site_client.commands.init:rotate", "Make new keys in place of lost or stolen ones."),
}


@click.group(cls=LazyGroup, lazy=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="casam-site")
def site() -> None:
    """Take part in a federation. Images, masks and anything about single patients stay here.

    init, doctor, check, train, preview, join. How-to: docs/how-to/join-as-a-hospital.md.
    """


def main() -> None:
    """Run `casam-site`."""
    run_command(site, "casam-site")
