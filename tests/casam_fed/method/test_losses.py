"""The training loss: equal to the golden numbers and to a slow version, sound gradients, float32 throughout."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from casam_fed.method.losses import segmentation_loss

GOLDEN = Path(__file__).parents[2] / "data" / "golden" / "loss_and_metrics.safetensors"


def batch(side: int = 6, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn((4, 1, side, side), generator=generator)
    masks = torch.rand((4, 1, side, side), generator=generator) > 0.7
    return logits, masks, torch.rand((4, 1), generator=generator)


def naive_terms(logits: Tensor, masks: Tensor, predicted_iou: Tensor) -> tuple[float, float, float]:
    """Pixel by pixel in Python floats, straight from method section 3."""
    focal = overlap = probabilities = foreground = 0.0
    for logit, truth in zip(logits.flatten().tolist(), masks.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        p_true = p if truth else 1 - p
        focal += (0.25 if truth else 0.75) * (1 - p_true) ** 2 * -math.log(p_true)
        overlap += p * truth
        probabilities += p
        foreground += truth
    dice = 1 - (2 * overlap + 1) / (probabilities + foreground + 1)
    soft_iou = overlap / (probabilities + foreground - overlap)
    errors = [(predicted - soft_iou) ** 2 for predicted in predicted_iou.flatten().tolist()]
    return focal / logits.numel(), dice, sum(errors) / len(errors)


def test_every_term_equals_the_golden_numbers() -> None:
    golden = load_file(GOLDEN)
    terms = segmentation_loss(golden["logits"], golden["mask"], golden["predicted_iou"])
    for name, term in (("focal", terms.focal), ("dice", terms.dice), ("iou_mse", terms.iou), ("total", terms.total)):
        torch.testing.assert_close(term, golden[name], rtol=1e-5, atol=0)


def test_every_term_equals_the_slow_loss() -> None:
    terms = segmentation_loss(*batch())
    focal, dice, iou = naive_terms(*batch())
    assert terms.focal.item() == pytest.approx(focal, rel=1e-5)
    assert terms.dice.item() == pytest.approx(dice, rel=1e-5)
    assert terms.iou.item() == pytest.approx(iou, rel=1e-5)


def test_the_total_is_the_plain_sum_of_the_terms() -> None:
    terms = segmentation_loss(*batch())
    torch.testing.assert_close(terms.total, terms.focal + terms.dice + terms.iou)


def test_gradients_equal_finite_differences_of_the_slow_loss() -> None:
    logits, masks, predicted = batch(side=3)
    logits.requires_grad_()
    predicted.requires_grad_()
    segmentation_loss(logits, masks, predicted).total.backward()
    step = 1e-5
    for leaf in (logits, predicted):
        for index in range(leaf.numel()):
            values = []
            for sign in (1, -1):
                moved = leaf.detach().double().clone()
                moved.view(-1)[index] += sign * step
                pair = (moved, predicted.detach()) if leaf is logits else (logits.detach(), moved)
                values.append(sum(naive_terms(pair[0], masks, pair[1])))
            slope = (values[0] - values[1]) / (2 * step)
            assert leaf.grad.view(-1)[index].item() == pytest.approx(slope, rel=1e-3, abs=1e-6)


def test_the_soft_iou_is_that_of_the_whole_batch_not_of_each_mask() -> None:
    logits = torch.full((2, 1, 4, 4), -50.0)
    masks = torch.zeros((2, 1, 4, 4), dtype=torch.bool)
    logits[0, :, :2], masks[0, :, :2] = 50.0, True
    logits[1, :, :2], masks[1, :, 2:] = 50.0, True
    terms = segmentation_loss(logits, masks, torch.full((2, 1), 1 / 3))
    assert terms.iou.item() == pytest.approx(0, abs=1e-12)


def test_bfloat16_logits_are_computed_in_float32() -> None:
    logits, masks, predicted = batch()
    half = segmentation_loss(logits.bfloat16(), masks, predicted.bfloat16())
    full = segmentation_loss(logits.bfloat16().float(), masks, predicted.bfloat16().float())
    assert half.total.dtype == torch.float32
    assert half == full


def test_masks_may_be_bool_or_zeros_and_ones_of_any_dtype() -> None:
    logits, masks, predicted = batch()
    totals = {
        segmentation_loss(logits, masks.to(dtype), predicted).total.item()
        for dtype in (torch.bool, torch.uint8, torch.float16, torch.float32)
    }
    assert len(totals) == 1


@pytest.mark.parametrize("foreground", [False, True])
@pytest.mark.parametrize("logit", [-200.0, 0.0, 200.0])
def test_extreme_logits_and_empty_or_full_masks_stay_finite(foreground: bool, logit: float) -> None:
    logits = torch.full((2, 1, 4, 4), logit, requires_grad=True)
    terms = segmentation_loss(logits, torch.full((2, 1, 4, 4), foreground), torch.full((2, 1), 0.5))
    terms.total.backward()
    assert torch.isfinite(terms.total)
    assert torch.isfinite(logits.grad).all()


def test_a_perfect_prediction_costs_nothing() -> None:
    _, masks, _ = batch()
    terms = segmentation_loss(masks * 200.0 - 100.0, masks, torch.ones((4, 1)))
    assert terms.total.item() == pytest.approx(0, abs=1e-6)
