"""Write a report's files, each whole or not at all, the page last so that it never shows what is not there."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from casam_fed.host.files import write_atomically
from simulations.methods.casam_results import Results, read_results
from simulations.report.figures import curves_png, stage_matrix_png
from simulations.report.numbers import spread, summarise
from simulations.report.page import page

__all__ = ["write_report"]


def write_report(results: Mapping[str, Any], directory: Path) -> Path:
    """Write run.json, stage_matrix.csv, stage_matrix.png, curves.png and report.md below `directory`.

    Args:
        results: what the aggregator collected, as in results.json.
        directory: of the run; pictures in its `overlays` folder are shown on the page.

    Returns:
        The path of report.md.

    Raises:
        SimulationError: the results are not whole.
        StorageError: a file cannot be written; no partial file stays.
    """
    parsed = read_results(results)
    run = summarise(parsed)
    drawn = run["tasks"], run["routes"], run["zero_shot"]
    overlays = sorted((directory / "overlays").glob("*.png"))
    path = directory / "report.md"
    write_atomically(directory / "run.json", (json.dumps(run, indent=1, allow_nan=False) + "\n").encode())
    write_atomically(directory / "stage_matrix.csv", _csv(parsed, run).encode())
    write_atomically(directory / "stage_matrix.png", stage_matrix_png(*drawn))
    write_atomically(directory / "curves.png", curves_png(*drawn))
    write_atomically(path, page(parsed, run, [overlay.name for overlay in overlays]).encode())
    return path


def _csv(results: Results, run: Mapping[str, Any]) -> str:
    """Return one line a route, stage and task, stages from 0; the deviation is over seeds, empty for one seed."""
    file = io.StringIO()
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow(["route", "stage", "task", "iou_mean", "iou_std"])
    for way, numbers in run["routes"].items():
        seeds = np.array([seed["matrix"] for seed in numbers["per_seed"].values()], dtype=np.float64)
        for stage, number in np.ndindex(seeds.shape[1:]):
            mean, deviation = spread(seeds[:, stage, number].tolist())
            shown = "" if deviation is None else f"{deviation:.6f}"
            lines.writerow([way, stage, results.tasks[number], f"{mean:.6f}", shown])
    return file.getvalue()
