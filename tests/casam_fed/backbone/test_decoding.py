"""Many image/prompt pairs at once give what segment_anything gives one image at a time."""

import pytest
import torch
from torch import Tensor

from casam_fed.backbone.decoding import Prompts, decode_pairs
from casam_fed.backbone.model import Backbone

PROMPTS = 11


@pytest.fixture(params=["tiny_backbone", "mini_backbone"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    found: Backbone = request.getfixturevalue(request.param)
    return found


def prompts_for(backbone: Backbone, images: int, kind: str, seed: int = 0) -> Prompts:
    """Return 11 prompts for `images` images, in shuffled order and unequal numbers."""
    generator = torch.Generator().manual_seed(seed)
    size = backbone.geometry.image_size
    rows = torch.randint(images, (PROMPTS,), generator=generator)
    if kind == "points":
        return Prompts(rows, points=torch.rand(PROMPTS, 2, generator=generator) * (size - 1))
    corners = torch.rand(PROMPTS, 2, 2, generator=generator).sort(dim=1).values * (size - 1)
    return Prompts(rows, boxes=corners.flatten(1))


def one_at_a_time(backbone: Backbone, images: Tensor, prompts: Prompts) -> tuple[Tensor, Tensor]:
    """Segment every pair alone with segment_anything's own `Sam.forward`: slow, and obviously right."""
    outputs = []
    for pair, row in enumerate(prompts.image.tolist()):
        record = {"image": images[row], "original_size": tuple(images.shape[-2:])}
        if prompts.boxes is not None:
            record["boxes"] = prompts.boxes[pair : pair + 1]
        else:
            record["point_coords"] = prompts.points[pair : pair + 1, None]
            record["point_labels"] = torch.ones(1, 1, dtype=torch.int64)
        outputs += backbone.sam([record], multimask_output=False)
    logits = torch.cat([output["low_res_logits"] for output in outputs])
    return logits, torch.cat([output["iou_predictions"] for output in outputs])


@pytest.mark.parametrize("kind", ["boxes", "points"])
def test_shuffled_pairs_of_several_images_equal_sams_own_path(backbone, kind):
    size = backbone.geometry.image_size
    images = torch.randint(256, (3, 3, size, size), generator=torch.Generator().manual_seed(1)).float()
    prompts = prompts_for(backbone, 3, kind)
    embeddings = torch.cat([backbone.sam.image_encoder(backbone.sam.preprocess(image)[None]) for image in images])
    logits, predicted_iou = backbone.decode(embeddings, prompts)
    expected_logits, expected_iou = one_at_a_time(backbone, images, prompts)
    side = backbone.geometry.mask_size
    assert logits.shape == (PROMPTS, 1, side, side)
    assert predicted_iou.shape == (PROMPTS, 1)
    scale = expected_logits.abs().max()
    torch.testing.assert_close(logits / scale, expected_logits / scale, rtol=0, atol=1e-6)
    torch.testing.assert_close(predicted_iou, expected_iou, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["boxes", "points"])
def test_pairs_of_one_image_equal_the_decoder_called_once_to_the_bit(backbone, kind):
    """The sum of embedding and dense prompt is the same sum, whichever argument the embedding comes in by."""
    sam, geometry = backbone.sam, backbone.geometry
    generator = torch.Generator().manual_seed(2)
    embedding = torch.randn(1, geometry.channels, geometry.grid, geometry.grid, generator=generator)
    drawn = prompts_for(backbone, 1, kind)
    with torch.no_grad():
        logits, predicted_iou = decode_pairs(sam, embedding, drawn)
        clicks = None
        if drawn.points is not None:
            clicks = (drawn.points[:, None], torch.ones(PROMPTS, 1, dtype=torch.int64))
        sparse, dense = sam.prompt_encoder(points=clicks, boxes=drawn.boxes, masks=None)
        expected = sam.mask_decoder(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense, False)
    assert torch.equal(logits, expected[0])
    assert torch.equal(predicted_iou, expected[1])


def test_gradients_reach_the_embeddings_and_no_weight_of_the_backbone(backbone):
    geometry = backbone.geometry
    embeddings = torch.randn(2, geometry.channels, geometry.grid, geometry.grid, requires_grad=True)
    logits, predicted_iou = backbone.decode(embeddings, prompts_for(backbone, 2, "boxes"))
    (logits.mean() + predicted_iou.mean()).backward()
    assert embeddings.grad is not None
    assert (embeddings.grad.abs().amax((1, 2, 3)) > 0).all()
    assert all(weight.grad is None and not weight.requires_grad for weight in backbone.sam.parameters())


def test_only_the_images_that_prompts_name_are_decoded(tiny_backbone):
    geometry = tiny_backbone.geometry
    embeddings = torch.randn(3, geometry.channels, geometry.grid, geometry.grid, requires_grad=True)
    prompts = Prompts(torch.tensor([1, 1]), boxes=torch.tensor([[0.0, 0, 5, 5], [1, 1, 9, 9]]))
    tiny_backbone.decode(embeddings, prompts)[0].sum().backward()
    assert [bool(gradient.any()) for gradient in embeddings.grad] == [False, True, False]


@pytest.mark.parametrize("kind", ["boxes", "points"])
def test_no_prompts_give_no_masks(backbone, kind):
    geometry = backbone.geometry
    sizes = {"boxes": 4, "points": 2}
    nobody = Prompts(torch.zeros(0, dtype=torch.int64), **{kind: torch.zeros(0, sizes[kind])})
    logits, predicted_iou = backbone.decode(torch.zeros(1, geometry.channels, geometry.grid, geometry.grid), nobody)
    assert logits.shape == (0, 1, geometry.mask_size, geometry.mask_size)
    assert predicted_iou.shape == (0, 1)
