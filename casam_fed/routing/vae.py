"""The vae router of CA-SAM (arXiv 2511.17201): one small VAE a task, scored by its own training loss.

The released code of the paper samples the latent when it scores; here the mean is used unless a generator is given, so
that the same image always takes the same route.
"""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from casam_fed.errors import TrainingError
from casam_fed.routing.features import checked_features

__all__ = ["BETA", "LATENT", "TaskVAE", "VAEScorer", "train_vae", "vae_shapes"]

LATENT = 64
"""Latent dimensions of a task VAE."""

BETA = 16.5
"""Weight of the KL term in the training loss and in the score."""

_BATCH = 6
_LEARNING_RATE = 5e-4

_CHUNK_BYTES = 8 << 20
"""Size of the largest temporary while scoring; small enough that the layers hand their values on within the cache."""


def vae_shapes(channels: int) -> dict[str, tuple[int, ...]]:
    """Return the parameter names of a `TaskVAE` over C channels with their shapes; all are float32."""
    hidden = _hidden(channels)
    layers = {
        "encoder": (hidden, channels),
        "mu_head": (LATENT, hidden),
        "logvar_head": (LATENT, hidden),
        "decoder1": (hidden, LATENT),
        "decoder2": (channels, hidden),
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in layers.items():
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = shape[:1]
    return shapes


class TaskVAE(nn.Module):
    """VAE over pooled embeddings: C -> H -> (mu, logvar) in R^64 -> H -> C with H = max(128, C // 2), exact GELU.

    C = 256 has 90,752 parameters. Weights start Xavier-uniform, drawn from `generator`; biases at zero.
    """

    def __init__(self, channels: int, generator: torch.Generator) -> None:
        super().__init__()
        hidden = _hidden(channels)
        self.channels = channels
        self.encoder = _linear(channels, hidden, generator)
        self.mu_head = _linear(hidden, LATENT, generator)
        self.logvar_head = _linear(hidden, LATENT, generator)
        self.decoder1 = _linear(LATENT, hidden, generator)
        self.decoder2 = _linear(hidden, channels, generator)

    def forward(self, features: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return (reconstruction [B, C], mu [B, 64], logvar [B, 64]) of features [B, C] float32.

        The latent decoded is mu, or mu + noise * exp(logvar / 2) when noise [B, 64] is given.
        """
        hidden = functional.gelu(self.encoder(features))
        mu, logvar = self.mu_head(hidden), self.logvar_head(hidden)
        latent = mu if noise is None else mu + noise * torch.exp(0.5 * logvar)
        return self.decoder2(functional.gelu(self.decoder1(latent))), mu, logvar

    def score(self, features: Tensor, noise: Tensor | None = None, beta: float = BETA) -> Tensor:
        """Return mean_d (reconstruction - feature)^2 + beta KL(q(z|f) || N(0, I)) for features [B, C]: float32 [B]."""
        reconstruction, mu, logvar = self(features, noise)
        error: Tensor = (reconstruction - features).square().mean(1)
        return error + beta * _kl(mu, logvar, 1)


def train_vae(features: Tensor, seed: int, epochs: int) -> TaskVAE:
    """Train a task's VAE with Adam on the mean score of each batch; the latent is sampled.

    Everything random (weights, order, latents) is drawn from one generator seeded with `seed`; the global generators are
    neither read nor moved, so the same call gives the same weights to the bit on the same machine.

    Args:
        features: pooled embeddings [n, C], n >= 1.
        seed: any integer torch.Generator takes.
        epochs: over all features, in batches of 6 at a learning rate of 5e-4.

    Returns:
        The VAE, in eval mode, its parameters without gradients.

    Raises:
        DataError: features hold NaN or infinity.
        TrainingError: training diverged.
    """
    values = checked_features(features, None, torch.float32)
    assert len(values), "a router of no images"
    generator = torch.Generator().manual_seed(seed)
    vae = TaskVAE(values.shape[1], generator)
    optimizer = torch.optim.Adam(vae.parameters(), lr=_LEARNING_RATE)
    with torch.enable_grad():
        for _ in range(epochs):
            for batch in torch.randperm(len(values), generator=generator).split(_BATCH):
                noise = torch.randn((len(batch), LATENT), generator=generator)
                loss = vae.score(values[batch], noise).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    if not all(bool(torch.isfinite(parameter).all()) for parameter in vae.parameters()):
        raise TrainingError("training the vae router diverged to NaN; look for outliers among the images")
    return vae.eval().requires_grad_(False)


class VAEScorer:
    """Scores features against the VAEs of every task of a bank: `TaskVAE.score` for all tasks at once, in float32.

    Keeps the stacked weights: 363 MB for 1,000 tasks of 256 channels.
    """

    def __init__(self, vaes: Sequence[Mapping[str, Tensor]], seed: int | None = None) -> None:
        """Stack the state dicts of T task VAEs (T may be 0); scores come in the same order.

        Args:
            vaes: state dicts with the names and shapes of `vae_shapes`, all of one C.
            seed: when given, latents are sampled, as the paper's released code does; every call draws the same ones for
                the same tasks and number of images. Without it the latent is mu.
        """
        self._seed = seed
        self._count = len(vaes)
        self._channels = vaes[0]["encoder.weight"].shape[1] if vaes else None
        self._layers = {name: _stacked(vaes, name) for name in ("encoder", "decoder1", "decoder2")} if vaes else {}
        if vaes:
            mu, logvar = _stacked(vaes, "mu_head"), _stacked(vaes, "logvar_head")
            self._layers["heads"] = torch.cat([mu[0], logvar[0]], dim=1), torch.cat([mu[1], logvar[1]], dim=1)

    def only(self, tasks: Sequence[int]) -> "VAEScorer":
        """Return the scorer of the tasks with these numbers, in this order, to the bit as if it had been built for them."""
        kept, rows = copy.copy(self), list(tasks)
        kept._count = len(rows)
        kept._layers = {name: (weights[rows], biases[rows]) for name, (weights, biases) in self._layers.items()}
        return kept

    @torch.no_grad()
    def scores(self, features: Tensor) -> Tensor:
        """Return the score of every feature for every task, float64 [B, T] on the CPU; low means near.

        Args:
            features: pooled embeddings [B, C], any floating dtype; B may be 0.

        Raises:
            DataError: features are not of the bank's C, or hold NaN or infinity.
        """
        values = checked_features(features, self._channels, torch.float32)
        result = torch.empty((self._count, len(values)), dtype=torch.float32)
        generator = None if self._seed is None else torch.Generator().manual_seed(self._seed)
        columns = values.T.contiguous()
        step = max(1, _CHUNK_BYTES // (4 * max(values.shape[1], 2 * LATENT) * max(1, len(values))))
        for start in range(0, self._count, step):
            rows = slice(start, start + step)
            result[rows] = self._score_tasks(rows, columns, generator)
        return result.T.to(torch.float64).contiguous()

    def _score_tasks(self, rows: slice, columns: Tensor, generator: torch.Generator | None) -> Tensor:
        weight, bias = self._layers["encoder"]
        hidden = torch.addmm(bias[rows].reshape(-1, 1), weight[rows].flatten(0, 1), columns)
        hidden = functional.gelu(hidden.unflatten(0, (-1, weight.shape[1])))
        mu, logvar = _apply(self._layers["heads"], rows, hidden).chunk(2, dim=1)
        latent = mu
        if generator is not None:
            noise = torch.randn((mu.shape[0], mu.shape[2], LATENT), generator=generator).transpose(1, 2)
            latent = mu + noise * torch.exp(0.5 * logvar)
        hidden = functional.gelu(_apply(self._layers["decoder1"], rows, latent))
        error = _apply(self._layers["decoder2"], rows, hidden) - columns
        return error.square_().mean(1) + BETA * _kl(mu, logvar, 1)


def _hidden(channels: int) -> int:
    return max(128, channels // 2)


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    # nn.Linear draws its first weights from the global generator unless its creation is skipped.
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def _kl(mu: Tensor, logvar: Tensor, dim: int) -> Tensor:
    # expm1: near the collapsed posterior, exp(logvar) - 1 - logvar would cancel to float32 noise, times beta.
    return 0.5 * (mu.square() + torch.expm1(logvar) - logvar).sum(dim)


def _stacked(vaes: Sequence[Mapping[str, Tensor]], layer: str) -> tuple[Tensor, Tensor]:
    weights = torch.stack([state[f"{layer}.weight"].detach().to("cpu", torch.float32) for state in vaes])
    biases = torch.stack([state[f"{layer}.bias"].detach().to("cpu", torch.float32) for state in vaes])
    return weights, biases[:, :, None]


def _apply(layer: tuple[Tensor, Tensor], rows: slice, columns: Tensor) -> Tensor:
    weight, bias = layer
    return torch.baddbmm(bias[rows], weight[rows], columns)
