"""Releases small enough to write a bank of them in a test."""

from typing import Any

import torch

from casam_fed.bank.card import Card
from casam_fed.bank.release import pack
from casam_fed.method.alignment import AlignmentLayer
from casam_fed.routing.gaussian import Background
from casam_fed.routing.state import RouterOptions, RouterState, fit_routers

CHANNELS = 8
BACKBONE_DIGEST = "b" * 64
BACKGROUND = Background(torch.zeros(CHANNELS, dtype=torch.float64), torch.ones(CHANNELS, dtype=torch.float64))


def card(task: str = "polyp", **changes: Any) -> Card:
    """Return a card for a layer of 8 channels and one block."""
    values: dict[str, Any] = {
        "site": f"site-{task}",
        "task": task,
        "modality": "endoscopy",
        "classes": ("polyp",),
        "unit": "class",
        "images": 20,
        "patients": 10,
        "backbone": "tiny",
        "backbone_digest": BACKBONE_DIGEST,
        "channels": CHANNELS,
        "blocks": 1,
        "start": "identity",
        "hyperparameters": {"epochs": 24, "learning_rate": 0.001, "fit": "pad", "vae_sampled": False},
        "seed": 0,
    }
    return Card(**{**values, **changes})


def learned(seed: int = 0) -> tuple[dict[str, torch.Tensor], RouterState]:
    """Return the tensors of an alignment layer, and both routers, really trained on 12 random features."""
    layer = AlignmentLayer(CHANNELS, 1, "identity", seed=seed)
    features = torch.randn(12, CHANNELS, generator=torch.Generator().manual_seed(seed))
    state = fit_routers(
        features, [f"p{index}" for index in range(12)], BACKGROUND, RouterOptions(seed=seed, vae_epochs=1)
    )
    return layer.state_dict(), state


def release_bytes(task: str = "polyp", seed: int = 0, **changes: Any) -> bytes:
    """Return the bytes of a release."""
    return pack(*learned(seed), card(task, **changes)).data
