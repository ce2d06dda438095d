"""`casam-aggregator up`."""

import contextlib
import time
from pathlib import Path

import click

from aggregator.home import Home
from aggregator.ledger import Ledger
from aggregator.processes import check_ports, children
from aggregator.progress import Progress
from casam_fed.errors import CasamError
from casam_fed.host.command_line import folder_argument
from casam_fed.host.supervision import Supervisor, end_leftovers

__all__ = ["up"]

_LOOK_S = 1.0


@click.command()
@folder_argument
def up(folder: Path) -> None:
    """Run the aggregator until Ctrl-C or SIGTERM: SuperLink, SuperExec, gateway, and the watcher that serves hospitals.

    A process that dies is started again. Their logs are in DIR/logs.
    """
    from aggregator.superlink import SuperLink
    from aggregator.watcher import Watcher

    home = Home(folder)
    end_leftovers(home.path)
    check_ports(home)
    Ledger(home).note_keys()
    progress = Progress(home)
    try:
        with Supervisor(children(home), home.path, progress.say) as supervisor:
            progress.say(f"federation {home.config.federation} is up: hospitals connect to {home.config.address}")
            with contextlib.closing(SuperLink(home.superlink_address, home.ca)) as superlink:
                watcher = Watcher(home, superlink, progress.say)
                carrier = supervisor.pid("superexec")
                while True:
                    supervisor.tend()
                    try:
                        if carrier != (carrier := supervisor.pid("superexec") or carrier):
                            watcher.abandon_runs()
                        watcher.look()
                    except CasamError as error:
                        progress.say_once(str(error))
                    progress.show()
                    time.sleep(_LOOK_S)
    except KeyboardInterrupt:
        # Ctrl-C and SIGTERM are how it is meant to end.
        progress.say("stopped")
