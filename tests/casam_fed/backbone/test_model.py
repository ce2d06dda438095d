"""The frozen backbone: what it returns, and that nothing can teach it."""

import numpy as np
import pytest
import torch

from casam_fed.backbone.backbones import BACKBONES
from casam_fed.backbone.decoding import Prompts
from casam_fed.backbone.model import choose_device, load_backbone
from casam_fed.errors import BackboneError


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_the_mini_sam_returns_the_shapes_of_its_card(mini_backbone):
    embeddings = mini_backbone.embed([picture(256, 256), picture(256, 100)])
    assert embeddings.shape == (2, 128, 16, 16)
    assert embeddings.dtype == torch.float32
    prompts = Prompts(torch.tensor([0, 1, 1]), points=torch.tensor([[9.0, 9], [200, 50], [30, 30]]))
    logits, predicted_iou = mini_backbone.decode(embeddings, prompts)
    assert logits.shape == (3, 1, 64, 64)
    assert predicted_iou.shape == (3, 1)
    assert mini_backbone.digest == BACKBONES["mini"].sha256


def test_images_are_encoded_alike_in_any_company(tiny_backbone):
    images = [picture(64, 64, 1), picture(40, 64, 2), picture(64, 7, 3)]
    together = tiny_backbone.embed(images)
    alone = torch.cat([tiny_backbone.embed([image]) for image in images])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_every_weight_is_frozen_and_in_eval_mode(mini_backbone):
    assert not mini_backbone.sam.training
    assert not any(weight.requires_grad for weight in mini_backbone.sam.parameters())
    assert not mini_backbone.embed([picture(256, 256)]).requires_grad


def test_loading_twice_gives_the_same_embeddings_to_the_bit(mini_backbone):
    image = picture(256, 192)
    assert torch.equal(load_backbone("mini", "cpu").embed([image]), mini_backbone.embed([image]))


def test_a_box_finds_a_bright_disc(mini_backbone):
    """The shipped weights do segment: a disc they have never seen, from its tight box."""
    rows, columns = np.mgrid[:256, :256]
    disc = (rows - 120) ** 2 + (columns - 140) ** 2 < 40**2
    noise = np.random.default_rng(0).normal(0, 8, (256, 256, 1))
    image = np.clip(np.where(disc, 190, 70)[..., None] + noise, 0, 255).astype(np.uint8).repeat(3, axis=2)
    prompts = Prompts(torch.tensor([0]), boxes=torch.tensor([[101.0, 81, 179, 159]]))
    logits, _ = mini_backbone.decode(mini_backbone.embed([image]), prompts)
    predicted = torch.nn.functional.interpolate(logits, (256, 256), mode="bilinear")[0, 0].numpy() > 0
    assert (predicted & disc).sum() / (predicted | disc).sum() > 0.8


def test_auto_takes_a_device_that_is_present():
    device = choose_device("auto")
    assert torch.zeros(1, device=device).device.type == device.type
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("wish", ["gpu", "", "CPU", "cpu:first", "cuda:first", "meta"])
def test_an_unknown_device_lists_the_known_ones(wish):
    with pytest.raises(BackboneError, match=f"unknown device '{wish}'; choose auto, cuda, mps or cpu"):
        choose_device(wish)


@pytest.mark.parametrize("wish", ["cpu:1", f"cuda:{torch.cuda.device_count()}"])
def test_an_absent_device_says_so(wish):
    with pytest.raises(BackboneError, match=f"device '{wish}' is not present on this machine; choose auto or cpu"):
        choose_device(wish)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs cuda")
def test_cuda_embeds_and_decodes_nearly_as_the_cpu_does(mini_backbone):
    prompts = Prompts(torch.tensor([0]), boxes=torch.tensor([[60.0, 60, 190, 190]]))
    masks = []
    for backbone in (mini_backbone, load_backbone("mini", "cuda")):
        logits, _ = backbone.decode(backbone.embed([picture(256, 256)]), prompts)
        assert logits.dtype == torch.float32
        masks.append(logits.cpu() > 0)
    assert (masks[0] == masks[1]).float().mean() > 0.97
