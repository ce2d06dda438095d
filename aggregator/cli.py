"""`casam-aggregator`: the operator's command line."""

import click

from casam_fed import __version__
from casam_fed.host.command_line import LazyGroup, run_command

__all__ = ["main"]

_COMMANDS = {
    "init": ("aggregator.commands.init:init", "Make an aggregator's folder: keys, certificate, settings, empty bank."),
    "up": ("aggregator.commands.up:up", "Run the aggregator until Ctrl-C."),
    "enroll": ("aggregator.commands.people:enroll", "Let a hospital in: REQUEST.json to WELCOME.json."),
    "rotate": ("aggregator.commands.people:rotate", "Give a hospital's new keys the place of its old ones."),
    "revoke": ("aggregator.commands.people:revoke", "Shut a hospital out."),
    "status": ("aggregator.commands.status:status", "Show what runs, who is enrolled and what each holds."),
    "bank": ("aggregator.commands.bank:bank", "List, show, verify, accept and retire entries of the bank."),
}


@click.group(cls=LazyGroup, lazy=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="casam-aggregator")
def aggregator() -> None:
    """Run the aggregator of a federation: it keeps the layer bank, and sees no image.

    init, then up; enroll each hospital. How-to: docs/how-to/bring-up-an-aggregator.md.
    """


def main() -> None:
    """Run `casam-aggregator`."""
    run_command(aggregator, "casam-aggregator")
