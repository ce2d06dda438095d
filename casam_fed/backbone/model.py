"""The frozen backbone: `embed` and `decode`."""

import contextlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor

from casam_fed.backbone.backbones import Geometry, backbone_card
from casam_fed.backbone.checkpoints import verified_weights
from casam_fed.backbone.decoding import Prompts, decode_pairs
from casam_fed.backbone.preparation import normalise
from casam_fed.backbone.sam_modules import Sam, build_sam
from casam_fed.errors import BackboneError

__all__ = ["Backbone", "choose_device", "load_backbone"]


class Backbone:
    """A SAM that never learns: all weights frozen, always in eval mode (CA-SAM, arXiv 2511.17201, section 3).

    Attributes:
        name: its name among `BACKBONES`.
        digest: SHA-256 that pins its weights.
        geometry: its sizes.
        device: where it computes; on cuda under bfloat16 autocast.
    """

    def __init__(self, name: str, geometry: Geometry, digest: str, sam: Sam, device: torch.device) -> None:
        self.name = name
        self.geometry = geometry
        self.digest = digest
        self.device = device
        self.sam = sam.to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def embed(self, images: Sequence[npt.NDArray[np.uint8]]) -> Tensor:
        """Encode prepared images.

        Args:
            images: B arrays uint8 [h, w, 3], each with its longest side equal to the geometry's `image_size`.

        Returns:
            float32 [B, C, h, w] on the backbone's device.
        """
        size = self.geometry.image_size
        batch = torch.stack([normalise(image, size) for image in images]).to(self.device)
        with self._autocast():
            embeddings: Tensor = self.sam.image_encoder(batch)
        return embeddings.float()

    def decode(self, embeddings: Tensor, prompts: Prompts) -> tuple[Tensor, Tensor]:
        """Decode image/prompt pairs; gradients flow to `embeddings` but never into the backbone.

        Args:
            embeddings: [B, C, h, w].
            prompts: P boxes or points, each naming its row among the B.

        Returns:
            Logits float32 [P, 1, 4h, 4w] and predicted IoU float32 [P, 1].
        """
        with self._autocast():
            logits, predicted_iou = decode_pairs(self.sam, embeddings.to(self.device), prompts.to(self.device))
        return logits.float(), predicted_iou.float()

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if self.device.type == "cuda":
            return torch.autocast("cuda", torch.bfloat16)
        return contextlib.nullcontext()


def choose_device(wish: str = "auto") -> torch.device:
    """Return the device for `wish`: "auto" takes cuda, then mps, then cpu.

    Raises:
        BackboneError: the wished device is unknown or not present.
    """
    counts = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    if wish == "auto":
        return torch.device(next(kind for kind, count in counts.items() if count))
    try:
        device = torch.device(wish)
    except RuntimeError:
        device = None
    if device is None or device.type not in counts:
        raise BackboneError(f"unknown device '{wish}'; choose auto, cuda, mps or cpu")
    if (device.index or 0) >= counts[device.type]:
        raise BackboneError(f"device '{wish}' is not present on this machine; choose auto or cpu")
    return device


def load_backbone(name: str, device: str = "auto") -> Backbone:
    """Load one of `BACKBONES`, its digest checked first.

    Raises:
        BackboneError: unknown name, weights absent, wrong digest, or tensors that do not fit the geometry.
    """
    card = backbone_card(name)
    chosen = choose_device(device)
    path = verified_weights(card)
    sam = build_sam(card.geometry)
    state = {key: tensor.float() for key, tensor in load_file(path).items()}
    try:
        sam.load_state_dict(state)
    except RuntimeError as error:
        raise BackboneError(f"{path} does not hold a {name} SAM; import the official checkpoint again") from error
    return Backbone(name, card.geometry, card.sha256, sam, chosen)
