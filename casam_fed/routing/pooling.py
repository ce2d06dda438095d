"""From an embedding to the one vector a router looks at, without parameters (CA-SAM, arXiv 2511.17201, routing)."""

import torch
from torch import Tensor

__all__ = ["pool"]


def pool(embedding: Tensor, temperature: float = 1.0) -> Tensor:
    """Average the pixels of an embedding, weighted by a softmax over their norms.

    With s_p = ||z_p||_2 / C and a = softmax(s / temperature) over the pixels, returns sum_p a_p z_p.

    Args:
        embedding: [B, C, h, w], any floating dtype; computed in float32 on its own device.
        temperature: > 0; small values let the pixels of largest norm decide alone.

    Returns:
        Pooled features [B, C] float32 on the embedding's device.
    """
    assert embedding.ndim == 4, embedding.shape
    pixels = embedding.to(torch.float32).flatten(2)
    norms = torch.linalg.vector_norm(pixels, dim=1) / pixels.shape[1]
    weights = torch.softmax(norms / temperature, dim=1)
    return torch.matmul(pixels, weights.unsqueeze(2)).squeeze(2)
