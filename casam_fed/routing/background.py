"""Background statistics of a backbone: what pooled embeddings look like on images that mean nothing.

The gaussian router standardises every channel with them. They are taken on seeded drawn images once per backbone and
stored beside its weights; a bank carries its own copy, so that everybody scores alike.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from casam_fed.backbone.backbones import backbone_card
from casam_fed.backbone.checkpoints import background_path
from casam_fed.backbone.model import Backbone
from casam_fed.drawn.label_maps import draw
from casam_fed.errors import BackboneError, DataError
from casam_fed.host.files import write_atomically
from casam_fed.routing.gaussian import Background
from casam_fed.routing.pooling import pool

__all__ = ["background_of", "compute_background"]

_SEED = 20251117
_IMAGES = 256


def background_of(backbone: Backbone) -> Background:
    """Return the background statistics of a catalogue backbone, computed on first use and stored beside its weights.

    Raises:
        BackboneError: the stored file is damaged or was made with another backbone.
        StorageError: the file cannot be written.
    """
    path = background_path(backbone_card(backbone.name))
    if not path.exists():
        background = compute_background(backbone, _IMAGES, _SEED)
        tensors = {"mean": background.mean, "std": background.std}
        write_atomically(path, save(tensors, {"backbone": backbone.digest}))
        return background
    return _read(path, backbone)


def compute_background(backbone: Backbone, images: int, seed: int) -> Background:
    """Encode `images` drawn images and return mean and standard deviation of every channel of the pooled embeddings."""
    size = backbone.geometry.image_size
    features = [pool(backbone.embed([draw(seed, index, size).image])).cpu() for index in range(images)]
    return Background.from_features(torch.cat(features))


def _read(path: Path, backbone: Backbone) -> Background:
    mend = f"delete {path} and run again: it is computed anew"
    try:
        with safe_open(path, framework="pt") as file:
            owner = (file.metadata() or {}).get("backbone")
            background = Background(file.get_tensor("mean"), file.get_tensor("std"))
    except (OSError, SafetensorError, DataError) as error:
        raise BackboneError(f"the background statistics are damaged; {mend}") from error
    if owner != backbone.digest:
        raise BackboneError(f"the background statistics belong to another backbone; {mend}")
    return background
