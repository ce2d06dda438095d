"""A bank of two tasks of the mini SAM: pictures of polyps, and volumes that a window turned grey; and their test images."""

from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from casam_fed.backbone.model import Backbone
from casam_fed.bank.card import Card, grey_values
from casam_fed.bank.layer_bank import LayerBank
from casam_fed.bank.release import pack
from casam_fed.config import MethodConfig
from casam_fed.data.phantoms import PhantomReader
from casam_fed.data.sample import Reader, Record
from casam_fed.data.volume import Window
from casam_fed.data.volume_cases import VolumeCase, VolumeReader
from casam_fed.inference.evaluation import Evaluator
from casam_fed.method.embeddings import EmbeddingStore
from casam_fed.method.task_data import TaskData, encode_task
from casam_fed.method.training import train_alignment
from casam_fed.routing.background import background_of
from casam_fed.routing.pooling import pool
from casam_fed.routing.state import RouterOptions, fit_routers
from casam_fed.segmenting.opened import OpenedBank, open_bank

CONFIG = MethodConfig(threads=1, epochs=1, min_steps=4, batch_size=4, masks_per_image=1)

# Voxels run to the left, to the front and obliquely down: planes are flipped, and z is not the patient's height.
TURNED = np.array([[-1.0, 0, 0], [0, np.cos(0.1), np.sin(0.1)], [0, np.sin(0.1), -np.cos(0.1)]])
AFFINE = np.vstack([np.column_stack([TURNED * (1, 1, 2.5), (60, -40, 30)]), (0, 0, 0, 1)])


@dataclass(frozen=True)
class World:
    """A run's folder with its bank, the readers of its tasks, and their encoded test images."""

    run: Path
    store: EmbeddingStore
    readers: dict[str, Reader]
    tests: dict[str, TaskData]

    def evaluator(self, task: str) -> Evaluator:
        return Evaluator(self.readers[task], self.tests[task], self.store, CONFIG)

    def picture(self, folder: Path) -> tuple[Path, Record]:
        """Save the first test image of the polyps as PNG."""
        record = self.tests["polyp"].images[0].record
        path = folder / "polyp.png"
        Image.fromarray(self.readers["polyp"].read(record).image).save(path)
        return path, record


def write_volume(folder: Path, name: str, rng: np.random.Generator) -> VolumeCase:
    """Write a volume of Hounsfield units, [40, 36, 6], with one bright organ on its planes 1 to 4, and its label."""
    i, j, k = np.mgrid[:40, :36, :6]
    organ = ((i - rng.uniform(12, 26)) / 8) ** 2 + ((j - rng.uniform(12, 24)) / 6) ** 2 < 1
    organ &= (k >= 1) & (k <= 4)
    values = np.where(organ, 120, -40) + rng.normal(0, 20, organ.shape)
    values[:2] = 2500  # A table of metal, which percentiles take for white and a window does not.
    paths = []
    for kind, array in (("image", values.astype(np.int16)), ("label", organ.astype(np.uint8))):
        paths.append(folder / kind / f"{name}.nii.gz")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, AFFINE), paths[-1])
    return VolumeCase(name, name, *paths, split="test" if name == "case3" else "train")


def _admit(
    bank: LayerBank, backbone: Backbone, store: EmbeddingStore, task: str, reader: Reader, data: TaskData
) -> None:
    layer = train_alignment(backbone, store, data, CONFIG, 0)
    features = torch.cat([pool(store.load([key])) for key in data.keys])
    routers = fit_routers(features, data.patients, bank.background, RouterOptions(vae_epochs=2))
    card = Card(
        site=f"{task}-clinic",
        task=task,
        modality=task,
        classes=reader.classes,
        unit="class",
        images=10,
        patients=5,
        backbone="mini",
        backbone_digest=backbone.digest,
        channels=128,
        blocks=CONFIG.blocks,
        start=CONFIG.start,
        hyperparameters={"fit": "pad"},
        seed=0,
        intensity=grey_values(reader.intensity),
    )
    bank.admit(pack(layer.state_dict(), routers, card))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, mini_backbone: Backbone) -> World:
    folder = tmp_path_factory.mktemp("world")
    store = EmbeddingStore(folder / "store", mini_backbone)
    run = folder / "run"
    bank = LayerBank.create(run / "seed-0/aggregator/bank", "mini", mini_backbone.digest, background_of(mini_backbone))
    rng = np.random.default_rng(1)
    cases = [write_volume(folder / "ct", f"case{number}", rng) for number in range(4)]
    readers: dict[str, Reader] = {
        "polyp": PhantomReader("endoscopy", 12, 4, seed=1),
        "organ": VolumeReader(cases, {"organ": 1}, Window(-160, 240)),
    }
    tests = {}
    for task, reader in readers.items():
        # One by one, as a user's image is encoded: sums in a batch may differ in their last bits.
        for record in reader.records():
            encode_task(reader, [record], store, CONFIG)
        train, tests[task] = (
            encode_task(reader, [record for record in reader.records() if record.split == split], store, CONFIG)
            for split in ("train", "test")
        )
        _admit(bank, mini_backbone, store, task, reader, train)
    return World(run, store, readers, tests)


@pytest.fixture(scope="session")
def opened(world: World) -> OpenedBank:
    return open_bank(world.run, device="cpu")
