"""STS-2D: dental X-rays at any of the levels where its releases keep them."""

from pathlib import Path

import pytest

from casam_fed.data.formats.sts2d import open_sts2d
from casam_fed.data.sample import Reader, Record

from ..tiny_images import COLOUR, DISC, refused, save

GREY = COLOUR[:, :, 0]


def pair(folder: Path, name: str, names: tuple[str, str] = ("image", "mask"), end: str = "") -> None:
    save(folder / names[0] / f"{name}.png", GREY)
    save(folder / names[1] / f"{name}{end}.png", DISC)


@pytest.mark.parametrize("level", ["", "labeled", "A-PXI/labeled", "STS-2D-Tooth/A-PXI/Labeled"])
@pytest.mark.parametrize("names", [("image", "mask"), ("Images", "Masks"), ("image", "label"), ("images", "labels")])
def test_images_and_masks_are_found_at_every_level(tmp_path: Path, level: str, names: tuple[str, str]) -> None:
    pair(tmp_path / level, "0001", names)
    reader: Reader = open_sts2d(tmp_path)
    name = f"{level}/0001" if level else "0001"
    assert reader.records() == [Record(name, name, None)]
    sample = reader.read(reader.records()[0])
    assert (sample.image == GREY[:, :, None]).all()
    assert (sample.masks["teeth"] == (DISC > 0)).all()
    assert reader.classes == ("teeth",)


@pytest.mark.parametrize("end", ["", "_mask", "-mask"])
def test_masks_may_say_that_they_are_masks(tmp_path: Path, end: str) -> None:
    pair(tmp_path, "7", end=end)
    (tmp_path / "mask" / "._8.png").write_bytes(b"AppleDouble")
    assert [record.id for record in open_sts2d(tmp_path).records()] == ["7"]


def test_images_without_masks_are_left_out_and_counted(tmp_path: Path) -> None:
    pair(tmp_path / "A-PXI" / "labeled", "1")
    for number in range(3):
        save(tmp_path / "A-PXI" / "unlabeled" / "image" / f"{number}.png", GREY)
    save(tmp_path / "C-PXI" / "unlabeled" / "image" / "1.png", GREY)
    reader = open_sts2d(tmp_path)
    assert [record.id for record in reader.records()] == ["A-PXI/labeled/1"]
    assert reader.notes == [
        "Patients are not told: each of the 1 images counts as a patient of its own.",
        "Images without masks left out: 4 in 2 folders (A-PXI/unlabeled/image, C-PXI/unlabeled/image).",
    ]


def test_the_same_name_at_two_places_gives_two_records(tmp_path: Path) -> None:
    for part in ("A-PXI", "C-PXI"):
        pair(tmp_path / part, "1")
    assert [record.id for record in open_sts2d(tmp_path).records()] == ["A-PXI/1", "C-PXI/1"]


def test_what_does_not_follow_the_layout_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "unlabeled" / "image" / "1.png", GREY)
    assert "holds no image/ with a mask/ or label/ beside it, down to 3 levels" in refused(open_sts2d(tmp_path))
    save(tmp_path / "other" / "mask" / "1.png", DISC)
    assert "mask has no folder image/ beside it" in refused(open_sts2d(tmp_path))


def test_folders_and_files_that_could_be_meant_twice_are_refused(tmp_path: Path) -> None:
    pair(tmp_path, "1")
    save(tmp_path / "mask" / "1_mask.png", DISC)
    assert "both stand for '1'" in refused(open_sts2d(tmp_path))
    (tmp_path / "label").mkdir()
    assert "holds both label/ and mask/" in refused(open_sts2d(tmp_path))


def test_a_lone_image_is_refused(tmp_path: Path) -> None:
    pair(tmp_path, "1")
    save(tmp_path / "image" / "2.png", GREY)
    assert f"2.png has no mask in {tmp_path / 'mask'};" in refused(open_sts2d(tmp_path))
