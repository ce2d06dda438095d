"""The page of a sweep: what each method reached on the stream, every number beside its formula."""

from collections.abc import Mapping, Sequence
from typing import Any

from casam_fed.inference.stage_matrix import FORMULAS
from simulations.methods.method_list import METHODS
from simulations.report.markdown import NONE, number, plain, plural, shown, table
from simulations.stream_config import StreamConfig
from simulations.sweep.summary import SCALARS, TOLERANCE

__all__ = ["sweep_page"]

_TITLES = {
    "last": "Last",
    "avg": "Avg",
    "ff": "FF",
    "ff_max": "FF_max",
    "bwt": "BWT",
    "fwt": "FWT",
    "boundary_iou": "Boundary IoU",
    "accuracy": "routing accuracy",
    "smallest_recall": "smallest-task recall",
}


def sweep_page(run: Mapping[str, Any], stream: StreamConfig, matrices: Sequence[str]) -> str:
    """Return report.md.

    Args:
        run: the content of run.json.
        stream: what was run.
        matrices: file names of the stage matrices, one a method.
    """
    parts = [
        _opening(run, stream),
        _methods(run, stream),
        _tasks(run),
        _figures(matrices),
        _unseen(run),
        _cost(run),
        _orders(run),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _opening(run: Mapping[str, Any], stream: StreamConfig) -> str:
    seeds, orders = len(run["seeds"]), len(run["orders"])
    unit = "instance" if stream.method.unit == "instance" else "class that is present"
    return f"""# Stream `{run["stream"]}`: {plural(len(run["rows"]), "row")} of methods, {plural(seeds, "seed")}, \
{plural(orders, "order")} of tasks

{" → ".join(map(plain, run["tasks"]))}. All methods learn from the same stored embeddings of the same images, with the same
prompts, numbers of steps and seeds, on the frozen backbone `{stream.method.backbone}`. All scores are **box-prompted**: one
tight box per {unit}, taken from the true mask."""


def _methods(run: Mapping[str, Any], stream: StreamConfig) -> str:
    rows = [
        [row, str(numbers["runs"]), *(_spread(numbers[name]) for name in SCALARS)]
        for row, numbers in run["rows"].items()
    ]
    names = {row: method for method in METHODS.values() for row in method.rows}
    meanings = dict.fromkeys(f"- *{names[row].name}*: {names[row].meaning}." for row in run["rows"])
    options = stream.baselines
    buffer = f" The buffer of er holds {plural(options.er_images, 'image')} in all." if "er" in run["rows"] else ""
    formulas = "; ".join(f"`{formula}`" for formula in FORMULAS.values())
    return f"""## Methods

Mean ± sample standard deviation over seeds and orders; {NONE}: the method has no such number, for it routes nothing, or
does not learn task after task.

{table(["method", "runs", *(_TITLES[name] for name in SCALARS)], rows)}

Scores are IoU, `a[i][j]` that of task j after stage i, both from 0, T tasks: {formulas}.
*Boundary IoU* (Cheng et al. 2021): mean over tasks at the end. *Routing accuracy*: test images sent to their own task
at the end. *Smallest-task recall*: the same for the task with the fewest training images. Lower is better for FF and
FF_max, higher for all else.

{chr(10).join(meanings)}

Strengths: ewc {options.ewc_strength:g}; lwf {options.lwf_strength:g} at temperature {options.lwf_temperature:g};
fedavg {plural(options.fedavg_rounds, "round")}.{buffer}"""


def _tasks(run: Mapping[str, Any]) -> str:
    shown_rows = {row: numbers for row, numbers in run["rows"].items() if numbers["final"]}
    rows = [
        [plain(task), *(number(numbers["final"]["iou"][task]) for numbers in shown_rows.values())]
        for task in run["tasks"]
    ]
    return f"""## Tasks

IoU of each task at the end of the stream in its own order, means over seeds.

{table(["task", *shown_rows], rows)}"""


def _figures(matrices: Sequence[str]) -> str:
    links = "\n\n".join(f"![Stage matrices: {name}](stage_matrices/{name})" for name in matrices)
    return f"""## Stage by stage

![Mean IoU and forgetting of all methods over the stages](forgetting.png)

Means over seeds and orders. Below, the stage matrices in the stream's own order, means over seeds.

{links}

The numbers are in [methods.csv](methods.csv) and [run.json](run.json)."""


def _unseen(run: Mapping[str, Any]) -> str:
    sets = dict.fromkeys(name for numbers in run["rows"].values() for name in numbers["unseen"])
    if not sets:
        return ""
    rows = []
    for name in sets:
        for row, numbers in run["rows"].items():
            if name not in numbers["unseen"]:
                continue
            found = numbers["unseen"][name]
            rows.append(
                [
                    plain(name),
                    row,
                    _spread(found["unknown_rate"]),
                    _spread(found["auroc"]),
                    _spread(found["iou"]),
                    number(found["zero_shot"]),
                    f"{shown(found['difference']):+.3f}",
                    "yes" if found["harmless"] else "no",
                ]
            )
    head = ["set", "method", "unknown rate", "OOD AUROC", "IoU", "plain SAM", "difference", "harmless"]
    return f"""## Sets that no site has

Out of the distribution of all tasks. *Unknown rate*: share sent to unknown, where plain SAM answers. *OOD AUROC*:
probability that such an image has a higher strength of "unknown" than a test image of the tasks. *Harmless*: IoU not
more than {TOLERANCE} below that of plain SAM. A shared layer treats every image alike.

{table(head, rows)}"""


def _cost(run: Mapping[str, Any]) -> str:
    # The three ways of routing share their layers, so one of them stands for casam.
    trained = {
        row.removesuffix(" gaussian"): numbers
        for row, numbers in run["rows"].items()
        if numbers["seconds"] and row not in ("casam vae", "casam oracle")
    }
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
    return f"""## Bytes and seconds

Bytes that each site sent over Flower, and its seconds of training, means over seeds and orders. Methods without bytes were
learned in one process; joint trains on the images of all sites at once.

{table(head, rows)}

Peak memory of all processes: {run["peak_rss_mb"]:,} MB; {run["seconds"]["total"] / 60:,.1f} minutes for all cells."""


def _orders(run: Mapping[str, Any]) -> str:
    lines = "\n".join(f"{place}. {' → '.join(map(plain, order))}" for place, order in enumerate(run["orders"]))
    return f"## Orders\n\n{lines}" if len(run["orders"]) > 1 else ""


def _spread(value: Mapping[str, float] | None) -> str:
    return NONE if value is None else number(value["mean"], value["std"])


def _amount(value: float | None, decimals: int) -> str:
    return NONE if value is None else f"{value:,.{decimals}f}"
