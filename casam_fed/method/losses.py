"""The loss an alignment layer is trained with (CA-SAM, arXiv 2511.17201, training): focal + soft dice + IoU error.

All three terms are taken over the batch as one long vector of pixels, and weigh 1 each.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

__all__ = ["LossTerms", "segmentation_loss"]

_ALPHA = 0.25
_DICE_SMOOTH = 1.0
_IOU_SMOOTH = 1e-7


@dataclass(frozen=True)
class LossTerms:
    """The loss and the terms it is the sum of, each a float32 scalar tensor; all carry gradients."""

    total: Tensor
    focal: Tensor
    dice: Tensor
    iou: Tensor


def segmentation_loss(logits: Tensor, masks: Tensor, predicted_iou: Tensor) -> LossTerms:
    """Return the training loss of a batch of single-mask predictions; computed in float32, whatever comes in.

    With p = sigmoid(logits), m = masks and sums over all pixels of the batch:

    - focal (Lin et al. 2017, section 3.2): mean of alpha_t (1 - p_t)^2 (-log p_t), alpha .25 for foreground, .75 for
      background, p_t the probability given to the true class;
    - dice (Milletari et al. 2016, made 0 at best): 1 - (2 sum pm + 1) / (sum p + sum m + 1);
    - iou: mean over the batch of (predicted_iou - s)^2, where s = sum pm / (sum p + sum m - sum pm) is ONE number, the
      soft IoU of the whole batch, not one a mask. Gradients flow into the predicted IoU and through s into the logits.

    Args:
        logits: [N, 1, H, W], N >= 1, float32, float16 or bfloat16.
        masks: [N, 1, H, W], bool or 0 and 1 of any dtype, on the same device.
        predicted_iou: SAM's own estimate for every mask, [N, 1].
    """
    assert logits.shape == masks.shape == (len(logits), 1, *logits.shape[2:]), (logits.shape, masks.shape)
    assert predicted_iou.shape == (len(logits), 1), predicted_iou.shape
    logits, truth = logits.float(), masks.float()
    probability = logits.sigmoid()
    cross_entropy = functional.binary_cross_entropy_with_logits(
        logits, truth, weight=(1 - _ALPHA) - (1 - 2 * _ALPHA) * truth, reduction="none"
    )
    # For m in {0, 1}, 1 - p_t is |p - m|: the sigmoid that dice needs anyway serves the focal term as well.
    focal = (cross_entropy * (probability - truth).square()).mean()
    overlap = (probability * truth).sum()
    sizes = probability.sum() + truth.sum()
    dice = 1 - (2 * overlap + _DICE_SMOOTH) / (sizes + _DICE_SMOOTH)
    soft_iou = (overlap + _IOU_SMOOTH) / (sizes - overlap + _IOU_SMOOTH)
    iou = (predicted_iou.float() - soft_iou).square().mean()
    return LossTerms(total=focal + dice + iou, focal=focal, dice=dice, iou=iou)
