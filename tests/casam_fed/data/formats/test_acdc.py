"""ACDC, and with it what all readers of volumes share: slices, grids, label values and the cache."""

import json
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from casam_fed.data import layout, volume_cases
from casam_fed.data.formats.acdc import open_acdc
from casam_fed.data.sample import Reader, Record
from casam_fed.data.split import split_records
from casam_fed.data.volume import Volume
from casam_fed.data.volume_cases import VolumeCase, VolumeReader
from casam_fed.errors import DataError

from ..tiny_images import refused

SHAPE = (10, 12, 4)
AFFINE = np.diag([1.5, 1.5, 10.0, 1.0])
IMAGE = np.random.default_rng(0).integers(0, 400, SHAPE).astype(np.int16)


def heart() -> np.ndarray:
    """Return labels on slices 1 and 2: right ventricle 1, myocardium 2, left ventricle 3, of which slice 2 has 3 only."""
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[2:4, 3:6, 1], labels[4:6, 3:6, 1], labels[6:9, 3:6, 1:3] = 1, 2, 3
    return labels


def save(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)


def patient(root: Path, name: str = "patient001", frames: tuple[int, int] = (1, 12)) -> Path:
    folder = root / name
    for frame in frames:
        save(folder / f"{name}_frame{frame:02d}.nii.gz", IMAGE)
        save(folder / f"{name}_frame{frame:02d}_gt.nii.gz", heart())
    (folder / "Info.cfg").write_text(f"ED: {frames[0]}\nES: {frames[1]}\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\n")
    (folder / f"{name}_4d.nii.gz").write_bytes(b"never opened")
    (folder / f"._{name}_frame01.nii.gz").write_bytes(b"AppleDouble")
    return folder


# The layout


def test_both_annotated_frames_are_read_in_the_order_of_the_classes(tmp_path: Path) -> None:
    patient(tmp_path)
    (tmp_path / "MANDATORY_CITATION.md").write_text("cite")
    reader: Reader = open_acdc(tmp_path)
    assert reader.classes == ("left ventricle", "myocardium", "right ventricle")
    ids = [f"patient001_frame{frame}/00{z}" for frame in ("01", "12") for z in (1, 2)]
    assert reader.records() == [Record(name, "patient001", None, name.rpartition("/")[0]) for name in ids]
    assert reader.notes == ["4 of 8 slices have no foreground and are left out."]
    first, second, *_ = map(reader.read, reader.records())
    assert {name: int(mask.sum()) for name, mask in first.masks.items()} == {
        "left ventricle": 9,
        "myocardium": 6,
        "right ventricle": 6,
    }
    assert {name: bool(mask.any()) for name, mask in second.masks.items()} == {
        "left ventricle": True,
        "myocardium": False,
        "right ventricle": False,
    }
    assert first.image.shape == (12, 10, 3)
    assert first.image.dtype == np.uint8
    assert first.masks["myocardium"].dtype == bool
    assert first.instances == {}


def test_image_and_masks_are_turned_alike(tmp_path: Path) -> None:
    folder = patient(tmp_path)
    for frame in (1, 12):  # The left ventricle is all there is to see.
        save(folder / f"patient001_frame{frame:02d}.nii.gz", (heart() == 3).astype(np.int16) * 100)
    reader = open_acdc(tmp_path)
    for record in reader.records():
        sample = reader.read(record)
        assert np.array_equal(sample.image[..., 0] == 255, sample.masks["left ventricle"])
    assert np.array_equal(sample.masks["left ventricle"], (heart()[:, :, 2] == 3).T[::-1, ::-1])


def test_grey_comes_from_the_whole_volume(tmp_path: Path) -> None:
    folder = patient(tmp_path)
    ramp = np.broadcast_to(np.arange(4, dtype=np.int16) * 10, SHAPE)
    save(folder / "patient001_frame01.nii.gz", ramp)
    reader = open_acdc(tmp_path)
    assert [int(reader.read(record).image.max()) for record in reader.records()[:2]] == [85, 170]


def test_training_and_testing_folders_fix_the_split(tmp_path: Path) -> None:
    patient(tmp_path / "training", "patient001")
    patient(tmp_path / "testing", "patient101")
    records = open_acdc(tmp_path).records()
    assert {(record.patient, record.split) for record in records} == {("patient001", "train"), ("patient101", "test")}
    assert split_records(records) == records


def test_one_side_alone_is_no_split(tmp_path: Path) -> None:
    patient(tmp_path / "training", "patient001")
    patient(tmp_path / "training", "patient002")
    assert {record.split for record in open_acdc(tmp_path).records()} == {None}


def test_a_stack_is_cut_as_it_was_acquired(tmp_path: Path) -> None:
    """Short-axis slices of a patient lie closer to the sagittal plane than to the axial one."""
    folder = patient(tmp_path)
    sagittal = AFFINE[[2, 0, 1, 3]]
    for frame in (1, 12):
        save(folder / f"patient001_frame{frame:02d}.nii.gz", IMAGE, sagittal)
        save(folder / f"patient001_frame{frame:02d}_gt.nii.gz", heart(), sagittal)
    reader = open_acdc(tmp_path)
    assert len(reader.records()) == 4
    assert reader.read(reader.records()[0]).masks["left ventricle"].sum() == 9


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda f: (f / "Info.cfg").unlink(), "Info.cfg is missing"),
        (lambda f: (f / "Info.cfg").write_text("ED: 1\nGroup: DCM\n"), "does not say which frame is ES"),
        (lambda f: (f / "Info.cfg").write_text("ED: one\nES: 2\n"), "does not say which frame is ED"),
        (lambda f: (f / "Info.cfg").write_text("ED: 1\nES: 7\n"), "frame07.nii.gz is missing although Info.cfg"),
        (lambda f: (f / "Info.cfg").write_bytes(b"ED: 1\nES: 7\n\xff"), "not text in UTF-8"),
        (lambda f: (f / "patient001_frame12_gt.nii.gz").unlink(), "frame12_gt.nii.gz is missing although Info.cfg"),
    ],
)
def test_incomplete_patients_are_refused(tmp_path: Path, damage: Callable[[Path], None], reason: str) -> None:
    damage(patient(tmp_path))
    assert reason in refused(lambda: open_acdc(tmp_path))


def test_too_large_an_info_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patient(tmp_path)
    monkeypatch.setattr(layout, "_MAX_TEXT", 20)
    assert "larger than 20 bytes" in refused(lambda: open_acdc(tmp_path))


def test_folders_without_patients_are_refused(tmp_path: Path) -> None:
    assert "holds no folders patient001" in refused(lambda: open_acdc(tmp_path))
    (tmp_path / "testing").mkdir()
    patient(tmp_path / "training")
    assert f"{tmp_path / 'testing'} holds no folders" in refused(lambda: open_acdc(tmp_path))
    patient(tmp_path, "patient009")
    assert "both in itself and in training/" in refused(lambda: open_acdc(tmp_path))


# What every reader of volumes refuses


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (heart() + np.uint8(4) * (heart() == 3), "holds the value 7 where only 0, 1, 2, 3 are declared"),
        (heart() - np.int16(1), "holds the value -1, outside 0 to 65535"),
        (heart().astype(np.int32) * 70000, "holds the value 210000, outside 0 to 65535"),
        (heart() * np.float32(0.5), "; save it with whole label values"),
        (heart()[:, :, :3], "has 4 x 12 x 10 planes, rows and columns but its label"),
        (np.zeros(SHAPE, dtype=np.uint8), "none of 8 slices has foreground"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, labels: np.ndarray, reason: str) -> None:
    folder = patient(tmp_path)
    for frame in ("01", "12"):
        save(folder / f"patient001_frame{frame}_gt.nii.gz", labels)
    message = refused(lambda: open_acdc(tmp_path))
    assert reason in message
    assert "patient001_frame01_gt.nii.gz" in message


def test_a_label_that_changed_after_listing_is_checked_again(tmp_path: Path) -> None:
    folder = patient(tmp_path)
    reader = open_acdc(tmp_path)
    first = reader.records()[0]
    save(folder / "patient001_frame01_gt.nii.gz", heart() * np.uint8(2))
    with pytest.raises(DataError, match="holds the value 4"):
        reader.read(first)


def test_whole_numbers_stored_as_float_are_labels(tmp_path: Path) -> None:
    folder = patient(tmp_path)
    save(folder / "patient001_frame01_gt.nii.gz", heart().astype(np.float64))
    reader = open_acdc(tmp_path)
    assert reader.read(reader.records()[0]).masks["left ventricle"].sum() == 9


@pytest.mark.parametrize(("shift", "fits"), [(0.01, True), (1.0, False)])
def test_image_and_label_must_lie_on_the_same_grid(tmp_path: Path, shift: float, fits: bool) -> None:
    folder = patient(tmp_path)
    moved = AFFINE.copy()
    moved[1, 3] += shift
    save(folder / "patient001_frame12_gt.nii.gz", heart(), moved)
    if fits:
        assert len(open_acdc(tmp_path).records()) == 4
    else:
        assert "lie up to 1 mm apart in the patient" in refused(lambda: open_acdc(tmp_path))


def test_a_label_stored_in_another_voxel_order_is_brought_to_the_image(tmp_path: Path) -> None:
    folder = patient(tmp_path)
    straight = open_acdc(tmp_path)
    expected = straight.read(straight.records()[0]).masks
    turned = AFFINE @ np.array([[-1, 0, 0, SHAPE[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    save(folder / "patient001_frame01_gt.nii.gz", heart()[::-1], turned)
    reader = open_acdc(tmp_path)
    masks = reader.read(reader.records()[0]).masks
    assert all(np.array_equal(masks[name], expected[name]) for name in expected)


def test_repeated_cases_are_refused(tmp_path: Path) -> None:
    case = VolumeCase("a", "a", tmp_path / "x.nii", tmp_path / "y.nii")
    assert "are both listed as 'a'" in refused(lambda: VolumeReader([case, case], {"x": 1}))


def test_one_image_and_one_label_volume_are_held_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[weakref.ref[np.ndarray]] = []
    alive = []
    real = volume_cases.open_volume

    def counted(*args: Any, **options: Any) -> Volume:
        alive.append(sum(reference() is not None for reference in seen))
        volume = real(*args, **options)
        seen.append(weakref.ref(volume.planes))
        return volume

    patient(tmp_path)
    patient(tmp_path, "patient002")
    reader = open_acdc(tmp_path)
    records = reader.records()
    monkeypatch.setattr(volume_cases, "open_volume", counted)
    for record in records:
        reader.read(record)
    assert len(alive) == 8, "four cases, each opened once"
    assert max(alive) == 1, "a volume is read only while at most its partner is held"


# The cache


def listed(root: Path, cache: Path) -> list[str]:
    return [record.id for record in open_acdc(root, cache=cache).records()]


def test_the_cache_answers_instead_of_the_label_volumes(tmp_path: Path) -> None:
    folder, cache = patient(tmp_path / "data"), tmp_path / "cache"
    expected = listed(folder.parent, cache)
    assert len(list(cache.iterdir())) == 2
    for path in folder.glob("*_gt.nii.gz"):  # Same size and time, but no longer a volume.
        status = path.stat()
        path.write_bytes(b"x" * status.st_size)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert listed(folder.parent, cache) == expected
    path.write_bytes(b"longer" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(DataError, match="cannot be read"):
        listed(folder.parent, cache)
    path.write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(0, 0))
    with pytest.raises(DataError, match="cannot be read"):
        listed(folder.parent, cache)


def test_a_cached_answer_still_counts_what_is_left_out(tmp_path: Path) -> None:
    patient(tmp_path / "data")
    for _ in range(2):
        reader = open_acdc(tmp_path / "data", cache=tmp_path / "cache")
        reader.records()
        assert reader.notes == ["4 of 8 slices have no foreground and are left out."]


def test_other_label_values_do_not_share_an_answer(tmp_path: Path) -> None:
    folder, cache = patient(tmp_path / "data"), tmp_path / "cache"
    listed(folder.parent, cache)
    label = folder / "patient001_frame01_gt.nii.gz"
    reader = VolumeReader([VolumeCase("a", "a", label, label)], {"left": 3}, cache=cache)
    with pytest.raises(DataError, match="where only 0, 3 are declared"):
        reader.records()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"present": [[3], [3], [3], [3]]}',
        b'{"key": [], "present": [[3], [3], [3], [3]]}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_a_damaged_or_foreign_cache_file_is_rebuilt(tmp_path: Path, content: bytes) -> None:
    folder, cache = patient(tmp_path / "data"), tmp_path / "cache"
    expected = listed(folder.parent, cache)
    whole = {path: path.read_bytes() for path in cache.iterdir()}
    for path in whole:
        path.write_bytes(content)
    assert listed(folder.parent, cache) == expected
    assert {path: path.read_bytes() for path in cache.iterdir()} == whole


@pytest.mark.parametrize("present", [[[3], ["3"], [], []], [[True], [], [], []], [[0], [], [], []], 7, [], [3]])
def test_answers_that_are_no_label_values_are_rebuilt(tmp_path: Path, present: object) -> None:
    folder, cache = patient(tmp_path / "data"), tmp_path / "cache"
    expected = listed(folder.parent, cache)
    for path in cache.iterdir():
        path.write_text(json.dumps(json.loads(path.read_bytes()) | {"present": present}))
    assert listed(folder.parent, cache) == expected
