"""Training from stored embeddings against the same loop that encodes every image of every batch anew.

    python tests/benchmarks/bench_training.py [--backbone mini] [--images 24] [--steps 40]

Prints milliseconds per step of both and their ratio, on drawn endoscopy images. The mini SAM has its own weights, any other
backbone random ones of the right shapes, which take as long.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch

from casam_fed.backbone.backbones import BACKBONES, backbone_card
from casam_fed.backbone.model import Backbone, load_backbone
from casam_fed.backbone.preparation import prepare
from casam_fed.backbone.sam_modules import build_sam
from casam_fed.config import MethodConfig
from casam_fed.data.phantoms import PhantomReader
from casam_fed.method.embeddings import EmbeddingStore
from casam_fed.method.task_data import encode_task
from casam_fed.method.training import train_alignment


class EncodingEveryTime(EmbeddingStore):
    """What training would cost without the store: `load` runs the encoder on the images behind the keys."""

    def __init__(self, root: Path, backbone: Backbone, pixels: dict) -> None:
        super().__init__(root, backbone)
        self.pixels = pixels

    def load(self, keys):
        return self.backbone.embed([self.pixels[key] for key in keys]).cpu()


def _backbone(name: str) -> Backbone:
    if name == "mini":
        return load_backbone(name, "cpu")
    geometry = backbone_card(name).geometry
    return Backbone(name, geometry, "0" * 64, build_sam(geometry), torch.device("cpu"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", choices=list(BACKBONES), default="mini")
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    config = MethodConfig(epochs=1, min_steps=options.steps)
    torch.set_num_threads(config.threads)
    backbone = _backbone(options.backbone)
    reader = PhantomReader("endoscopy", options.images, 2, seed=0)
    records = [record for record in reader.records() if record.split == "train"]
    with tempfile.TemporaryDirectory() as folder:
        store = EmbeddingStore(Path(folder), backbone)
        started = time.perf_counter()
        data = encode_task(reader, records, store, config)
        encoding = time.perf_counter() - started
        prepared = [prepare(reader.read(record).image, backbone.geometry.image_size, config.fit) for record in records]
        every_time = EncodingEveryTime(Path(folder), backbone, {image.digest: image.pixels for image in prepared})
        seconds = {}
        for name, source in (("stored", store), ("encoding every time", every_time)):
            started = time.perf_counter()
            train_alignment(backbone, source, data, config, seed=0)
            seconds[name] = (time.perf_counter() - started) / options.steps
    print(f"{options.backbone}, {len(records)} images, {config.threads} threads")
    print(f"{options.steps} steps of {config.batch_size} images")
    print(f"encoding once: {encoding:.2f} s")
    for name, value in seconds.items():
        print(f"{name:>20}: {1000 * value:7.1f} ms per step")
    print(f"ratio: {seconds['encoding every time'] / seconds['stored']:.2f}")


if __name__ == "__main__":
    main()
