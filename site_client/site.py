"""A site at work, without any network: encode, train, release, sync, evaluate.

Everything private (images, embeddings, masks, scores per image, checkpoints, overlays) stays below the site's own folder
and the embedding store.
"""

import functools
import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TypeVar

import torch

from casam_fed import __version__
from casam_fed.backbone.model import Backbone, load_backbone
from casam_fed.bank.card import Card, bucketed
from casam_fed.bank.layer_bank import LayerBank
from casam_fed.bank.release import pack
from casam_fed.bank.snapshot import Snapshot
from casam_fed.config import MethodConfig
from casam_fed.data.dataset import Dataset, open_dataset
from casam_fed.data.split import check_counts
from casam_fed.host.files import cache_dir, write_atomically
from casam_fed.inference.evaluation import Evaluator
from casam_fed.inference.metrics import iou
from casam_fed.inference.segmenter import Segmenter, bank_router
from casam_fed.method.embeddings import EmbeddingStore
from casam_fed.method.task_data import TaskData, encode_task
from casam_fed.method.training import Progress, train_alignment
from casam_fed.routing.background import background_of
from casam_fed.routing.pooling import pool
from casam_fed.routing.state import RouterOptions, fit_routers
from casam_fed.wire.evaluation_report import RouteReport
from casam_fed.wire.exchange import Hello, Logs, Receipt, StageReport, Submission, Synced
from site_client.overlays import draw_overlay
from site_client.site_config import SiteConfig

__all__ = ["Site", "shared_backbone", "versions"]

Say = Callable[[str], None]

T = TypeVar("T")

_OVERLAYS = 3


class Site:
    """One site's private work for one seed.

    Args:
        config: the site.
        method: the method's choices.
        data_root: where relative data paths start.
        folder: the site's own folder.
        seed: of training and calibration.
        say: takes sentences about progress; they stay at the site.
    """

    def __init__(
        self, config: SiteConfig, method: MethodConfig, data_root: Path, folder: Path, seed: int, say: Say
    ) -> None:
        self.config, self.method, self.seed, self.say = config, method, seed, say
        self.folder = folder / f"seed-{seed}"
        self.overlay_folder = folder / "overlays"
        torch.set_num_threads(method.threads)
        self.backbone = shared_backbone(method.backbone, method.device)
        self.store = EmbeddingStore(cache_dir() / "embeddings", self.backbone)
        self.dataset: Dataset = open_dataset(config.data, data_root, folder / "split.json")

    def hear(self, logs: Logs, tail: bytes) -> None:
        """Heed nothing: in a simulation nobody keeps a log."""

    def hello(self, _logs: Logs | None = None) -> Hello:
        """Introduce the site."""
        return Hello(
            site=self.config.name,
            task=self.config.task_name,
            backbone_digest=self.backbone.digest,
            config_digest=self.method.digest,
            versions=versions(),
            have=tuple(self._held()),
            outbox=tuple(path.stem for path in sorted(self._outbox.glob("*.safetensors"))),
        )

    def release(self) -> tuple[bytes, Submission]:
        """Train alignment layer and routers and return the release; a release already in the outbox is returned as is.

        Raises:
            DataError, TrainingError, StorageError: as their messages say.
        """
        record = self._outbox / "submission.json"
        if record.exists():
            known = Submission(**json.loads(record.read_text()))
            return (self._outbox / f"{known.digest}.safetensors").read_bytes(), known
        data, encoding = self._timed(self.train_data)
        check_counts(data.class_counts(self.dataset.reader.classes), self.method.min_train_images)
        layer, training = self._timed(
            lambda: train_alignment(
                self.backbone,
                self.store,
                data,
                self.method,
                self.seed,
                self.folder / "training.safetensors",
                self._step,
            )
        )
        background = background_of(self.backbone)
        features = torch.cat([pool(self.store.load([key])) for key in data.keys])
        options = RouterOptions(
            seed=self.seed,
            folds=self.method.folds,
            percentile=self.method.percentile,
            grouped=self.method.folds_by == "patient",
            vae_sampled=self.method.vae_sampled,
        )
        routers, routing = self._timed(lambda: fit_routers(features, data.patients, background, options))
        release = pack(layer.state_dict(), routers, self._card(data))
        seconds = {"encode": encoding, "train": training, "route": routing}
        submission = Submission(release.digest, seconds)
        about = {
            "counts": {"train": len(self.dataset.train), "test": len(self.dataset.test)},
            "notes": [*self.dataset.reader.notes, *self.dataset.notes, *data.notes, *routers.notes],
        }
        write_atomically(self.folder / "about.json", json.dumps(about).encode())
        write_atomically(self._outbox / f"{release.digest}.safetensors", release.data)
        write_atomically(record, json.dumps(asdict(submission)).encode())
        return release.data, submission

    def receive(self, receipt: Receipt, _envelope: bytes = b"") -> None:
        """Keep the aggregator's answer to a release; a simulated one signs nothing."""
        write_atomically(self.folder / "receipts" / f"{receipt.digest}.json", json.dumps(asdict(receipt)).encode())

    def sync(self, snapshot: bytes, objects: Mapping[str, bytes], _logs: Logs | None = None) -> Synced:
        """Bring the site's copy of the bank to a snapshot, every object checked against its digest.

        Raises:
            BankError, ReleaseError: the snapshot or an object is not what it claims; the copy stays as it was.
        """
        bank = LayerBank.mirror(self.folder / "bank", Snapshot.parse(snapshot), objects)
        return Synced(bank.snapshot().digest, tuple(self._held()))

    def evaluate(self, last: bool) -> StageReport:
        """Score the site's test images under its copy of the bank.

        Args:
            last: also report banks with each task left out, and draw overlays (which stay here).
        """
        started = time.monotonic()
        evaluator = self._evaluator()
        bank = LayerBank(self.folder / "bank")
        segmenter, router = Segmenter(self.backbone, bank), bank_router(bank)
        task = self.config.task_name
        without: dict[str, dict[str, RouteReport]] = {}
        if last:
            for left_out in router.tasks:
                without[left_out] = {
                    "gaussian": evaluator.routed(segmenter, router, "gaussian", left_out),
                    "vae": evaluator.routed(segmenter, router, "vae", left_out),
                }
            self._draw_overlays(evaluator, segmenter)
        return StageReport(
            zero_shot=evaluator.zero_shot(segmenter),
            oracle=evaluator.oracle(segmenter, task),
            gaussian=evaluator.routed(segmenter, router, "gaussian"),
            vae=evaluator.routed(segmenter, router, "vae"),
            without=without,
            seconds=time.monotonic() - started,
        )

    @property
    def _outbox(self) -> Path:
        return self.folder / "outbox"

    def _held(self) -> list[str]:
        return [path.stem for path in sorted((self.folder / "bank" / "objects").glob("*.safetensors"))]

    @functools.cache  # noqa: B019 - a site lives as long as its process
    def train_data(self) -> TaskData:
        """Return the training images, encoded; they are read once.

        Raises:
            DataError, StorageError: as `encode_task`.
        """
        records = self.dataset.train
        self.say(f"{len(records)} training images")
        return encode_task(self.dataset.reader, records, self.store, self.method)

    @functools.cache  # noqa: B019 - a site lives as long as its process
    def _evaluator(self) -> Evaluator:
        data = encode_task(self.dataset.reader, self.dataset.test, self.store, self.method)
        cache = self.folder / "image-scores.json"
        return Evaluator(self.dataset.reader, data, self.store, self.method, self.seed, cache)

    def _card(self, data: TaskData) -> Card:
        names = (
            "fit",
            "epochs",
            "min_steps",
            "batch_size",
            "masks_per_image",
            "learning_rate",
            "point_share",
            "box_jitter",
        )
        names += ("folds", "folds_by", "percentile", "vae_sampled")
        options = asdict(self.method)
        return Card(
            site=self.config.name,
            task=self.config.task_name,
            modality=self.config.modality,
            classes=self.dataset.reader.classes,
            unit=self.method.unit,
            images=bucketed(len(data.images)),
            patients=bucketed(len(set(data.patients))),
            backbone=self.backbone.name,
            backbone_digest=self.backbone.digest,
            channels=self.backbone.geometry.channels,
            blocks=self.method.blocks,
            start=self.method.start,
            hyperparameters={name: options[name] for name in names},
            seed=self.seed,
        )

    def _draw_overlays(self, evaluator: Evaluator, segmenter: Segmenter) -> None:
        task = self.config.task_name
        shown = [image for image in evaluator.data.images if image.target_list][:_OVERLAYS]
        for number, image in enumerate(shown):
            picture = self.dataset.reader.read(image.record).image
            truth, zero_shot, ours = evaluator.compare(segmenter, image, task)
            scores = [float(iou(masks, truth).mean()) for masks in (zero_shot, ours)]
            png = draw_overlay(picture, truth, zero_shot, ours, *scores)
            write_atomically(self.overlay_folder / f"{task}-{number + 1}.png", png)

    def _step(self, progress: Progress) -> None:
        if progress.step % 25 == 0 or progress.step == progress.steps:
            self.say(f"step {progress.step} of {progress.steps}, loss {progress.loss:.3f}")

    def _timed(self, work: Callable[[], T]) -> tuple[T, float]:
        started = time.monotonic()
        result = work()
        return result, time.monotonic() - started


@functools.cache
def shared_backbone(name: str, device: str) -> Backbone:
    """Return the backbone, loaded once per process: simulated sites share theirs."""
    return load_backbone(name, device)


def versions() -> dict[str, str]:
    """Return the versions of what computes: this project, Python, torch, NumPy and Flower."""
    known = {name: metadata.version(name) for name in ("torch", "numpy", "flwr", "monai", "safetensors")}
    return {"casam-fed": __version__, "python": platform.python_version(), **known}
