"""segment_anything's modules without torchvision, in the geometry of every backbone we know."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from casam_fed.backbone.backbones import BACKBONES
from casam_fed.backbone.decoding import Prompts, decode_pairs
from casam_fed.backbone.model import Backbone
from casam_fed.backbone.sam_modules import build_sam

OFFICIAL = ["vit_b", "vit_l", "vit_h"]

BUILD = """
from casam_fed.backbone.backbones import Geometry
from casam_fed.backbone.sam_modules import build_sam
sam = build_sam(Geometry(64, 16, 32, 32, 1, 2, 2, (0,), 64, 2, 32))
print(type(sam).__module__, sum(weight.numel() for weight in sam.parameters()) > 0)
"""

# What a torchvision built for another torch has been seen to raise, and what it may.
BROKEN = [
    "raise RuntimeError('operator torchvision::nms does not exist')",
    "raise OSError('libc10_cuda.so: cannot open shared object file')",
    "raise AttributeError(\"partially initialized module 'torchvision' has no attribute 'extension'\")",
]


def run_with(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120, check=False
    )


def torchvision(folder: Path, source: str) -> Path:
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text(source)
    return folder


def test_sam_is_built_where_torchvision_is_missing(tmp_path):
    hidden = torchvision(tmp_path, "raise ModuleNotFoundError(\"No module named 'torchvision'\", name='torchvision')")
    done = run_with(hidden, BUILD)
    assert done.stdout == "segment_anything.modeling.sam True\n", done.stderr


@pytest.mark.parametrize("source", BROKEN)
def test_sam_is_built_where_torchvision_cannot_load(tmp_path, source):
    done = run_with(torchvision(tmp_path, source), BUILD)
    assert done.stdout == "segment_anything.modeling.sam True\n", done.stderr


def test_a_torchvision_that_loads_stays_loaded(tmp_path):
    """Others may have imported it before us."""
    folder = torchvision(tmp_path, "")
    (folder / "torchvision" / "transforms").mkdir()
    (folder / "torchvision" / "transforms" / "__init__.py").write_text("")
    (folder / "torchvision" / "transforms" / "functional.py").write_text("resize = to_pil_image = None")
    (folder / "torchvision" / "ops").mkdir()
    (folder / "torchvision" / "ops" / "__init__.py").write_text("")
    (folder / "torchvision" / "ops" / "boxes.py").write_text("batched_nms = box_area = None")
    done = run_with(folder, BUILD + "import sys, segment_anything\nprint(segment_anything.SamPredictor.__name__)")
    assert done.stdout == "segment_anything.modeling.sam True\nSamPredictor\n", done.stderr


def test_a_missing_segment_anything_is_named_with_the_mend(tmp_path):
    (tmp_path / "hide.py").write_text(
        "import sys\n"
        "class Hide:\n"
        "    def __init__(self, finder):\n"
        "        self.finder = finder\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        return None if name == 'segment_anything' else self.finder.find_spec(name, path, target)\n"
        "sys.meta_path = [Hide(finder) for finder in sys.meta_path]\n"
    )
    done = run_with(tmp_path, "import hide" + BUILD)
    assert "segment-anything is not installed; install casam-fed with its dependencies" in done.stderr


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
