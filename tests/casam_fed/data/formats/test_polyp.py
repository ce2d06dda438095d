"""Polyps: Kvasir-SEG and the collection behind PraNet, and masks that were JPEGs once."""

from pathlib import Path

import numpy as np
import pytest

from casam_fed.data.formats.polyp import open_polyp
from casam_fed.data.sample import Reader, Record
from casam_fed.data.split import split_records

from ..tiny_images import COLOUR, DISC, H, W, refused, save


def pair(folder: Path, name: str, names: tuple[str, str] = ("images", "masks"), mask: np.ndarray = DISC) -> None:
    save(folder / names[0] / name, COLOUR)
    save(folder / names[1] / name, mask)


def test_kvasir_seg_is_read_and_its_jpeg_masks_thresholded(tmp_path: Path) -> None:
    pair(tmp_path, "cju0.jpg")
    (tmp_path / "kavsir_bboxes.json").write_text("{}")
    (tmp_path / "masks" / "._cju0.jpg").write_bytes(b"AppleDouble")
    reader: Reader = open_polyp(tmp_path)
    assert reader.records() == [Record("cju0", "cju0", None)]
    sample = reader.read(reader.records()[0])
    assert sample.image.shape == (H, W, 3)
    assert (sample.masks["polyp"] == (DISC > 0)).mean() > 0.97
    assert reader.notes[0] == "Patients are not told: each of the 1 images counts as a patient of its own."
    assert reader.notes[1].startswith("JPEG masks: 1 thresholded at 128; ")


@pytest.mark.parametrize("names", [("image", "mask"), ("images", "masks")])
def test_train_dataset_alone_has_no_split(tmp_path: Path, names: tuple[str, str]) -> None:
    pair(tmp_path / "TrainDataset", "12.png", names)
    reader = open_polyp(tmp_path)
    assert reader.records() == [Record("12", "12", None)]
    assert (reader.read(reader.records()[0]).masks["polyp"] == (DISC > 0)).all()
    assert open_polyp(tmp_path / "TrainDataset").records() == reader.records()


def test_train_and_test_datasets_fix_the_split(tmp_path: Path) -> None:
    pair(tmp_path / "TrainDataset", "1.png", ("image", "mask"))
    pair(tmp_path / "TestDataset" / "CVC-300", "1.png")
    pair(tmp_path / "TestDataset" / "Kvasir", "1.png")
    records = open_polyp(tmp_path).records()
    assert records == [
        Record("test/CVC-300/1", "test/CVC-300/1", "test"),
        Record("test/Kvasir/1", "test/Kvasir/1", "test"),
        Record("train/1", "train/1", "train"),
    ]
    assert split_records(records) == records


def test_a_test_dataset_of_one_collection_needs_no_folder_of_its_name(tmp_path: Path) -> None:
    pair(tmp_path / "TrainDataset", "1.png")
    pair(tmp_path / "TestDataset", "1.png")
    assert [record.id for record in open_polyp(tmp_path).records()] == ["test/1", "train/1"]


def test_png_masks_that_were_jpegs_are_thresholded_and_counted(tmp_path: Path) -> None:
    mask = DISC.copy()
    mask[0, :3], mask[7, 9:11], mask[5, 8:22] = 4, 250, 127
    pair(tmp_path, "1.png", mask=mask)
    reader = open_polyp(tmp_path)
    assert (reader.read(reader.records()[0]).masks["polyp"] == (DISC > 0)).all()
    assert reader.notes[-1] == (
        "Masks with shades of grey: 1 thresholded at 128; 19 of their 768 pixels were neither 0 nor 255."
    )


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (DISC // 255 * 2, "its values reach from 0 to 2, and 0% of"),
        (COLOUR[:, :, 0], "of its pixels are of middling grey"),
        (DISC.astype(np.uint16) * 2, "its values reach from 0 to 510"),
    ],
)
def test_masks_that_are_not_binary_are_refused(tmp_path: Path, mask: np.ndarray, said: str) -> None:
    pair(tmp_path, "1.png", mask=mask)
    assert said in refused(open_polyp(tmp_path))


def test_masks_of_0_and_1_are_read(tmp_path: Path) -> None:
    pair(tmp_path, "1.png", mask=DISC // 255)
    reader = open_polyp(tmp_path)
    assert (reader.read(reader.records()[0]).masks["polyp"] == (DISC > 0)).all()


def test_what_does_not_follow_a_layout_is_refused(tmp_path: Path) -> None:
    assert "has neither layout" in refused(open_polyp(tmp_path))
    save(tmp_path / "images" / "1.png", COLOUR)
    assert "has no folder masks/" in refused(open_polyp(tmp_path))
    pair(tmp_path, "1.png")
    pair(tmp_path / "TrainDataset", "1.png")
    assert "has both layouts at once" in refused(open_polyp(tmp_path))


def test_a_lone_image_is_refused(tmp_path: Path) -> None:
    pair(tmp_path, "1.jpg")
    save(tmp_path / "images" / "2.jpg", COLOUR)
    assert f"image {tmp_path / 'images' / '2.jpg'} has no mask in {tmp_path / 'masks'};" in refused(
        open_polyp(tmp_path)
    )


def test_two_folders_for_one_purpose_are_refused(tmp_path: Path) -> None:
    pair(tmp_path, "1.png")
    (tmp_path / "mask").mkdir()
    assert "holds both mask/ and masks/" in refused(open_polyp(tmp_path))
