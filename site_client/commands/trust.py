"""The question whether to trust an aggregator."""

import click

from casam_fed.audit.keys import shown
from casam_fed.host.command_line import require_yes
from casam_fed.wire.enrolment import Welcome
from site_client.home import SiteHome

__all__ = ["trusted_welcome"]


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
        require_yes("Has the aggregator's operator read out the same fingerprint?", yes)
        home.trust(welcome)
    return welcome
