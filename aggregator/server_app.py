"""The aggregator's Flower ServerApp: one short run, a delivery or an evaluation, as the watcher has asked for."""

import json
import os
from functools import partial
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from aggregator.delivery import deliver, evaluate, plain
from aggregator.home import Home
from casam_fed.errors import CasamError, ConfigError
from casam_fed.host.files import write_atomically
from casam_fed.host.line_log import append_event

__all__ = ["make_delivery_app"]

_MARK = "CASAM_SUPERVISED"
"""Set by `casam-aggregator up` for its processes: the aggregator's folder."""


def make_delivery_app() -> ServerApp:
    """Return the ServerApp; its run configuration names the run, whose order lies in the aggregator's folder."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        # Not from the run's configuration: whoever can submit a run could name a folder of his own.
        home = Home(Path(os.environ[_MARK]))
        name = str(context.run_config["run"])
        if not name.isalnum():
            raise ConfigError("a run's name has only letters and digits; deliveries are started by casam-aggregator up")
        order = json.loads((home.runs / f"{name}.order.json").read_text())

        # Flower notices the death of this process a minute later; the watcher, which looks for its number, at once.
        write_atomically(home.runs / f"{name}.pid", str(os.getpid()).encode())

        say = partial(append_event, home.progress)
        try:
            if order["kind"] == "deliver":
                results = deliver(grid, home, order["nodes"], say)
            else:
                results = evaluate(grid, home, order["nodes"], say, order["bank"])
            outcome = {"results": plain(results), "error": ""}
        except CasamError as error:
            # The aggregator's own fault, such as a full disk: the watcher says it and tries again.
            outcome = {"results": {}, "error": str(error)}
        write_atomically(home.runs / f"{name}.result.json", json.dumps(outcome).encode())

    return app
