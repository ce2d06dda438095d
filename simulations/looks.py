"""What only a researcher may see of a simulated site. No hospital is ever asked for it: it is read where it lies.

The worker that stands for a site has its test images at hand, so the look is taken there, and written into the run's
folder; nothing of it travels.
"""

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from casam_fed.bank.layer_bank import LayerBank
from casam_fed.host.files import cache_dir, write_atomically
from casam_fed.inference.evaluation import Evaluator
from casam_fed.inference.metrics import iou
from casam_fed.inference.segmenter import Segmenter, segmenter_for
from casam_fed.method.embeddings import EmbeddingStore
from casam_fed.wire.evaluation_report import RouteReport
from simulations.methods.unseen import unseen_reports
from simulations.overlays import draw_overlay
from simulations.run_folder import RunFolder
from simulations.stream_run import StreamRun
from site_client.work import SiteWork, shared_backbone

__all__ = ["look_at_unseen", "take_look"]

_OVERLAYS = 3


def take_look(folder: RunFolder, work: SiteWork) -> None:
    """Write what only a researcher may see of a site under its copy of the bank.

    `left_out` maps every task of the bank, and then either router, to the report of a bank without that task; beside it the
    site's counts of images, its notes about its data, and the device it computes on. Overlays go into the run's folder.
    """
    evaluator, bank = work.evaluator(), LayerBank(work.folder / "bank")
    segmenter = segmenter_for(work.method, work.backbone, bank, work.seed)
    gaussian, vae = segmenter.by("gaussian"), segmenter.by("vae")
    left_out = {
        task: {
            "gaussian": evaluator.routed(gaussian.without(task)),
            "vae": evaluator.routed(vae.without(task)),
        }
        for task in segmenter.tasks
    }
    about = json.loads((work.folder / "about.json").read_text())
    look = {**about, "device": str(work.backbone.device), "left_out": _plain(left_out)}
    _draw_overlays(folder, work, evaluator, segmenter)
    write_atomically(folder.seed(work.seed).look(work.config.name), json.dumps(look).encode())


def _draw_overlays(folder: RunFolder, work: SiteWork, evaluator: Evaluator, segmenter: Segmenter) -> None:
    task = work.config.task_name
    shown = [image for image in evaluator.data.images if image.target_list][:_OVERLAYS]
    for number, image in enumerate(shown):
        picture = work.dataset.reader.read(image.record).image
        truth, zero_shot, ours = evaluator.compare(segmenter, image, task)
        scores = [float(iou(masks, truth).mean()) for masks in (zero_shot, ours)]
        png = draw_overlay(picture, truth, zero_shot, ours, *scores)
        write_atomically(folder.overlays / f"{task}-{number + 1}.png", png)


def look_at_unseen(run: StreamRun, bank: Path, seed: int) -> dict[str, Any]:
    """Return, JSON-compatible, what a bank makes of the stream's unseen sets: the researcher's own images.

    Raises:
        DataError, StorageError, BankError: as reading and encoding the images, and the bank, say.
    """
    if not run.stream.unseen:
        return {}
    method = run.stream.method
    torch.set_num_threads(method.threads)
    store = EmbeddingStore(cache_dir() / "embeddings", shared_backbone(method.backbone, method.device))
    return _plain(unseen_reports(run.stream.unseen, run.root, store, method, seed, LayerBank(bank)))


def _plain(reports: dict[str, dict[str, RouteReport]]) -> dict[str, Any]:
    plain: dict[str, Any] = TypeAdapter(dict[str, dict[str, RouteReport]]).dump_python(reports, mode="json")
    return plain
