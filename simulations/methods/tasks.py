"""The tasks of a stream as the baselines see them: all in one process, from the embeddings that the sites use too."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from casam_fed.backbone.model import Backbone
from casam_fed.data.dataset import AnyData, open_dataset
from casam_fed.data.split import check_counts
from casam_fed.host.files import cache_dir
from casam_fed.inference.evaluation import Evaluator
from casam_fed.method.embeddings import EmbeddingStore
from casam_fed.method.task_data import EncodedImage, encode_task
from casam_fed.wire.evaluation_report import RouteReport
from simulations.methods.unseen import unseen_evaluator
from simulations.stream_config import StreamConfig
from site_client.work import shared_backbone

__all__ = ["StreamTask", "StreamTasks"]


@dataclass(frozen=True)
class StreamTask:
    """One task: the training images that have something to segment, and what scores its test images."""

    name: str
    site: str
    images: tuple[EncodedImage, ...]
    evaluator: Evaluator


class StreamTasks:
    """Everything that a baseline learns from and is scored on, read when it is first asked for.

    Args:
        stream: the stream.
        root: where relative data paths start.
        split_of: site name -> the file that keeps its split.
        say: takes sentences about progress.
    """

    def __init__(
        self, stream: StreamConfig, root: Path, split_of: Callable[[str], Path], say: Callable[[str], None]
    ) -> None:
        self.stream, self.root, self._split_of, self._say = stream, root, split_of, say
        self.config = stream.method

    @cached_property
    def backbone(self) -> Backbone:
        """The frozen backbone."""
        torch.set_num_threads(self.config.threads)
        return shared_backbone(self.config.backbone, self.config.device)

    @cached_property
    def store(self) -> EmbeddingStore:
        """The embeddings, those that the sites use."""
        return EmbeddingStore(cache_dir() / "embeddings", self.backbone)

    @cached_property
    def by_name(self) -> dict[str, StreamTask]:
        """The tasks, in the order of the stream.

        Raises:
            DataError, StorageError: as reading and encoding them says.
        """
        return {site.task_name: self._task(site.task_name, site.name, site.data) for site in self.stream.sites}

    @cached_property
    def zero_shot(self) -> dict[str, RouteReport]:
        """The scores of plain SAM on every task."""
        return {name: task.evaluator.through(None) for name, task in self.by_name.items()}

    @cached_property
    def unseen(self) -> dict[str, Evaluator]:
        """What scores the unseen sets."""
        return {
            unseen.name: unseen_evaluator(unseen.data, self.root, self.store, self.config)
            for unseen in self.stream.unseen
        }

    @cached_property
    def unseen_zero_shot(self) -> dict[str, RouteReport]:
        """The scores of plain SAM on every unseen set."""
        return {name: evaluator.through(None) for name, evaluator in self.unseen.items()}

    def _task(self, name: str, site: str, data: AnyData) -> StreamTask:
        self._say(f"reading {name}")
        dataset = open_dataset(data, self.root, self._split_of(site))
        train = encode_task(dataset.reader, dataset.train, self.store, self.config)
        check_counts(train.class_counts(dataset.reader.classes), self.config.min_train_images)
        test = encode_task(dataset.reader, dataset.test, self.store, self.config)
        evaluator = Evaluator(dataset.reader, test, self.store, self.config)
        return StreamTask(name, site, tuple(train.with_targets), evaluator)
