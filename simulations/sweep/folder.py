"""Where a sweep keeps its things, and how it knows that an earlier one in the same folder is its own beginning."""

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from casam_fed.errors import ConfigError, SimulationError
from casam_fed.forms import STRICT
from casam_fed.host.files import write_atomically
from simulations.flower_processes import end_leftovers
from simulations.methods.outcome import Outcome
from simulations.run_folder import RunFolder
from simulations.stream_config import StreamConfig
from simulations.sweep.plan import Cell

__all__ = ["CellResult", "SweepFolder"]


@dataclass(frozen=True, config=STRICT)
class CellResult:
    """What a finished cell leaves: its outcomes, how long it took, and the peak memory of its processes in MB."""

    wall_s: float
    peak_rss_mb: float
    outcomes: tuple[Outcome, ...]


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
        known = path / "sweep.json"
        description = _description(stream, root)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            ours = known.exists() or RunFolder(path).progress.exists()
            if not ours:
                raise ConfigError(f"{path} holds something that is not a run; give another folder with --out")
            if overwrite:
                with SweepFolder(path).locked():
                    pass
                shutil.rmtree(path)
            elif not known.exists():
                raise ConfigError(f"{path} holds an earlier run; give another folder, or --overwrite to replace it")
            elif difference := _first_difference(_read(known), description):
                raise ConfigError(
                    f"{path} holds a sweep with another '{difference}'; give another folder, or --overwrite to replace it"
                )
        if not known.exists():
            write_atomically(known, json.dumps(description, indent=1).encode())
        return SweepFolder(path)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the sweep for this process; the system frees it when the process ends, however it ends.

        What a killed predecessor left running is ended first.

        Raises:
            ConfigError: another process holds it.
        """
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConfigError(
                    f"another sweep is at work in {self.path}; wait for it, or give another --out"
                ) from error
            end_leftovers(RunFolder(self.path).flower_marker)
            yield

    @property
    def sites(self) -> Path:
        """The private folders of the sites, shared by all cells, so that no layer is trained twice."""
        return self.path / "sites"

    def split_of(self, site: str) -> Path:
        """Return the file that keeps a site's split."""
        return self.sites / site / "split.json"

    def result(self, cell: Cell) -> CellResult | None:
        """Return what a cell left, None where it is not finished.

        Raises:
            SimulationError: its file is damaged.
        """
        path = self._result_path(cell)
        if not path.exists():
            return None
        try:
            return TypeAdapter(CellResult).validate_json(path.read_bytes())
        except ValidationError as error:
            raise SimulationError(f"{path} is damaged; delete it, and the sweep computes that cell again") from error

    def keep(self, cell: Cell, result: CellResult) -> None:
        """Keep what a finished cell leaves."""
        write_atomically(self._result_path(cell), TypeAdapter(CellResult).dump_json(result, indent=1))

    def _result_path(self, cell: Cell) -> Path:
        return cell.folder(self.path) / "result.json"


def _description(stream: StreamConfig, root: Path) -> dict[str, Any]:
    """Return what the cells of a sweep must have in common, as JSON would give it back."""
    plain = asdict(stream)
    plain.pop("seeds")
    found: dict[str, Any] = json.loads(json.dumps({"stream": plain, "data": str(root)}))
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except ValueError as error:
        raise SimulationError(f"{path} is damaged; give another folder, or --overwrite to start anew") from error
    return found


def _first_difference(one: Any, other: Any, place: str = "") -> str:
    """Return the dotted place of the first difference between two JSON values, "" where there is none."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        pairs = [(key, one.get(key), other.get(key)) for key in dict.fromkeys((*one, *other))]
    elif _is_list(one) and _is_list(other) and len(one) == len(other):
        pairs = [(str(number), *pair) for number, pair in enumerate(zip(one, other, strict=True))]
    else:
        return "" if one == other else place
    for key, left, right in pairs:
        if found := _first_difference(left, right, f"{place}.{key}" if place else str(key)):
            return found
    return ""


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
