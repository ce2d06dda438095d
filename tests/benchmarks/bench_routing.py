"""Scores of pooled features for all tasks of a bank at once, against a loop that asks one task after the other.

    python tests/benchmarks/bench_routing.py [--tasks 1000] [--channels 256] [--batches 1 64 256] [--threads 2]

Prints milliseconds per feature, median and least of the repeats, and the ratio of the medians. Targets for 1,000 tasks of
256 channels on 2 cores, in batches: at most 20 ms for the gaussian router and 2 ms for the vae router.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from casam_fed.routing.gaussian import Background, GaussianScorer, GaussianStatistics
from casam_fed.routing.vae import TaskVAE, VAEScorer

Score = Callable[[Tensor], Tensor]


def gaussian(tasks: int, channels: int, generator: torch.Generator) -> tuple[Score, Score]:
    """Return the scores of all tasks at once, and those of a loop over scorers of one task each, all built before."""
    mixing = torch.randn(channels, channels, generator=generator) / channels**0.5
    background = Background.from_features(torch.randn(400, channels, generator=generator) @ mixing)
    sites = [
        GaussianStatistics.from_features(
            torch.randn(300, channels, generator=generator) @ mixing + torch.randn(channels, generator=generator)
        )
        for _ in range(tasks)
    ]
    together = GaussianScorer(sites, background)
    alone = [GaussianScorer([site], background) for site in sites]
    return together.scores, lambda features: torch.cat([scorer.scores(features) for scorer in alone], dim=1)


def vae(tasks: int, channels: int, generator: torch.Generator) -> tuple[Score, Score]:
    """Return the scores of all tasks at once, and those of a loop over `TaskVAE.score`."""
    vaes = [TaskVAE(channels, generator).requires_grad_(False).eval() for _ in range(tasks)]
    together = VAEScorer([each.state_dict() for each in vaes])
    return together.scores, lambda features: torch.stack([each.score(features) for each in vaes], dim=1)


def milliseconds(score: Score, features: Tensor, repeats: int) -> tuple[float, float]:
    """Return (median, least) milliseconds per feature after one call that is not counted."""
    score(features)
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        score(features)
        seconds.append(time.perf_counter() - started)
    per_feature = 1000 / len(features)
    return statistics.median(seconds) * per_feature, min(seconds) * per_feature


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64, 256])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    print(f"{options.tasks} tasks, {options.channels} channels, {torch.get_num_threads()} threads, ms per feature")
    if hasattr(os, "getloadavg"):
        print(f"{os.cpu_count()} cores, load of the last minute before the run {os.getloadavg()[0]:.1f}")
    print(f"{'router':>8} {'batch':>5} {'at once':>8} {'least':>8} {'loop':>8} {'least':>8} {'ratio':>6}")
    for name, build in (("gaussian", gaussian), ("vae", vae)):
        together, loop = build(options.tasks, options.channels, generator)
        for batch in options.batches:
            features = torch.randn(batch, options.channels, generator=generator)
            torch.testing.assert_close(together(features), loop(features).double(), rtol=1e-4, atol=1e-4)
            fast, fast_least = milliseconds(together, features, options.repeats)
            slow, slow_least = milliseconds(loop, features, options.repeats)
            print(
                f"{name:>8} {batch:>5} {fast:>8.2f} {fast_least:>8.2f} {slow:>8.2f} {slow_least:>8.2f}"
                f" {slow / fast:>6.1f}"
            )


if __name__ == "__main__":
    main()
