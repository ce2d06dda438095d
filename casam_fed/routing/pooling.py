"""From an embedding to the one vector a router looks at, without parameters (CA-SAM, arXiv 2511.17201, routing)."""

import torch
from torch import Tensor

from casam_fed.errors import ConfigError, DataError

__all__ = ["pool"]


def pool(embedding: Tensor, temperature: float = 1.0) -> Tensor:
    """Average the pixels of an embedding, weighted by a softmax over their norms.

    With s_p = ||z_p||_2 / C and a = softmax(s / temperature) over the pixels, returns sum_p a_p z_p.

    Args:
        embedding: [B, C, h, w], any floating dtype; computed in float32 on its own device.
        temperature: > 0; small values let the pixels of largest norm decide alone.

    Returns:
        Pooled features [B, C] float32 on the embedding's device.

    Raises:
        ConfigError: the temperature is not positive.
        DataError: the embedding is not [B, C, h, w].
    """
    if not temperature > 0:
        raise ConfigError(f"the pooling temperature is {temperature}; set it above 0, 1 is the usual value")
    if embedding.ndim != 4:
        raise DataError(
            f"an embedding of shape {tuple(embedding.shape)} cannot be pooled; pass the backbone's [B, C, h, w]"
        )
    pixels = embedding.to(torch.float32).flatten(2)
    norms = torch.linalg.vector_norm(pixels, dim=1) / pixels.shape[1]
    weights = torch.softmax(norms / temperature, dim=1)
    return torch.matmul(pixels, weights.unsqueeze(2)).squeeze(2)
