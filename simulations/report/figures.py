"""The figures of a report: stage matrices as heat maps, the IoU of every task, and of every method, over the stages.

matplotlib is imported when a figure is drawn, with its Agg canvas and without pyplot, so that neither a screen nor global
state is needed.
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["curves_png", "forgetting_png", "stage_matrix_png"]

_TITLES = {
    "oracle": "oracle: own task's layer",
    "gaussian": "routed by gaussian",
    "vae": "routed by vae",
}
_DASHES = {"casam oracle": ":", "zero-shot": "--"}
_LINE = 24
_GAP = 0.14
_COLOURS = [
    "#4269d0",
    "#e8772e",
    "#3ca951",
    "#c2379a",
    "#8a5fc7",
    "#16a3b8",
    "#9c6b4e",
    "#d4a017",
    "#d62f3e",
    "#6b7785",
]
_INK, _FAINT, _GREY = "#1c2733", "#8b949e", "#e9ecef"


def stage_matrix_png(tasks: Sequence[str], routes: Mapping[str, Any], zero_shot: Mapping[str, float]) -> bytes:
    """Draw a[i][j] of every way of routing, or of a method, side by side, above it a row with plain SAM.

    Cells above the diagonal are grey.

    Args:
        tasks: the T tasks in stream order.
        routes: way or method -> {"matrix": T rows of T scores or None, ...}, as in run.json.
        zero_shot: task -> score of plain SAM.

    Returns:
        A PNG file.
    """
    count, ways = len(tasks), len(routes)
    short = max(map(len, tasks)) <= _LINE
    cell = 0.62 if count <= 6 else 0.5
    figure = _new_figure(ways * max(count * cell + 0.3, 2.2) + 2.4, (count + 1.2) * cell + (2.2 if short else 1.3))
    grid = figure.subplots(1, ways, sharey=True, squeeze=False)[0]
    for axes, (way, numbers) in zip(grid, routes.items(), strict=True):
        matrix = np.array(numbers["matrix"], dtype=np.float64)
        _heat_map(axes, matrix, [zero_shot[task] for task in tasks], cell)
        axes.set_title(_TITLES.get(way, way), fontsize=11, color=_INK, pad=8)
        names = _labels(tasks) if short else [str(number) for number in range(count)]
        slant: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if short else {}
        axes.set_xticks(range(count), names, fontsize=8.5, **slant)
    stages = ["plain SAM", *(f"+ {label}" for label in _labels(tasks))]
    grid[0].set_yticks([-1 - _GAP, *range(count)], stages, fontsize=8.5)
    grid[0].set_ylabel("stage: the task that joins", fontsize=9, color=_INK)
    caption = "IoU of each task's test images (box-prompted); grey: the task has not joined yet"
    figure.supxlabel(caption, fontsize=9, color=_INK)
    return _png_of(figure)


def curves_png(tasks: Sequence[str], routes: Mapping[str, Any], zero_shot: Mapping[str, float]) -> bytes:
    """Draw the IoU of every task from its own stage on, one panel a route, with the mean of the tasks that have joined.

    Dotted: the same task before it joined. Ticks at the left edge: plain SAM.

    Args: and Returns: as in `stage_matrix_png`.
    """
    count, ways = len(tasks), len(routes)
    figure = _new_figure(ways * max(2.9, min(4.2, 1.6 + 0.55 * count)) + 2.2, 3.9)
    grid = figure.subplots(1, ways, sharey=True, squeeze=False)[0]
    for axes, (way, numbers) in zip(grid, routes.items(), strict=True):
        _curves(axes, tasks, np.array(numbers["matrix"], dtype=np.float64), zero_shot)
        axes.set_title(_TITLES.get(way, way), fontsize=11, color=_INK, pad=8)
    grid[0].set_ylabel("IoU (box-prompted)", fontsize=9, color=_INK)
    figure.supxlabel("stage; dotted: before the task joined; ticks at the left: plain SAM", fontsize=9, color=_INK)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8.5, frameon=False)
    return _png_of(figure)


def forgetting_png(rows: Mapping[str, Any]) -> bytes:
    """Draw two panels over the stages: the mean IoU of the tasks that have joined, and their mean fall since they joined.

    Methods that learn all tasks at once have one score, at the end: a diamond behind the last stage.

    Args:
        rows: row -> its numbers, as in run.json.

    Returns:
        A PNG file.
    """
    figure = _new_figure(11.5, 4.3)
    score, fall = figure.subplots(1, 2)
    stages = max((len(numbers["curve"]) for numbers in rows.values() if numbers["curve"]), default=1)
    for number, (row, numbers) in enumerate(rows.items()):
        style: dict[str, Any] = {"color": _COLOURS[number % len(_COLOURS)], "linewidth": 1.9, "label": row}
        if numbers["curve"] is None:
            score.plot([stages - 0.6], [numbers["last"]["mean"]], "D", markersize=6, **style)
            continue
        style |= {"linestyle": _DASHES.get(row, "-"), "marker": "o", "markersize": 3.5}
        score.plot(np.arange(stages), numbers["curve"], **style)
        fall.plot(np.arange(stages), numbers["forgetting"], **style)
    for axes, title in (
        (score, "mean IoU of the tasks that have joined"),
        (fall, "mean fall of their IoU since they joined"),
    ):
        axes.set_title(title, fontsize=10.5, color=_INK, pad=8)
        axes.axhline(0, color=_FAINT, linewidth=0.8)
        _finish(axes, stages)
    handles, labels = score.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8.5, frameon=False)
    figure.supxlabel("stage; diamonds: all tasks learned at once", fontsize=9, color=_INK)
    return _png_of(figure)


def _heat_map(axes: "Axes", matrix: npt.NDArray[np.float64], zero_shot: Sequence[float], cell: float) -> None:
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    colours = colormaps["YlGnBu"]
    values = np.vstack([zero_shot, matrix])
    for row, column in np.ndindex(values.shape):
        stage, score = row - 1, float(values[row, column])
        admitted = stage < 0 or column <= stage
        face = colours(0.04 + 0.86 * float(np.clip(score, 0, 1))) if admitted else _GREY
        middle = stage - (_GAP if stage < 0 else 0)
        axes.add_patch(Rectangle((column - 0.5, middle - 0.5), 1, 1, facecolor=face, edgecolor="white", linewidth=1.6))
        dark = admitted and score > 0.55
        ink = "white" if dark else _INK if admitted else _FAINT
        text = "" if np.isnan(score) else _decimals(score)
        axes.text(column, middle, text, ha="center", va="center", color=ink, fontsize=9 if cell > 0.55 else 7.5)
    axes.set(xlim=(-0.5, len(matrix) - 0.5), ylim=(len(matrix) - 0.5, -1.54 - _GAP), aspect="equal")
    axes.tick_params(length=0, colors=_INK)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _curves(
    axes: "Axes", tasks: Sequence[str], matrix: npt.NDArray[np.float64], zero_shot: Mapping[str, float]
) -> None:
    count = len(tasks)
    stages = np.arange(count)
    for number, (task, label) in enumerate(zip(tasks, _labels(tasks), strict=True)):
        colour = _COLOURS[number % len(_COLOURS)]
        before = matrix[: number + 1, number]
        axes.plot(stages[: number + 1], before, ":", drawstyle="steps-post", color=colour, linewidth=1.2, alpha=0.7)
        line: dict[str, Any] = {
            "linestyle": "-" if number < len(_COLOURS) else "--",
            "marker": "o",
            "linewidth": 1.8,
            "markersize": 4.5,
        }
        axes.plot(stages[number:], matrix[number:, number], color=colour, label=label, **line)
        left: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "clip_on": False}
        axes.plot([0.03], [zero_shot[task]], marker="_", color=colour, markersize=11, markeredgewidth=2, **left)
    means = [matrix[stage, : stage + 1].mean() for stage in stages]
    hollow: dict[str, Any] = {"marker": "D", "markersize": 6.5, "markerfacecolor": "none", "markeredgewidth": 1.4}
    axes.plot(stages, means, color=_INK, linewidth=2.2, label="mean of the joined", **hollow)
    axes.set(xlim=(-0.12 * count - 0.05, count - 0.7), ylim=(-0.02, 1.02))
    axes.set_yticks(np.arange(0, 1.01, 0.2))
    _finish(axes, count)


def _finish(axes: "Axes", stages: int) -> None:
    axes.set_xticks(range(stages))
    axes.tick_params(labelsize=8.5, colors=_INK, length=3)
    axes.grid(axis="y", color=_GREY)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _labels(tasks: Sequence[str]) -> list[str]:
    """Number the tasks from 0, as the formulas do, so that shortened names stay distinct."""
    return [f"{number} {_in_two_lines(task)}" for number, task in enumerate(tasks)]


def _in_two_lines(name: str) -> str:
    """Break a long name where it has a hyphen, underscore or space, and drop the middle of one that still does not fit."""
    lines = [""]
    for part in re.findall(r"[^-_ ]*[-_ ]?", name):
        if lines[-1] and len(lines[-1]) + len(part) > _LINE + 4 * (len(lines) - 1):
            lines.append("")
        lines[-1] += part
    if len(lines) <= 2 and all(len(line) <= _LINE + 4 for line in lines):
        return "\n".join(lines)
    tail = name[_LINE:] if len(name) <= 2 * _LINE else f"…{name[1 - _LINE :]}"
    return f"{name[:_LINE]}\n{tail}"


def _decimals(score: float) -> str:
    text = f"{score:.3f}"
    return text.removeprefix("0") if score < 0.9995 else "1.00"


def _new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of a size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _png_of(figure: "Figure") -> bytes:
    """Return a figure as a PNG file; the same figure gives the same bytes."""
    file = io.BytesIO()
    figure.savefig(file, format="png", bbox_inches="tight", pad_inches=0.12, metadata={"Software": None})
    return file.getvalue()
