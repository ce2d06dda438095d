"""A site's own work, without any network: encode, train, keep a copy of the bank, evaluate.

Everything private (images, embeddings, masks, scores per image, checkpoints) stays below the site's own folder and the
embedding store. What of it may leave is decided elsewhere (site_client.answering, site_client.egress).
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
from casam_fed.bank.card import Card, bucketed, grey_values
from casam_fed.bank.layer_bank import LayerBank
from casam_fed.bank.release import pack
from casam_fed.bank.snapshot import Snapshot
from casam_fed.config import MethodConfig
from casam_fed.data.dataset import Dataset, open_dataset
from casam_fed.data.split import check_counts
from casam_fed.host.files import cache_dir, write_atomically
from casam_fed.inference.evaluation import Evaluator
from casam_fed.inference.segmenter import segmenter_for
from casam_fed.method.embeddings import EmbeddingStore
from casam_fed.method.task_data import TaskData, encode_task
from casam_fed.method.training import Progress, train_alignment
from casam_fed.routing.background import background_of
from casam_fed.routing.pooling import pool
from casam_fed.routing.state import RouterOptions, fit_routers
from casam_fed.wire.exchange import StageReport, Submission
from site_client.site_config import SiteConfig

__all__ = ["SiteWork", "shared_backbone", "versions"]

Say = Callable[[str], None]

T = TypeVar("T")

_IN_CARD = (
    "fit",
    "epochs",
    "min_steps",
    "batch_size",
    "masks_per_image",
    "learning_rate",
    "point_share",
    "box_jitter",
    "folds",
    "folds_by",
    "percentile",
    "vae_sampled",
)
"""Choices of the method that a card tells."""


class SiteWork:
    """One site's private work for one seed.

    Args:
        config: the site.
        method: the method's choices.
        data_root: where relative data paths start.
        folder: where all of it is kept, that of a seed in a folder of its own.
        seed: of training and calibration.
        say: takes sentences about progress; they stay at the site.
    """

    def __init__(
        self, config: SiteConfig, method: MethodConfig, data_root: Path, folder: Path, seed: int, say: Say
    ) -> None:
        self.config, self.method, self.seed, self.say = config, method, seed, say
        self.folder = folder / f"seed-{seed}"
        torch.set_num_threads(method.threads)
        self.backbone = shared_backbone(method.backbone, method.device)
        self.store = EmbeddingStore(cache_dir() / "embeddings", self.backbone)
        self.dataset: Dataset = open_dataset(config.data, data_root, folder / "split.json")

    def train(self) -> Submission:
        """Train alignment layer and routers and put the release into the outbox; one that is there already is kept.

        Raises:
            DataError, TrainingError, StorageError: as their messages say.
        """
        outbox = self.folder / "outbox"
        record = outbox / "submission.json"
        if record.exists():
            return Submission(**json.loads(record.read_text()))
        data, encoding = _timed(self.train_data)
        check_counts(data.class_counts(self.dataset.reader.classes), self.method.min_train_images)
        checkpoint = self.folder / "training.safetensors"
        layer, training = _timed(
            lambda: train_alignment(
                self.backbone, self.store, data, self.method, self.seed, checkpoint, self._say_progress
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
        routers, routing = _timed(lambda: fit_routers(features, data.patients, background, options))
        release = pack(layer.state_dict(), routers, self._card(data))
        submission = Submission(release.digest, {"encode": encoding, "train": training, "route": routing})
        about = {
            "counts": {"train": len(self.dataset.train), "test": len(self.dataset.test)},
            "notes": [*self.dataset.reader.notes, *self.dataset.notes, *data.notes, *routers.notes],
        }
        write_atomically(self.folder / "about.json", json.dumps(about).encode())
        write_atomically(outbox / f"{release.digest}.safetensors", release.data)
        write_atomically(record, json.dumps(asdict(submission)).encode())
        return submission

    def mirror(self, snapshot: Snapshot, objects: Mapping[str, bytes]) -> None:
        """Bring the site's copy of the bank to a snapshot, every object checked against its digest.

        Raises:
            BankError, ReleaseError: an object is not what it claims; the copy stays as it was.
        """
        LayerBank.mirror(self.folder / "bank", snapshot, objects)

    def evaluate(self) -> StageReport:
        """Score the site's test images under its copy of the bank: exact scores, which stay here."""
        started = time.monotonic()
        evaluator, bank = self.evaluator(), LayerBank(self.folder / "bank")
        segmenter = segmenter_for(self.method, self.backbone, bank, self.seed)
        return StageReport(
            zero_shot=evaluator.zero_shot(segmenter),
            oracle=evaluator.oracle(segmenter, self.config.task_name),
            gaussian=evaluator.routed(segmenter.by("gaussian")),
            vae=evaluator.routed(segmenter.by("vae")),
            seconds=time.monotonic() - started,
        )

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
    def evaluator(self) -> Evaluator:
        """Return what scores the test images, which are read and encoded once.

        Raises:
            DataError, StorageError: as `encode_task`.
        """
        data = encode_task(self.dataset.reader, self.dataset.test, self.store, self.method)
        kept = self.folder / "image-scores.json"
        return Evaluator(self.dataset.reader, data, self.store, self.method, kept)

    def _card(self, data: TaskData) -> Card:
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
            hyperparameters={name: options[name] for name in _IN_CARD},
            seed=self.seed,
            intensity=grey_values(self.dataset.reader.intensity),
        )

    def _say_progress(self, progress: Progress) -> None:
        if progress.step % 25 == 0 or progress.step == progress.steps:
            self.say(f"step {progress.step} of {progress.steps}, loss {progress.loss:.3f}")


@functools.cache
def shared_backbone(name: str, device: str) -> Backbone:
    """Return the backbone, loaded once per process: simulated sites share theirs."""
    return load_backbone(name, device)


def versions() -> dict[str, str]:
    """Return the versions of what computes: this project, Python, torch, NumPy and Flower."""
    known = {name: metadata.version(name) for name in ("torch", "numpy", "flwr", "monai", "safetensors")}
    return {"casam-fed": __version__, "python": platform.python_version(), **known}


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    started = time.monotonic()
    result = work()
    return result, time.monotonic() - started
