"""The figures of a sweep: how much every method forgets while the stream goes on, all in one picture."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from simulations.report.figures import COLOURS, FAINT, GREY, INK, new_figure, png_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["forgetting_png"]

_DASHES = {"casam oracle": ":", "zero-shot": "--"}


def forgetting_png(rows: Mapping[str, Any]) -> bytes:
    """Draw two panels over the stages: the mean IoU of the tasks that have joined, and their mean fall since they joined.

    Methods that learn all tasks at once have one score, at the end: a diamond behind the last stage.

    Args:
        rows: row -> its numbers, as in run.json.

    Returns:
        A PNG file.
    """
    figure = new_figure(11.5, 4.3)
    score, fall = figure.subplots(1, 2)
    stages = max(len(numbers["curve"]) for numbers in rows.values() if numbers["curve"]) if _staged(rows) else 1
    for number, (row, numbers) in enumerate(rows.items()):
        style: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "linewidth": 1.9, "label": row}
        if numbers["curve"] is None:
            score.plot([stages - 0.6], [numbers["last"]["mean"]], "D", markersize=6, **style)
            continue
        style |= {"linestyle": _DASHES.get(row, "-"), "marker": "o", "markersize": 3.5}
        score.plot(np.arange(stages), numbers["curve"], **style)
        fall.plot(np.arange(stages), numbers["forgetting"], **style)
    _finish(score, "mean IoU of the tasks that have joined", stages)
    _finish(fall, "mean fall of their IoU since they joined", stages)
    handles, labels = score.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8.5, frameon=False)
    figure.supxlabel("stage; diamonds: all tasks learned at once", fontsize=9, color=INK)
    return png_of(figure)


def _staged(rows: Mapping[str, Any]) -> bool:
    return any(numbers["curve"] for numbers in rows.values())


def _finish(axes: "Axes", title: str, stages: int) -> None:
    axes.set_title(title, fontsize=10.5, color=INK, pad=8)
    axes.set_xticks(range(stages))
    axes.tick_params(labelsize=8.5, colors=INK, length=3)
    axes.grid(axis="y", color=GREY)
    axes.axhline(0, color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
