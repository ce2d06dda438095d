"""`casam-aggregator enroll`, `rotate` and `revoke`: who may take part, always confirmed by a person."""

from pathlib import Path

import click

from aggregator.enrolment import enrol_site, revoke_site, rotate_site
from aggregator.home import Home
from casam_fed.audit.keys import shown
from casam_fed.errors import ConfigError, EnrolmentError
from casam_fed.host.command_line import folder_argument, require_yes
from casam_fed.host.files import reason_of
from casam_fed.wire.enrolment import EnrolmentRequest, open_request

__all__ = ["enroll", "revoke", "rotate"]

_request_argument = click.argument("request", metavar="REQUEST.json", type=click.Path(path_type=Path))
_fingerprint_option = click.option(
    "--fingerprint", help="The fingerprint that the hospital read out; then nothing is asked. Spaces do not matter."
)
_out_option = click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Where to write the answer (default: WELCOME.json beside the request).",
)


@click.command()
@folder_argument
@_request_argument
@_fingerprint_option
@_out_option
def enroll(folder: Path, request: Path, fingerprint: str | None, out: Path | None) -> None:
    """Let a hospital in: check REQUEST.json, register its keys, write the WELCOME.json to hand back.

    Compare the fingerprint with the hospital's engineer by a way that nobody can have tampered with, e.g. by telephone.
    """
    home = Home(folder)
    asked = _read(request)
    _confirm(asked, fingerprint, "Enrol this site?")
    welcome = out or request.with_name("WELCOME.json")
    enrol_site(home, asked, welcome)
    _say_welcome(home, asked, welcome)


@click.command()
@folder_argument
@_request_argument
@_fingerprint_option
@_out_option
def rotate(folder: Path, request: Path, fingerprint: str | None, out: Path | None) -> None:
    """Give a hospital's new keys the place of its old ones, which end at once.

    The hospital makes them with `casam-site rotate`. What it has in the bank stays.
    """
    home = Home(folder)
    asked = _read(request)
    _confirm(asked, fingerprint, "Replace its keys by these?")
    welcome = out or request.with_name("WELCOME.json")
    rotate_site(home, asked, welcome)
    _say_welcome(home, asked, welcome)


@click.command()
@folder_argument
@click.argument("site")
@click.option("--yes", is_flag=True, help="Do not ask.")
def revoke(folder: Path, site: str, yes: bool) -> None:
    """Shut a hospital out: its keys end at once. What it has in the bank stays until it is retired."""
    home = Home(folder)
    require_yes(f"Shut {site} out?", yes)
    revoke_site(home, site)
    click.echo(f"{site} is shut out; a running aggregator ends its connection within seconds.")


def _read(path: Path) -> EnrolmentRequest:
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = reason_of(error)
        raise ConfigError(f"cannot read {path}: {reason}; give the REQUEST.json that the hospital has sent") from error
    return open_request(data)


def _confirm(request: EnrolmentRequest, fingerprint: str | None, question: str) -> None:
    click.echo(
        f"site         {request.site}\nfingerprint  {shown(request.fingerprint)}\nmade with    casam-fed {request.code}"
    )
    if fingerprint is None:
        require_yes(f"Has the hospital read out the same fingerprint? {question}")
    elif fingerprint.replace(" ", "").lower() != request.fingerprint:
        raise EnrolmentError(
            "the fingerprint given is not that of the request; somebody may have changed the file, ask the hospital again"
        )


def _say_welcome(home: Home, request: EnrolmentRequest, welcome: Path) -> None:
    click.echo(f"{request.site} is enrolled. Hand {welcome} back to the hospital, and read out to its engineer:")
    click.echo(f"  {shown(home.fingerprint())}")
