"""The argument that all commands share: the aggregator's folder."""

from pathlib import Path

import click

__all__ = ["folder_argument"]

folder_argument = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
