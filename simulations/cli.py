"""`casam`: the researcher's command line.

Groups are imported when they are used, so that `casam --help` needs neither torch nor flwr. Exit codes: 0 done, 1 a
`CasamError` (its sentence on stderr), 2 wrong usage, 130 interrupted.
"""

import importlib
import os
import sys

import click

from casam_fed import __version__
from casam_fed.errors import CasamError

__all__ = ["main"]

_GROUPS = {
    "data": ("simulations.data_command", "List the datasets we can read, and check one."),
    "backbone": ("simulations.backbone_command", "List, fetch, check and pre-train backbones."),
    "sim": ("simulations.sim_command", "Simulate streams of sites with Flower."),
}


class _LazyGroups(click.Group):
    """Finds a group's module by its name, and its help line without importing it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_GROUPS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _GROUPS:
            return None
        command: click.Command = getattr(importlib.import_module(_GROUPS[cmd_name][0]), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in sorted(_GROUPS.items())])


@click.group(cls=_LazyGroups, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="casam")
def casam() -> None:
    """Continual segmentation of medical images with a frozen SAM, one Alignment Layer per task (CA-SAM)."""


def main() -> None:
    """Run `casam` and leave with the exit code that its module's docstring promises."""
    from simulations.flower_processes import PRIVATE_ENVIRONMENT

    os.environ.update(PRIVATE_ENVIRONMENT)
    try:
        casam.main(standalone_mode=False)
    except CasamError as error:
        print(f"casam: {error}", file=sys.stderr)
        sys.exit(1)
    except click.UsageError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        print("casam: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
