"""The one check that every pooled feature passes before it trains or meets a router."""

import torch
from torch import Tensor

from casam_fed.errors import DataError

__all__ = ["checked_features"]


def checked_features(features: Tensor, channels: int | None, dtype: torch.dtype) -> Tensor:
    """Return `features` on the CPU, detached, in `dtype`; routers compute on the CPU so that routes agree everywhere.

    Args:
        features: pooled embeddings [n, C], any floating dtype and device; n may be 0.
        channels: the C the router was made for, or None where any C >= 1 will do.
        dtype: torch.float32 or torch.float64.

    Raises:
        DataError: another C than the router's, or a value is NaN or infinite.
    """
    assert features.ndim == 2, features.shape
    if channels not in (None, features.shape[1]):
        raise DataError(
            f"features have {features.shape[1]} channels but the router was made for {channels};"
            " encode the images with the backbone the router was trained on"
        )
    converted = features.detach().to(device="cpu", dtype=dtype)
    broken = torch.nonzero(~torch.isfinite(converted).all(dim=1)).flatten()
    if len(broken):
        raise DataError(
            f"{len(broken)} of {len(converted)} features, the first at row {int(broken[0])}, hold NaN or infinity;"
            " check those images and encode them again"
        )
    return converted
