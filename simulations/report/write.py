"""Write a report's files, each whole or not at all, the page last so that it never shows what is not there."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from casam_fed.host.files import write_atomically
from simulations.methods.casam_results import merged, read_results
from simulations.methods.method_list import METHODS
from simulations.methods.outcome import SCALARS, Outcome
from simulations.report.figures import curves_png, forgetting_png, stage_matrix_png
from simulations.report.numbers import run_numbers
from simulations.report.page import page
from simulations.stream_config import StreamConfig
from simulations.sweep.folder import CellResult, SweepFolder
from simulations.sweep.plan import Cell, cells_of

__all__ = ["write_casam_report", "write_report"]


def write_report(
    directory: Path, stream: StreamConfig, orders: Sequence[Sequence[str]], cells: Mapping[Cell, CellResult]
) -> Path:
    """Write run.json, methods.csv, stage_matrix.csv, the pictures and report.md below `directory`.

    Args:
        directory: of the sweep; pictures that casam has drawn in its folder `overlays` are shown on the page.
        stream: what was run.
        orders: of the tasks, the stream's own first.
        cells: what each has left.

    Returns:
        The path of report.md.

    Raises:
        SimulationError: the results of a cell are not whole.
        StorageError: a file cannot be written; no partial file stays.
    """
    own = [cell.folder(directory) for cell in cells if cell.method.name == "casam" and cell.order == 0]
    casam = merged([read_results(folder / "results.json") for folder in own]) if own else None
    run = run_numbers(stream, orders, cells, casam)
    outcomes = [outcome for result in cells.values() for outcome in result.outcomes]
    pictures = _pictures(run)
    write_atomically(directory / "run.json", (json.dumps(run, indent=1, allow_nan=False) + "\n").encode())
    write_atomically(directory / "methods.csv", _methods_csv(outcomes).encode())
    write_atomically(directory / "stage_matrix.csv", _stage_matrix_csv(outcomes).encode())
    for name, picture in pictures.items():
        write_atomically(directory / name, picture)
    overlays = [path.name for path in sorted((directory / "overlays").glob("*.png"))] if own else []
    matrices = [Path(name).name for name in pictures if name.startswith("stage_matrices/")]
    path = directory / "report.md"
    write_atomically(path, page(run, matrices, overlays).encode())
    return path


def write_casam_report(directory: Path, stream: StreamConfig) -> Path:
    """Write the report of what is finished below `directory` of casam in the stream's own order, as `write_report` does."""
    folder, tasks = SweepFolder(directory), tuple(site.task_name for site in stream.sites)
    found = {cell: folder.result(cell) for cell in cells_of([METHODS["casam"]], stream.seeds, 1)}
    return write_report(directory, stream, [tasks], {cell: result for cell, result in found.items() if result})


def _pictures(run: Mapping[str, Any]) -> dict[str, bytes]:
    """Return file name -> picture: stage matrices of each method that has them, and what goes on over the stages."""
    tasks, zero_shot, pictures = run["tasks"], run["zero_shot"], {}
    for name in run["methods"]:
        rows = {row: run["rows"][row] for row in METHODS[name].rows}
        drawn = run["routes"] if name == "casam" and "routes" in run else rows
        if all(numbers["matrix"] for numbers in drawn.values()):
            pictures[f"stage_matrices/{name}.png"] = stage_matrix_png(tasks, drawn, zero_shot)
    if "routes" in run:
        pictures["curves.png"] = curves_png(tasks, run["routes"], zero_shot)
    if len(run["methods"]) > 1:
        pictures["forgetting.png"] = forgetting_png(run["rows"])
    return pictures


def _methods_csv(outcomes: Sequence[Outcome]) -> str:
    """Return one line a row, order and seed; a number that a row does not have is empty."""
    lines: list[Sequence[object]] = []
    for outcome in outcomes:
        numbers = outcome.scalars()
        lines.append([outcome.row, outcome.order, outcome.seed, *(_decimals(numbers[name]) for name in SCALARS)])
    return _csv(["method", "order", "seed", *SCALARS], lines)


def _stage_matrix_csv(outcomes: Sequence[Outcome]) -> str:
    """Return one line a row, stage and task, stages from 0, in the stream's own order; the deviation is over seeds.

    A score that was not measured, or a deviation over one seed, is empty.
    """
    lines: list[Sequence[object]] = []
    for row in dict.fromkeys(outcome.row for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.row == row and outcome.order == 0]
        seeds = [outcome.stage_matrix for outcome in own]
        values = np.array([matrix.values for matrix in seeds if matrix is not None])
        for stage, task in np.ndindex(values.shape[1:] if values.size else (0, 0)):
            scores = values[:, stage, task]
            deviation = float(np.std(scores, ddof=1)) if len(scores) > 1 else None
            lines.append([row, stage, own[0].tasks[task], _decimals(float(scores.mean())), _decimals(deviation)])
    return _csv(["method", "stage", "task", "iou_mean", "iou_std"], lines)


def _csv(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([head, *lines])
    return file.getvalue()


def _decimals(value: float | None) -> str:
    return "" if value is None or np.isnan(value) else f"{value:.6f}"
