"""Background statistics: computed once per backbone, and used only for that one."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from casam_fed.backbone.backbones import BACKBONES, BackboneCard
from casam_fed.backbone.checkpoints import background_path, weights_path
from casam_fed.backbone.model import Backbone
from casam_fed.drawn.label_maps import draw
from casam_fed.errors import BackboneError
from casam_fed.routing.background import background_of, compute_background
from casam_fed.routing.pooling import pool


@pytest.fixture
def card(tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BackboneCard:
    monkeypatch.setenv("CASAM_CACHE", str(tmp_path))
    pinned = BackboneCard("tiny", tiny_backbone.geometry, tiny_backbone.digest, "http://127.0.0.1:9/", 1)
    monkeypatch.setitem(BACKBONES, "tiny", pinned)
    return pinned


@pytest.fixture
def stored(card: BackboneCard, tiny_backbone: Backbone) -> Path:
    """A whole file, with numbers of our own."""
    path = background_path(card)
    path.parent.mkdir(parents=True)
    numbers = {"mean": torch.full((32,), 0.25).double(), "std": torch.full((32,), 2.0).double()}
    save_file(numbers, path, {"backbone": tiny_backbone.digest})
    return path


def test_they_are_mean_and_deviation_of_pooled_drawn_images(tiny_backbone):
    background = compute_background(tiny_backbone, images=10, seed=4)
    features = torch.cat([pool(tiny_backbone.embed([draw(4, index, 64).image])) for index in range(10)]).double()
    torch.testing.assert_close(background.mean.double(), features.mean(0))
    torch.testing.assert_close(background.std.double(), features.std(0, unbiased=False), rtol=0.06, atol=1e-6)


def test_they_are_computed_on_first_use_and_kept_beside_the_weights(card, tiny_backbone, monkeypatch):
    monkeypatch.setattr("casam_fed.routing.background._IMAGES", 12)
    first = background_of(tiny_backbone)
    assert background_path(card).parent == weights_path(card).parent
    assert torch.equal(load_file(background_path(card))["mean"], first.mean)
    assert first.mean.shape == first.std.shape == (32,)
    assert (first.std > 0).all()


def test_they_are_read_where_they_are_there(stored, tiny_backbone):
    assert (background_of(tiny_backbone).mean == 0.25).all()
    assert (background_of(tiny_backbone).std == 2).all()


def test_those_of_another_backbone_are_refused(stored, tiny_backbone):
    other = Backbone("tiny", tiny_backbone.geometry, "b" * 64, tiny_backbone.sam, tiny_backbone.device)
    with pytest.raises(BackboneError, match=r"belong to another backbone; delete .* and run again"):
        background_of(other)


@pytest.mark.parametrize("damage", [lambda _: b"", lambda _: b"no safetensors at all", lambda data: data[:-1]])
def test_a_damaged_file_is_refused_with_the_mend(stored, tiny_backbone, damage):
    stored.write_bytes(damage(stored.read_bytes()))
    with pytest.raises(BackboneError, match=r"background statistics are damaged; delete .* it is computed anew"):
        background_of(tiny_backbone)


@pytest.mark.parametrize(
    "tensors",
    [
        {"median": torch.zeros(32)},
        {"mean": torch.zeros(32), "std": torch.ones(32)},
        {"mean": torch.zeros(32).double(), "std": torch.zeros(32).double()},
        {"mean": torch.full((32,), torch.nan).double(), "std": torch.ones(32).double()},
        {"mean": torch.zeros(2, 16).double(), "std": torch.ones(2, 16).double()},
        {"mean": torch.zeros(32).double(), "std": torch.ones(31).double()},
        {"mean": torch.zeros(0).double(), "std": torch.ones(0).double()},
    ],
)
def test_a_file_with_other_tensors_is_refused(stored, tiny_backbone, tensors):
    save_file(tensors, stored, {"backbone": tiny_backbone.digest})
    with pytest.raises(BackboneError, match="damaged"):
        background_of(tiny_backbone)


def test_a_backbone_that_is_not_in_the_catalogue_has_no_place_for_them(tiny_backbone):
    unknown = Backbone("unheard-of", tiny_backbone.geometry, "c" * 64, tiny_backbone.sam, tiny_backbone.device)
    with pytest.raises(BackboneError, match="unknown backbone 'unheard-of'"):
        background_of(unknown)


def test_the_shipped_ones_belong_to_the_drawings_and_weights_of_today(mini_backbone):
    """Whoever changes how images are drawn has to ship new ones; a few drawings are enough to notice."""
    shipped = background_of(mini_backbone)
    some = compute_background(mini_backbone, images=12, seed=20251117)
    standard_error = shipped.std / 12**0.5
    assert ((some.mean - shipped.mean).abs() < 5 * standard_error).all()
    assert background_path(BACKBONES["mini"]).exists()
