"""`casam-site doctor`."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from casam_fed.errors import ConfigError
from casam_fed.host.command_line import folder_argument, json_option
from site_client.home import SiteHome

__all__ = ["doctor"]

_SIGNS = {"ok": "ok", "warning": "look", "wrong": "WRONG"}


@click.command()
@folder_argument
@click.option("--quick", is_flag=True, help="Leave out the forecast of time and memory.")
@json_option
def doctor(folder: Path, quick: bool, as_json: bool) -> None:
    """Check this machine, the welcome, the way to the aggregator, and that it is closed where it should be.

    Exit code 1 when anything is wrong.
    """
    from site_client.doctor import findings

    found = []
    for finding in findings(SiteHome(folder), quick):
        found.append(finding)
        if not as_json:
            click.echo(f"{_SIGNS[finding.state]:6} {finding.check:18} {finding.seen}")
            if finding.state != "ok":
                click.echo(f"{'':6} {'':18} -> {finding.mend}")
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in found], indent=1))
    if wrong := [finding.check for finding in found if finding.state == "wrong"]:
        raise ConfigError(f"wrong: {', '.join(wrong)}; mend these and run casam-site doctor {folder} again")
    if not as_json:
        click.echo(f"Next: casam-site check {folder}")
