"""Where a sweep keeps its things, and how it knows that an earlier one in the same folder is its own beginning."""

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from casam_fed.errors import ConfigError
from casam_fed.forms import STRICT
from casam_fed.host.files import write_atomically
from casam_fed.host.locks import only_one
from simulations.flower_processes import end_leftovers
from simulations.kept_json import read_kept
from simulations.methods.casam import casam_outcomes
from simulations.methods.casam_results import read_results
from simulations.methods.outcome import Outcome
from simulations.run_folder import RunFolder
from simulations.stream_config import StreamConfig
from simulations.sweep.plan import Cell

__all__ = ["CellResult", "SweepFolder"]


@dataclass(frozen=True, config=STRICT)
class CellResult:
    """What a finished cell leaves.

    Attributes:
        wall_s: how long it took.
        peak_rss_mb: peak memory of its processes in MB; None where nobody watched them to the end.
        outcomes: its rows of the report.
        verified: what the check of the exported logs says, "" where there are none.
    """

    wall_s: float
    peak_rss_mb: float | None
    outcomes: tuple[Outcome, ...]
    verified: str = ""


class SweepFolder:
    """The folder of a sweep. Cells are kept by method, order and seed, so a later call may ask for more of each."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def open(path: Path, stream: StreamConfig, root: Path, overwrite: bool) -> "SweepFolder":
        """Begin a sweep in a folder, or go on with the one that is there.

        Raises:
            ConfigError: the folder holds a sweep of another stream, or something else.
            StorageError: it cannot be written.
        """
        folder, known = SweepFolder(path), path / "sweep.json"
        description = _description(stream, root)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            if refusal := folder._refusal(description, overwrite):
                raise ConfigError(f"{path} holds {refusal}")
            if overwrite:
                with folder.locked():
                    pass
                shutil.rmtree(path)
        if not known.exists():
            write_atomically(known, json.dumps(description, indent=1).encode())
        return folder

    def _refusal(self, description: Mapping[str, Any], overwrite: bool) -> str:
        """Say why the sweep cannot go on in this folder, "" where it can."""
        known = self.path / "sweep.json"
        # Versions up to 0.1.0 kept a run of casam alone without a sweep.json.
        if not known.exists() and not RunFolder(self.path, self.path).progress.exists():
            return "something that is not a run; give another folder with --out"
        if overwrite:
            return ""
        if not known.exists():
            return "an earlier run; give another folder, or --overwrite to replace it"
        difference = _first_difference(read_kept(known, dict[str, Any]), description)
        return difference and f"a run with another '{difference}'; give another folder, or --overwrite to replace it"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the sweep for this process; the system frees it when the process ends, however it ends.

        What a killed predecessor left running is ended first.

        Raises:
            ConfigError: another process holds it.
        """
        busy = ConfigError(f"another run is at work in {self.path}; wait for it, or give another --out")
        with only_one(self.path / ".lock", busy):
            end_leftovers(RunFolder(self.path, self.path).flower_marker)
            yield

    def split_of(self, site: str) -> Path:
        """Return the file that keeps a site's split, the same for all methods."""
        return RunFolder(self.path, self.path).shared(site).split

    def result(self, cell: Cell) -> CellResult | None:
        """Return what a cell left, None where it is not finished.

        Raises:
            SimulationError: its file is damaged.
        """
        folder = cell.folder(self.path)
        try:
            if cell.method.name != "casam":
                return read_kept(folder / "outcomes.json", CellResult)
            results = read_results(folder / "results.json")
        except FileNotFoundError:
            return None
        return CellResult(
            wall_s=results.seconds.total,
            peak_rss_mb=results.peak_rss_mb,
            outcomes=casam_outcomes(results, cell.order),
            verified=results.runs[0].verified,
        )

    def keep(self, cell: Cell, result: CellResult) -> None:
        """Keep what a cell leaves that was computed or scored in this process."""
        write_atomically(cell.folder(self.path) / "outcomes.json", TypeAdapter(CellResult).dump_json(result, indent=1))


def _description(stream: StreamConfig, root: Path) -> dict[str, Any]:
    """Return what the cells of a sweep must have in common, as JSON would give it back."""
    plain = asdict(stream)
    plain.pop("seeds")
    found: dict[str, Any] = json.loads(json.dumps({"stream": plain, "data": str(root)}))
    return found


def _first_difference(one: Any, other: Any, place: str = "") -> str:
    """Return the dotted place of the first difference between two JSON values, "" where there is none."""
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        one, other = dict(enumerate(one)), dict(enumerate(other))
    if not isinstance(one, dict) or not isinstance(other, dict):
        return "" if one == other else place
    places = ((f"{place}.{key}" if place else str(key), key) for key in dict.fromkeys((*one, *other)))
    return next(
        (found for deeper, key in places if (found := _first_difference(one.get(key), other.get(key), deeper))), ""
    )
