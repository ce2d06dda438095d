"""ServerApp and ClientApp of a simulated stream: the deployed handlers, with the stream's YAML in place of enrolment."""

import functools
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from pydantic import TypeAdapter

from aggregator.stages import StreamPlan, run_stream
from casam_fed.bank.layer_bank import LayerBank
from casam_fed.errors import CasamError, ConfigError
from casam_fed.host.files import cache_dir, write_atomically
from casam_fed.method.alignment import AlignmentLayer
from casam_fed.method.embeddings import EmbeddingStore
from casam_fed.routing.background import background_of
from casam_fed.wire.evaluation_report import RouteReport
from simulations.methods.fedavg import add_fedavg, run_fedavg
from simulations.methods.unseen import unseen_reports
from simulations.report import write_casam_report
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
        run = _run_of(context)
        folder = run.folder
        try:
            _METHODS[run.method](grid, run)
        except CasamError as error:
            folder.say(f"stopped: {error}")
            folder.fail(str(error))
            raise

    return app


def make_simulated_client_app() -> ClientApp:
    """Return the ClientApp whose node number is the place of its site in the stream."""
    app = make_client_app(_site_of)
    add_fedavg(app, _site_of)
    return app


@dataclass(frozen=True)
class _Run:
    """What the run configuration asks for; `root` is where relative data paths start."""

    folder: RunFolder
    stream: StreamConfig
    root: Path
    method: str


def _run_casam(grid: Grid, run: _Run) -> None:
    folder, stream = run.folder, run.stream
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
        values["unseen"] = _unseen(run, int(seed))
        last = values["stages"][-1]["reports"]
        values["left_out"] = {site.name: last[site.task_name].pop("without") for site in stream.sites}
    common = {
        "stream": stream.stream,
        "sites": list(plan.sites),
        "tasks": [site.task_name for site in stream.sites],
        "config": method_record(stream),
        "versions": versions(),
        "backbone": {"name": backbone.name, "digest": backbone.digest},
        "peak_rss_mb": None,
    }
    for seed, values in collected.items():
        # `casam sim run` asks for one seed at a time, in its own folder; plain `flwr run` for all of them.
        cell = folder if folder.shared_sites else RunFolder(folder.path / f"seed-{seed}", folder.sites)
        results = {**common, "seeds": {seed: values}, "seconds": {"total": values["seconds"]["total"]}}
        write_atomically(cell.results, json.dumps(results, indent=1).encode())
        cell.gather_overlays([site.name for site in stream.sites])
    if folder.shared_sites is None:
        write_casam_report(folder.path, stream)


def _unseen(run: _Run, seed: int) -> dict[str, Any]:
    """Let the bank of a seed answer on the stream's unseen sets: the researcher's own images, so nothing travels."""
    stream = run.stream
    if not stream.unseen:
        return {}
    torch.set_num_threads(stream.method.threads)
    backbone = shared_backbone(stream.method.backbone, stream.method.device)
    store = EmbeddingStore(cache_dir() / "embeddings", backbone)
    bank = LayerBank(run.folder.path / "banks" / f"seed-{seed}")
    reports = unseen_reports(stream.unseen, run.root, store, stream.method, seed, bank)
    plain: dict[str, Any] = TypeAdapter(dict[str, dict[str, RouteReport]]).dump_python(reports, mode="json")
    return plain


def _run_fedavg(grid: Grid, run: _Run) -> None:
    folder, stream = run.folder, run.stream
    (seed,) = stream.seeds
    backbone = shared_backbone(stream.method.backbone, stream.method.device)
    first = AlignmentLayer(backbone.geometry.channels, stream.method.blocks, stream.method.start, seed=seed)
    sites = [site.name for site in stream.sites]
    result = run_fedavg(grid, sites, first, seed, stream.baselines.fedavg_rounds, folder.say)
    write_atomically(folder.path / "layer.safetensors", result.layer)
    write_atomically(folder.results, result.as_json())


_METHODS: dict[str, Callable[[Grid, _Run], None]] = {"casam": _run_casam, "fedavg": _run_fedavg}


def _run_of(context: Context) -> _Run:
    values = {key: str(value) for key, value in context.run_config.items()}
    for key in ("stream", "out"):
        if not Path(values[key]).is_absolute():
            raise ConfigError(f"run-config '{key}' is '{values[key]}'; give an absolute path, e.g. {key}=\"/runs/one\"")
    if values["method"] not in _METHODS:
        raise ConfigError(f"run-config 'method' is '{values['method']}'; give one of {', '.join(_METHODS)}")
    path = Path(values["stream"])
    return _Run(
        folder=_folder_of(values["out"], values["sites"]),
        stream=read_stream(path, json.loads(values["overrides"] or "{}")),
        root=_root_of(path, values["data"]),
        method=values["method"],
    )


def _folder_of(out: str, sites: str) -> RunFolder:
    return RunFolder(Path(out), Path(sites) if sites else None)


def _root_of(stream: Path, data: str) -> Path:
    return Path(data) if data else stream.parent


def _site_of(context: Context, seed: int) -> Site:
    where = (str(context.run_config[key]) for key in ("stream", "out", "sites", "overrides", "data"))
    return _site(*where, int(context.node_config["partition-id"]), seed)


@functools.cache
def _site(stream_path: str, out: str, sites: str, overrides: str, data: str, number: int, seed: int) -> Site:
    """Return a site; Ray's actors are reused, so a process keeps each site it has met."""
    stream = read_stream(Path(stream_path), json.loads(overrides or "{}"))
    config = stream.sites[number]
    folder = _folder_of(out, sites)
    log = logging.FileHandler(folder.site_log(config.name))
    log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger("site_client").addHandler(log)
    root = _root_of(Path(stream_path), data)
    return Site(
        config, stream.method, root, folder.site(config.name), seed, lambda text: folder.say(f"{config.name}: {text}")
    )
