"""segment_anything's modules without torchvision, in the geometry of every backbone we know."""

import dataclasses
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import casam_fed.backbone.sam_modules
from casam_fed.backbone.backbones import BACKBONES, Geometry
from casam_fed.backbone.decoding import Prompts, decode_pairs
from casam_fed.backbone.model import Backbone
from casam_fed.backbone.sam_modules import Sam, build_sam
from casam_fed.errors import BackboneError

OFFICIAL = ["vit_b", "vit_l", "vit_h"]

# What a torchvision built for another torch has been seen to raise, and what it may.
BROKEN = [
    "raise ModuleNotFoundError(\"No module named 'torchvision'\", name='torchvision')",
    "raise RuntimeError('operator torchvision::nms does not exist')",
    "raise OSError('libc10_cuda.so: cannot open shared object file')",
    "raise AttributeError(\"partially initialized module 'torchvision' has no attribute 'extension'\")",
]


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Sam]]:
    """Return a function that builds a tiny SAM as in a process that has imported neither library, from `tmp_path` first."""
    ours = "casam_fed.backbone.sam_modules"
    owned = [name for name in sys.modules if name.split(".")[0] in ("segment_anything", "torchvision") or name == ours]
    before = {name: sys.modules.pop(name) for name in owned}
    monkeypatch.syspath_prepend(tmp_path)

    def build() -> Sam:
        return importlib.import_module(ours).build_sam(Geometry(64, 16, 32, 32, 1, 2, 2, (0,), 64, 2, 32))

    yield build
    for name in [name for name in sys.modules if name.split(".")[0] in ("segment_anything", "torchvision")]:
        del sys.modules[name]
    sys.modules.update(before)
    casam_fed.backbone.sam_modules = before[ours]


def torchvision(folder: Path, source: str) -> Path:
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text(source)
    return folder


@pytest.mark.parametrize("source", BROKEN)
def test_sam_is_built_where_torchvision_is_missing_or_cannot_load(fresh, tmp_path, source):
    torchvision(tmp_path, source)
    assert sum(weight.numel() for weight in fresh().parameters()) > 0
    assert "torchvision" not in sys.modules
    assert not hasattr(sys.modules["segment_anything"], "SamPredictor")


def test_a_torchvision_that_loads_stays_loaded(fresh, tmp_path):
    """Others may have imported it before us."""
    folder = torchvision(tmp_path, "")
    (folder / "torchvision" / "transforms").mkdir()
    (folder / "torchvision" / "transforms" / "__init__.py").write_text("")
    (folder / "torchvision" / "transforms" / "functional.py").write_text("resize = to_pil_image = None")
    (folder / "torchvision" / "ops").mkdir()
    (folder / "torchvision" / "ops" / "__init__.py").write_text("")
    (folder / "torchvision" / "ops" / "boxes.py").write_text("batched_nms = box_area = None")
    assert sum(weight.numel() for weight in fresh().parameters()) > 0
    assert sys.modules["torchvision"].__file__ == str(folder / "torchvision" / "__init__.py")
    assert sys.modules["segment_anything"].SamPredictor


class Hide:
    """Finds what another finder does, except segment_anything."""

    def __init__(self, finder) -> None:
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name == "segment_anything" else self.finder.find_spec(name, path, target)


def test_a_missing_segment_anything_is_named_with_the_mend(fresh, monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [Hide(finder) for finder in sys.meta_path])
    with pytest.raises(
        BackboneError, match="segment-anything is not installed; install casam-fed with its dependencies"
    ):
        fresh()


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_backbones_have_the_tensors_of_segment_anythings_own_registry(name):
    """So the official .pth files fit: same names, same shapes."""
    import segment_anything.build_sam as theirs

    with torch.device("meta"):
        ours = build_sam(BACKBONES[name].geometry).state_dict()
        expected = theirs.sam_model_registry[name]().state_dict()
    assert {key: tensor.shape for key, tensor in ours.items()} == {key: t.shape for key, t in expected.items()}


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_backbones_return_the_shapes_that_their_geometry_promises(name):
    """A whole forward pass on the meta device: shapes without arithmetic."""
    geometry = BACKBONES[name].geometry
    with torch.device("meta"):
        sam = build_sam(geometry).eval()
        embeddings = sam.image_encoder(torch.zeros(2, 3, geometry.image_size, geometry.image_size))
        prompts = Prompts(torch.zeros(5, dtype=torch.int64), boxes=torch.zeros(5, 4))
        logits, predicted_iou = decode_pairs(sam, embeddings, prompts)
    assert embeddings.shape == (2, geometry.channels, geometry.grid, geometry.grid) == (2, 256, 64, 64)
    assert logits.shape == (5, 1, geometry.mask_size, geometry.mask_size) == (5, 1, 256, 256)
    assert predicted_iou.shape == (5, 1)


def test_the_mini_sam_is_as_small_as_promised():
    with torch.device("meta"):
        sam = build_sam(BACKBONES["mini"].geometry)
    assert 3.7e6 < sum(weight.numel() for weight in sam.parameters()) < 4.0e6


def test_vit_b_embeds_and_decodes_with_random_weights():
    """All of ViT-B's blocks on a 256 px square: at 1024 px one image takes 24 CPU seconds and 3 GB."""
    geometry = dataclasses.replace(BACKBONES["vit_b"].geometry, image_size=256)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = Backbone("vit_b", geometry, "0" * 64, build_sam(geometry), torch.device("cpu"))
    image = np.random.default_rng(0).integers(0, 256, (175, 256, 3), dtype=np.uint8)
    embeddings = backbone.embed([image])
    assert embeddings.shape == (1, 256, 16, 16)
    logits, _ = backbone.decode(embeddings, Prompts(torch.tensor([0]), boxes=torch.tensor([[10.0, 20, 200, 150]])))
    assert logits.shape == (1, 1, 64, 64)
    assert torch.isfinite(logits).all()
    assert logits.std() > 0
