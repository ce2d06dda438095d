"""Tasks of the Medical Segmentation Decathlon."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from casam_fed.data.formats.msd import open_msd
from casam_fed.data.sample import Reader, Record
from casam_fed.data.volume import Window
from casam_fed.errors import ConfigError

from ..tiny_images import refused

ZONES = ("peripheral zone", "transition zone")
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


def test_training_cases_are_read_with_our_names_for_the_labels(tmp_path: Path) -> None:
    reader: Reader = open_msd(prostate(tmp_path), ZONES)
    assert reader.classes == ZONES
    ids = [f"{case}/00{z}" for case in ("prostate_00", "prostate_16") for z in (1, 2, 3)]
    assert reader.records() == [Record(name, name[:11], None, name[:11]) for name in ids]
    assert reader.notes == ["4 of 10 slices have no foreground and are left out."]
    sample = reader.read(reader.records()[1])
    assert {name: int(mask.sum()) for name, mask in sample.masks.items()} == dict.fromkeys(ZONES, 6)
    assert np.array_equal(sample.image[..., 0] == 255, sample.masks["transition zone"]), "channel 0 is T2"


def test_another_channel_can_be_read(tmp_path: Path) -> None:
    reader = open_msd(prostate(tmp_path), ZONES, channel=1)
    image = reader.read(reader.records()[0]).image[..., 0]
    assert image[4:].min() == 255, "the back half is bright in ADC"
    assert image[:4].max() == 0
    assert "has no channel 2; choose one of 0, 1" in refused(lambda: open_msd(tmp_path, ZONES, channel=2))


@pytest.mark.parametrize("classes", [("prostate",), ("a", "b", "c")])
def test_classes_that_do_not_fit_are_refused(tmp_path: Path, classes: tuple[str, ...]) -> None:
    message = refused(lambda: open_msd(prostate(tmp_path), classes), ConfigError)
    assert "do not rename the labels" in message
    assert "1 PZ, 2 TZ" in message


def greys(reader: Reader) -> list[int]:
    """Return the grey of -100, 70, 240, 3000 and -1000: columns run from the patient's right, the last i."""
    image = reader.read(reader.records()[0]).image[..., 0]
    return [int(image[-1, -1 - i]) for i in range(5)]


def test_ct_is_seen_through_the_soft_tissue_window(tmp_path: Path) -> None:
    reader = open_msd(spleen(tmp_path), ("spleen",))
    assert reader.classes == ("spleen",)
    assert greys(reader) == [0, 128, 255, 255, 0]
    assert greys(open_msd(tmp_path, ("spleen",), window=Window(-1000, 3000))) == [57, 68, 79, 255, 0]


def test_other_modalities_are_seen_by_percentiles(tmp_path: Path) -> None:
    assert greys(open_msd(spleen(tmp_path, "MRI"), ("spleen",))) == [57, 68, 79, 255, 0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"training": []}, "wrong at training"),
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
    classes = ("PZ",) if "2 where" in reason else ZONES
    message = refused(lambda: open_msd(describe(tmp_path / "task", **changes), classes))
    assert reason in message


def test_missing_and_damaged_descriptions_are_refused(tmp_path: Path) -> None:
    assert "dataset.json is missing" in refused(lambda: open_msd(tmp_path, ZONES))
    (tmp_path / "dataset.json").write_text("{")
    assert "wrong at the file (Invalid JSON" in refused(lambda: open_msd(tmp_path, ZONES))


def test_a_case_listed_twice_is_refused(tmp_path: Path) -> None:
    pair = {"image": "./imagesTr/prostate_00.nii.gz", "label": "./labelsTr/prostate_00.nii.gz"}
    assert "are both listed as 'prostate_00'" in refused(
        lambda: open_msd(describe(prostate(tmp_path), training=[pair, pair]), ZONES)
    )
