"""The page of a report: markdown that a stranger to the run can read, every number beside its formula.

It shows what run.json holds and nothing else; a section stands there only when there is something to show.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

from casam_fed.inference.stage_matrix import FORMULAS
from simulations.methods.casam_results import ROUTERS
from simulations.methods.method_list import METHODS
from simulations.report.markdown import NONE, number, percent, plain, plural, shown, table
from simulations.report.numbers import TOLERANCE

__all__ = ["page"]

Run = Mapping[str, Any]

_TITLES = {
    "last": "Last",
    "avg": "Avg",
    "ff": "FF",
    "ff_max": "FF_max",
    "bwt": "BWT",
    "fwt": "FWT",
    "dice": "Dice",
    "boundary_iou": "Boundary IoU",
    "boundary_iou_casam": "Boundary IoU (CA-SAM)",
    "accuracy": "routing accuracy",
    "unknown_rate": "false unknowns",
    "smallest_recall": "smallest-task recall",
}

_MEANINGS = {
    **{name: f"`{formula.partition(' = ')[2]}`" for name, formula in FORMULAS.items()},
    "dice": "2 intersection / sum of both areas; mean over tasks, last stage, as the next two",
    "boundary_iou": "IoU of mask minus mask eroded by 2% of the diagonal (Cheng et al. 2021)",
    "boundary_iou_casam": "IoU of 1 px contours dilated by about 2% of the diagonal; not comparable with the row above",
    "accuracy": "test images sent to their own task / all test images, last stage",
    "unknown_rate": "test images of admitted tasks sent to unknown / all test images, last stage",
    "smallest_recall": "routing accuracy of the task with the fewest training images",
}

_BY = {"rule": "the rule", "person": "a person"}


def page(run: Run, matrices: Sequence[str], overlays: Sequence[str]) -> str:
    """Return report.md.

    Args:
        run: the content of run.json.
        matrices: names of the pictures in the folder `stage_matrices` beside the page.
        overlays: names of the pictures in the folder `overlays` beside the page.
    """
    with_casam = "routes" in run
    parts = [
        _opening(run),
        _headlines(run) if with_casam else "",
        _scoring(run),
        _scores(run),
        _tasks(run),
        _figures(run, matrices),
        _routing(run) if with_casam else "",
        _left_out(run),
        _unseen(run),
        _admission(run) if with_casam else "",
        _overlays(run["tasks"], overlays),
        _cost(run),
        _notes(run),
        _orders(run["orders"]),
        _identity(run),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _opening(run: Run) -> str:
    counts = [plural(len(run["tasks"]), "task"), plural(len(run["seeds"]), "seed")]
    if len(run["methods"]) > 1:
        counts.insert(1, plural(len(run["methods"]), "method"))
    if len(run["orders"]) > 1:
        counts.append(plural(len(run["orders"]), "order"))
    sites = "One site joined" if len(run["tasks"]) == 1 else f"{len(run['tasks'])} sites joined one after another"
    return f"""# Stream `{run["stream"]}`: {", ".join(counts)}

{sites}: {" → ".join(map(plain, run["tasks"]))}. The backbone `{run["config"]["backbone"]}`, a Segment Anything
Model (SAM), stayed frozen."""


def _headlines(run: Run) -> str:
    gaussian, vae, oracle = (run["routes"][way] for way in ("gaussian", "vae", "oracle"))
    plain_sam = float(np.mean(list(run["zero_shot"].values())))
    return f"""By CA-SAM each site trained only its own alignment layer and routers on its own images and released these;
entries of the bank never change. After every stage each site scored its own test images under the bank of that stage.

- **Mean IoU over the tasks after the last stage: {number(gaussian["last"])}** routed by the gaussian router,
  {number(vae["last"])} by the vae router, {number(oracle["last"])} with every image sent to its own task (oracle),
  {number(plain_sam)} with plain SAM (zero-shot).
- Final forgetting (FF): {number(gaussian["ff"])} gaussian, {number(vae["ff"])} vae, {number(oracle["ff"])} oracle.
- Routing: the gaussian router sent {percent(gaussian["accuracy"])} of all test images to their own task and
  {percent(gaussian["unknown_rate"])} to unknown, which falls back to plain SAM; the vae router
  {percent(vae["accuracy"])} and {percent(vae["unknown_rate"])}."""


def _scoring(run: Run) -> str:
    unit = "instance" if run["config"]["unit"] == "instance" else "class that is present"
    at = "the backbone's square input" if run["config"]["score_at"] == "square" else "the source resolution"
    over = "seeds and orders" if len(run["orders"]) > 1 else "seeds"
    several = len(run["seeds"]) > 1 or len(run["orders"]) > 1
    means = f"\n\nNumbers are means ± sample standard deviations over {over}." if several else ""
    return f"""All scores are **box-prompted**: one tight box per {unit}, taken from the true mask. The score of
an image is the mean over its boxes, that of a task the mean over its test images; masks are compared at
{at}.{means}"""


def _scores(run: Run) -> str:
    rows = {"zero-shot": run["rows"]["zero-shot"], **run["rows"]}
    lines = [
        [title, *(_spread(numbers[name]) for numbers in rows.values()), _MEANINGS[name]]
        for name, title in _TITLES.items()
    ]
    if len(run["methods"]) > 1 or len(run["orders"]) > 1:
        lines.append(["runs", *(str(numbers["runs"]) for numbers in rows.values()), "seeds and orders"])
    meanings = "\n".join(
        f"- *{name}*: {METHODS[name].meaning}." for name in dict.fromkeys(["zero-shot", *run["methods"]])
    )
    options = run["baselines"]
    strengths = f"""

All methods learn from the same stored embeddings of the same images, with the same prompts, numbers of steps and seeds.
Strengths: ewc {options["ewc_strength"]:g}; lwf {options["lwf_strength"]:g} at temperature {options["lwf_temperature"]:g};
fedavg {plural(options["fedavg_rounds"], "round")}; {plural(options["er_images"], "image")} in the buffer of er."""
    return f"""## Scores

{table(["measure", *rows, "formula"], lines)}

`a[i][j]` is the IoU of task j after stage i, both counted from 0, T tasks. Lower is better for FF, FF_max and false
unknowns, higher for all else. {NONE}: nothing is routed, or the method does not learn task after task.

{meanings}{strengths if len(run["methods"]) > 1 else ""}"""


def _tasks(run: Run) -> str:
    sites = dict(zip(run["tasks"], run.get("sites", run["tasks"]), strict=True))
    scored = {row: numbers["final"]["iou"] for row, numbers in run["rows"].items() if row != "zero-shot"}
    head, rows = ["task"], []
    if counted := "counts" in run:
        head += ["train", "test"]
    head += ["zero-shot", *scored]
    if gain := "casam gaussian" in scored:
        head += ["gaussian over zero-shot"]
    for task, site in sites.items():
        cells = [plain(task) if site == task else f"{plain(task)} ({plain(site)})"]
        if counted:
            cells += [str(run["counts"][site][side]) for side in ("train", "test")]
        cells += [number(run["zero_shot"][task]), *(_spread(iou[task]) for iou in scored.values())]
        if gain:
            cells.append(_signed(scored["casam gaussian"][task]["mean"] - run["zero_shot"][task]))
        rows.append(cells)
    counts = " Train and test are numbers of images." if counted else ""
    order = ", in the stream's own order" if len(run["orders"]) > 1 else ""
    return f"""## Tasks at the last stage

IoU of each task{order}.{counts}

{table(head, rows)}"""


def _figures(run: Run, matrices: Sequence[str]) -> str:
    parts = ["## Stage by stage"]
    if len(run["methods"]) > 1:
        parts.append("![Mean IoU and forgetting of all methods over the stages](forgetting.png)")
        parts.append("Means over seeds and orders. Below, the stage matrices in the stream's own order.")
    parts += [
        f"![Stage matrices of {name.removesuffix('.png')}: IoU of every task after every stage](stage_matrices/{name})"
        for name in matrices
    ]
    if "routes" in run:
        parts.append("![CA-SAM: IoU of every task over the stages](curves.png)")
    parts.append(
        "The numbers are in [methods.csv](methods.csv), one line a run, [stage_matrix.csv](stage_matrix.csv)"
        " and [run.json](run.json)."
    )
    return "\n\n".join(parts)


def _routing(run: Run) -> str:
    seeds = len(run["bank_digests"])
    counted = f"summed over {seeds} seeds" if seeds > 1 else "one seed"
    parts = [f"## Where the test images were sent\n\nTest images at the last stage, {counted}; bold: their own task."]
    for router in ROUTERS:
        rows = []
        for own, (task, counts) in enumerate(zip(run["tasks"], run["routes"][router]["confusion"], strict=True)):
            cells = [f"**{count}**" if column == own else str(count) for column, count in enumerate(counts)]
            rows.append([plain(task), *cells])
        parts.append(f"By the {router} router:")
        parts.append(table(["images of ↓ sent to →", *map(plain, run["tasks"]), "unknown"], rows))
    return "\n\n".join(parts)


def _left_out(run: Run) -> str:
    if not run.get("left_out"):
        return ""
    alone = " With a single task nothing else is known, so there is no AUROC." if len(run["tasks"]) == 1 else ""
    rows = []
    for name, routers in run["left_out"].items():
        for router, numbers in routers.items():
            measured = [number(numbers[key], numbers["std"][key]) for key in ("unknown_recall", "auroc", "iou")]
            rows.append([plain(name), router, str(numbers["images"]), *measured, number(numbers["zero_shot"])])
    head = ["left out", "router", "test images", "unknown recall", "OOD AUROC", "IoU as routed", "IoU of plain SAM"]
    return f"""## Images that no task of the bank has seen

Each task in turn is taken out of the last bank, and its test images are routed among the others. *Unknown recall*: share
sent to unknown, as they should be. *OOD AUROC*: probability that such an image has a higher strength of "unknown" than a
test image of the remaining tasks (ties half, from histograms).{alone} *IoU as routed* against plain SAM: what an image
gains or loses that another task's layer claims.

{table(head, rows)}"""


def _unseen(run: Run) -> str:
    sets = dict.fromkeys(name for numbers in run["rows"].values() for name in numbers["unseen"])
    rows = []
    for name in sets:
        for row, numbers in run["rows"].items():
            if found := numbers["unseen"].get(name):
                measured = [_spread(found[key]) for key in ("unknown_rate", "auroc", "iou")]
                against = [number(found["zero_shot"]), _signed(found["difference"])]
                harmless = "yes" if found["harmless"] else "no"
                rows.append([plain(name), row, str(found["images"]), *measured, *against, harmless])
    if not rows:
        return ""
    head = ["set", "method", "images", "unknown recall", "OOD AUROC", "IoU", "plain SAM", "difference", "harmless"]
    shared = " A shared layer treats every image alike." if len(run["methods"]) > 1 else ""
    return f"""## Sets that no site has

Out of the distribution of all tasks. *Unknown recall*: share sent to unknown, where plain SAM answers. *OOD AUROC*:
probability that such an image has a higher strength of "unknown" than a test image of the tasks. *Harmless*: IoU not
more than {TOLERANCE} below that of plain SAM.{shared}

{table(head, rows)}"""


def _admission(run: Run) -> str:
    releases = [(seed, release) for seed, found in run["admissions"].items() for release in found]
    if not releases:
        return ""
    alike: dict[tuple[str, ...], list[tuple[str, Run]]] = {}
    for task in run["tasks"]:
        for seed, release in releases:
            if release["task"] == task:
                how = (release["outcome"], release["code"], _BY[release["by"]])
                alike.setdefault((plain(task), *how), []).append((seed, release))
    rows = []
    for (task, *said), found in alike.items():
        claims = [release["overlap"] for _, release in found if release["overlap"]]
        claim = max(claims, key=lambda claim: claim["share"], default=None)
        largest = f"{percent(claim['share'])} of {plain(claim['source'])} by {plain(claim['kind'])}" if claim else NONE
        rows.append([task, ", ".join(seed for seed, _ in found), *said, largest])
    counts = Counter(f"{release['outcome']} {release['code']}" for _, release in releases)
    counted = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
    return f"""## Admission

What the aggregator's checks said of {plural(len(releases), "release")}: {counted}. A quarantined one waits for a
person, who in a simulation accepts it. *Largest overlap*: the largest share of another task's samples, or of images of no
task, that a router of the release takes.

{table(["task", "seeds", "checks", "code", "let in by", "largest overlap"], rows)}"""


def _overlays(tasks: Sequence[str], names: Sequence[str]) -> str:
    if not names:
        return ""
    ordered = sorted(names, key=lambda name: (_task_number(tasks, name), _natural(name)))
    links = [f"![{plain(name.removesuffix('.png'))}](overlays/{quote(name)})" for name in ordered]
    caption = "Test images: the image, truth, zero-shot SAM and ours, which is the layer of the image's own task."
    return "\n\n".join([f"## Examples\n\n{caption}", *links])


def _cost(run: Run) -> str:
    parts = []
    if "routes" in run:
        work = ("encode", "train", "route", "evaluate")
        rows = []
        for site in run["sites"]:
            seconds = [_site_seconds(seed.get(site), work) for seed in run["seconds"]["seeds"].values()]
            means = [_amount(_mean_known(column), 1) for column in zip(*seconds, strict=True)]
            rows.append([plain(site), f"{run['bytes_up'][site]:,}", f"{run['bytes_down'][site]:,}", *means])
        head = ["site", "bytes up", "bytes down", *(f"{part} s" for part in work)]
        parts.append(
            "Means over seeds; *bytes up* is the release, *bytes down* what the site fetched of the bank. Images are\n"
            "encoded once and kept, so encoding costs nothing where an earlier seed or run has done it."
        )
        parts.append(table(head, rows))
    # The three ways of routing share their layers, so one of them stands for casam.
    trained = {
        row.removesuffix(" gaussian"): numbers
        for row, numbers in run["rows"].items()
        if numbers["seconds"] and row not in ("casam vae", "casam oracle")
    }
    if set(trained) - {"casam"}:
        parts.append(_cost_of_methods(trained))
    peak, total = run["peak_rss_mb"], run["seconds"]["total"]
    memory = "memory not measured" if peak is None else f"{peak:,} MB resident at the peak"
    parts.append(f"Whole run: {_amount(total, 1)} s; {memory}.")
    return "\n\n".join(["## Bytes, seconds and memory", *parts])


def _cost_of_methods(trained: Mapping[str, Run]) -> str:
    exchanged = {row: numbers for row, numbers in trained.items() if numbers["bytes_up"]}
    places = dict.fromkeys(site for numbers in trained.values() for site in numbers["seconds"])
    rows = [
        [plain(site)]
        + [_amount(numbers["bytes_up"].get(site), 0) for numbers in exchanged.values()]
        + [_amount(numbers["seconds"].get(site), 1) for numbers in trained.values()]
        for site in places
    ]
    rows.append(
        ["**all**"]
        + [_amount(sum(numbers["bytes_up"].values()), 0) for numbers in exchanged.values()]
        + [_amount(sum(numbers["seconds"].values()), 1) for numbers in trained.values()]
    )
    head = ["site", *(f"{row}, bytes sent" for row in exchanged), *(f"{row}, s" for row in trained)]
    return f"""Bytes that each site sent over Flower, and its seconds of training, means over seeds and orders. Methods
without bytes were learned in one process; joint trains on the images of all sites at once.

{table(head, rows)}"""


def _notes(run: Run) -> str:
    lines = [f"- {plain(site)}: {plain(note)}" for site, notes in run.get("notes", {}).items() for note in notes]
    return "## Notes of the sites\n\n" + "\n".join(lines) if lines else ""


def _orders(orders: Sequence[Sequence[str]]) -> str:
    lines = "\n".join(f"{place}. {' → '.join(map(plain, order))}" for place, order in enumerate(orders))
    return f"## Orders\n\n{lines}" if len(orders) > 1 else ""


def _identity(run: Run) -> str:
    digest = run.get("backbone", {}).get("digest")
    lines = [f"- backbone `{run['config']['backbone']}`" + (f": `{digest}`" if digest else "")]
    lines += [f"- bank, seed {seed}: `{digest}`" for seed, digest in run.get("bank_digests", {}).items()]
    placed = {(device, site) for sites in run.get("devices", {}).values() for site, device in sites.items()}
    if devices := sorted({device for device, _ in placed}):
        where = {
            device: ", ".join(plain(site) for site in run["sites"] if (device, site) in placed) for device in devices
        }
        lines.append("- device: " + "; ".join(f"{plain(device)} ({sites})" for device, sites in where.items()))
    lines += [f"- seed {seed}, {sentence}" for seed, sentence in run.get("verified", {}).items() if sentence]
    if versions := run.get("versions"):
        lines.append("- versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    config = "\n".join(f"{key}: {json.dumps(value)}" for key, value in run["config"].items())
    return "## What exactly ran\n\n" + "\n".join(lines) + f"\n\n```yaml\n{config}\n```"


def _spread(value: Mapping[str, float | None] | None) -> str:
    return NONE if value is None else number(value["mean"], value["std"])


def _signed(value: float) -> str:
    return f"{shown(value):+.3f}"


def _amount(value: float | None, decimals: int) -> str:
    return NONE if value is None else f"{value:,.{decimals}f}"


def _site_seconds(seconds: object, parts: Sequence[str]) -> list[float | None]:
    return [seconds.get(part) if isinstance(seconds, Mapping) else None for part in parts]


def _mean_known(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _task_number(tasks: Sequence[str], name: str) -> int:
    """Return the place in the stream of the task whose name, the longest that fits, begins a picture's name."""
    fitting = [task for task in tasks if name.startswith(task)]
    return tasks.index(max(fitting, key=len)) if fitting else len(tasks)


def _natural(name: str) -> list[tuple[int, str]]:
    """Order a-2 before a-10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
