"""How drawn volumes reach the disk: NIfTI and MetaImage, byte for byte the same every time.

Drawn planes are [Z, H, W] with the feet first, the front at row 0 and the patient's right at column 0, as
casam_fed/data/volume.py gives them back. Real scanners store voxels in any of 48 orders, and hearts and prostates are
scanned along their own axes: a `Pose` says how.
"""

import contextlib
import gzip
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import nibabel
import numpy as np
import numpy.typing as npt
import SimpleITK

__all__ = ["POSES", "Planes", "Pose", "save_metaimage", "save_nifti"]

Planes = npt.NDArray[Any]


@dataclass(frozen=True)
class Pose:
    """How a volume is stored: the anatomical direction of each array axis, and a tilt in degrees about x and z."""

    axes: str
    tilt: tuple[float, float] = (0.0, 0.0)


POSES: Final = (Pose("LPS"), Pose("LPS", (18.0, -14.0)), Pose("RAS"), Pose("LAI"), Pose("LAS", (-8.0, 0.0)))
"""Cycled through by the patients of a dataset: straight, oblique, and flipped in three ways."""


def save_nifti(path: Path, planes: Planes, spacing: tuple[float, float, float], pose: Pose) -> None:
    """Write planes, [Z, H, W] or with channels [Z, H, W, C], as .nii.gz; `spacing` in mm between planes, rows, columns."""
    voxels, affine = _posed(planes, spacing, pose)
    image = nibabel.Nifti1Image(voxels, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = b"drawn phantom, no patient"
    # Without a time in the gzip header the same volume is the same bytes.
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=4, mtime=0))


def save_metaimage(path: Path, planes: Planes, spacing: tuple[float, float, float], pose: Pose) -> None:
    """Write planes, [Z, H, W], as .mhd with its .raw beside it."""
    voxels, affine = _posed(planes, spacing, pose)
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(voxels.T))
    to_lps = np.diag([-1.0, -1.0, 1.0]) @ affine[:3]
    lengths = np.linalg.norm(to_lps[:, :3], axis=0)
    image.SetSpacing(np.round(lengths, 6).tolist())
    image.SetDirection((to_lps[:, :3] / lengths).ravel().tolist())
    image.SetOrigin(to_lps[:, 3].tolist())
    with contextlib.suppress(RuntimeError):
        SimpleITK.WriteImage(image, str(path), useCompression=False)
    # ITK says nothing when the disk fills up in the middle of the voxels.
    raw = path.with_suffix(".raw")
    if not raw.exists() or raw.stat().st_size != voxels.nbytes:
        raise OSError(f"{raw} could not be written whole")


def _posed(planes: Planes, spacing: tuple[float, float, float], pose: Pose) -> tuple[Planes, npt.NDArray[np.float64]]:
    """Return voxels in the order that `pose` asks for, [i, j, k], and the affine that takes indices to RAS+ mm."""
    voxels = planes.transpose(2, 1, 0, *range(3, planes.ndim))
    affine = np.eye(4)
    # Columns run to the left, rows to the back, planes to the head; scanners put the origin near the middle.
    affine[:3, :3] = _rotation(pose.tilt) @ np.diag([-spacing[2], -spacing[1], spacing[0]])
    middle = (np.array(voxels.shape[:3]) - 1) / 2
    affine[:3, 3] = np.array([3.5, -12.25, 41.0]) - affine[:3, :3] @ middle
    orientations = nibabel.orientations
    turn = orientations.ornt_transform(orientations.axcodes2ornt("LPS"), orientations.axcodes2ornt(pose.axes))
    turned = np.ascontiguousarray(orientations.apply_orientation(voxels, turn))
    return turned, affine @ orientations.inv_ornt_aff(turn, voxels.shape[:3])


def _rotation(tilt: tuple[float, float]) -> npt.NDArray[np.float64]:
    about_x, about_z = (math.radians(angle) for angle in tilt)
    x = np.array(
        [[1, 0, 0], [0, math.cos(about_x), -math.sin(about_x)], [0, math.sin(about_x), math.cos(about_x)]], dtype=float
    )
    z = np.array(
        [[math.cos(about_z), -math.sin(about_z), 0], [math.sin(about_z), math.cos(about_z), 0], [0, 0, 1]], dtype=float
    )
    both: npt.NDArray[np.float64] = z @ x
    return both
