"""SAM's prompt encoder and mask decoder over many image/prompt pairs at once.

segment_anything's decoder takes one image and repeats its embedding for every prompt. Its first act is to add the dense
prompt embedding to that repeated embedding; so handing it zeros as the image, and each pair's own embedding inside the
dense prompt, decodes pairs of any images in one batch, with the library's own code and bit-identical sums.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from casam_fed.backbone.sam_modules import Sam

__all__ = ["Prompts", "decode_pairs"]


@dataclass(frozen=True)
class Prompts:
    """P prompts, each for one image of a batch: all boxes, all clicks, or all a box with clicks.

    Attributes:
        image: int64 [P], the row of the batch that a prompt belongs to.
        boxes: float32 [P, 4], (x0, y0, x1, y1): first and last column and row, in pixels of the input square.
        points: float32 [P, 2], (x, y) of one positive click, in pixels of the input square; or [P, K, 2] of K clicks.
        labels: int64 [P, K], what each click says: 1 this belongs to it, 0 this does not. None: all belong.
    """

    image: Tensor
    boxes: Tensor | None = None
    points: Tensor | None = None
    labels: Tensor | None = None

    def __post_init__(self) -> None:
        assert self.boxes is not None or self.points is not None, "give boxes, points or both"

    def __len__(self) -> int:
        return int(self.image.shape[0])

    def __getitem__(self, some: slice) -> "Prompts":
        parts = (None if part is None else part[some] for part in (self.boxes, self.points, self.labels))
        return Prompts(self.image[some], *parts)

    def to(self, device: torch.device) -> "Prompts":
        """Return the same prompts on `device`."""
        moved = (None if part is None else part.to(device) for part in (self.boxes, self.points, self.labels))
        return Prompts(self.image.to(device), *moved)


def decode_pairs(sam: Sam, embeddings: Tensor, prompts: Prompts) -> tuple[Tensor, Tensor]:
    """Decode P image/prompt pairs with single-mask output.

    Args:
        sam: a segment_anything `Sam`.
        embeddings: [B, C, h, w].
        prompts: P prompts whose `image` points into the B rows.

    Returns:
        Low-resolution logits [P, 1, 4h, 4w] and SAM's predicted IoU [P, 1]; P may be 0.
    """
    if len(prompts) == 0:
        height, width = embeddings.shape[-2:]
        return embeddings.new_zeros(0, 1, 4 * height, 4 * width), embeddings.new_zeros(0, 1)
    points = None
    if prompts.points is not None:
        clicks = prompts.points[:, None, :] if prompts.points.ndim == 2 else prompts.points
        labels = prompts.labels
        if labels is None:
            labels = torch.ones(clicks.shape[:2], dtype=torch.int64, device=clicks.device)
        points = (clicks, labels)
    sparse, dense = sam.prompt_encoder(points=points, boxes=prompts.boxes, masks=None)
    pairs = embeddings.index_select(0, prompts.image)
    logits, predicted_iou = sam.mask_decoder(
        image_embeddings=torch.zeros_like(pairs[:1]),
        image_pe=sam.prompt_encoder.get_dense_pe().to(pairs.dtype),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense + pairs,
        multimask_output=False,
    )
    return logits, predicted_iou
