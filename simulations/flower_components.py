"""ServerApp and ClientApp of a simulated stream: hospitals answer as they do when deployed, and a researcher looks on."""

import functools
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from casam_fed.errors import CasamError
from casam_fed.host.files import write_atomically
from casam_fed.host.locks import only_one
from casam_fed.method.alignment import AlignmentLayer
from casam_fed.wire.exchange import Request
from simulations.looks import take_look
from simulations.methods.fedavg import add_fedavg, run_fedavg
from simulations.nodes import Named
from simulations.report import write_casam_report
from simulations.run_folder import RunFolder
from simulations.stages import run_seeds
from simulations.stream_config import method_record
from simulations.stream_run import StreamRun, run_of
from site_client.answering import AnsweringSite
from site_client.client_app import answer, payload_of
from site_client.egress import WayOut
from site_client.home import SiteHome
from site_client.site_config import SiteConfig
from site_client.work import SiteWork, shared_backbone, versions

__all__ = ["make_server_app", "make_simulated_client_app"]


def make_server_app() -> ServerApp:
    """Return the ServerApp that runs the stream named in the run configuration."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        run = run_of(context.run_config)
        try:
            _METHODS[run.method](grid, run)
        except CasamError as error:
            run.folder.say(f"stopped: {error}")
            run.folder.fail(str(error))
            raise

    return app


def _run_casam(grid: Grid, run: StreamRun) -> None:
    stream = run.stream
    backbone = shared_backbone(stream.method.backbone, stream.method.device)
    results = {
        "stream": stream.stream,
        "sites": [site.name for site in stream.sites],
        "tasks": [site.task_name for site in stream.sites],
        "config": method_record(stream),
        "versions": versions(),
        "backbone": {"name": backbone.name, "digest": backbone.digest},
        "peak_rss_mb": None,
    }
    for seed, values in run_seeds(grid, run):
        whole = {**results, "seeds": {str(seed): values}, "seconds": {"total": values["seconds"]["total"]}}
        write_atomically(run.folder.seed(seed).results, json.dumps(whole, indent=1).encode())
    if run.is_alone:
        write_casam_report(run.folder.path, stream)


def _run_fedavg(grid: Grid, run: StreamRun) -> None:
    stream, say = run.stream, run.folder.say
    channels = shared_backbone(stream.method.backbone, stream.method.device).geometry.channels
    sites = [site.name for site in stream.sites]
    for seed in stream.seeds:
        first = AlignmentLayer(channels, stream.method.blocks, stream.method.start, seed=seed)
        folder = run.folder.begin(seed)
        result = run_fedavg(grid, sites, first, seed, stream.baselines.fedavg_rounds, say)
        write_atomically(folder.path / "layer.safetensors", result.layer)
        write_atomically(folder.results, result.as_json())


_METHODS: dict[str, Callable[[Grid, StreamRun], None]] = {"casam": _run_casam, "fedavg": _run_fedavg}


def make_simulated_client_app() -> ClientApp:
    """Return the ClientApp whose node number is the place of its site in the stream.

    A hospital's four messages go the hospital's own way, gate and log included; the others are the simulation's own.
    """
    app = ClientApp()

    @app.query("hello")
    @app.query("sync")
    @app.train("submit")
    @app.evaluate("stage")
    def as_deployed(message: Message, context: Context) -> Message:
        run, home = _home_of(context)
        # Its handlers are made for one message at a time, and Ray may have a worker for each that is on the way.
        with only_one(home / ".lock"):
            return _site_of(run, home).way_out.answer(message, context)

    @app.query("name")
    def name(message: Message, context: Context) -> Message:
        config = run_of(context.run_config).site(context.node_config)
        return answer(message, lambda _request: payload_of(Named(config.name)))

    @app.train("learn")
    def learn(message: Message, context: Context) -> Message:
        return _at_site(message, context, _learn)

    @app.query("look")
    def look(message: Message, context: Context) -> Message:
        return _at_site(message, context, _look)

    add_fedavg(app, _work_of)
    return app


@dataclass(frozen=True)
class _Site:
    """A simulated hospital in a worker's memory: what answers for it, and its way out."""

    answering: AnsweringSite
    way_out: WayOut


def _home_of(context: Context) -> tuple[StreamRun, Path]:
    """Return the run, and the folder of the hospital that a node stands for under the seed at work."""
    run = run_of(context.run_config)
    return run, run.folder.seed(run.folder.current).site(run.site(context.node_config).name)


@functools.lru_cache(maxsize=32)
def _site_of(run: StreamRun, home: Path) -> _Site:
    """Return a hospital; Ray's actors are reused, so a process keeps those it has met last."""
    _log_into(run.folder)
    site = AnsweringSite(SiteHome(home), lambda text: run.folder.say(f"{home.name}: {text}"))
    return _Site(site, WayOut(site, on_wire=False))


def _at_site(message: Message, context: Context, do: Callable[[StreamRun, AnsweringSite], None]) -> Message:
    """Do what only a simulation asks of a site, alone in its folder, and answer with its name."""

    def work(_request: Request) -> RecordDict:
        run, home = _home_of(context)
        with only_one(home / ".lock"):
            do(run, _site_of(run, home).answering)
        return payload_of(Named(home.name))

    return answer(message, work)


def _look(run: StreamRun, site: AnsweringSite) -> None:
    """Take the researcher's look, and share the scores of images that it has added to."""
    take_look(run.folder, site.work)
    run.folder.shared(site.home.settings.name).take(site.home.work, site.work.seed)


def _learn(run: StreamRun, site: AnsweringSite) -> None:
    """Train, unless a run of the same sweep has, and let the release go: nobody else is there to ask."""
    shared, seed = run.folder.shared(site.home.settings.name), site.home.settings.seed
    shared.give(site.home.work, seed)
    submission = site.work.train()
    shared.take(site.home.work, seed)
    size = site.outbox.path(submission.digest).stat().st_size
    site.outbox.approve(submission.digest, size, site.home.settings.site.task_name, site.welcome, "option")


def _work_of(context: Context, seed: int) -> SiteWork:
    """Return the work of a site that takes part in federated averaging, where nobody is enrolled."""
    run = run_of(context.run_config)
    return _averaging(run, run.site(context.node_config), seed)


@functools.lru_cache(maxsize=32)
def _averaging(run: StreamRun, site: SiteConfig, seed: int) -> SiteWork:
    _log_into(run.folder)
    work = run.folder.seed(seed).site(site.name) / "work"
    run.folder.shared(site.name).give(work, seed)
    return SiteWork(site, run.stream.method, run.root, work, seed, lambda text: run.folder.say(f"{site.name}: {text}"))


def _log_into(folder: RunFolder) -> None:
    """Let this worker's log go into the run's folder, once."""
    log = logging.getLogger("site_client")
    if not any(isinstance(each, logging.FileHandler) for each in log.handlers):
        handler = logging.FileHandler(folder.log)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
