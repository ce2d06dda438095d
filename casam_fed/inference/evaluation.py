"""A site scores its own test images under the bank of one stage; only aggregates come out.

Entries never change, so a later stage can change an image's mask only by changing its route. Scores are therefore kept
per image and layer, and an image is decoded again only when it takes a layer it never took before: the whole stage matrix
costs one pass, not one per stage.
"""

import json
import math
import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from casam_fed.config import MethodConfig
from casam_fed.data.prompts import targets_of, tight_boxes
from casam_fed.data.sample import Reader
from casam_fed.host.files import write_atomically
from casam_fed.inference import metrics
from casam_fed.inference.segmenter import Segmenter, decode_masks
from casam_fed.method.alignment import AlignmentLayer
from casam_fed.method.embeddings import EmbeddingStore
from casam_fed.method.task_data import EncodedImage, TaskData
from casam_fed.routing.pooling import pool
from casam_fed.wire.evaluation_report import METRICS, STRENGTH_EDGES, RouteReport

__all__ = ["Evaluator"]

_IDENTITY = "identity"
"""Stands for "no alignment layer" where a digest names the layer that an image takes."""


class Evaluator:
    """Scores one split of one task under changing banks."""

    def __init__(
        self,
        reader: Reader,
        data: TaskData,
        store: EmbeddingStore,
        config: MethodConfig,
        cache: Path | None = None,
    ) -> None:
        """Pool the stored embeddings and read the kept scores.

        Args:
            reader: reads a sample again when it has to be decoded.
            data: the encoded test images.
            store: holds their embeddings.
            config: unit, and resolution of the scores.
            cache: JSON file that keeps the scores per image and layer between processes; it never leaves the site.
        """
        self.reader, self.data, self.store, self.config = reader, data, store, config
        self.features = torch.cat([pool(store.load([key])) for key in data.keys])
        self._truths: dict[str, tuple[tuple[int, ...], bytes, npt.NDArray[np.float32]]] = {}
        self._cache_path = cache
        self._kept: dict[str, list[float]] = {}
        if cache is not None and cache.exists():
            self._kept = json.loads(cache.read_text())

    def zero_shot(self, segmenter: Segmenter) -> RouteReport:
        """Score plain SAM: every image takes the identity."""
        return self._report(segmenter, [None] * len(self.data.images), ())

    def oracle(self, segmenter: Segmenter, task: str) -> RouteReport:
        """Score with every image sent to `task`, or to the identity while the bank lacks it."""
        taken = task if task in segmenter.tasks else None
        return self._report(segmenter, [taken] * len(self.data.images), ())

    def routed(self, segmenter: Segmenter) -> RouteReport:
        """Score with every image, or every case, routed among the segmenter's tasks by its router."""
        scores = segmenter.scores(self.features)
        if self.config.route_by == "case":
            scores = _mean_of_cases(scores, [image.record.case or image.record.id for image in self.data.images])
        routes = segmenter.routes_of(scores)
        bins = np.digitize([route.strength for route in routes], STRENGTH_EDGES)
        strengths = np.bincount(bins, minlength=len(STRENGTH_EDGES) + 1)
        return self._report(segmenter, [route.task for route in routes], tuple(int(count) for count in strengths))

    def through(self, layer: AlignmentLayer | None) -> RouteReport:
        """Score with every image sent through one layer, on the backbone's device; None for the identity.

        For layers that are not entries of a bank: nothing is kept, and `chosen` is empty.
        """
        rows = [self._score(image, layer) for image in self._scored_images()]
        return RouteReport(len(rows), _means(rows), {}, (), len(rows))

    def _report(self, segmenter: Segmenter, tasks: Sequence[str | None], strengths: tuple[int, ...]) -> RouteReport:
        task_of = dict(zip(self.data.keys, tasks, strict=True))
        rows, decoded = [], 0
        for image in self._scored_images():
            task = task_of[image.key]
            name = f"{image.key}/{_IDENTITY if task is None else segmenter.digests[task]}"
            if name not in self._kept:
                self._kept[name] = self._score(image, None if task is None else segmenter.layer(task))
                decoded += 1
            rows.append(self._kept[name])
        if decoded and self._cache_path is not None:
            write_atomically(self._cache_path, json.dumps(self._kept).encode())
        chosen = Counter("unknown" if task is None else task for task in tasks)
        return RouteReport(len(rows), _means(rows), dict(sorted(chosen.items())), strengths, decoded)

    def _scored_images(self) -> list[EncodedImage]:
        return [image for image in self.data.images if image.record.id not in self.data.empty]

    def _score(self, image: EncodedImage, layer: AlignmentLayer | None) -> list[float]:
        truth, boxes = self.truth(image)
        embedding = self.store.load([image.key])[0]
        predicted = decode_masks(self.store.backbone, layer, embedding, image.frame, boxes, self.config.score_at)
        measures = (metrics.iou, metrics.dice, metrics.boundary_iou, metrics.boundary_iou_casam)
        return [float(measure(predicted, truth).mean()) for measure in measures]

    def compare(
        self, segmenter: Segmenter, image: EncodedImage, task: str
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Return truth, plain SAM's masks and those of `task`'s alignment layer, each bool [N, H, W] at the source."""
        targets = targets_of(self.reader.read(image.record), self.config.unit)
        boxes = tight_boxes(targets)
        embedding = self.store.load([image.key])[0]
        truth = np.stack([targets.mask(index) for index in range(len(targets))])
        plain, ours = (segmenter.masks(embedding, image.frame, boxes, layer) for layer in (None, task))
        return truth, plain, ours

    def truth(self, image: EncodedImage) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
        """Return the true masks bool [N, H, W] (or [N, S, S]) of an image and their tight source boxes [N, 4].

        They are read once and then kept compressed: reading a slice again means opening its volume again.
        """
        if image.record.id not in self._truths:
            masks, boxes = self._read_truth(image)
            self._truths[image.record.id] = masks.shape, zlib.compress(np.packbits(masks).tobytes(), 1), boxes
        shape, packed, boxes = self._truths[image.record.id]
        bits = np.unpackbits(np.frombuffer(zlib.decompress(packed), dtype=np.uint8), count=math.prod(shape))
        return bits.view(np.bool_).reshape(shape), boxes

    def _read_truth(self, image: EncodedImage) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
        targets = targets_of(self.reader.read(image.record), self.config.unit)
        boxes = tight_boxes(targets)
        if self.config.score_at == "square":
            small = image.targets()
            kept = {(target.plane, target.label) for target in small.targets}
            boxes = boxes[[(target.plane, target.label) in kept for target in targets.targets]]
            targets = small
        return np.stack([targets.mask(index) for index in range(len(targets))]), boxes


def _mean_of_cases(scores: Tensor, cases: Sequence[str]) -> Tensor:
    """Return for every image the mean of the scores [B, T] of all images of its case."""
    images: dict[str, list[int]] = defaultdict(list)
    for number, case in enumerate(cases):
        images[case].append(number)
    means = scores.clone()
    for numbers in images.values():
        means[numbers] = scores[numbers].mean(0)
    return means


def _means(rows: Sequence[Sequence[float]]) -> dict[str, float]:
    return dict(zip(METRICS, np.mean(rows, axis=0).tolist(), strict=True))
