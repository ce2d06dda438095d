"""Raw datasets of nnU-Net v2: volumes and 2-D images, regions, splits, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image

from casam_fed.data.formats.nnunet import open_nnunet
from casam_fed.data.sample import Reader, Record
from casam_fed.data.split import split_records
from casam_fed.data.volume import Window
from casam_fed.errors import ConfigError

from ..tiny_images import refused

LABELS = np.zeros((4, 8, 6), dtype=np.uint8)  # [k, j, i]
LABELS[1:3, 2:5, 1:3], LABELS[2, 2:5, 3] = 1, 2


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".png", ".tif", ".jpg"):
        Image.fromarray(values[1] if values.ndim == 3 and values.shape[-1] != 3 else values).save(path)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(values), str(path))


def describe(root: Path, ending: str, **changes: object) -> Path:
    described = {
        "channel_names": {"0": "T2", "1": "ADC"},
        "labels": {"background": 0, "edema": 1, "core": 2},
        "numTraining": 2,
        "file_ending": ending,
        "overwrite_image_reader_writer": "SimpleITKIO",
    }
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(described | changes))
    return root


def case(root: Path, name: str, ending: str, part: str = "Tr") -> None:
    save(root / f"images{part}" / f"{name}_0000{ending}", (LABELS * 100).astype(np.uint8))
    save(root / f"images{part}" / f"{name}_0001{ending}", ((LABELS == 2) * 100).astype(np.uint8))
    save(root / f"labels{part}" / f"{name}{ending}", LABELS)
    (root / f"images{part}" / f"._{name}_0000{ending}").write_bytes(b"AppleDouble")


def dataset(root: Path, ending: str = ".nii.gz", **changes: object) -> Path:
    for name in ("BRATS_002", "BRATS_001"):
        case(root, name, ending)
    return describe(root, ending, **changes)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mhd", ".mha"])
def test_volumes_are_read_slice_by_slice(tmp_path: Path, ending: str) -> None:
    reader: Reader = open_nnunet(dataset(tmp_path, ending))
    assert reader.classes == ("edema", "core")
    ids = [f"BRATS_00{case}/00{z}" for case in (1, 2) for z in (1, 2)]
    assert reader.records() == [Record(name, name[:9], None, name[:9]) for name in ids]
    assert reader.notes == ["4 of 8 slices have no foreground and are left out."]
    sample = reader.read(reader.records()[1])
    assert np.array_equal(sample.masks["edema"], LABELS[2] == 1)
    assert np.array_equal(sample.masks["core"], LABELS[2] == 2)
    assert np.array_equal(sample.image[..., 0] == 255, sample.masks["core"])


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_flat_images_are_read_whole(tmp_path: Path, ending: str) -> None:
    reader: Reader = open_nnunet(dataset(tmp_path, ending))
    assert reader.records() == [Record(name, name, None) for name in ("BRATS_001", "BRATS_002")]
    sample = reader.read(reader.records()[0])
    assert np.array_equal(sample.masks["edema"], LABELS[1] == 1)
    assert not sample.masks["core"].any()
    assert np.array_equal(sample.image[..., 2], LABELS[1] * 100)


def test_a_colour_image_is_one_file_of_three_channels(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    save(tmp_path / "imagesTr" / "road_0000.png", colour)
    save(tmp_path / "labelsTr" / "road.png", LABELS)
    describe(tmp_path, ".png", channel_names={"0": "R", "1": "G", "2": "B"}, numTraining=1)
    reader = open_nnunet(tmp_path)
    assert np.array_equal(reader.read(reader.records()[0]).image, colour)


def test_flat_images_without_foreground_are_kept_and_counted(tmp_path: Path) -> None:
    dataset(tmp_path, ".png", numTraining=3)
    save(tmp_path / "labelsTr" / "BRATS_002.png", LABELS * 0)
    reader = open_nnunet(tmp_path)
    for _ in range(2):
        list(map(reader.read, reader.records()))
    assert reader.notes == [
        "dataset.json announces 3 training cases, but 2 are there.",
        "Empty masks: 1 of 2 read so far; they are kept, not replaced.",
    ]


def test_regions_overlap(tmp_path: Path) -> None:
    reader = open_nnunet(dataset(tmp_path, labels={"background": 0, "whole": [1, 2], "core": [2]}))
    assert reader.classes == ("whole", "core")
    masks = reader.read(reader.records()[1]).masks
    assert np.array_equal(masks["whole"], LABELS[2] > 0)
    assert np.array_equal(masks["core"], LABELS[2] == 2)


def test_another_channel_can_be_read(tmp_path: Path) -> None:
    reader = open_nnunet(dataset(tmp_path), channel=1)
    first, second, *_ = (reader.read(record).image for record in reader.records())
    assert not first.any()
    assert np.array_equal(second[..., 0] == 255, LABELS[2] == 2)
    assert "has no channel 2; choose one of 0, 1" in refused(lambda: open_nnunet(tmp_path, channel=2))


def test_a_window_fixes_the_grey_of_volumes(tmp_path: Path) -> None:
    reader = open_nnunet(dataset(tmp_path), window=Window(0, 400))
    assert int(reader.read(reader.records()[0]).image.max()) == 64
    dataset(tmp_path / "flat", ".png")
    assert "a window of grey is for volumes" in refused(
        lambda: open_nnunet(tmp_path / "flat", window=Window(0, 400)), ConfigError
    )


@pytest.mark.parametrize("ending", [".nii.gz", ".png"])
def test_a_labelled_test_set_fixes_the_split(tmp_path: Path, ending: str) -> None:
    dataset(tmp_path, ending)
    case(tmp_path, "BRATS_009", ending, "Ts")
    reader = open_nnunet(tmp_path)
    records = reader.records()
    assert {(record.patient, record.split) for record in records} == {
        ("BRATS_001", "train"),
        ("BRATS_002", "train"),
        ("BRATS_009", "test"),
    }
    assert split_records(records) == records
    assert reader.read(records[-1]).masks["edema"].any()
    assert not any("announces" in note for note in reader.notes), "numTraining counts imagesTr alone"


def test_a_test_set_without_labels_is_not_used(tmp_path: Path) -> None:
    dataset(tmp_path)
    (tmp_path / "imagesTs").mkdir()
    (tmp_path / "imagesTs" / "BRATS_009_0000.nii.gz").write_bytes(b"never opened")
    assert {(record.patient, record.split) for record in open_nnunet(tmp_path).records()} == {
        ("BRATS_001", None),
        ("BRATS_002", None),
    }


@pytest.mark.parametrize(("expression", "expected"), [(r"\d\d\d", ["001", "002"]), (r"(BR)ATS", ["BR", "BR"])])
def test_the_patient_is_found_in_the_case(tmp_path: Path, expression: str, expected: list[str]) -> None:
    reader = open_nnunet(dataset(tmp_path, ".png"), patient=expression)
    assert [record.patient for record in reader.records()] == expected


def test_patient_expressions_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    dataset(tmp_path, ".png")
    assert "finds no patient in the name 'BRATS_001'" in refused(lambda: open_nnunet(tmp_path, patient="x+"))
    assert "is not a regular one" in refused(lambda: open_nnunet(tmp_path, patient="("), ConfigError)


def test_the_cache_folder_is_used_for_volumes(tmp_path: Path) -> None:
    open_nnunet(dataset(tmp_path / "data"), cache=tmp_path / "cache").records()
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_another_number_of_cases_is_noted(tmp_path: Path) -> None:
    reader = open_nnunet(dataset(tmp_path, numTraining=484))
    reader.records()
    assert "dataset.json announces 484 training cases, but 2 are there." in reader.notes


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"labels": {"background": 0, "core": 1, "ignore": 2}}, "has an 'ignore' label"),
        ({"labels": {"core": 1}}, "must give 'background' the label 0"),
        ({"labels": {"background": 3, "core": 1}}, "must give 'background' the label 0"),
        ({"labels": {"background": 0}}, "every class label values above 0"),
        ({"labels": {"background": 0, "core": 0}}, "every class label values above 0"),
        ({"labels": {"background": 0, "core": 1, "edema": 1}}, "every class label values above 0"),
        ({"labels": {"background": 0, "core": []}}, "wrong at labels.core"),
        ({"labels": {"background": 0, "core": "1"}}, "wrong at labels.core"),
        ({"labels": {"background": 0, "core": -1}}, "wrong at labels.core"),
        ({"labels": {"background": 0, "edema": 1}}, "holds the value 2 where only 0, 1 are declared"),
        ({"channel_names": None}, "wrong at channel_names"),
        ({"file_ending": ".npz"}, "has the file ending '.npz'"),
        ({"file_ending": ".mha"}, "holds no image CASE_0000.mha"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    assert reason in refused(lambda: open_nnunet(dataset(tmp_path, **changes)))


def test_undeclared_values_of_flat_labels_are_refused(tmp_path: Path) -> None:
    dataset(tmp_path, ".png")
    save(tmp_path / "labelsTr" / "BRATS_001.png", LABELS * 7)
    assert "holds the value 7 where only 0, 1, 2 are declared" in refused(lambda: open_nnunet(tmp_path))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda root: (root / "labelsTr" / "BRATS_001.png").unlink(), "case BRATS_001 of"),
        (lambda root: [path.unlink() for path in root.glob("imagesTr/BRATS_001*")], "BRATS_001.png has no image in"),
        (lambda root: (root / "imagesTr" / "BRATS_001_0000.png").unlink(), "BRATS_001_0000.png is missing"),
        (lambda root: save(root / "imagesTr" / "x.png", LABELS), "name it x_0000.png"),
        (lambda root: (root / "labelsTr").rename(root / "aside"), "labelsTr does not exist"),
        (lambda root: case(root, "BRATS_001", ".png", "Ts"), "are both listed as 'BRATS_001'"),
        (lambda root: (root / "dataset.json").unlink(), "dataset.json is missing"),
        (lambda root: (root / "dataset.json").write_text("[]"), "wrong at the file"),
    ],
)
def test_files_that_do_not_pair_up_are_refused(tmp_path: Path, damage: Callable[[Path], None], reason: str) -> None:
    damage(dataset(tmp_path, ".png"))
    assert reason in refused(lambda: open_nnunet(tmp_path))
