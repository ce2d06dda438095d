"""How long a site's training will take and how much memory it needs, from a few steps on made-up images."""

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from casam_fed.backbone.decoding import Prompts
from casam_fed.backbone.model import Backbone
from casam_fed.backbone.preparation import prepare
from casam_fed.config import MethodConfig
from casam_fed.method.alignment import AlignmentLayer
from casam_fed.method.fitting import Batch, adam, forward, total_steps

__all__ = ["Forecast", "forecast"]


@dataclass(frozen=True)
class Forecast:
    """Seconds of encoding and training, and the largest memory so far, MB (2**20 bytes) of this process."""

    encode_s: float
    train_s: float
    memory_mb: float


def forecast(backbone: Backbone, config: MethodConfig, train_images: int, all_images: int) -> Forecast:
    """Encode an image and take two steps of training as `config` would, and multiply."""
    square = backbone.geometry.image_size
    image = prepare(np.full((square, square, 3), 127, dtype=np.uint8), square, config.fit)
    _timed(lambda: backbone.embed([image.pixels]))
    encoding = _timed(lambda: backbone.embed([image.pixels]))
    layer = AlignmentLayer(backbone.geometry.channels, config.blocks, config.start, seed=0).to(backbone.device)
    optimizer = adam(layer, config)
    prompts = config.batch_size * config.masks_per_image
    masks = np.zeros((prompts, square, square), dtype=np.bool_)
    masks[:, square // 4 : square // 2, square // 4 : square // 2] = True
    box = torch.tensor([[square / 4, square / 4, square / 2, square / 2]]).repeat(prompts, 1)
    rows = torch.arange(prompts) // config.masks_per_image
    embeddings = backbone.embed([image.pixels]).float().repeat(config.batch_size, 1, 1, 1)
    batch = Batch(embeddings, Prompts(rows, boxes=box), masks, image.frame)

    def step() -> None:
        optimizer.zero_grad()
        forward(backbone, layer, batch)[0].backward()
        optimizer.step()

    _timed(step)
    return Forecast(encoding * all_images, _timed(step) * total_steps(train_images, config), _peak_mb())


def _timed(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def _peak_mb() -> float:
    # Kilobytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
