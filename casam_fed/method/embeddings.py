"""Every image encoded once: the encoder's outputs on disk, shared by training, calibration and evaluation.

The encoder is frozen, so its output is a pure function of the prepared image and the backbone. One safetensors file per
image, half precision, memory-mapped when read, addressed by what it was computed from:
`<store>/<backbone digest>/<first two digits>/<digest of the prepared image>.safetensors`.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from casam_fed.backbone.model import Backbone
from casam_fed.backbone.preparation import PreparedImage
from casam_fed.errors import StorageError
from casam_fed.host.files import sha256_bytes, write_atomically

__all__ = ["EmbeddingStore", "as_stored"]


def as_stored(embeddings: Tensor) -> Tensor:
    """Return the encoder's output in half precision on the CPU, as all that learns and routes sees it."""
    return embeddings.half().cpu()


class EmbeddingStore:
    """Embeddings of one backbone, fp16 [C, h, w] each.

    A file that is truncated, altered or made for something else is recognised by its header and its payload's digest and
    is computed anew, never used. `encoded` counts the images that this object had to encode.
    """

    def __init__(self, root: Path, backbone: Backbone) -> None:
        self.root = root / backbone.digest
        self.backbone = backbone
        self.encoded = 0
        self._verified: set[str] = set()

    def add(self, images: Iterable[PreparedImage], batch: int = 8) -> list[str]:
        """Make sure that all images are stored and return their keys, in order.

        Args:
            images: prepared images; consumed lazily, never more than `batch` of those to encode held at a time.
            batch: images encoded together.

        Raises:
            StorageError: the disk is full or cannot be written.
        """
        keys: list[str] = []
        waiting: dict[str, PreparedImage] = {}
        for image in images:
            key = image.digest
            keys.append(key)
            if key not in self._verified and self._read(key) is None:
                waiting[key] = image
            if len(waiting) == batch:
                self._encode(waiting)
                waiting = {}
        self._encode(waiting)
        return keys

    def load(self, keys: Sequence[str]) -> Tensor:
        """Return the embeddings of `keys`, float32 [B, C, h, w] on the CPU.

        Raises:
            StorageError: the file of a key is not there, or has been damaged since.
        """
        rows = []
        for key in keys:
            embedding = self._read(key)
            if embedding is None:
                raise StorageError(f"{self._path(key)} is gone or damaged; run again: it is encoded anew")
            rows.append(embedding)
        return torch.stack(rows).float()

    def _encode(self, waiting: dict[str, PreparedImage]) -> None:
        if not waiting:
            return
        embeddings = as_stored(self.backbone.embed([image.pixels for image in waiting.values()]))
        for key, embedding in zip(waiting, embeddings, strict=True):
            record = {"key": key, "backbone": self.backbone.digest, "sha256": _payload_digest(embedding)}
            data = save({"embedding": embedding.contiguous()}, {"record": json.dumps(record, sort_keys=True)})
            write_atomically(self._path(key), data, private=True)
            self.encoded += 1
            self._verified.add(key)

    def _read(self, key: str) -> Tensor | None:
        """Return the embedding of `key`, or None where its file is not what it claims to be; digested once per object."""
        geometry = self.backbone.geometry
        try:
            with safe_open(self._path(key), framework="pt") as file:
                record = json.loads((file.metadata() or {}).get("record", "null"))
                embedding: Tensor = file.get_tensor("embedding")
        except (OSError, SafetensorError, ValueError):
            return None
        if key in self._verified:
            return embedding
        shape = (geometry.channels, geometry.grid, geometry.grid)
        if tuple(embedding.shape) != shape or embedding.dtype != torch.float16:
            return None
        if record != {"key": key, "backbone": self.backbone.digest, "sha256": _payload_digest(embedding)}:
            return None
        self._verified.add(key)
        return embedding

    def _path(self, key: str) -> Path:
        return self.root / key[:2] / f"{key}.safetensors"


def _payload_digest(embedding: Tensor) -> str:
    return sha256_bytes(embedding.contiguous().numpy().data)
