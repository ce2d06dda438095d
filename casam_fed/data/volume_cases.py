"""What all readers of volumes share: cases of an image volume and a label volume, read slice by slice.

Slices without foreground are left out, as CA-SAM does (arXiv 2511.17201). Finding them takes one look at every label
volume; the answer is a small JSON file per label volume where a cache folder is given. At most one image volume and one
label volume are held at a time, so that memory does not grow with the dataset.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, StrictInt, ValidationError

from casam_fed.data.raster import MAX_LABEL, present_values, require_values
from casam_fed.data.sample import Record, Sample
from casam_fed.data.volume import Intensity, Percentiles, Volume, open_volume, to_rgb
from casam_fed.errors import DataError
from casam_fed.host.files import cache_dir, sha256_bytes, write_atomically

__all__ = ["ClassValues", "VolumeCase", "VolumeReader", "slices_cache"]

ClassValues = Mapping[str, int | tuple[int, ...]]
"""Class name -> its label value, or several where the class is a region made of them (nnU-Net)."""

_VERSION: Final = 1
_MAX_CACHE: Final = 2**24
_SHIFT: Final = 0.1


class _Kept(BaseModel):
    """What a cache file says: about which label volume, and the label values on each of its planes."""

    key: list[Any]
    present: Annotated[list[list[Annotated[StrictInt, Field(ge=1, le=MAX_LABEL)]]], Field(min_length=1)]


@dataclass(frozen=True)
class VolumeCase:
    """An image volume and its label volume; `split` is set where the owner fixed it, `channel` is of the image."""

    id: str
    patient: str
    image: Path
    label: Path
    channel: int = 0
    split: str | None = None


@dataclass(frozen=True)
class _Opened:
    case: VolumeCase
    image: Volume
    label: Volume
    limits: tuple[float, float]


class VolumeReader:
    """Reads the slices of cases that have foreground; records are "CASE/012" for plane 12 of a case.

    Planes are axial, or across the coarse direction where a volume was acquired in thick slices (`open_volume`, view
    "acquired").

    Args:
        cases: in any order, at least one.
        classes: the target classes with their label values, 1..65535; regions may overlap.
        intensity: how voxels become grey; percentiles are those of the whole volume.
        cache: a folder that remembers which slices have foreground; None: look again every time.

    Raises:
        DataError: two cases share an id.
    """

    def __init__(
        self,
        cases: Sequence[VolumeCase],
        classes: ClassValues,
        intensity: Intensity | None = None,
        *,
        cache: Path | None = None,
    ) -> None:
        self._cases: dict[str, VolumeCase] = {}
        for case in sorted(cases, key=lambda case: case.id):
            if other := self._cases.get(case.id):
                raise DataError(
                    f"{other.image} and {case.image} are both listed as {case.id!r}; rename or remove one of them"
                )
            self._cases[case.id] = case
        assert self._cases
        self._values = {name: value if isinstance(value, tuple) else (value,) for name, value in classes.items()}
        self._declared = {value for values in self._values.values() for value in values}
        self.intensity: Intensity = intensity or Percentiles()
        self._cache = cache
        self._opened: _Opened | None = None
        self.classes: tuple[str, ...] = tuple(self._values)
        self.notes: list[str] = []

    def records(self) -> list[Record]:
        """Return the slices with foreground, sorted by id; label volumes are read once, or looked up in the cache.

        Raises:
            DataError: a label volume is unreadable or holds an undeclared value, or no slice has foreground.
            StorageError: the cache folder cannot be written.
        """
        return [record for record, _ in self._slices.values()]

    def read(self, record: Record) -> Sample:
        """Return one slice; reading in the order of `records()` opens every volume once.

        Raises:
            DataError: the record is unknown, a file is unreadable, or image and label are not on the same grid.
        """
        if record.id not in self._slices:
            raise DataError(f"there is no slice {record.id!r}; list the dataset again with records()")
        known, z = self._slices[record.id]
        opened = self._open(self._cases[known.id.rpartition("/")[0]])
        values = opened.label.slice(z)
        self._present(values, opened.label.path)
        masks = {name: np.isin(values, wanted) for name, wanted in self._values.items()}
        return Sample(record.id, record.patient, to_rgb(opened.image.slice(z), opened.limits), masks, {})

    @cached_property
    def _slices(self) -> dict[str, tuple[Record, int]]:
        found: dict[str, tuple[Record, int]] = {}
        total = 0
        for case in self._cases.values():
            present = self._present_by_slice(case.label)
            total += len(present)
            digits = max(3, len(str(len(present) - 1)))
            for z, values in enumerate(present):
                if self._declared.intersection(values):
                    record = Record(f"{case.id}/{z:0{digits}d}", case.patient, case.split, case.id)
                    found[record.id] = (record, z)
        if not found:
            raise DataError(
                f"none of {total} slices has foreground, the first label volume being "
                f"{next(iter(self._cases.values())).label}; check the classes and their label values"
            )
        if len(found) < total:
            self.notes.append(f"{total - len(found)} of {total} slices have no foreground and are left out.")
        return dict(sorted(found.items()))

    def _open(self, case: VolumeCase) -> _Opened:
        if self._opened is not None and self._opened.case == case:
            return self._opened
        self._opened = None  # Let go of the last case before the next is read.
        label = _label_volume(case.label)
        image = open_volume(case.image, case.channel, view="acquired")
        _require_same_grid(image, label)
        self._opened = _Opened(case, image, label, self.intensity.limits(image.planes))
        return self._opened

    def _present(self, values: npt.NDArray[Any], path: Path) -> list[int]:
        present = present_values(values.astype(np.int32), path)
        require_values(present, self._declared, path, "declare the value or repair the label volume")
        return [int(value) for value in present]

    def _present_by_slice(self, path: Path) -> list[list[int]]:
        """Return the label values on every plane of a label volume."""
        if self._cache is None or not path.is_file():
            return self._scan(path)
        status = path.stat()
        key = [_VERSION, str(path.resolve()), status.st_size, status.st_mtime_ns]
        key += [{name: list(values) for name, values in self._values.items()}, sorted(self._declared)]
        file = self._cache / f"{sha256_bytes(json.dumps(key).encode())}.json"
        present = _remembered(file, key)
        if present is None:
            present = self._scan(path)
            write_atomically(file, json.dumps({"key": key, "present": present}).encode())
        return present

    def _scan(self, path: Path) -> list[list[int]]:
        label = _label_volume(path)
        return [self._present(label.slice(z), path) for z in range(label.slices)]


def slices_cache() -> Path:
    """Return the folder that keeps for this user which slices of a volume have foreground."""
    return cache_dir() / "slices"


def _remembered(file: Path, key: list[Any]) -> list[list[int]] | None:
    """Return what a cache file says, or None where it is absent, damaged, or about something else."""
    try:
        with file.open("rb") as stored:
            kept = _Kept.model_validate_json(stored.read(_MAX_CACHE))
    except (OSError, ValidationError):
        return None
    return kept.present if kept.key == key else None


def _label_volume(path: Path) -> Volume:
    label = open_volume(path, view="acquired")
    for z in range(label.slices):
        plane = label.slice(z)
        wrong = plane[(plane != np.round(plane)) | (plane < 0) | (plane > MAX_LABEL)]
        if wrong.size:
            worst = float(wrong[np.abs(wrong).argmax()])
            raise DataError(
                f"label volume {path} holds the value {worst:g}, outside 0 to {MAX_LABEL} or not whole; "
                "save it with whole label values"
            )
    return label


def _require_same_grid(image: Volume, label: Volume) -> None:
    """Stop where image and label differ in shape, or their corners lie more than a tenth of a voxel apart."""
    if image.planes.shape != label.planes.shape:
        sizes = [" x ".join(str(size) for size in volume.planes.shape) for volume in (image, label)]
        problem = f"has {sizes[0]} planes, rows and columns but its label {label.path} has {sizes[1]}"
    else:
        last = [size - 1 for size in image.planes.shape]
        corners = np.array([[*(np.array(last) * bits), 1] for bits in np.ndindex(2, 2, 2)]).T
        apart = np.linalg.norm(((image.affine - label.affine) @ corners)[:3], axis=0).max()
        if apart <= _SHIFT * min(image.spacing):
            return
        problem = f"and its label {label.path} lie up to {apart:.3g} mm apart in the patient"
    raise DataError(f"image {image.path} {problem}; export both on the same grid")
