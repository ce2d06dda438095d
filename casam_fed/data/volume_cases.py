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
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ValidationError

from casam_fed.data.raster import MAX_LABEL, present_values, require_values
from casam_fed.data.sample import Record, Sample
from casam_fed.data.volume import Intensity, Percentiles, Volume, open_volume, to_rgb
from casam_fed.errors import DataError
from casam_fed.host.files import sha256_bytes, write_atomically

__all__ = [
    "ClassValues",
    "VolumeCase",
    "VolumeReader",
    "read_description",
    "read_json",
    "require_folder",
    "without_suffix",
]

ClassValues = Mapping[str, int | tuple[int, ...]]
"""Class name -> its label value, or several where the class is a region made of them (nnU-Net)."""

Description = TypeVar("Description", bound=BaseModel)

_VERSION: Final = 1
_MAX_TEXT: Final = 2**24
_SHIFT: Final = 0.1


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
        cases: in any order.
        classes: the target classes with their label values, 1..65535; regions may overlap.
        intensity: how voxels become grey; percentiles are those of the whole volume.
        background: label values that may occur and belong to no class; 0 always is one.
        cache: a folder that remembers which slices have foreground; None: look again every time.

    Raises:
        DataError: there are no cases, or two share an id.
    """

    def __init__(
        self,
        cases: Sequence[VolumeCase],
        classes: ClassValues,
        intensity: Intensity | None = None,
        *,
        background: Sequence[int] = (),
        cache: Path | None = None,
    ) -> None:
        self._cases: dict[str, VolumeCase] = {}
        for case in sorted(cases, key=lambda case: case.id):
            if other := self._cases.get(case.id):
                raise DataError(f"{other.image} and {case.image} are both case {case.id!r}; rename or remove one")
            self._cases[case.id] = case
        if not self._cases:
            raise DataError("the dataset has no cases; check the path")
        self._values = {name: value if isinstance(value, tuple) else (value,) for name, value in classes.items()}
        self._declared = {value for values in self._values.values() for value in values} | set(background)
        self._intensity: Intensity = intensity or Percentiles()
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
            wanted = {value for values in self._values.values() for value in values}
            digits = max(3, len(str(len(present) - 1)))
            for z, values in enumerate(present):
                if wanted.intersection(values):
                    record = Record(f"{case.id}/{z:0{digits}d}", case.patient, case.split)
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
        self._opened = _Opened(case, image, label, self._intensity.limits(image.planes))
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


def require_folder(folder: Path) -> None:
    """Stop with a `DataError` where a folder is missing."""
    if not folder.is_dir():
        raise DataError(f"the data folder {folder} does not exist; check the path")


def read_json(path: Path, model: type[Description]) -> Description:
    """Return what a JSON file says about a dataset, as the pydantic `model`.

    Raises:
        DataError: as `read_description`, or a field is missing or of another type.
    """
    try:
        return model.model_validate_json(read_description(path))
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"]) or "the file"
        raise DataError(f"{path} is wrong at {place} ({problem['msg']}); replace it with an intact copy") from error


def read_description(path: Path) -> str:
    """Return a small text file that describes a dataset, such as Info.cfg.

    Raises:
        DataError: it is missing, larger than 16 MiB, or not UTF-8.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing; it must be there in a dataset of this layout, so check the path")
    with path.open("rb") as file:
        content = file.read(_MAX_TEXT + 1)
    if len(content) > _MAX_TEXT:
        raise DataError(f"{path} is larger than {_MAX_TEXT:,} bytes; replace it with an intact copy")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8; replace it with an intact copy") from error


def without_suffix(path: Path) -> str:
    """Return the file name before .nii.gz, or before its last dot."""
    return path.name[:-7] if path.name.lower().endswith(".nii.gz") else path.stem


def _remembered(file: Path, key: list[Any]) -> list[list[int]] | None:
    """Return what a cache file says, or None where it is absent, damaged, or about something else."""
    try:
        if file.stat().st_size > _MAX_TEXT:
            return None
        content = json.loads(file.read_bytes())
        present = content["present"]
        if content["key"] != key or not present:
            return None
        return [[value for value in values if _is_label(value)] for values in present]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _is_label(value: object) -> bool:
    if type(value) is not int or not 1 <= value <= MAX_LABEL:
        raise ValueError(f"{value!r} is no label value")
    return True


def _label_volume(path: Path) -> Volume:
    label = open_volume(path, view="acquired")
    for z in range(label.slices):
        plane = label.slice(z)
        if plane.dtype.kind == "f" and (plane != np.round(plane)).any():
            value = float(plane[plane != np.round(plane)][0])
            raise DataError(f"label volume {path} holds the value {value:g}; save it with whole label values")
        if plane.min() < 0 or plane.max() > MAX_LABEL:
            value = float(plane.min() if plane.min() < 0 else plane.max())
            raise DataError(f"label volume {path} holds the value {value:g}, outside 0 to {MAX_LABEL}; repair it")
    return label


def _require_same_grid(image: Volume, label: Volume) -> None:
    """Stop where image and label differ in shape, or their corners lie more than a tenth of a voxel apart."""
    if image.planes.shape != label.planes.shape:
        sizes = [" x ".join(str(size) for size in volume.planes.shape) for volume in (image, label)]
        raise DataError(
            f"image {image.path} has {sizes[0]} planes, rows and columns but its label {label.path} has {sizes[1]}; "
            "export both on the same grid"
        )
    last = [size - 1 for size in image.planes.shape]
    corners = np.array([[*(np.array(last) * bits), 1] for bits in np.ndindex(2, 2, 2)]).T
    apart = np.linalg.norm(((image.affine - label.affine) @ corners)[:3], axis=0).max()
    if apart > _SHIFT * min(image.spacing):
        raise DataError(
            f"image {image.path} and its label {label.path} lie up to {apart:.3g} mm apart in the patient; "
            "export both on the same grid"
        )
