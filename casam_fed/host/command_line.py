"""What every command line of the project has in common: exit codes, one-sentence errors, commands loaded on use.

Exit codes: 0 done, 1 a `CasamError` (its sentence on stderr), 2 wrong usage, 130 interrupted.
"""

import contextlib
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import yaml

from casam_fed.errors import CasamError
from casam_fed.host.printable import printable
from casam_fed.host.supervision import PRIVATE_ENVIRONMENT, direct_to_loopback

__all__ = [
    "LazyGroup",
    "at_terminal",
    "confirmed",
    "folder_argument",
    "json_option",
    "parsed_options",
    "require_yes",
    "run_command",
]

folder_argument = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
"""The folder of an aggregator or a site."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class LazyGroup(click.Group):
    """Finds a command's module by its name, and its help line without importing it, so that `--help` is quick."""

    def __init__(self, *args: object, lazy: Mapping[str, tuple[str, str]], **attributes: object) -> None:
        """Take `lazy`: name -> ("module:attribute" of the command, help line), in the order in which to show them."""
        super().__init__(*args, **attributes)  # type: ignore[arg-type]
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names."""
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command."""
        if cmd_name not in self._lazy:
            return None
        module, attribute = self._lazy[cmd_name][0].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help lines."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._lazy.items()])


def run_command(command: click.Command, name: str) -> None:
    """Run a command line called `name` and leave with the exit code that this module's docstring promises."""
    os.environ.update({**PRIVATE_ENVIRONMENT, **direct_to_loopback(os.environ)})
    try:
        command.main(standalone_mode=False)
    except CasamError as error:
        # The sentence may name a file, or quote what somebody sent.
        print(f"{name}: " + "\n".join(map(printable, str(error).split("\n"))), file=sys.stderr)
        sys.exit(1)
    except click.UsageError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def at_terminal() -> bool:
    """Return whether there is somebody to ask; a program started without standard input has none at all."""
    return sys.stdin is not None and sys.stdin.isatty()


def confirmed(question: str, *, or_end: bool = False) -> bool:
    """Ask a person at the terminal; with `or_end` a no ends the command.

    Raises:
        click.UsageError: there is no terminal; scripts say their answer by an option.
        click.Abort: as told.
    """
    if not at_terminal():
        raise click.UsageError(f"{question} There is no terminal to ask at; give the answer as an option (see --help).")
    return click.confirm(question, abort=or_end)


def require_yes(question: str, given: bool = False) -> None:
    """Ask a person, unless the answer was `given` as an option; a no ends the command.

    Raises:
        click.UsageError: as `confirmed`.
        click.Abort: the person said no.
    """
    if not given:
        confirmed(question, or_end=True)


def parsed_options(options: Sequence[str]) -> dict[str, Any]:
    """Read KEY=VALUE options; values are YAML.

    Raises:
        click.UsageError: an option without key or "=", or whose value is no YAML.
    """
    values: dict[str, Any] = {}
    for option in options:
        key, separator, value = option.partition("=")
        with contextlib.suppress(yaml.YAMLError):
            if separator and key:
                values[key] = yaml.safe_load(value)
                continue
        raise click.UsageError(f"--set {option}: write KEY=VALUE, the value in YAML, as in --set classes=[nucleus]")
    return values
