"""Seeded results of the shape that is collected of a run, with believable numbers, and the report made of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from casam_fed.config import MethodConfig
from casam_fed.data.dataset import PhantomData
from casam_fed.wire.evaluation_report import METRICS, STRENGTH_EDGES, RouteReport
from simulations.report import write_casam_report
from simulations.stream_config import StreamConfig, method_record
from site_client.site_config import SiteConfig

NAMES = ("histology", "fluorescence", "tissue", "brightfield", "endoscopy", "ct", "mr", "ultrasound", "x-ray")


def _report(
    rng: np.random.Generator, iou: float, chosen: dict[str, int], strengths: np.ndarray | None = None
) -> dict[str, Any]:
    bins = (
        ()
        if strengths is None
        else np.bincount(np.digitize(strengths, STRENGTH_EDGES), minlength=len(STRENGTH_EDGES) + 1)
    )
    scores = dict(zip(METRICS, np.clip([iou, iou**0.7, iou * 0.6, iou * 0.5], 0, 1).tolist(), strict=True))
    counts = {name: count for name, count in chosen.items() if count}
    images = sum(counts.values())
    RouteReport(images, scores, counts, tuple(int(count) for count in bins), int(rng.integers(images + 1)))
    return {
        "images": images,
        "scores": scores,
        "chosen": counts,
        "strengths": [int(count) for count in bins],
        "decoded": int(rng.integers(images + 1)),
    }


def _task_reports(
    rng: np.random.Generator, tasks: list[str], stage: int, number: int, numbers: dict[str, Any], without: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reports of task `number` after `stage`, and with each task left out; unknown images score as plain SAM does."""
    images, zero, own = numbers["images"][number], numbers["zero"][number], numbers["own"][number]
    admitted = number <= stage
    lost = int(rng.integers(0, 2)) if admitted else 0
    other = tasks[(number + 1) % (stage + 1)]
    chosen = {tasks[number]: images - lost, "unknown": lost} if admitted else {"unknown": images - 1, other: 1}
    share = (images - lost) / images if admitted else 0
    routed = zero + (own - zero) * share
    known, far = rng.normal(0.1, 0.5, images), rng.normal(2.5, 1.5, images)
    strengths = known if admitted else far
    result = {
        "zero_shot": _report(rng, zero, {"unknown": images}),
        "oracle": _report(rng, own if admitted else zero, {tasks[number] if admitted else "unknown": images}),
        "gaussian": _report(rng, routed, chosen, strengths),
        "vae": _report(rng, routed * 0.95, chosen, strengths + rng.normal(0, 0.8, images)),
        "seconds": float(rng.uniform(1, 5)),
    }
    without_each: dict[str, Any] = {}
    for left_out in tasks if without else ():
        out = left_out == tasks[number]
        missed = images // 3 if len(tasks) > 1 else 0
        where = {"unknown": images - missed, other: missed} if out else chosen
        values = far if out else known
        without_each[left_out] = {
            "gaussian": _report(rng, zero * 1.1 if out else routed, where, values),
            "vae": _report(rng, zero if out else routed * 0.95, where, values + rng.normal(0, 1, images)),
        }
    return result, without_each


def _unseen_reports(rng: np.random.Generator, tasks: list[str]) -> dict[str, Any]:
    """Reports of eleven images that no task has seen, two of them claimed by the first."""
    chosen, far = {"unknown": 9, tasks[0]: 2}, rng.normal(3, 1, 11)
    return {
        "zero_shot": _report(rng, 0.5, {"unknown": 11}),
        "gaussian": _report(rng, 0.45, chosen, far),
        "vae": _report(rng, 0.4, chosen, far + rng.normal(0, 1, 11)),
    }


def _admission(task: str, site: str, earlier: list[str]) -> dict[str, Any]:
    """The checks let every task in but fluorescence, whose router takes too much of the task before it."""
    admission = {"task": task, "site": site, "outcome": "admitted", "code": "A001", "by": "rule", "overlap": None}
    if earlier:
        admission["overlap"] = {"kind": "gaussian", "source": earlier[-1], "share": 0.125}
    if "fluorescence" in task:
        admission |= {"outcome": "quarantined", "code": "Q201", "by": "person"}
        admission["overlap"] = {"kind": "vae", "source": earlier[-1], "share": 0.8125}
    return admission


def synthetic_results(
    task_count: int, seeds: int = 1, without: bool = True, long_names: bool = False
) -> dict[str, Any]:
    """Return results of `task_count` (1 to 9) tasks and `seeds` seeds."""
    tasks = [f"university-hospital-of-{name}-department-2" if long_names else name for name in NAMES[:task_count]]
    sites = [f"{task}-lab" for task in tasks]
    rng = np.random.default_rng(task_count)
    numbers = {
        "images": rng.integers(3, 20, task_count).tolist(),
        "zero": rng.uniform(0.1, 0.4, task_count).tolist(),
    }
    runs = {}
    for seed in range(seeds):
        numbers["own"] = [min(0.97, zero + 0.3 + float(rng.uniform(-0.02, 0.25))) for zero in numbers["zero"]]
        stages, left_out = [], {}
        for stage, joined in enumerate(tasks):
            last, reports = without and stage == task_count - 1, {}
            for number, task in enumerate(tasks):
                reports[task], left_out[sites[number]] = _task_reports(rng, tasks, stage, number, numbers, last)
            stages.append({"task": joined, "reports": reports})
        seconds = {
            site: dict(zip(("encode", "train", "route", "evaluate"), rng.uniform(1, 60, 4).tolist(), strict=True))
            for site in sites
        }
        runs[str(seed)] = {
            "bank_digest": rng.bytes(32).hex(),
            "bytes_up": dict.fromkeys(sites, 3_900_000 + seed),
            "bytes_down": dict.fromkeys(sites, 3900000 * task_count),
            "seconds": {"total": 190.0 + seed, **seconds},
            "notes": {
                site: (["2 of 12 test images have an empty mask"] if number == 0 else [])
                for number, site in enumerate(sites)
            },
            "counts": {
                site: {"train": 4 * images, "test": images}
                for site, images in zip(sites, numbers["images"], strict=True)
            },
            "stages": stages,
            "left_out": left_out,
            "unseen": {"moon": _unseen_reports(rng, tasks)} if without else {},
            "admissions": [
                _admission(task, site, tasks[:number])
                for number, (task, site) in enumerate(zip(tasks, sites, strict=True))
            ],
            "devices": {site: "cuda" if site == sites[-1] else "cpu" for site in sites},
            "verified": f"verified: {task_count + 1} exports (bank, {task_count} sites)",
        }
    return {
        "stream": "synthetic",
        "sites": sites,
        "tasks": tasks,
        "config": method_record(StreamConfig("synthetic", (SiteConfig("any", PhantomData("phantom", "endoscopy")),))),
        "versions": {"casam-fed": "0.1.0", "python": "3.12.1", "torch": "2.13.0"},
        "backbone": {"name": "mini", "digest": rng.bytes(32).hex()},
        "seeds": runs,
        "seconds": {"total": 200.0},
        "peak_rss_mb": 1834.2,
    }


def collect(results: dict[str, Any], folder: Path) -> None:
    """Lay each seed's results where a run of casam leaves them."""
    for seed, values in results["seeds"].items():
        path = folder / f"seed-{seed}" / "results.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**results, "seeds": {seed: values}}))


def report_on(results: dict[str, Any], folder: Path) -> Path:
    """Write the report of results as those of a run of casam below `folder`."""
    collect(results, folder)
    return write_casam_report(folder, stream_of(results))


def stream_of(results: dict[str, Any]) -> StreamConfig:
    """Return a stream of which they could be the results."""
    data = PhantomData("phantom", "endoscopy")
    sites = [SiteConfig(site, data, task) for site, task in zip(results["sites"], results["tasks"], strict=True)]
    seeds = tuple(map(int, results["seeds"]))
    return StreamConfig(results["stream"], tuple(sites), seeds, MethodConfig(**results["config"]))
