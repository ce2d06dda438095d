"""What the tests of readers share: a small picture, a disc in it, and the one sentence of a refusal."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from casam_fed.data.sample import Reader
from casam_fed.errors import CasamError, DataError

H, W = 24, 32
COLOUR = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
DISC = np.zeros((H, W), dtype=np.uint8)
DISC[6:18, 8:22] = 255


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def refused(reader: Reader | Callable[[], Reader], kind: type[CasamError] = DataError) -> str:
    """Return what is said when a dataset is opened, listed and read to its end; it must be one sentence with its mend."""

    def read_all() -> None:
        opened = reader() if callable(reader) else reader
        list(map(opened.read, opened.records()))

    with pytest.raises(kind) as caught:
        read_all()
    assert "\n" not in str(caught.value)
    assert "; " in str(caught.value), "an error names its mend"
    return str(caught.value)
