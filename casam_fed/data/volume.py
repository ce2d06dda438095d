"""Medical volumes from disk, NIfTI, MetaImage or NRRD, cut into planes as radiologists look at them.

World coordinates are RAS+ in mm throughout: x to the patient's right, y to the front, z to the head, as NIfTI has them;
the LPS coordinates of MetaImage and NRRD are converted. Formats: nifti.nimh.nih.gov/nifti-1, itk.org/Wiki/MetaIO and
teem.sourceforge.net/nrrd/format.html.
"""

import gzip
import importlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, cast

import numpy as np
import numpy.typing as npt

from casam_fed.errors import ConfigError, DataError

__all__ = [
    "MAX_VOXELS",
    "SUFFIXES",
    "Intensity",
    "Percentiles",
    "View",
    "Volume",
    "Window",
    "open_volume",
    "to_rgb",
]

MAX_VOXELS: Final = 2**30
"""Files that claim more, all channels together, are refused: a few kilobytes of gzip can claim gigabytes."""

_NIFTI: Final = (".nii", ".nii.gz")
SUFFIXES: Final = (*_NIFTI, ".mhd", ".mha", ".nrrd")

_MAX_HEADER: Final = 2**20
_CHUNK: Final = 2**20
_FLAT: Final = 1e-3
_THICK: Final = 3.0 - 1e-3  # nnU-Net (ANISO_THRESHOLD) too calls a volume anisotropic from a ratio of 3.
_AXIAL, _CORONAL, _SAGITTAL = (2, 1, 0), (1, 2, 0), (0, 2, 1)
_VIEW_ACROSS: Final = {view[0]: view for view in (_AXIAL, _CORONAL, _SAGITTAL)}
_MM_PER_UNIT: Final = {"meter": 1000.0, "micron": 0.001}

View = Literal["axial", "acquired"]
"""Which planes to cut; see `open_volume`."""

Affine = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Percentiles:
    """Grey from two percentiles of the whole volume, 0 <= low < high <= 100: for scanners without a unit, such as MR."""

    low: float = 0.5
    high: float = 99.5

    def limits(self, values: npt.NDArray[Any]) -> tuple[float, float]:
        """Return what becomes 0 and what becomes 255."""
        low, high = (float(limit) for limit in np.percentile(values, (self.low, self.high)))
        # Nearly all voxels alike: a few bright spots on black are still an image.
        return (low, high) if low < high else (float(values.min()), float(values.max()))


@dataclass(frozen=True)
class Window:
    """Grey from a fixed range in the source's units: for CT, whose Hounsfield units mean the same everywhere.

    Raises:
        ConfigError: not low < high, or one is not finite.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ConfigError(f"the window {self.low} to {self.high} is no range; give two numbers, low < high")

    def limits(self, values: npt.NDArray[Any]) -> tuple[float, float]:
        """Return what becomes 0 and what becomes 255."""
        return self.low, self.high


Intensity = Percentiles | Window


@dataclass(frozen=True)
class Volume:
    """One channel of a volume, cut into planes.

    Attributes:
        path: the file.
        planes: [Z, H, W], scaled as the header says (scl_slope, scl_inter); of the file's type where nothing is scaled.
            Axial planes ascend from feet to head, with the front at row 0 and the patient's right at column 0.
        spacing: mm between planes, rows and columns.
        affine: float64 [4, 4], takes (plane, row, column, 1) to RAS+ mm.
        source_axes: the axis of the source array that became planes, rows and columns.
        flipped: whether planes, rows and columns run against that axis.
    """

    path: Path
    planes: npt.NDArray[Any]
    spacing: tuple[float, float, float]
    affine: Affine
    source_axes: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]

    @property
    def slices(self) -> int:
        """The number of planes, Z."""
        return int(self.planes.shape[0])

    def slice(self, z: int) -> npt.NDArray[Any]:
        """Return plane `z`, [H, W], 0 <= z < slices."""
        return cast(npt.NDArray[Any], self.planes[z])

    @property
    def voxel_axes(self) -> tuple[int, int, int]:
        """Which of a voxel's indices (x, y, z) runs over planes, rows and columns; x runs fastest in the file."""
        # The arrays of SimpleITK, unlike those of nibabel, have x last.
        reverse = not self.path.name.lower().endswith(_NIFTI)
        plane, row, column = (2 - axis if reverse else axis for axis in self.source_axes)
        return plane, row, column

    def from_voxel(self, voxel: Sequence[float]) -> tuple[float, float, float]:
        """Return plane, row and column of a voxel (x, y, z) of the file, whose indices count from 0."""
        found = [
            size - 1 - voxel[axis] if flip else voxel[axis]
            for axis, size, flip in zip(self.voxel_axes, self.planes.shape, self.flipped, strict=True)
        ]
        return found[0], found[1], found[2]

    def to_source(self, planes: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return planes, of the shape of `self.planes`, in the voxel order of the file, dtype kept.

        The order is that of the library people read such a file with: [i, j, k] as nibabel gives NIfTI, [k, j, i] as
        `SimpleITK.GetArrayFromImage` gives the others; a time or channel axis is not part of it.
        """
        assert planes.shape == self.planes.shape
        return np.ascontiguousarray(_flip(planes, self.flipped).transpose(np.argsort(self.source_axes)))

    def from_source(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return what `to_source` has made, as planes again."""
        return _flip(values.transpose(self.source_axes), self.flipped)


def open_volume(path: Path, channel: int = 0, view: View = "axial") -> Volume:
    """Read one channel of a .nii, .nii.gz, .mhd, .mha or .nrrd file and cut it into planes.

    The volume is turned to the closest canonical orientation by flips and permutations only: no voxel is resampled. A
    NIfTI file without orientation (sform and qform codes 0) is taken as ANALYZE would, i to the left and j to the front.

    Args:
        path: the file.
        channel: index on the last axis of a 4-D volume, or among the components of a voxel of the others.
        view: "axial", or "acquired": where one spacing is at least 3 times both others, as in cardiac or knee MR, the
            planes across it (sagittal with the head up and the front on the left, coronal as axial with the head up).

    Raises:
        DataError: the file is missing, damaged, of another kind or too large, or has no such channel, or a voxel is not
            finite, or the header does not say where the voxels lie.
    """
    name = path.name.lower()
    if not name.endswith(SUFFIXES):
        raise DataError(f"{path} is not a volume that is understood; convert it to one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise DataError(f"the volume {path} does not exist; add the file or correct the path")
    nifti = name.endswith(_NIFTI)
    try:
        values, affine = (_read_nifti if nifti else _read_by_itk)(path, channel)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # Both libraries raise a dozen unrelated types on damaged files.
        reason = " ".join(str(error).split()).rpartition("ITK ERROR: ")[2] or type(error).__name__
        raise DataError(f"{path} cannot be read as a volume ({reason}); replace it with an intact copy") from error
    real = values.dtype.kind in "iuf"
    if not real or (values.dtype.kind == "f" and not np.isfinite(values).all()):
        which = "that are not finite" if real else f"of type {values.dtype}"
        raise DataError(f"{path} holds voxels {which}; export it again with one real, finite number per voxel")
    volume = _cut(path, values, affine, view)
    # SimpleITK's arrays are [k, j, i]; both kinds are oriented as [i, j, k], so that they agree on equally close axes.
    plane, row, column = volume.source_axes
    return volume if nifti else replace(volume, source_axes=(2 - plane, 2 - row, 2 - column))


def to_rgb(plane: npt.NDArray[Any], limits: tuple[float, float]) -> npt.NDArray[np.uint8]:
    """Return a plane, [H, W], as uint8 [H, W, 3]: linear between `limits`, clipped outside, grey repeated."""
    low, high = limits
    span = high - low if high > low else 1.0
    grey = np.round(np.clip((plane.astype(np.float64) - low) / span, 0, 1) * 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _cut(path: Path, values: npt.NDArray[Any], affine: Affine, view: View) -> Volume:
    """Return the planes of an array, [i, j, k], whose indices `affine` takes to RAS+ mm."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    # Rounded, so that the float32 of NIfTI and the float64 of MetaImage choose alike where two axes are equally close.
    cosines = np.round(affine[:3, :3] / np.where(lengths > 0, lengths, 1), 4)
    if not np.isfinite(affine).all() or abs(np.linalg.det(cosines)) < _FLAT:
        raise DataError(f"the header of {path} does not say where its voxels lie; repair its affine and spacing")
    orientation = _library("nibabel").io_orientation(np.pad(cosines, (0, 1)) + np.diag([0.0, 0.0, 0.0, 1.0]))
    world = [int(axis) for axis in orientation[:, 0]]
    source_of = {axis: source for source, axis in enumerate(world)}
    axes = [source_of[axis] for axis in _view_axes(lengths, world, view)]
    # Planes ascend; rows descend from head or front, columns from right or front.
    flips = [bool(orientation[source, 1] != sign) for source, sign in zip(axes, (1, -1, -1), strict=True)]
    z, row, column = zip(axes, flips, (float(lengths[source]) for source in axes), strict=True)
    flipped = (z[1], row[1], column[1])
    # Takes plane, row and column to the indices of the source array.
    to_indices = np.zeros((4, 4))
    to_indices[3, 3] = 1
    for place, (source, flip, _) in enumerate((z, row, column)):
        to_indices[source, [place, 3]] = (-1, values.shape[source] - 1) if flip else (1, 0)
    return Volume(
        path=path,
        planes=_flip(values.transpose(axes), flipped),
        spacing=(z[2], row[2], column[2]),
        affine=affine @ to_indices,
        source_axes=(z[0], row[0], column[0]),
        flipped=flipped,
    )


def _view_axes(lengths: npt.NDArray[np.float64], world: list[int], view: View) -> tuple[int, int, int]:
    coarsest = int(np.argmax(lengths))
    if view == "acquired" and lengths[coarsest] >= _THICK * np.delete(lengths, coarsest).max():
        return _VIEW_ACROSS[world[coarsest]]
    return _AXIAL


def _flip(values: npt.NDArray[Any], flipped: tuple[bool, bool, bool]) -> npt.NDArray[Any]:
    return values[tuple(slice(None, None, -1 if flip else None) for flip in flipped)]


def _library(name: str) -> Any:
    # Neither library's annotations are what mypy --strict asks for, hence Any.
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DataError(f"volumes cannot be read without {name}; run pip install nibabel SimpleITK") from error


def _read_nifti(path: Path, channel: int) -> tuple[npt.NDArray[Any], Affine]:
    compressed = path.name.lower().endswith(".gz")
    with cast(BinaryIO, gzip.open(path, "rb") if compressed else path.open("rb")) as file:
        values, affine = _read_nifti_stream(path, file, channel)
        # The checksum of gzip is only compared at the end of the stream. More than 64 MiB behind the last voxel are
        # nobody's volume, and not followed further.
        for _ in range(64):
            if not file.read(_CHUNK):
                break
    return values, affine


def _read_nifti_stream(path: Path, file: BinaryIO, channel: int) -> tuple[npt.NDArray[Any], Affine]:
    nibabel = _library("nibabel")
    start = file.read(nibabel.Nifti2Image.header_class.sizeof_hdr)
    two = start[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c")  # sizeof_hdr is 540 in NIfTI-2 and 348 in NIfTI-1.
    kind = nibabel.Nifti2Image if two else nibabel.Nifti1Image
    header = kind.header_class(start[: kind.header_class.sizeof_hdr])
    if not 0 <= header.get_data_offset() <= _MAX_HEADER:
        raise DataError(f"{path} claims a header of {header.get_data_offset()} bytes; replace it with an intact copy")
    shape = _checked_shape(path, tuple(int(size) for size in header.get_data_shape()), 1)
    _require_channel(path, channel, shape[3] if len(shape) == 4 else 1)
    file.seek(0)
    image = kind.from_file_map({"image": nibabel.FileHolder(fileobj=file)}, mmap=False)
    every = slice(None)
    values = np.asarray(image.dataobj[(every, every, every, channel, *(0,) * 3)[: header["dim"][0]]])
    # To the end of all channels, though one was read: half a file is damaged, whichever half is wanted.
    file.seek(header.get_data_offset() + math.prod(shape) * header.get_data_dtype().itemsize - 1)
    if not file.read(1):
        raise EOFError("it ends before its last voxel")
    affine = np.array(image.affine, dtype=np.float64)
    affine[:3] *= _MM_PER_UNIT.get(header.get_xyzt_units()[0], 1.0)
    return values, affine


def _read_by_itk(path: Path, channel: int) -> tuple[npt.NDArray[Any], Affine]:
    sitk = _library("SimpleITK")
    nrrd = path.name.lower().endswith(".nrrd")
    (_require_attached if nrrd else _require_own_data)(path)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("NrrdImageIO" if nrrd else "MetaImageIO")
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    size, components = reader.GetSize(), reader.GetNumberOfComponents()
    shape = _checked_shape(path, size, components)
    _require_channel(path, channel, shape[3] if len(shape) == 4 else components)
    axes = len(size)
    reader.SetExtractIndex([0, 0, 0, channel if len(shape) == 4 else 0, 0, 0, 0][:axes])
    reader.SetExtractSize([*size[:3], 0, 0, 0, 0][:axes])
    values = sitk.GetArrayFromImage(reader.Execute())
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(reader.GetDirection(), (axes, axes))[:3, :3] * reader.GetSpacing()[:3]
    affine[:3, 3] = reader.GetOrigin()[:3]
    affine[:2] *= -1  # From LPS.
    return (values[..., channel].copy() if components > 1 else values).T, affine


def _require_attached(path: Path) -> None:
    """Refuse a NRRD whose voxels lie in other files, or whose header does not end."""
    with path.open("rb") as file:
        header, end, _ = file.read(_MAX_HEADER).replace(b"\r\n", b"\n").partition(b"\n\n")
    if not end or not header.startswith(b"NRRD"):
        raise DataError(f"{path} has no whole header of a NRRD file; replace it with an intact copy")
    if re.search(rb"data *file", header, re.IGNORECASE):
        raise DataError(f"{path} takes its voxels from other files; save it with its data attached, in one .nrrd file")


def _require_own_data(path: Path) -> None:
    """Refuse a MetaImage whose voxels lie anywhere but in the file or beside it: a dataset may not read other files."""
    with path.open("rb") as file:
        header = file.read(_MAX_HEADER)
    field = re.search(rb"^ElementDataFile[ \t]*=[ \t]*(.*?)[ \t\r]*$", header, re.MULTILINE)
    name = field.group(1).decode("utf-8", errors="replace") if field else ""
    # The first mention counts: an odd spelling before it must not hide the file that the library will follow.
    if not field or field.start() != header.lower().find(b"elementdatafile"):
        problem = "does not name its data (ElementDataFile); replace it with an intact copy"
    elif name.upper() == "LOCAL":
        return
    elif not name.isprintable() or any(mark in name for mark in "/\\%: ") or name.upper().startswith("LIST"):
        problem = f"takes its voxels from {name!r}; they must lie in one file in the same folder"
    elif (path.parent / name).is_file():
        return
    else:
        problem = f"takes its voxels from {name}, which is not in its folder; put the file beside it"
    raise DataError(f"{path} {problem}")


def _checked_shape(path: Path, shape: tuple[int, ...], components: int) -> tuple[int, ...]:
    """Return the shape without empty axes behind the third."""
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (3, 4):
        problem = f"has {len(shape)} axes; save a volume with 3, or 4 where the last one is the channel"
    elif math.prod(shape) * components > MAX_VOXELS or min(shape) < 1:
        claim = " x ".join(str(size) for size in shape)
        problem = f"claims {claim} voxels, outside 1 to {MAX_VOXELS:,}; crop it or split its channels"
    elif len(shape) == 4 and components > 1:
        problem = "has channels on its fourth axis and in its voxels; save each channel on its own"
    else:
        return shape
    raise DataError(f"{path} {problem}")


def _require_channel(path: Path, channel: int, channels: int) -> None:
    if not 0 <= channel < channels:
        raise DataError(f"{path} has no channel {channel}; choose one from 0 to {channels - 1}")
