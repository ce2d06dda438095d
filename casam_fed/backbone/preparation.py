"""From a source image to the backbone's square and back.

`pad` is how SAM was trained: longest side scaled to the square, bilinear, the rest padded after normalisation. `stretch` is
what CA-SAM's authors do: both sides scaled to the square by nearest neighbour, ignoring the aspect ratio.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

__all__ = ["PIXEL_MEAN", "PIXEL_STD", "Fit", "Frame", "PreparedImage", "frame_of", "normalise", "prepare"]

Fit = Literal["pad", "stretch"]

# SAM's own constants (Kirillov et al. 2023), RGB in 0..255.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Frame:
    """Where an image lies in the square.

    Attributes:
        source: (H, W) of the image as read, in pixels.
        fitted: (h, w) of the image inside the square, its top left corner at the square's.
        square: side S of the square.
    """

    source: tuple[int, int]
    fitted: tuple[int, int]
    square: int

    def boxes_to_square(self, boxes: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Map boxes [N, 4] of first and last pixels (x0, y0, x1, y1) from the source to the square."""
        scale = self._scale()
        low = boxes[:, :2] * scale
        high = np.maximum((boxes[:, 2:] + 1) * scale - 1, low)
        return np.concatenate([low, high], axis=1).astype(np.float32)

    def points_to_square(self, points: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Map points [N, 2], pixels (x, y) counted from 0, from the source to the square: centre to centre."""
        return ((points + 0.5) * self._scale() - 0.5).astype(np.float32)

    def to_square(self, logits: Tensor) -> Tensor:
        """Upsample low-resolution logits [P, 1, 4h, 4w] bilinearly to the square, [P, S, S]."""
        return F.interpolate(logits.float(), (self.square, self.square), mode="bilinear", align_corners=False)[:, 0]

    def to_source(self, logits: Tensor) -> Tensor:
        """Bring low-resolution logits [P, 1, 4h, 4w] back to the source resolution, [P, H, W]."""
        fitted = self.to_square(logits)[:, None, : self.fitted[0], : self.fitted[1]]
        return F.interpolate(fitted, self.source, mode="bilinear", align_corners=False)[:, 0]

    def _scale(self) -> npt.NDArray[np.float64]:
        return np.array([self.fitted[1] / self.source[1], self.fitted[0] / self.source[0]])


@dataclass(frozen=True)
class PreparedImage:
    """An image scaled for the backbone: `pixels` uint8 [h, w, 3], not yet normalised or padded, and its frame."""

    pixels: npt.NDArray[np.uint8]
    frame: Frame

    @property
    def digest(self) -> str:
        """SHA-256 of the pixels and their shape: equal exactly when the encoder sees the same input."""
        digest = hashlib.sha256(repr((self.pixels.shape, self.frame.square)).encode())
        digest.update(np.ascontiguousarray(self.pixels).data)
        return digest.hexdigest()


def frame_of(source: tuple[int, int], square: int, fit: Fit) -> Frame:
    """Return the frame of a `source` = (H, W) image in a square of side `square`."""
    if fit == "stretch":
        return Frame(source, (square, square), square)
    scale = square / max(source)
    height, width = (max(1, int(side * scale + 0.5)) for side in source)
    return Frame(source, (height, width), square)


def prepare(image: npt.NDArray[np.uint8], square: int, fit: Fit) -> PreparedImage:
    """Scale an image uint8 [H, W, 3] for a backbone with a square input of side `square`."""
    frame = frame_of((image.shape[0], image.shape[1]), square, fit)
    method = Image.Resampling.BILINEAR if fit == "pad" else Image.Resampling.NEAREST
    pixels = image
    if frame.fitted != frame.source:
        pixels = np.asarray(Image.fromarray(image).resize(frame.fitted[::-1], method))
    return PreparedImage(np.ascontiguousarray(pixels), frame)


def normalise(pixels: npt.NDArray[np.uint8], square: int) -> Tensor:
    """Return pixels [h, w, 3] as SAM's encoder wants them: float32 [3, S, S], normalised, then padded with zeros."""
    height, width = pixels.shape[:2]
    values = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)
    mean, std = (torch.tensor(constant).view(3, 1, 1) for constant in (PIXEL_MEAN, PIXEL_STD))
    padded = torch.zeros(3, square, square)
    padded[:, :height, :width] = (values - mean) / std
    return padded
