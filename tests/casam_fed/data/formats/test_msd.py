"""Tasks of the Medical Segmentation Decathlon."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from casam_fed.data.formats.msd import MsdReader
from casam_fed.data.sample import Reader, Record, Sample
from casam_fed.data.volume import Window
from casam_fed.errors import ConfigError, DataError

SHAPE = (6, 8, 5)
AFFINE = np.diag([0.6, 0.6, 4.0, 1.0])


def save(path: Path, voxels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, AFFINE), path)


def describe(root: Path, **changes: object) -> Path:
    pairs = [
        {"image": f"./imagesTr/{path.name}", "label": f"./labelsTr/{path.name}"}
        for path in sorted((root / "imagesTr").glob("[!.]*"))
    ]
    described = {
        "name": "PROSTATE",
        "modality": {"0": "T2", "1": "ADC"},
        "labels": {"0": "background", "1": "PZ", "2": "TZ"},
        "numTraining": len(pairs),
        "training": pairs,
        "test": ["./imagesTs/prostate_99.nii.gz"],
    }
    (root / "dataset.json").write_text(json.dumps(described | changes))
    return root


def prostate(root: Path) -> Path:
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[1:3, 2:5, 1:4], labels[3:5, 2:5, 2] = 1, 2
    adc = np.zeros(SHAPE, dtype=np.int16)
    adc[:, :4] = 100
    for case in ("prostate_16", "prostate_00"):
        save(root / "imagesTr" / f"{case}.nii.gz", np.stack([100 * (labels == 2).astype(np.int16), adc], axis=-1))
        save(root / "labelsTr" / f"{case}.nii.gz", labels)
        (root / "imagesTr" / f"._{case}.nii.gz").write_bytes(b"AppleDouble")
    return describe(root)


def spleen(root: Path, modality: str = "CT") -> Path:
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[1:3, 2:5, 1:4] = 1
    image = np.full(SHAPE, -1000, dtype=np.int16)
    image[0, 0], image[1, 0], image[2, 0], image[3, 0] = -100, 70, 240, 3000
    save(root / "imagesTr" / "spleen_2.nii.gz", image)
    save(root / "labelsTr" / "spleen_2.nii.gz", labels)
    return describe(root, modality={"0": modality}, labels={"0": "background", "1": "spleen"})


def read_all(root: Path, **options: object) -> list[Sample]:
    reader = MsdReader(root, **options)
    return list(map(reader.read, reader.records()))


def refused(root: Path, kind: type[Exception] = DataError, **options: object) -> str:
    with pytest.raises(kind) as caught:
        read_all(root, **options)
    assert "\n" not in str(caught.value)
    assert "; " in str(caught.value), "an error names its mend"
    return str(caught.value)


def test_training_cases_are_read_with_the_names_of_the_task(tmp_path: Path) -> None:
    reader: Reader = MsdReader(prostate(tmp_path))
    assert reader.classes == ("PZ", "TZ")
    ids = [f"{case}/00{z}" for case in ("prostate_00", "prostate_16") for z in (1, 2, 3)]
    assert reader.records() == [Record(name, name[:11], None) for name in ids]
    assert reader.notes == ["4 of 10 slices have no foreground and are left out."]
    sample = reader.read(reader.records()[1])
    assert {name: int(mask.sum()) for name, mask in sample.masks.items()} == {"PZ": 6, "TZ": 6}
    assert np.array_equal(sample.image[..., 0] == 255, sample.masks["TZ"]), "channel 0 is T2"


def test_another_channel_can_be_read(tmp_path: Path) -> None:
    reader = MsdReader(prostate(tmp_path), channel=1)
    image = reader.read(reader.records()[0]).image[..., 0]
    assert image[4:].min() == 255, "the back half is bright in ADC"
    assert image[:4].max() == 0
    assert "has no channel 2; choose one of 0, 1" in refused(tmp_path, channel=2)


def test_classes_can_be_renamed(tmp_path: Path) -> None:
    reader = MsdReader(prostate(tmp_path), ("peripheral zone", "transition zone"))
    assert reader.classes == ("peripheral zone", "transition zone")
    masks = reader.read(reader.records()[0]).masks
    assert [bool(mask.any()) for mask in masks.values()] == [True, False]


def test_classes_can_be_merged_and_left_out(tmp_path: Path) -> None:
    merged = MsdReader(prostate(tmp_path), {"prostate": (1, 2)})
    assert merged.read(merged.records()[1]).masks["prostate"].sum() == 12
    alone = MsdReader(tmp_path, {"transition zone": 2})
    assert [record.id for record in alone.records()] == ["prostate_00/002", "prostate_16/002"]
    assert alone.read(alone.records()[0]).masks["transition zone"].sum() == 6
    assert alone.notes == [
        "1 of 2 labels count as background: PZ.",
        "8 of 10 slices have no foreground and are left out.",
    ]


@pytest.mark.parametrize(
    ("classes", "reason"),
    [
        (("prostate",), "do not rename the labels"),
        (("a", "a"), "do not rename the labels"),
        ("PZ", "do not rename the labels"),
        ({"prostate": 3}, "takes label value 3"),
        ({"prostate": (0, 1)}, r"takes label value (0, 1)"),
        ({}, "classes are empty"),
    ],
)
def test_classes_that_do_not_fit_are_refused(tmp_path: Path, classes: object, reason: str) -> None:
    message = refused(prostate(tmp_path), ConfigError, classes=classes)
    assert reason in message
    assert "1 PZ, 2 TZ" in message


def greys(reader: Reader) -> list[int]:
    """Return the grey of -100, 70, 240, 3000 and -1000: columns run from the patient's right, the last i."""
    image = reader.read(reader.records()[0]).image[..., 0]
    return [int(image[-1, -1 - i]) for i in range(5)]


def test_ct_is_seen_through_the_soft_tissue_window(tmp_path: Path) -> None:
    reader = MsdReader(spleen(tmp_path))
    assert reader.classes == ("spleen",)
    assert greys(reader) == [0, 128, 255, 255, 0]
    assert greys(MsdReader(tmp_path, window=Window(-1000, 3000))) == [57, 68, 79, 255, 0]


def test_other_modalities_are_seen_by_percentiles(tmp_path: Path) -> None:
    assert greys(MsdReader(spleen(tmp_path, "MRI"))) == [57, 68, 79, 255, 0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"training": []}, "lists no training cases"),
        ({"training": ["./imagesTr/a.nii.gz"]}, "wrong at training.0"),
        ({"modality": "CT"}, "wrong at modality"),
        ({"labels": {"0": "background"}}, "give every label above 0 a name of its own"),
        ({"labels": {"0": "background", "1": "PZ", "2": "PZ"}}, "give every label above 0 a name of its own"),
        ({"labels": {"0": "background", "-1": "PZ"}}, "give every label above 0 a name of its own"),
        ({"labels": {"zero": "background"}}, "wrong at labels"),
        ({"labels": {"0": "background", "1": "PZ"}}, "holds the value 2 where only 0, 1 are declared"),
        (
            {"training": [{"image": "./imagesTr/a.nii.gz", "label": "b"}]},
            "names ./imagesTr/a.nii.gz, which is not there",
        ),
        ({"training": [{"image": "../a.nii.gz", "label": "b"}]}, "not a path inside the task"),
        ({"training": [{"image": "imagesTr/../../a.nii.gz", "label": "b"}]}, "not a path inside the task"),
        ({"training": [{"image": "/etc/passwd", "label": "b"}]}, "not a path inside the task"),
        ({"training": [{"image": "..\\a.nii.gz", "label": "b"}]}, "not a path inside the task"),
        ({"training": [{"image": "a\0.nii.gz", "label": "b"}]}, "not a path inside the task"),
    ],
)
def test_descriptions_that_are_wrong_are_refused(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    (tmp_path / "task").mkdir()
    save(tmp_path / "a.nii.gz", np.zeros(SHAPE, dtype=np.uint8))
    prostate(tmp_path / "task")
    message = refused(describe(tmp_path / "task", **changes))
    assert reason in message


def test_missing_and_damaged_descriptions_are_refused(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "absent")
    assert "dataset.json is missing" in refused(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    assert "wrong at the file (Invalid JSON" in refused(tmp_path)


def test_a_case_listed_twice_is_refused(tmp_path: Path) -> None:
    pair = {"image": "./imagesTr/prostate_00.nii.gz", "label": "./labelsTr/prostate_00.nii.gz"}
    assert "are both case 'prostate_00'" in refused(describe(prostate(tmp_path), training=[pair, pair]))
