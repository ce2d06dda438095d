"""How an embedding is matched to a task, or to `unknown`: pooling, the two routers, their thresholds, and routes."""

from casam_fed.routing.calibration import FoldPlan, Threshold, calibrate, plan_folds, threshold_from
from casam_fed.routing.gaussian import Background, GaussianScorer, GaussianStatistics, merge, oas_shrinkage
from casam_fed.routing.pooling import pool
from casam_fed.routing.route import UNKNOWN, Router, RouterKind, Routes, route
from casam_fed.routing.state import (
    RouterOptions,
    RouterState,
    build_router,
    expected_router_shapes,
    fit_routers,
    router_state_from,
    router_tensors,
)
from casam_fed.routing.vae import TaskVAE, VAEScorer, train_vae, vae_shapes

__all__ = [
    "UNKNOWN",
    "Background",
    "FoldPlan",
    "GaussianScorer",
    "GaussianStatistics",
    "Router",
    "RouterKind",
    "RouterOptions",
    "RouterState",
    "Routes",
    "TaskVAE",
    "Threshold",
    "VAEScorer",
    "build_router",
    "calibrate",
    "expected_router_shapes",
    "fit_routers",
    "merge",
    "oas_shrinkage",
    "plan_folds",
    "pool",
    "route",
    "router_state_from",
    "router_tensors",
    "threshold_from",
    "train_vae",
    "vae_shapes",
]
