"""One task's images as training and evaluation see them: embedding keys, targets at the square, patients."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from casam_fed.backbone.preparation import Frame, PreparedImage, prepare
from casam_fed.config import MethodConfig
from casam_fed.data.prompts import Target, TargetMap, drop_vanished, resize_labels, targets_of
from casam_fed.data.sample import Reader, Record
from casam_fed.errors import DataError
from casam_fed.method.embeddings import EmbeddingStore

__all__ = ["EncodedImage", "TaskData", "encode_task"]


@dataclass(frozen=True)
class EncodedImage:
    """One image whose embedding is in the store.

    `key` finds the embedding; `record` reads the sample again; the targets, at the backbone's square, are kept compressed
    because a label map is thousands of times larger than what it says.
    """

    record: Record
    key: str
    frame: Frame
    target_list: tuple[Target, ...]
    _shape: tuple[int, ...]
    _packed: bytes = field(repr=False)

    def targets(self) -> TargetMap:
        """Return the targets at the square: labels int32 [K, S, S], zero in the padding."""
        labels = np.frombuffer(zlib.decompress(self._packed), dtype=np.int32).reshape(self._shape)
        return TargetMap(labels, self.target_list)


@dataclass(frozen=True)
class TaskData:
    """The encoded images of one split of one task, in the order of their records.

    `empty` lists the ids of images without any target: they are counted, and used for routing but not for training.
    """

    images: tuple[EncodedImage, ...]
    empty: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def keys(self) -> list[str]:
        """Embedding keys of all images."""
        return [image.key for image in self.images]

    @property
    def patients(self) -> list[str]:
        """Patient of every image."""
        return [image.record.patient for image in self.images]

    @property
    def with_targets(self) -> list[EncodedImage]:
        """The images that have something to segment."""
        return [image for image in self.images if image.target_list]

    def class_counts(self, classes: Sequence[str]) -> dict[str, int]:
        """Return, for every class, the number of images in which it has a target."""
        present = [{target.class_name for target in image.target_list} for image in self.images]
        return {name: sum(name in found for found in present) for name in classes}


def encode_task(reader: Reader, records: Sequence[Record], store: EmbeddingStore, config: MethodConfig) -> TaskData:
    """Read every sample once, make sure its embedding is stored, and keep its targets.

    Raises:
        DataError: a sample cannot be read, or no image has anything to segment.
        StorageError: the store cannot be written.
    """
    pending: list[tuple[Record, Frame, TargetMap]] = []

    def samples() -> Iterator[PreparedImage]:
        for record in records:
            sample = reader.read(record)
            prepared = prepare(sample.image, store.backbone.geometry.image_size, config.fit)
            pending.append((record, prepared.frame, _at_square(targets_of(sample, config.unit), prepared.frame)))
            yield prepared

    keys = store.add(samples())
    images = tuple(
        EncodedImage(record, key, frame, targets.targets, targets.labels.shape, _pack(targets))
        for key, (record, frame, targets) in zip(keys, pending, strict=True)
    )
    empty = tuple(image.record.id for image in images if not image.target_list)
    if len(empty) == len(images):
        raise DataError("no image has any foreground; check the masks and the kind of labels")
    notes = []
    if empty:
        notes.append(f"{len(empty)} of {len(images)} images have an empty mask; they take no part in training")
    if dropped := sum(targets.dropped for _, _, targets in pending):
        notes.append(f"{dropped} targets are smaller than a pixel of the backbone's square; they are not trained on")
    return TaskData(images, empty, tuple(notes))


def _pack(targets: TargetMap) -> bytes:
    return zlib.compress(np.ascontiguousarray(targets.labels).tobytes(), 1)


def _at_square(targets: TargetMap, frame: Frame) -> TargetMap:
    fitted = drop_vanished(resize_labels(targets, frame.fitted))
    labels = np.zeros((fitted.labels.shape[0], frame.square, frame.square), dtype=np.int32)
    labels[:, : frame.fitted[0], : frame.fitted[1]] = fitted.labels
    return replace(fitted, labels=labels)
