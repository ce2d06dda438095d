"""Training one task from stored embeddings."""

import dataclasses
import signal
import subprocess
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from casam_fed.backbone.model import Backbone
from casam_fed.config import MethodConfig
from casam_fed.data.folder import open_folder
from casam_fed.errors import TrainingError
from casam_fed.method.embeddings import EmbeddingStore
from casam_fed.method.fitting import total_steps
from casam_fed.method.task_data import TaskData, encode_task
from casam_fed.method.training import Progress, train_alignment

CONFIG = MethodConfig(epochs=1, min_steps=12, batch_size=4, masks_per_image=2, threads=1)
LONGER = MethodConfig(epochs=1, min_steps=70, batch_size=2, masks_per_image=1)


@pytest.fixture
def store(tiny_backbone: Backbone, tmp_path: Path) -> EmbeddingStore:
    return EmbeddingStore(tmp_path / "store", tiny_backbone)


@pytest.fixture
def data(blobs: Path, store: EmbeddingStore) -> TaskData:
    reader = open_folder(blobs, ["disc"], "instances")
    return encode_task(reader, [record for record in reader.records() if record.split == "train"], store, CONFIG)


def test_training_learns_what_plain_sam_does_not_know(mini_backbone, tmp_path, blobs):
    """One box around both discs: plain SAM cannot know that the space between them is background."""
    config = dataclasses.replace(CONFIG, min_steps=15, point_share=0.0)
    store = EmbeddingStore(tmp_path / "store", mini_backbone)
    reader = open_folder(blobs, ["disc"], "instances")
    data = encode_task(reader, [record for record in reader.records() if record.split == "train"], store, config)
    losses: list[float] = []
    train_alignment(mini_backbone, store, data, config, 0, report=lambda progress: losses.append(progress.loss))
    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:5])


@pytest.mark.parametrize("start", ["identity", "paper"])
@pytest.mark.parametrize("unit", ["class", "instance"])
def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(tiny_backbone, store, blobs, start, unit):
    config = dataclasses.replace(CONFIG, start=start, unit=unit, min_steps=5)
    reader = open_folder(blobs, ["disc"], "instances")
    data = encode_task(reader, reader.records(), store, config)
    first, again, other = (train_alignment(tiny_backbone, store, data, config, seed) for seed in (3, 3, 4))
    assert _equal(first, again)
    assert not _equal(first, other)


def test_training_never_runs_the_encoder_and_never_changes_the_backbone(tiny_backbone, store, data):
    def refuse(*_: object) -> None:
        raise AssertionError("the encoder ran during training")

    before = {name: tensor.clone() for name, tensor in tiny_backbone.sam.state_dict().items()}
    hook = tiny_backbone.sam.image_encoder.register_forward_pre_hook(refuse)
    try:
        train_alignment(tiny_backbone, store, data, CONFIG, 0)
    finally:
        hook.remove()
    after = tiny_backbone.sam.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_small_sites_get_a_minimum_of_steps_and_large_ones_their_epochs():
    config = dataclasses.replace(CONFIG, epochs=24, min_steps=400, batch_size=6)
    assert total_steps(6, config) == 400
    assert total_steps(600, config) == 2400


def test_a_killed_training_goes_on_to_the_same_bits(tiny_backbone, store, tmp_path, blobs):
    reader = open_folder(blobs, ["disc"], "instances")
    data = encode_task(reader, reader.records(), store, LONGER)
    whole = train_alignment(tiny_backbone, store, data, LONGER, 0)
    _killed(tmp_path, blobs, at=55)
    path, seen = tmp_path / "checkpoint", []
    assert path.exists()
    resumed = train_alignment(tiny_backbone, store, data, LONGER, 0, path, lambda progress: seen.append(progress.step))
    assert _equal(resumed, whole)
    assert seen == list(range(51, 71))
    assert not path.exists()


def test_a_checkpoint_of_another_training_is_refused_and_kept(tiny_backbone, store, data, tmp_path):
    path = _interrupted(tiny_backbone, store, data, tmp_path)
    kept = path.read_bytes()
    with pytest.raises(TrainingError, match="other data, options or seed"):
        train_alignment(tiny_backbone, store, data, dataclasses.replace(CONFIG, min_steps=60), 1, path)
    assert path.read_bytes() == kept


def test_a_damaged_checkpoint_is_refused(tiny_backbone, store, data, tmp_path):
    path = _interrupted(tiny_backbone, store, data, tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(TrainingError, match="damaged; delete it"):
        train_alignment(tiny_backbone, store, data, dataclasses.replace(CONFIG, min_steps=60), 0, path)


def test_a_loss_that_is_not_finite_stops_with_the_reason(tiny_backbone, store, data):
    config = dataclasses.replace(CONFIG, learning_rate=1e30)
    with pytest.raises(TrainingError, match=r"the loss is .* at step \d+ of 12; lower learning_rate"):
        train_alignment(tiny_backbone, store, data, config, 0)


def test_images_without_targets_are_counted_and_not_trained_on(tiny_backbone, store, blobs):
    mask = next((blobs / "train" / "masks").glob("*.png"))
    from PIL import Image

    Image.fromarray(np.zeros((48, 64), dtype=np.uint8)).save(mask)
    reader = open_folder(blobs, ["disc"], "instances")
    data = encode_task(reader, [record for record in reader.records() if record.split == "train"], store, CONFIG)
    assert data.empty == (f"train/{mask.stem}",)
    assert len(data.images) == 8
    assert len(data.with_targets) == 7
    assert data.class_counts(["disc"]) == {"disc": 7}
    assert any("1 of 8 images have an empty mask" in note for note in data.notes)


def _interrupted(backbone: Backbone, store: EmbeddingStore, data: TaskData, folder: Path) -> Path:
    """Stop a training at step 55 and return its checkpoint, made at step 50."""

    class StopError(Exception):
        pass

    def report(progress: Progress) -> None:
        if progress.step == 55:
            raise StopError

    path = folder / "checkpoint"
    with pytest.raises(StopError):
        train_alignment(backbone, store, data, dataclasses.replace(CONFIG, min_steps=60), 0, path, report)
    return path


def _equal(left: torch.nn.Module, right: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left.state_dict().values(), right.state_dict().values(), strict=True))


def _killed(folder: Path, blobs: Path, at: int) -> None:
    """Train in a process of its own, which kills itself at a step."""
    script = textwrap.dedent(f"""
        import os, signal, torch
        from pathlib import Path
        from casam_fed.backbone.backbones import Geometry
        from casam_fed.backbone.model import Backbone
        from casam_fed.backbone.sam_modules import build_sam
        from casam_fed.config import MethodConfig
        from casam_fed.data.folder import open_folder
        from casam_fed.method.embeddings import EmbeddingStore
        from casam_fed.method.task_data import encode_task
        from casam_fed.method.training import train_alignment

        torch.set_num_threads(1)
        torch.manual_seed(0)
        geometry = Geometry(64, 16, 32, 32, 2, 2, 2, (1,), 64, 2, 32)
        backbone = Backbone("tiny", geometry, "a" * 64, build_sam(geometry), torch.device("cpu"))
        config = MethodConfig(**{asdict(LONGER)!r})
        folder = Path({str(folder)!r})
        store = EmbeddingStore(folder / "store", backbone)
        reader = open_folder(Path({str(blobs)!r}), ["disc"], "instances")
        data = encode_task(reader, reader.records(), store, config)

        def report(progress):
            if progress.step == {at}:
                os.kill(os.getpid(), signal.SIGKILL)

        train_alignment(backbone, store, data, config, 0, folder / "checkpoint", report)
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
