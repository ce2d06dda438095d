"""Experience replay: a buffer of earlier tasks' images, mixed into the batches (Chaudhry et al. 2019, arXiv 1902.10486).

The buffer holds images of other sites, which privacy rules forbid; it is here to be compared with.
"""

from collections.abc import Sequence

import numpy as np

from casam_fed.method.fitting import batch_at
from casam_fed.method.task_data import EncodedImage

__all__ = ["buffer_of", "mixed_batch"]


def buffer_of(earlier: Sequence[Sequence[EncodedImage]], capacity: int, seed: int) -> list[EncodedImage]:
    """Return the buffer after some tasks: at most `capacity` images in all, shared equally among the tasks.

    A task's share only ever shrinks, to the front of an order drawn once, so the buffer needs no memory of its own.
    """
    kept: list[EncodedImage] = []
    for number, images in enumerate(earlier):
        share = capacity // len(earlier) + (number < capacity % len(earlier))
        order = np.random.default_rng((seed, 6, number)).permutation(len(images))
        kept += [images[index] for index in order[:share].tolist()]
    return kept


def mixed_batch(
    images: Sequence[EncodedImage], buffer: Sequence[EncodedImage], step: int, size: int, seed: int
) -> list[EncodedImage]:
    """Return a batch of `size` images of which half, rounded down, come from the buffer; without one, all are new."""
    replayed = min(size // 2, len(buffer))
    new = batch_at(images, step, size - replayed, seed)
    if not replayed:
        return new
    drawn = np.random.default_rng((seed, 7, step)).choice(len(buffer), replayed, replace=False)
    return new + [buffer[index] for index in drawn.tolist()]
