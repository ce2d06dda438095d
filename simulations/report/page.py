"""The page of a report: markdown that a stranger to the run can read, every number beside its formula."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

from casam_fed.inference.stage_matrix import FORMULAS, StageMatrix
from casam_fed.wire.evaluation_report import METRICS
from simulations.methods.casam_results import ROUTERS, ROUTES, Results
from simulations.report.markdown import NONE, number, percent, plain, plural, shown, table
from simulations.report.numbers import final_scores, spread

__all__ = ["page"]

_MEASURES = {
    "last": ("Last", FORMULAS["last"].partition(" = ")[2]),
    "avg": ("Avg", FORMULAS["avg"].partition(" = ")[2]),
    "ff": ("FF", FORMULAS["ff"].partition(" = ")[2]),
    "ff_max": ("FF_max", FORMULAS["ff_max"].partition(" = ")[2]),
    "bwt": ("BWT", FORMULAS["bwt"].partition(" = ")[2]),
    "fwt": ("FWT", FORMULAS["fwt"].partition(" = ")[2]),
    "accuracy": ("routing accuracy", "test images sent to their own task / all test images, last stage"),
    "unknown_rate": ("false unknowns", "test images of admitted tasks sent to unknown / all test images, last stage"),
}

_EXAMPLES = """## Examples

Test images: the image, truth, zero-shot SAM and ours, which is the layer of the image's own task."""

_METRIC_NAMES = {
    "iou": ("IoU", "intersection / union"),
    "dice": ("Dice", "2 intersection / sum of both areas"),
    "boundary_iou": ("Boundary IoU", "IoU of mask minus mask eroded by 2% of the diagonal (Cheng et al. 2021)"),
    "boundary_iou_casam": (
        "Boundary IoU (CA-SAM)",
        "IoU of 1 px contours dilated by about 2% of the diagonal; not comparable with the row above",
    ),
}


def page(results: Results, run: Mapping[str, Any], overlays: Sequence[str]) -> str:
    """Return report.md.

    Args:
        results: the checked results.
        run: the content of run.json.
        overlays: names of the pictures in the folder `overlays` beside the page.
    """
    parts = [
        _opening(results, run),
        _ways(results, run),
        _tasks(results),
        _figures(),
        _routing(results, run),
        _left_out(results, run),
        _unseen(run),
        _overlays(results.tasks, overlays),
        _cost(results, run),
        _notes(results),
        _identity(results, run),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _opening(results: Results, run: Mapping[str, Any]) -> str:
    count, seeds = len(results.tasks), len(results.seeds)
    gaussian, vae, oracle = (run["routes"][way] for way in ("gaussian", "vae", "oracle"))
    plain_sam = float(np.mean(list(run["zero_shot"].values())))
    backbone = results.backbone.get("name", "the backbone")
    unit = "instance" if results.config.get("unit") == "instance" else "class that is present"
    at = "the backbone's square input" if results.config.get("score_at") == "square" else "the source resolution"
    several = "\n\nNumbers are means ± sample standard deviations over the seeds." if seeds > 1 else ""
    sites = "One site joined" if count == 1 else f"{count} sites joined one after another"
    return f"""# Stream `{results.stream}`: {plural(count, "task")}, {plural(seeds, "seed")}

{sites}: {" → ".join(map(plain, results.tasks))}. The backbone `{backbone}`, a Segment Anything Model (SAM),
stayed frozen. Each site trained only its own alignment layer and routers on its own images and released these;
entries of the bank never change. After every stage each site scored its own test images under the bank of that stage.

- **Mean IoU over the tasks after the last stage: {number(gaussian["last"])}** routed by the gaussian router,
  {number(vae["last"])} by the vae router, {number(oracle["last"])} with every image sent to its own task (oracle),
  {number(plain_sam)} with plain SAM (zero-shot).
- Final forgetting (FF): {number(gaussian["ff"])} gaussian, {number(vae["ff"])} vae, {number(oracle["ff"])} oracle.
- Routing: the gaussian router sent {percent(gaussian["accuracy"])} of all test images to their own task and
  {percent(gaussian["unknown_rate"])} to unknown, which falls back to plain SAM; the vae router
  {percent(vae["accuracy"])} and {percent(vae["unknown_rate"])}.

All scores are **box-prompted**: one tight box per {unit}, taken from the true mask. The score of
an image is the mean over its boxes, that of a task the mean over its test images; masks are compared at
{at}.{several}"""


def _ways(results: Results, run: Mapping[str, Any]) -> str:
    zero_shot = [run["zero_shot"][task] for task in results.tasks]
    unaided = StageMatrix.from_rows([zero_shot] * len(zero_shot))
    unrouted = {name: getattr(unaided, name) for name in ("last", "avg", "ff", "ff_max", "bwt")}
    unrouted["fwt"] = unaided.fwt(zero_shot)
    rows = []
    for name, (title, formula) in _MEASURES.items():
        cells = [number(unrouted.get(name))]
        cells += [number(run["routes"][way][name], run["routes"][way]["std"][name]) for way in ROUTES]
        rows.append([title, *cells, f"`{formula}`" if name in FORMULAS else formula])
    others = []
    for metric in METRICS:
        title, meaning = _METRIC_NAMES[metric]
        zero = number(final_scores(results, "zero_shot", metric)[0])
        others.append([title, zero, *(number(*final_scores(results, way, metric)) for way in ROUTES), meaning])
    head = ["zero-shot", "oracle", "gaussian", "vae"]
    return f"""## Ways of routing

`a[i][j]` is the IoU of task j after stage i, both counted from 0, T tasks. *zero-shot*: plain SAM. *oracle*: every image
takes its own task's layer once that task has joined. *gaussian*, *vae*: the image is routed among the tasks of the bank.
Lower is better for FF, FF_max and false unknowns, higher for all else.

{table(["measure", *head, "formula"], rows)}

The same at the last stage in other metrics, each the mean over tasks:

{table(["metric", *head, "meaning"], others)}"""


def _tasks(results: Results) -> str:
    rows = []
    for site, task in zip(results.sites, results.tasks, strict=True):
        reports = [run.stages[-1].reports[task] for run in results.runs]
        zero, *ours = (
            spread([report.by_way(way).scores["iou"] for report in reports]) for way in ("zero_shot", *ROUTES)
        )
        gain = spread([report.gaussian.scores["iou"] - report.zero_shot.scores["iou"] for report in reports])[0]
        counts = results.runs[0].counts[site]
        name = plain(task) if site == task else f"{plain(task)} ({plain(site)})"
        images = [str(counts.get("train", NONE)), str(counts.get("test", NONE))]
        rows.append([name, *images, number(zero[0]), *(number(*pair) for pair in ours), f"{shown(gain):+.3f}"])
    head = ["task", "train", "test", "zero-shot", "oracle", "gaussian", "vae", "gaussian over zero-shot"]
    return f"""## Tasks at the last stage

IoU of each task; train and test are numbers of images.

{table(head, rows)}"""


def _figures() -> str:
    return """## Stage by stage

![Stage matrices: IoU of every task after every stage](stage_matrix.png)

![IoU of every task over the stages](curves.png)

The numbers are in [stage_matrix.csv](stage_matrix.csv) and [run.json](run.json)."""


def _routing(results: Results, run: Mapping[str, Any]) -> str:
    seeds = len(results.seeds)
    counted = f"summed over {seeds} seeds" if seeds > 1 else "one seed"
    parts = [f"## Where the test images were sent\n\nTest images at the last stage, {counted}; bold: their own task."]
    for router in ROUTERS:
        rows = []
        for own, (task, counts) in enumerate(zip(results.tasks, run["routes"][router]["confusion"], strict=True)):
            cells = [f"**{count}**" if column == own else str(count) for column, count in enumerate(counts)]
            rows.append([plain(task), *cells])
        parts.append(f"By the {router} router:")
        parts.append(table(["images of ↓ sent to →", *map(plain, results.tasks), "unknown"], rows))
    return "\n\n".join(parts)


def _left_out(results: Results, run: Mapping[str, Any]) -> str:
    if not run["left_out"]:
        return ""
    alone = " With a single task nothing else is known, so there is no AUROC." if len(results.tasks) == 1 else ""
    return f"""## Images that no task of the bank has seen

Each task in turn is taken out of the last bank, and its test images are routed among the others. *Unknown recall*: share
sent to unknown, as they should be. *OOD AUROC*: probability that such an image has a higher strength of "unknown" than a
test image of the remaining tasks (ties half, from histograms).{alone} *IoU as routed* against plain SAM: what an image
gains or loses that another task's layer claims.

{_unknown_table("left out", "test images", run["left_out"])}"""


def _unseen(run: Mapping[str, Any]) -> str:
    if not run["unseen"]:
        return ""
    return f"""## Sets that no site has

Out of the distribution of all tasks: routed among the tasks of the last bank, and named as above.

{_unknown_table("set", "images", run["unseen"])}"""


def _unknown_table(what: str, images: str, found: Mapping[str, Any]) -> str:
    rows = []
    for name, routers in found.items():
        for router, numbers in routers.items():
            std = numbers["std"]
            measured = [number(numbers[key], std[key]) for key in ("unknown_recall", "auroc", "iou")]
            rows.append([plain(name), router, str(numbers["images"]), *measured, number(numbers["zero_shot"])])
    return table([what, "router", images, "unknown recall", "OOD AUROC", "IoU as routed", "IoU of plain SAM"], rows)


def _overlays(tasks: Sequence[str], names: Sequence[str]) -> str:
    if not names:
        return ""
    ordered = sorted(names, key=lambda name: (_task_number(tasks, name), _natural(name)))
    links = [f"![{plain(name.removesuffix('.png'))}](overlays/{quote(name)})" for name in ordered]
    return "\n\n".join([_EXAMPLES, *links])


def _cost(results: Results, run: Mapping[str, Any]) -> str:
    parts = ("encode", "train", "route", "evaluate")
    rows = []
    for site in results.sites:
        seconds = [_site_seconds(seed.seconds.get(site), parts) for seed in results.runs]
        means = [_mean_known(column) for column in zip(*seconds, strict=True)]
        down = round(float(np.mean([seed.bytes_down[site] for seed in results.runs])))
        rows.append(
            [plain(site), f"{run['bytes_up'][site]:,}", f"{down:,}", *(_seconds(value) for value in means)],
        )
    total = results.seconds.get("total")
    memory = "not measured" if results.peak_rss_mb is None else f"{results.peak_rss_mb:,.0f} MB resident at the peak"
    head = ["site", "bytes up", "bytes down", *(f"{part} s" for part in parts)]
    return f"""## Bytes, seconds and memory

Means over seeds; *bytes up* is the release, *bytes down* what the site fetched of the bank. Images are encoded once and
kept, so encoding costs nothing where an earlier seed or run has done it.

{table(head, rows)}

Whole run: {_seconds(total)} s; {memory}."""


def _notes(results: Results) -> str:
    lines = []
    for site in results.sites:
        sentences = dict.fromkeys(note for run in results.runs for note in run.notes.get(site, ()))
        lines += [f"- {plain(site)}: {plain(note)}" for note in sentences]
    return "## Notes of the sites\n\n" + "\n".join(lines) if lines else ""


def _identity(results: Results, run: Mapping[str, Any]) -> str:
    digests = "\n".join(f"- bank, seed {seed}: `{digest}`" for seed, digest in run["bank_digests"].items())
    config = "\n".join(f"{key}: {json.dumps(value)}" for key, value in run["config"].items())
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    return f"""## What exactly ran

- backbone `{results.backbone.get("name", NONE)}`: `{results.backbone.get("digest", NONE)}`
{digests}
- versions: {versions}

```yaml
{config}
```"""


def _seconds(value: float | None) -> str:
    return NONE if value is None else f"{value:,.1f}"


def _site_seconds(seconds: object, parts: Sequence[str]) -> list[float | None]:
    return [seconds.get(part) if isinstance(seconds, Mapping) else None for part in parts]


def _mean_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _task_number(tasks: Sequence[str], name: str) -> int:
    """Return the place in the stream of the task whose name, the longest that fits, begins a picture's name."""
    fitting = [task for task in tasks if name.startswith(task)]
    return tasks.index(max(fitting, key=len)) if fitting else len(tasks)


def _natural(name: str) -> list[tuple[int, str]]:
    """Order a-2 before a-10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
