"""The argument that all commands share, and the question whether to trust an aggregator."""

from pathlib import Path

import click

from casam_fed.audit.keys import shown
from casam_fed.command_line import confirmed
from casam_fed.enrolment import Welcome
from site_client.home import SiteHome

__all__ = ["folder_argument", "trusted_welcome"]

folder_argument = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))


def trusted_welcome(home: SiteHome, yes: bool) -> Welcome:
    """Return the welcome of an aggregator that a person has confirmed, asking where nobody did yet.

    Raises:
        EnrolmentError: as `SiteHome.welcome`.
        click.Abort: the person said no.
    """
    welcome = home.welcome()
    if not home.trusts(welcome):
        click.echo(f"federation   {welcome.federation}\naddress      {welcome.address}")
        click.echo(f"fingerprint  {shown(welcome.fingerprint)}\nallowed app  {welcome.app}")
        if not yes and not confirmed("Has the aggregator's operator read out the same fingerprint?"):
            raise click.Abort
        home.trust(welcome)
    return welcome
