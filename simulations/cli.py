"""`casam`: the researcher's command line."""

import click

from casam_fed import __version__
from casam_fed.host.command_line import LazyGroup, run_command

__all__ = ["main"]

_GROUPS = {
    "backbone": ("simulations.backbone_command:backbone", "List, fetch, check and pre-train backbones."),
    "data": ("simulations.data_command:data", "List the datasets we can read, and check one."),
    "segment": ("simulations.segment_command:segment", "Segment your own images with the bank of a run."),
    "sim": ("simulations.sim_command:sim", "Simulate streams of sites with Flower."),
}


@click.group(cls=LazyGroup, lazy=_GROUPS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="casam")
def casam() -> None:
    """Continual segmentation of medical images with a frozen SAM, one Alignment Layer per task (CA-SAM)."""


def main() -> None:
    """Run `casam`."""
    run_command(casam, "casam")
