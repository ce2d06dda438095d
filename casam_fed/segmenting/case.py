"""A user's file as planes to segment, and the way back from masks to the file's own grid."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from casam_fed.data.raster import SUFFIXES as PICTURE_SUFFIXES
from casam_fed.data.raster import fact_sentences, read_image
from casam_fed.data.volume import SUFFIXES as VOLUME_SUFFIXES
from casam_fed.data.volume import Intensity, Percentiles, Volume, open_volume, to_rgb
from casam_fed.errors import DataError

__all__ = ["SUFFIXES", "Case", "Grid", "Marked", "is_volume", "picture_of", "read_case"]

SUFFIXES: Final = (*sorted(PICTURE_SUFFIXES), *VOLUME_SUFFIXES)
"""Ends of the names of files that can be segmented."""

_AS_READ: Final = Percentiles()


@dataclass(frozen=True)
class Marked:
    """What a person marks of one target, in pixels of the file counted from 0, on the axes (x, y) or (x, y, z).

    In a volume x, y and z are the three indices of a voxel as viewers show them, whichever of them runs across planes.

    Attributes:
        label: the class, in the user's words.
        low, high: first and last corner of a box; the same number of axes; empty where there is no box.
        inside, outside: clicks on what belongs to the target, and on what does not.
    """

    label: str
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    inside: tuple[tuple[float, ...], ...] = ()
    outside: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Grid:
    """Where a volume's voxels lie, as its file says it, for masks that shall lie there too.

    Attributes:
        nifti: the header of a NIfTI file, 348 or 540 bytes; empty for another.
        origin, spacing, direction: of another file, in mm and LPS as SimpleITK has them, 3, 3 and 9 numbers.
    """

    nifti: bytes = b""
    origin: tuple[float, ...] = ()
    spacing: tuple[float, ...] = ()
    direction: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Case:
    """A picture, or one volume cut into planes.

    Attributes:
        path: the file.
        picture: uint8 [H, W, 3]; None for a volume.
        volume: its planes; None for a picture.
        grid: of the volume; None for a picture.
        notes: sentences about what was altered to read it.
    """

    path: Path
    picture: npt.NDArray[np.uint8] | None = None
    volume: Volume | None = None
    grid: Grid | None = None
    notes: tuple[str, ...] = ()
    _limits: dict[Intensity, tuple[float, float]] = field(default_factory=dict, repr=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Planes, rows and columns."""
        if self.volume is not None:
            planes, rows, columns = self.volume.planes.shape
            return planes, rows, columns
        assert self.picture is not None
        return 1, *self.picture.shape[:2]

    def plane(self, z: int, intensity: Intensity = _AS_READ) -> npt.NDArray[np.uint8]:
        """Return plane `z` as uint8 [H, W, 3]; `intensity` says how voxels become grey, a picture stays as it was read."""
        if self.volume is None:
            assert self.picture is not None
            return self.picture
        if intensity not in self._limits:
            self._limits[intensity] = intensity.limits(self.volume.planes)
        return to_rgb(self.volume.slice(z), self._limits[intensity])

    def on_planes(self, marked: Marked) -> list[tuple[int, Marked]]:
        """Return what is marked on each plane, in (x, y) = (column, row) of the plane.

        Raises:
            DataError: it lies outside, is inside out, or does not say which planes of a volume it is on.
        """
        size = self._voxels()
        for corner in (marked.low, marked.high, *marked.inside, *marked.outside):
            if corner and len(corner) != len(size):
                axes = "x, y and z" if len(size) == 3 else "x and y"
                raise DataError(
                    f"{self.path}: a prompt of '{marked.label}' has {len(corner)} coordinates, and this file has the axes "
                    f"{axes}; give {'z0 and z1 (or z) too' if len(size) == 3 else 'no z'}"
                )
            if not all(0 <= value <= length - 1 for value, length in zip(corner, size, strict=bool(corner))):
                raise DataError(
                    f"{self.path}: a prompt of '{marked.label}' lies at {_shown(corner)}, outside the image of "
                    f"{' x '.join(map(str, size))} pixels, which are counted from 0; mend that row"
                )
        if any(low > high for low, high in zip(marked.low, marked.high, strict=True)):
            raise DataError(
                f"{self.path}: a box of '{marked.label}' goes from {_shown(marked.low)} to {_shown(marked.high)}, which is "
                "inside out; give the lower corner first"
            )
        if self.volume is None:
            return [(0, marked)]
        return self._across(marked)

    def _voxels(self) -> tuple[int, ...]:
        """Return how many pixels there are on each axis of the file."""
        planes, rows, columns = self.shape
        if self.volume is None:
            return columns, rows
        size = [0, 0, 0]
        for axis, length in zip(self.volume.voxel_axes, (planes, rows, columns), strict=True):
            size[axis] = length
        return tuple(size)

    def _across(self, marked: Marked) -> list[tuple[int, Marked]]:
        assert self.volume is not None
        corners = [self.volume.from_voxel(corner) for corner in (marked.low, marked.high) if corner]
        clicks = {
            name: [self.volume.from_voxel(point) for point in getattr(marked, name)] for name in ("inside", "outside")
        }
        planes = {round(point[0]) for points in clicks.values() for point in points}
        low: tuple[float, ...] = ()
        high: tuple[float, ...] = ()
        if corners:
            # Where an axis is flipped, the corners change places on it.
            low, high = (tuple(pick(pair) for pair in zip(*corners, strict=True)) for pick in (min, max))
            planes |= set(range(round(low[0]), round(high[0]) + 1))
        found = []
        for z in sorted(planes):
            box = (low[:0:-1], high[:0:-1]) if corners and round(low[0]) <= z <= round(high[0]) else ((), ())
            inside, outside = (
                tuple((column, row) for plane, row, column in points if round(plane) == z) for points in clicks.values()
            )
            if box[0] or inside:
                found.append((z, Marked(marked.label, *box, inside, outside)))
        return found

    def to_file(self, planes: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return planes [Z, H, W] in the order of the file: [H, W] of a picture, `Volume.to_source` of a volume."""
        if self.volume is not None:
            return self.volume.to_source(planes)
        result: npt.NDArray[Any] = planes[0]
        return result

    def to_planes(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return what `to_file` has made, as planes [Z, H, W] again."""
        return values[None] if self.volume is None else self.volume.from_source(values)


def is_volume(path: Path) -> bool:
    """Tell by its name whether a file is a volume."""
    return path.name.lower().endswith(VOLUME_SUFFIXES)


def read_case(path: Path, channel: int = 0) -> Case:
    """Read a picture or a volume, as the readers of datasets do.

    Raises:
        DataError: the file is missing, damaged, too large or of another kind.
    """
    if is_volume(path):
        return Case(path, volume=open_volume(path, channel, view="acquired"), grid=_grid(path))
    if not path.name.lower().endswith(SUFFIXES):
        raise DataError(f"{path} is no kind of file that is segmented; convert it to one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise DataError(f"the image {path} does not exist; correct the path")
    facts: Counter[str] = Counter()
    image = read_image(path, facts)
    return Case(path, picture=image, notes=tuple(fact_sentences(facts)))


def picture_of(image: npt.NDArray[Any]) -> Case:
    """Return the case of a picture that is in memory, uint8 [H, W, 3] or grey [H, W].

    Raises:
        DataError: another shape or type.
    """
    values = np.asarray(image)
    if values.dtype != np.uint8 or values.ndim not in (2, 3) or values.shape[2:] not in ((), (3,)) or 0 in values.shape:
        raise DataError(
            f"an image of shape {list(values.shape)} and type {values.dtype} is not segmented; give uint8 [H, W, 3], or "
            "grey uint8 [H, W]"
        )
    if values.ndim == 2:
        values = np.repeat(values[:, :, None], 3, axis=2)
    return Case(Path("image"), picture=np.ascontiguousarray(values))


def _grid(path: Path) -> Grid:
    """Return where the voxels of a volume lie that could be opened."""
    if path.name.lower().endswith((".nii", ".nii.gz")):
        import nibabel

        image: Any = nibabel.load(path)
        return Grid(nifti=bytes(image.header.binaryblock))
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    axes = reader.GetDimension()
    direction = np.reshape(reader.GetDirection(), (axes, axes))[:3, :3]
    return Grid(b"", reader.GetOrigin()[:3], reader.GetSpacing()[:3], tuple(direction.ravel().tolist()))


def _shown(corner: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in corner) + ")"
