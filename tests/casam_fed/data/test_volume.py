"""Volumes: planes as radiologists look at them, exact ways back to the source, and refusals in one sentence."""

import gzip
import itertools
import re
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from casam_fed.data.volume import MAX_VOXELS, SUFFIXES, Percentiles, Volume, Window, open_volume, to_rgb
from casam_fed.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
VOXELS = RNG.integers(-500, 500, (4, 5, 6)).astype(np.int16)  # [i, j, k]
SPACING = (0.5, 1.25, 4.0)


def turned(axes: tuple[int, ...], signs: tuple[int, ...], tilt: float = 0.0) -> np.ndarray:
    """Return the direction cosines of a permuted, flipped and tilted volume."""
    c, s = np.cos(tilt), np.sin(tilt)
    tilted = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    return tilted @ np.eye(3)[:, axes] * signs


def write_nifti(path: Path, voxels: np.ndarray, cosines: np.ndarray | None = None, spacing: tuple = SPACING) -> Path:
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if cosines is None else cosines) * spacing
    affine[:3, 3] = (10, -20, 30)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def write_both(folder: Path, suffix: str, direction: np.ndarray) -> sitk.Image:
    """Write the same image, oriented by LPS direction cosines, as NIfTI and as `suffix`."""
    image = sitk.GetImageFromArray(VOXELS.T)
    image.SetSpacing(SPACING)
    image.SetOrigin((10, -20, 30))
    image.SetDirection(direction.ravel().tolist())
    for name in ("a.nii", f"b{suffix}"):
        sitk.WriteImage(image, str(folder / name))
    return image


def refused(path: Path, channel: int = 0) -> str:
    with pytest.raises(DataError) as caught:
        open_volume(path, channel)
    message = str(caught.value)
    assert "\n" not in message
    assert "; " in message, "an error names its mend"
    assert str(path) in message
    return message


ALL_TURNS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


# Orientation


@pytest.mark.parametrize("tilt", [0.0, 0.4])
def test_every_orientation_of_a_nifti_maps_back_to_its_voxels(tmp_path: Path, tilt: float) -> None:
    for axes, signs in ALL_TURNS:
        volume = open_volume(write_nifti(tmp_path / "a.nii", VOXELS, turned(axes, signs, tilt)))
        assert np.array_equal(volume.to_source(volume.planes), VOXELS)
        mask = volume.planes > 100
        assert np.array_equal(volume.to_source(mask), VOXELS > 100)
        assert volume.spacing == pytest.approx([SPACING[axes.index(axis)] for axis in (2, 1, 0)], rel=1e-5)


@pytest.mark.parametrize("tilt", [0.0, 0.4])
def test_both_file_kinds_give_the_same_planes_and_their_own_voxel_order(tmp_path: Path, tilt: float) -> None:
    for number, (axes, signs) in enumerate(ALL_TURNS):
        direction = turned(axes, signs, tilt)
        if np.linalg.det(direction) < 0:  # ITK's NIfTI writer knows rotations only.
            continue
        suffix = (".mha", ".mhd", ".nrrd")[number % 3]
        image = write_both(tmp_path, suffix, direction)
        nifti, meta = open_volume(tmp_path / "a.nii"), open_volume(tmp_path / f"b{suffix}")
        assert np.array_equal(nifti.planes, meta.planes)
        assert np.allclose(nifti.affine, meta.affine, atol=1e-4)
        assert nifti.spacing == pytest.approx(meta.spacing, rel=1e-5)
        assert np.array_equal(nifti.to_source(nifti.planes), nib.load(tmp_path / "a.nii").dataobj)
        assert np.array_equal(meta.to_source(meta.planes), sitk.GetArrayFromImage(image))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("degrees", [45, 135, 225, 315])
def test_both_file_kinds_agree_where_two_axes_are_equally_close(tmp_path: Path, axis: int, degrees: int) -> None:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    direction = np.roll(np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]), (axis, axis), (0, 1))
    write_both(tmp_path, ".mha", direction)
    assert np.array_equal(open_volume(tmp_path / "a.nii").planes, open_volume(tmp_path / "b.mha").planes)


def test_a_meta_image_mirrored_by_its_direction_maps_back(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(VOXELS.T)
    image.SetDirection((-1, 0, 0, 0, 1, 0, 0, 0, 1))
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    volume = open_volume(tmp_path / "a.mha")
    assert np.array_equal(volume.to_source(volume.planes), VOXELS.T)
    assert np.array_equal(volume.slice(0), VOXELS.T[0, :, ::-1])


@pytest.mark.parametrize("axes_signs", ALL_TURNS[::5])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_landmarks_appear_where_a_radiologist_expects_them(tmp_path: Path, axes_signs: tuple, suffix: str) -> None:
    """Right, front and head are marked in world coordinates; no code of ours says where their voxels are."""
    voxels = np.zeros((9, 9, 9), dtype=np.uint8)
    cosines = turned(*axes_signs)
    centre = np.array([5.0, -7.0, 11.0])
    origin = centre - cosines @ (4, 4, 4)
    # RAS: x to the right, y to the front, z to the head.
    for value, offset in ((50, (0, 0, 0)), (100, (3, 0, 0)), (150, (0, 2, 0)), (200, (0, 0, 4))):
        voxels[tuple(np.round(cosines.T @ (centre + offset - origin)).astype(int))] = value
    if suffix.startswith(".nii"):
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = cosines, origin
        nib.save(nib.Nifti1Image(voxels, affine), tmp_path / f"a{suffix}")
    else:
        image = sitk.GetImageFromArray(voxels.T)
        to_lps = np.diag([-1.0, -1.0, 1.0])
        image.SetDirection((to_lps @ cosines).ravel().tolist())
        image.SetOrigin((to_lps @ origin).tolist())
        sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
    volume = open_volume(tmp_path / f"a{suffix}")
    found = {
        value: tuple(int(place) for place in np.argwhere(volume.planes == value)[0]) for value in (50, 100, 150, 200)
    }
    assert found == {50: (4, 4, 4), 100: (4, 4, 1), 150: (4, 2, 4), 200: (8, 4, 4)}
    assert np.allclose(volume.affine @ (*found[100], 1), [centre[0] + 3, centre[1], centre[2], 1])
    assert volume.slice(4)[4, 1] == 100, "the patient's right is on the left of the plane"


@pytest.mark.parametrize(
    ("axes", "axial", "acquired"),
    [((0, 1, 2), (6, 5, 4), (6, 5, 4)), ((0, 2, 1), (5, 6, 4), (6, 5, 4)), ((1, 2, 0), (5, 4, 6), (6, 5, 4))],
)
def test_the_acquired_view_cuts_across_the_coarse_axis(
    tmp_path: Path, axes: tuple, axial: tuple, acquired: tuple
) -> None:
    path = write_nifti(tmp_path / "a.nii", VOXELS, turned(axes, (1, 1, 1)), spacing=(1, 1.1, 3.3))
    assert open_volume(path).planes.shape == axial
    volume = open_volume(path, view="acquired")
    assert volume.planes.shape == acquired
    assert volume.spacing == pytest.approx((3.3, 1.1, 1), rel=1e-5)
    assert np.array_equal(volume.to_source(volume.planes), VOXELS)
    down = volume.affine[:3, 1] / volume.spacing[1]
    assert np.allclose(down, (0, -1, 0) if axes == (0, 1, 2) else (0, 0, -1)), "rows run to the back, or to the feet"


def test_a_volume_with_like_spacings_is_cut_axially_in_either_view(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii", VOXELS, turned((0, 2, 1), (1, 1, 1)), spacing=(1, 1.2, 3.3))
    assert open_volume(path, view="acquired").planes.shape == open_volume(path).planes.shape == (5, 6, 4)


def test_slices_are_counted(tmp_path: Path) -> None:
    volume = open_volume(write_nifti(tmp_path / "a.nii", VOXELS))
    assert volume.slices == 6
    assert volume.slice(5).shape == (5, 4)


# What headers say


def test_scaling_is_honoured_and_types_are_kept_without_it(tmp_path: Path) -> None:
    image = nib.Nifti1Image(VOXELS, np.eye(4))
    image.header.set_slope_inter(2.0, -1000.0)
    # to_filename would divide by the slope: the stored integers are written as they are instead.
    header = image.header.copy()
    header["vox_offset"] = 352
    (tmp_path / "a.nii").write_bytes(header.binaryblock + b"\0" * 4 + VOXELS.tobytes(order="F"))
    volume = open_volume(tmp_path / "a.nii")
    assert np.array_equal(volume.to_source(volume.planes), VOXELS * 2.0 - 1000)
    assert open_volume(write_nifti(tmp_path / "b.nii", VOXELS)).planes.dtype == np.int16


def test_units_other_than_mm_are_converted(tmp_path: Path) -> None:
    image = nib.Nifti1Image(VOXELS, np.diag([500, 250, 1000, 1]))
    image.header.set_xyzt_units("micron")
    nib.save(image, tmp_path / "a.nii")
    assert open_volume(tmp_path / "a.nii").spacing == pytest.approx((1.0, 0.25, 0.5))


def test_a_nifti_without_orientation_is_taken_as_analyze_would(tmp_path: Path) -> None:
    image = nib.Nifti1Image(VOXELS, None)
    assert image.header["sform_code"] == image.header["qform_code"] == 0
    nib.save(image, tmp_path / "a.nii")
    assert np.array_equal(open_volume(tmp_path / "a.nii").slice(2), VOXELS[:, ::-1, 2].T)


def test_nifti_2_is_read(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(VOXELS, np.eye(4)), tmp_path / "a.nii.gz")
    volume = open_volume(tmp_path / "a.nii.gz")
    assert np.array_equal(volume.to_source(volume.planes), VOXELS)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_channel_of_four_axes_is_chosen(tmp_path: Path, suffix: str) -> None:
    voxels = RNG.integers(0, 9, (2, 3, 4, 5)).astype(np.int16)  # [channel, k, j, i]
    sitk.WriteImage(sitk.GetImageFromArray(voxels, isVector=False), str(tmp_path / f"a{suffix}"))
    for channel in (0, 1):
        volume = open_volume(tmp_path / f"a{suffix}", channel)
        source = volume.to_source(volume.planes)
        assert np.array_equal(source.T if "nii" in suffix else source, voxels[channel])
    for channel in (2, -1):
        assert f"no channel {channel}; choose one from 0 to 1" in refused(tmp_path / f"a{suffix}", channel)


def test_components_of_a_meta_image_are_channels(tmp_path: Path) -> None:
    voxels = RNG.integers(0, 9, (3, 4, 5, 2)).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(voxels, isVector=True), str(tmp_path / "a.mha"))
    volume = open_volume(tmp_path / "a.mha", 1)
    assert np.array_equal(volume.to_source(volume.planes), voxels[..., 1])
    assert "choose one from 0 to 1" in refused(tmp_path / "a.mha", 2)


def test_three_axes_have_one_channel(tmp_path: Path) -> None:
    assert "choose one from 0 to 0" in refused(write_nifti(tmp_path / "a.nii", VOXELS), 1)


# Grey


def test_percentiles_of_the_whole_volume_become_0_to_255() -> None:
    values = np.arange(1001).reshape(1, 1, 1001)
    limits = Percentiles(10, 90).limits(values)
    assert limits == (100, 900)
    grey = to_rgb(values[0], limits)
    assert grey.shape == (1, 1001, 3)
    assert grey.dtype == np.uint8
    assert [int(grey[0, x, 0]) for x in (0, 100, 500, 900, 1000)] == [0, 0, 128, 255, 255]
    assert (grey == grey[:, :, :1]).all()


def test_a_window_is_fixed_in_source_units() -> None:
    values = np.array([[-2000, -100, 70, 240, 3000]], dtype=np.int16)
    assert to_rgb(values, Window(-100, 240).limits(values))[0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_flat_volumes_and_lone_bright_spots_are_images_too() -> None:
    values = np.zeros((10, 10, 10))
    assert not to_rgb(values[0], Percentiles().limits(values)).any()
    values[0, 0, :2] = 7, 14
    assert to_rgb(values[0], Percentiles().limits(values))[0, :3, 0].tolist() == [128, 255, 0]


@pytest.mark.parametrize("limits", [(5, 5), (9, 1), (float("nan"), 1), (0, float("inf"))])
def test_limits_that_are_no_range_are_refused(limits: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match=r"no range; give"):
        Window(*limits)


# Refusals


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_truncated_files_are_refused(tmp_path: Path, suffix: str) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(tmp_path / f"a{suffix}"))
    data = tmp_path / ("a.raw" if suffix == ".mhd" else f"a{suffix}")
    whole = data.read_bytes()
    for length in (len(whole) - 9, len(whole) // 2, 10, 0):
        data.write_bytes(whole[:length])
        assert "replace it with an intact copy" in refused(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_file_truncated_behind_the_chosen_channel_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    nib.save(nib.Nifti1Image(RNG.integers(0, 99, (4, 5, 6, 9)).astype(np.int16), np.eye(4)), path)
    path.write_bytes(path.read_bytes()[:-100])
    assert "cannot be read" in refused(path)


def test_a_flipped_bit_in_a_gz_is_refused(tmp_path: Path) -> None:
    """Stored uncompressed, such a gzip decodes without complaint: only its checksum tells."""
    path = write_nifti(tmp_path / "a.nii", VOXELS)
    packed = bytearray(gzip.compress(path.read_bytes(), compresslevel=0))
    packed[-20] ^= 1
    (tmp_path / "b.nii.gz").write_bytes(packed)
    assert "CRC" in refused(tmp_path / "b.nii.gz")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_garbage_is_refused(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_bytes(RNG.bytes(2000))
    assert "replace it with an intact copy" in refused(tmp_path / f"a{suffix}")


def test_too_large_a_claim_is_refused_before_data_are_read(tmp_path: Path) -> None:
    header = nib.Nifti1Header()
    header.set_data_shape((2000, 2000, 2000))
    (tmp_path / "a.nii").write_bytes(header.binaryblock + b"\0" * 8)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(header.binaryblock + b"\0" * 8))
    text = "ObjectType = Image\nNDims = 3\nDimSize = 2000 2000 2000\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    (tmp_path / "a.mha").write_text(text)
    for name in ("a.nii", "a.nii.gz", "a.mha"):
        assert f"claims 2000 x 2000 x 2000 voxels, outside 1 to {MAX_VOXELS:,}" in refused(tmp_path / name)


def test_a_header_that_claims_to_be_huge_is_refused(tmp_path: Path) -> None:
    header = nib.Nifti1Header()
    header.set_data_shape((2, 2, 2))
    header["magic"], header["vox_offset"] = b"n+1", 2e9
    (tmp_path / "a.nii").write_bytes(header.binaryblock + b"\0" * 100)
    assert "claims a header of 2000000000 bytes" in refused(tmp_path / "a.nii")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    voxels = VOXELS.astype(np.float32)
    voxels[1, 2, 3] = value
    assert "not finite" in refused(write_nifti(tmp_path / "a.nii", voxels))
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(tmp_path / "a.mha"))
    assert "not finite" in refused(tmp_path / "a.mha")


def test_voxels_of_several_numbers_are_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(VOXELS.astype(np.complex64), np.eye(4)), tmp_path / "a.nii")
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), [(c, "u1") for c in "RGB"]), np.eye(4)), tmp_path / "b.nii")
    for name in ("a.nii", "b.nii"):
        assert "one real, finite number per voxel" in refused(tmp_path / name)


@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 4, 5, 6)])
def test_other_numbers_of_axes_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    nib.save(nib.Nifti1Image(np.zeros(shape, dtype=np.uint8), np.eye(4)), tmp_path / "a.nii")
    assert f"has {len(shape)} axes" in refused(tmp_path / "a.nii")


def test_empty_axes_behind_the_third_do_not_count(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(VOXELS.reshape(4, 5, 6, 1, 1), np.eye(4)), tmp_path / "a.nii")
    assert open_volume(tmp_path / "a.nii").planes.shape == (6, 5, 4)


def test_channels_in_two_places_are_refused(tmp_path: Path) -> None:
    voxels = np.zeros((2, 3, 4, 5, 2), dtype=np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(voxels, isVector=True), str(tmp_path / "a.mha"))
    assert "on its fourth axis and in its voxels" in refused(tmp_path / "a.mha")


def test_an_affine_that_is_no_grid_is_refused(tmp_path: Path) -> None:
    for number, affine in enumerate((np.diag([1, 1, 0, 1]), np.diag([1, np.nan, 1, 1]), np.eye(4)[:, [0, 0, 2, 3]])):
        image = nib.Nifti1Image(VOXELS, None)
        image.header["sform_code"] = 1
        image.header["srow_x"], image.header["srow_y"], image.header["srow_z"] = affine[:3]
        nib.Nifti1Image(VOXELS, None, image.header).to_filename(tmp_path / f"{number}.nii")
        assert "does not say where its voxels lie" in refused(tmp_path / f"{number}.nii")


def test_missing_files_and_other_kinds_are_refused(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "a.nii")
    assert "not a volume that is understood" in refused(tmp_path / "a.dcm")


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ("ElementDataFile = ../secret.raw", "must lie in one file in the same folder"),
        ("ElementDataFile = /etc/passwd", "must lie in one file in the same folder"),
        ("ElementDataFile = ..\\secret.raw", "must lie in one file in the same folder"),
        ("ElementDataFile = LIST\n../secret.raw", "must lie in one file in the same folder"),
        ("ElementDataFile = a%02d.raw 1 6 1", "must lie in one file in the same folder"),
        ("ElementDataFile = other.raw", "put the file beside it"),
        ("Comment = ElementDataFile\nElementDataFile = a.raw", "does not name its data"),
        ("elementdatafile : ../secret.raw\nElementDataFile = a.raw", "does not name its data"),
        ("", "does not name its data"),
    ],
)
def test_voxels_outside_the_folder_are_refused(tmp_path: Path, field: str, reason: str) -> None:
    folder = tmp_path / "case"
    folder.mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(folder / "a.mhd"))
    (tmp_path / "secret.raw").write_bytes((folder / "a.raw").read_bytes())
    path = folder / "a.mhd"
    path.write_text(re.sub("ElementDataFile.*", lambda _: field, path.read_text()))
    assert reason in refused(path)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"NRRD0004\ndata file: ../secret.raw\n\n", "takes its voxels from other files"),
        (b"NRRD0004\r\nDataFile: LIST\r\nsecret.raw\r\n\r\n", "takes its voxels from other files"),
        (b"NRRD0004\ntype: short\n", "has no whole header"),
        (b"\n\nNRRD0004", "has no whole header"),
    ],
)
def test_a_nrrd_whose_voxels_lie_elsewhere_is_refused(tmp_path: Path, header: bytes, reason: str) -> None:
    (tmp_path / "a.nrrd").write_bytes(header + b"\0" * 64)
    assert reason in refused(tmp_path / "a.nrrd")


@pytest.mark.parametrize("compressed", [False, True])
def test_a_mhd_reads_the_file_beside_it(tmp_path: Path, compressed: bool) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS.T), str(tmp_path / "a.mhd"), compressed)
    text = (tmp_path / "a.mhd").read_bytes()
    (tmp_path / "a.mhd").write_bytes(text.replace(b"\n", b"\r\n") if not compressed else text)
    volume: Volume = open_volume(tmp_path / "a.mhd")
    assert np.array_equal(volume.to_source(volume.planes), VOXELS.T)


@pytest.mark.parametrize(("name", "library"), [("a.nii", "nibabel"), ("a.mha", "SimpleITK")])
def test_a_library_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, library: str
) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(tmp_path / name))
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(DataError, match=f"without {library}; run pip install"):
        open_volume(tmp_path / name)
