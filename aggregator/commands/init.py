"""`casam-aggregator init`."""

from pathlib import Path
from typing import Any

import click

from aggregator.home import AggregatorConfig, default_listen
from casam_fed.audit.keys import shown
from casam_fed.config import from_mapping, read_yaml
from casam_fed.host.command_line import folder_argument

__all__ = ["init"]


@click.command()
@folder_argument
@click.option("--name", "federation", required=True, help="Name of the federation: letters, digits, dots, dashes.")
@click.option("--address", required=True, metavar="HOST:PORT", help="Where hospitals reach this machine.")
@click.option("--listen", metavar="HOST:PORT", help="Where to listen (default: all interfaces, the port of --address).")
@click.option("--superlink-port", type=click.IntRange(1, 65535), default=18000, show_default=True, help="On loopback.")
@click.option(
    "--method", type=click.Path(path_type=Path), help="YAML with choices of the method that all hospitals share."
)
def init(
    folder: Path, federation: str, address: str, listen: str | None, superlink_port: int, method: Path | None
) -> None:
    """Make an aggregator's folder DIR: certificate authority, keys, settings, and an empty bank.

    DIR must be new or empty. Keep it private: whoever reads DIR/keys can sign in the aggregator's name.
    """
    # torch and Flower take seconds to import: no --help waits for them.
    from aggregator.founding import create_home

    settings: dict[str, Any] = {
        "federation": federation,
        "address": address,
        "listen": listen or default_listen(address),
        "superlink_port": superlink_port,
        "method": read_yaml(method) if method else {},
    }
    home = create_home(folder, from_mapping(AggregatorConfig, settings, "the options"))
    click.echo(f"Made {folder} for federation {federation}, backbone {home.config.method.backbone}.")
    click.echo(f"Fingerprint of the aggregator's key:\n  {shown(home.fingerprint())}")
    click.echo(f"Next: casam-aggregator up {folder}, and casam-aggregator enroll {folder} REQUEST.json per hospital.")
