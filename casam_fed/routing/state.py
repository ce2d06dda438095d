"""What a site trains and releases to be found by: both routers of one task, their thresholds, and their tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from casam_fed.errors import ReleaseError
from casam_fed.routing.calibration import Threshold, calibrate, plan_folds
from casam_fed.routing.features import checked_features
from casam_fed.routing.gaussian import Background, GaussianScorer, GaussianStatistics
from casam_fed.routing.route import Router, RouterKind
from casam_fed.routing.vae import VAEScorer, train_vae, vae_shapes

__all__ = [
    "RouterOptions",
    "RouterState",
    "assembled",
    "build_router",
    "expected_router_shapes",
    "fit_routers",
    "router_state_from",
    "router_tensors",
]

_KINDS: tuple[RouterKind, ...] = ("gaussian", "vae")
"""Rows of `router.thresholds`, in this order."""

_UNSYMMETRIC = 1e-9
"""How far a released covariance may be from symmetric, relative to its largest entry."""

_NEGATIVE = 1e-12
"""How negative an eigenvalue of it may be through rounding, relative to its trace; far below what shrinkage adds."""

_MOST_IMAGES = 10_000_000
"""A count above it would switch the shrinkage off, and a covariance without full rank could not be factorised."""

_LARGEST = 1e6
"""Bound on released means, standard deviations and VAE weights: beyond it, scores could overflow to NaN."""

_LEAST_VARIANCE = 1e-18
"""Least of the largest variances: below it, images differ by rounding alone."""


@dataclass(frozen=True)
class RouterOptions:
    """How the routers of a task are trained and calibrated.

    Attributes:
        seed: of the VAE and of the folds.
        folds: number of folds for the thresholds.
        percentile: of the held-out scores, in [50, 100].
        grouped: folds by patient; False for folds over images (preset `paper`).
        vae_epochs: training of the VAE.
        vae_sampled: sample the VAE's latent when scoring (preset `paper`); its threshold then fits a sampling scorer.
    """

    seed: int = 0
    folds: int = 5
    percentile: float = 97.0
    grouped: bool = True
    vae_epochs: int = 10
    vae_sampled: bool = False


@dataclass(frozen=True, eq=False)
class RouterState:
    """Both routers of one task with their thresholds.

    Attributes:
        gaussian: raw statistics of the training images.
        vae: state dict of the task's VAE, float32, names and shapes of `vae_shapes`.
        thresholds: of both routers; the gaussian's holds for the background it was calibrated with.
        notes: sentences to show about the calibration; they are not released.
    """

    gaussian: GaussianStatistics
    vae: Mapping[str, Tensor]
    thresholds: Mapping[RouterKind, Threshold]
    notes: tuple[str, ...] = ()


def fit_routers(
    features: Tensor, patients: Sequence[str], background: Background, options: RouterOptions | None = None
) -> RouterState:
    """Train both routers of a task on all its training images and calibrate both thresholds on held-out folds.

    The same features, patients, background and options give the same state to the bit on the same machine; no global
    random generator is touched.

    Args:
        features: pooled embeddings [n, C] of the training images, n >= 3.
        patients: the patient of every image.
        background: of the backbone; the gaussian's scores, and so its threshold, depend on it.
        options: None for the defaults.

    Raises:
        DataError: features hold NaN or infinity.
        TrainingError: fewer than 3 images, or images that all look alike to the backbone.
    """
    options = options or RouterOptions()
    values = checked_features(features, background.mean.numel(), torch.float32)

    def gaussian_scores(trained: Tensor, held_out: Tensor) -> Tensor:
        return GaussianScorer([GaussianStatistics.from_features(trained)], background).scores(held_out)[:, 0]

    def vae_scores(trained: Tensor, held_out: Tensor) -> Tensor:
        seed = options.seed if options.vae_sampled else None
        return VAEScorer([_train(trained, options)], seed).scores(held_out)[:, 0]

    thresholds: dict[RouterKind, Threshold] = {
        kind: calibrate(values, patients, fit_score, options.folds, options.percentile, options.seed, options.grouped)
        for kind, fit_score in zip(_KINDS, (gaussian_scores, vae_scores), strict=True)
    }
    note = plan_folds(patients, options.folds, options.seed, options.grouped).note
    return RouterState(
        gaussian=GaussianStatistics.from_features(values),
        vae=_train(values, options),
        thresholds=thresholds,
        notes=() if note is None else (note,),
    )


def build_router(
    kind: RouterKind,
    states: Sequence[RouterState],
    background: Background,
    seed: int | None = None,
) -> Router:
    """Build the router of a bank from its T tasks; scores and thresholds keep their order.

    Args:
        seed: for kind "vae" only, samples the latents (preset `paper`); None scores with z = mu.

    Raises:
        TrainingError: a task's statistics have no usable spread.
    """
    if kind == "gaussian":
        return GaussianScorer([state.gaussian for state in states], background)
    return VAEScorer([state.vae for state in states], seed)


def expected_router_shapes(channels: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return every router tensor of a release for C channels: name -> (shape, dtype)."""
    shapes = {f"router.vae.{name}": (shape, torch.float32) for name, shape in vae_shapes(channels).items()}
    shapes["router.gaussian.count"] = ((), torch.int64)
    shapes["router.gaussian.mean"] = ((channels,), torch.float64)
    shapes["router.gaussian.covariance"] = ((channels, channels), torch.float64)
    shapes["router.thresholds"] = ((len(_KINDS), 2), torch.float64)
    return shapes


def router_tensors(state: RouterState) -> dict[str, Tensor]:
    """Return the tensors of a release that describe its routers, as `expected_router_shapes` lists them.

    `router.thresholds` has the rows gaussian, vae and the columns held-out median, threshold.
    """
    tensors = {f"router.vae.{name}": tensor.detach().contiguous().clone() for name, tensor in state.vae.items()}
    tensors["router.gaussian.count"] = torch.tensor(state.gaussian.count, dtype=torch.int64)
    tensors["router.gaussian.mean"] = state.gaussian.mean.clone()
    tensors["router.gaussian.covariance"] = state.gaussian.covariance.contiguous().clone()
    rows = [[state.thresholds[kind].median, state.thresholds[kind].value] for kind in _KINDS]
    tensors["router.thresholds"] = torch.tensor(rows, dtype=torch.float64)
    return tensors


def router_state_from(tensors: Mapping[str, Tensor]) -> RouterState:
    """Read the routers back from a release's tensors; names that do not start with `router.` are not looked at.

    Raises:
        ReleaseError: a tensor is missing, not expected, of another shape or dtype, holds NaN or infinity, or the
            statistics or thresholds cannot come from any features.
    """
    found = {name: tensor for name, tensor in tensors.items() if name.startswith("router.")}
    if (defect := _defect_of(found)) is not None:
        raise ReleaseError(
            f"the release's routers cannot be used: {defect}; train the task again with the federation's backbone and this"
            " version of casam-fed, on images that differ and without outliers"
        )
    return assembled(found)


def assembled(tensors: Mapping[str, Tensor]) -> RouterState:
    """Return the routers whose `router_tensors` these are, which were checked before."""
    count, mean, covariance = (tensors[f"router.gaussian.{name}"] for name in ("count", "mean", "covariance"))
    rows = tensors["router.thresholds"].tolist()
    prefix = "router.vae."
    return RouterState(
        gaussian=GaussianStatistics(count=int(count), mean=mean, covariance=covariance),
        vae={name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)},
        thresholds={kind: Threshold(*row) for kind, row in zip(_KINDS, rows, strict=True)},
    )


def _train(features: Tensor, options: RouterOptions) -> dict[str, Tensor]:
    vae = train_vae(features, options.seed, options.vae_epochs)
    return {name: tensor.detach().clone() for name, tensor in vae.state_dict().items()}


def _defect_of(found: Mapping[str, Tensor]) -> str | None:
    """Return the first thing in which the tensors are not those of any site's routers."""
    mean = found.get("router.gaussian.mean", torch.empty(0))
    # A missing or empty mean is held against one channel, so that the schema names it.
    expected = expected_router_shapes(max(1, mean.numel()))
    for name in sorted(expected.keys() ^ found.keys()):
        return f"it lacks the tensor {name}" if name in expected else f"it holds the undeclared tensor {name}"
    for name, (shape, dtype) in sorted(expected.items()):
        tensor = found[name]
        if tuple(tensor.shape) != shape or tensor.dtype != dtype:
            return f"{name} has shape {tuple(tensor.shape)} and type {tensor.dtype} but must have {shape} and {dtype}"
        if dtype.is_floating_point and not torch.isfinite(tensor).all():
            return f"{name} holds NaN or infinity"
    return _impossible_extent(found) or _impossible_covariance(found["router.gaussian.covariance"])


def _impossible_extent(found: Mapping[str, Tensor]) -> str | None:
    count = int(found["router.gaussian.count"])
    if not 1 <= count <= _MOST_IMAGES:
        return f"its statistics count {count} images, and 1 to {_MOST_IMAGES:,} are possible"
    for name, tensor in found.items():
        bound = _LARGEST**2 if name == "router.gaussian.covariance" else _LARGEST
        measured = tensor.is_floating_point() and name != "router.thresholds"
        if measured and tensor.abs().max() > bound:
            return f"{name} holds values beyond {bound:.0e}"
    for median, value in found["router.thresholds"].tolist():
        if value < median:
            return f"a threshold of {value} over a median of {median}, where it must be not below the median"
    return None


def _impossible_covariance(covariance: Tensor) -> str | None:
    scale = covariance.abs().max()
    if (covariance - covariance.T).abs().max() > _UNSYMMETRIC * scale:
        return "router.gaussian.covariance is not symmetric"
    if torch.linalg.eigvalsh(covariance)[0] < -_NEGATIVE * covariance.trace().abs():
        return "router.gaussian.covariance has a negative variance in some direction"
    if scale < _LEAST_VARIANCE:
        return "router.gaussian.covariance is zero"
    return None
