"""ServerApp and ClientApp of a simulated stream: the deployed handlers, with the stream's YAML in place of enrolment."""

import functools
import json
import logging
from pathlib import Path

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from aggregator.stages import StreamPlan, run_stream
from casam_fed.backbone.background import background_of
from casam_fed.errors import CasamError, ConfigError
from casam_fed.files import write_atomically
from simulations.report import write_report
from simulations.run_folder import RunFolder
from simulations.stream_config import StreamConfig, method_record, read_stream
from site_client.client_app import make_client_app
from site_client.site import Site, shared_backbone, versions

__all__ = ["make_server_app", "make_simulated_client_app"]


def make_server_app() -> ServerApp:
    """Return the ServerApp that runs the stream named in the run configuration and writes its report."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        folder, stream = _run_of(context)
        try:
            _run(grid, folder, stream)
        except CasamError as error:
            folder.say(f"stopped: {error}")
            folder.fail(str(error))
            raise

    return app


def make_simulated_client_app() -> ClientApp:
    """Return the ClientApp whose node number is the place of its site in the stream."""
    return make_client_app(_site_of)


def _run(grid: Grid, folder: RunFolder, stream: StreamConfig) -> None:
    backbone = shared_backbone(stream.method.backbone, stream.method.device)
    plan = StreamPlan(
        sites=tuple(site.name for site in stream.sites),
        seeds=stream.seeds,
        backbone=backbone.name,
        backbone_digest=backbone.digest,
        background=background_of(backbone),
        folder=folder.path,
    )
    collected = run_stream(grid, plan, folder.say)
    for seed, values in collected.items():
        about = {site: folder.about(site, seed) for site in plan.sites}
        values |= {what: {site: about[site][what] for site in about} for what in ("counts", "notes")}
    results = {
        "stream": stream.stream,
        "sites": list(plan.sites),
        "tasks": [site.task_name for site in stream.sites],
        "config": method_record(stream),
        "versions": versions(),
        "backbone": {"name": backbone.name, "digest": backbone.digest},
        "seeds": collected,
        "seconds": {"total": sum(seed["seconds"]["total"] for seed in collected.values())},
        "peak_rss_mb": None,
    }
    write_atomically(folder.results, json.dumps(results, indent=1).encode())
    folder.gather_overlays([site.name for site in stream.sites])
    write_report(results, folder.path)


def _run_of(context: Context) -> tuple[RunFolder, StreamConfig]:
    values = {key: str(context.run_config.get(key, "")) for key in ("stream", "out", "overrides")}
    for key in ("stream", "out"):
        if not Path(values[key]).is_absolute():
            raise ConfigError(f"run-config '{key}' is '{values[key]}'; give an absolute path, e.g. {key}=\"/runs/one\"")
    overrides = json.loads(values["overrides"] or "{}")
    return RunFolder(Path(values["out"])), read_stream(Path(values["stream"]), overrides)


def _site_of(context: Context, seed: int) -> Site:
    where = (str(context.run_config[key]) for key in ("stream", "out", "overrides", "data"))
    return _site(*where, int(context.node_config["partition-id"]), seed)


@functools.cache
def _site(stream_path: str, out: str, overrides: str, data: str, number: int, seed: int) -> Site:
    """Return a site; Ray's actors are reused, so a process keeps each site it has met."""
    stream = read_stream(Path(stream_path), json.loads(overrides or "{}"))
    config = stream.sites[number]
    folder = RunFolder(Path(out))
    log = logging.FileHandler(folder.site_log(config.name))
    log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger("site_client").addHandler(log)
    root = Path(data) if data else Path(stream_path).parent
    return Site(
        config, stream.method, root, folder.site(config.name), seed, lambda text: folder.say(f"{config.name}: {text}")
    )
