"""PROMISE12: MetaImage files in up to two folder levels."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from casam_fed.data.formats.promise12 import open_promise12
from casam_fed.data.sample import Reader, Record

from ..tiny_images import refused

LABELS = np.zeros((4, 8, 6), dtype=np.uint8)  # [k, j, i]
LABELS[1:3, 2:5, 1:3] = 1


def save(path: Path, voxels: np.ndarray, direction: tuple[float, ...] = (1, 0, 0, 0, 1, 0, 0, 0, 1)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((0.6, 0.6, 3.6))
    image.SetDirection(direction)
    sitk.WriteImage(image, str(path))


def case(folder: Path, name: str) -> Path:
    save(folder / f"{name}.mhd", LABELS.astype(np.int16) * 300)
    save(folder / f"{name}_segmentation.mhd", LABELS)
    return folder


def test_cases_are_found_up_to_two_folders_down(tmp_path: Path) -> None:
    case(tmp_path, "Case03")
    case(tmp_path / "TrainingData_Part1", "Case00")
    case(tmp_path / "promise" / "TrainingData_Part2", "Case17")
    case(tmp_path / "a" / "b" / "c", "Case40")
    case(tmp_path / ".hidden", "Case41")
    (tmp_path / "TrainingData_Part1" / "._Case00.mhd").write_bytes(b"AppleDouble")
    (tmp_path / "readme.txt").write_text("hello")
    reader: Reader = open_promise12(tmp_path)
    assert reader.classes == ("prostate",)
    ids = [f"{name}/00{z}" for name in ("Case00", "Case03", "Case17") for z in (1, 2)]
    assert reader.records() == [Record(name, name[:6], None, name[:6]) for name in ids]
    assert reader.notes == ["6 of 12 slices have no foreground and are left out."]


def test_image_and_mask_are_turned_alike(tmp_path: Path) -> None:
    case(tmp_path, "Case00")
    reader = open_promise12(tmp_path)
    sample = reader.read(reader.records()[0])
    assert np.array_equal(sample.image[..., 0] == 255, sample.masks["prostate"])
    # MetaImage is LPS: rows already run to the back, and columns to the left, as radiologists look at them.
    assert np.array_equal(sample.masks["prostate"], LABELS[1] > 0)


def test_the_cache_folder_is_used(tmp_path: Path) -> None:
    case(tmp_path / "data", "Case00")
    open_promise12(tmp_path / "data", cache=tmp_path / "cache").records()
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_images_and_segmentations_must_pair_up(tmp_path: Path) -> None:
    case(tmp_path, "Case00")
    case(tmp_path, "Case01")
    (tmp_path / "Case01_segmentation.mhd").rename(tmp_path / "aside")
    assert "Case01.mhd has no segmentation beside it" in refused(lambda: open_promise12(tmp_path))
    (tmp_path / "aside").rename(tmp_path / "Case01_segmentation.mhd")
    (tmp_path / "Case00.mhd").unlink()
    assert "Case00_segmentation.mhd has no image beside it" in refused(lambda: open_promise12(tmp_path))


def test_a_case_in_two_folders_is_refused(tmp_path: Path) -> None:
    case(tmp_path / "TrainingData", "Case00")
    case(tmp_path / "TestData", "Case00")
    assert "are both listed as 'Case00'" in refused(lambda: open_promise12(tmp_path))


def test_folders_without_cases_are_refused(tmp_path: Path) -> None:
    assert "holds no Case00.mhd" in refused(lambda: open_promise12(tmp_path))


@pytest.mark.parametrize("name", ["Case00.mhd", "Case00_segmentation.mhd"])
def test_voxels_must_lie_beside_their_header(tmp_path: Path, name: str) -> None:
    case(tmp_path / "data", "Case00")
    raw = (tmp_path / "data" / name).with_suffix(".raw")
    raw.rename(tmp_path / raw.name)
    assert "which is not in its folder; put the file beside it" in refused(lambda: open_promise12(tmp_path / "data"))
    path = tmp_path / "data" / name
    path.write_text(path.read_text().replace(raw.name, f"../{raw.name}"))
    assert "must lie in one file in the same folder" in refused(lambda: open_promise12(tmp_path / "data"))


def test_a_segmentation_of_other_size_or_place_is_refused(tmp_path: Path) -> None:
    case(tmp_path, "Case00")
    save(tmp_path / "Case00_segmentation.mhd", LABELS[:3])
    assert "export both on the same grid" in refused(lambda: open_promise12(tmp_path))
    save(tmp_path / "Case00_segmentation.mhd", LABELS, (-1, 0, 0, 0, -1, 0, 0, 0, 1))
    assert "mm apart in the patient" in refused(lambda: open_promise12(tmp_path))
    save(tmp_path / "Case00_segmentation.mhd", LABELS * 2)
    assert "holds the value 2 where only 0, 1 are declared" in refused(lambda: open_promise12(tmp_path))
