"""Write a sweep's files, each whole or not at all, the page last so that it never shows what is not there."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from casam_fed.host.files import write_atomically
from simulations.methods.casam_results import read_results
from simulations.methods.method_list import METHODS
from simulations.methods.outcome import Outcome
from simulations.report.figures import stage_matrix_png
from simulations.report.numbers import summarise
from simulations.run_folder import RunFolder
from simulations.stream_config import StreamConfig, method_record
from simulations.sweep.figures import forgetting_png
from simulations.sweep.folder import CellResult
from simulations.sweep.page import sweep_page
from simulations.sweep.plan import Cell
from simulations.sweep.summary import SCALARS, summarise_sweep

__all__ = ["write_sweep_report"]


def write_sweep_report(
    directory: Path, stream: StreamConfig, orders: Sequence[Sequence[str]], cells: Mapping[Cell, CellResult]
) -> Path:
    """Write run.json, methods.csv, forgetting.png, stage_matrices/METHOD.png and report.md below `directory`.

    run.json has the keys of a single run for casam in the stream's own order, where it is among the methods, and beside
    them `orders` and `rows`, which is row -> its numbers.

    Returns:
        The path of report.md.

    Raises:
        SimulationError: the results of a cell are not whole.
        StorageError: a file cannot be written; no partial file stays.
    """
    outcomes = [outcome for result in cells.values() for outcome in result.outcomes]
    run = _numbers(directory, stream, orders, cells, outcomes)
    matrices = _matrices(run)
    path = directory / "report.md"
    write_atomically(directory / "run.json", (json.dumps(run, indent=1, allow_nan=False) + "\n").encode())
    write_atomically(directory / "methods.csv", _csv(outcomes).encode())
    write_atomically(directory / "forgetting.png", forgetting_png(run["rows"]))
    for name, picture in matrices.items():
        write_atomically(directory / "stage_matrices" / name, picture)
    write_atomically(path, sweep_page(run, stream, list(matrices)).encode())
    return path


def _numbers(
    directory: Path,
    stream: StreamConfig,
    orders: Sequence[Sequence[str]],
    cells: Mapping[Cell, CellResult],
    outcomes: Sequence[Outcome],
) -> dict[str, Any]:
    tasks = list(orders[0])
    return {
        **_casam_run(directory, cells),
        "stream": stream.stream,
        "tasks": tasks,
        "seeds": list(stream.seeds),
        "orders": [list(order) for order in orders],
        "methods": list(dict.fromkeys(cell.method.name for cell in cells)),
        "zero_shot": {task: float(np.mean([outcome.zero_shot[task] for outcome in outcomes])) for task in tasks},
        "rows": summarise_sweep(outcomes),
        "seconds": {"total": sum(result.wall_s for result in cells.values()), "cells": _by_cell(cells)},
        "peak_rss_mb": round(max(result.peak_rss_mb for result in cells.values())),
        "config": method_record(stream),
        "baselines": asdict(stream.baselines),
    }


def _casam_run(directory: Path, cells: Mapping[Cell, CellResult]) -> dict[str, Any]:
    """Return the run.json of casam's cells in the stream's own order, as if they had been one run of several seeds."""
    own = [cell for cell in cells if cell.method.name == "casam" and cell.order == 0]
    if not own:
        return {}
    found = [json.loads(RunFolder(cell.folder(directory)).results.read_text()) for cell in own]
    seeds = {seed: values for results in found for seed, values in results["seeds"].items()}
    return summarise(read_results({**found[0], "seeds": seeds}))


def _by_cell(cells: Mapping[Cell, CellResult]) -> dict[str, float]:
    return {str(cell): result.wall_s for cell, result in cells.items()}


def _matrices(run: Mapping[str, Any]) -> dict[str, bytes]:
    """Return file name -> heat map, one a method: all rows of a method side by side."""
    pictures = {}
    for name, method in METHODS.items():
        rows = {row: run["rows"][row] for row in method.rows if row in run["rows"]}
        staged = {row: numbers for row, numbers in rows.items() if numbers["matrix"] is not None}
        if staged:
            pictures[f"{name}.png"] = stage_matrix_png(run["tasks"], staged, run["zero_shot"])
    return pictures


def _csv(outcomes: Sequence[Outcome]) -> str:
    """Return one line a row, order and seed; a number that a row does not have is empty."""
    file = io.StringIO()
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow(["method", "order", "seed", *SCALARS])
    for outcome in outcomes:
        numbers = outcome.scalars()
        values = ["" if (value := numbers[name]) is None else f"{value:.6f}" for name in SCALARS]
        lines.writerow([outcome.row, outcome.order, outcome.seed, *values])
    return file.getvalue()
