"""A tiny dataset in every layout that we read: four patients, and in every image one bright block that is annotated.

`write` puts it into a folder and returns the files of one of its images and of the mask that belongs to it.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk  # noqa: N813
from scipy import sparse

from casam_fed.config import from_mapping
from casam_fed.data.dataset import AnyData, DataBlock

from .tiny_images import DISC, save

Files = tuple[Path, Path]

PATIENTS = ("a", "b", "c", "d")
FLAT = (DISC // 255 * 190 + 30).astype(np.uint8)
LABELS = np.zeros((4, 8, 6), dtype=np.uint8)  # [k, j, i]
LABELS[1:3, 2:5, 1:3], LABELS[1:3, 2:5, 3] = 1, 2
VOLUME = (LABELS > 0).astype(np.int16) * 300 + 50


@dataclass(frozen=True)
class TinyDataset:
    """A `data:` block without its path, what writes the dataset, its classes, and what is unlike other layouts.

    Attributes:
        owned: whether its owner fixes a split.
        lone_is_noted: whether an image without its mask is left out and noted, not refused.
        instances: whether its masks tell two instances apart.
    """

    block: dict[str, Any]
    write: Callable[[Path], Files]
    classes: tuple[str, ...]
    owned: bool = False
    lone_is_noted: bool = False
    instances: bool = False

    def config(self, root: Path) -> AnyData:
        """Return the block of a dataset at `root`."""
        return from_mapping(DataBlock, {"data": {**self.block, "path": str(root)}}, "the test").data


def _flat(image: str, mask: str, patients: tuple[str, ...] = PATIENTS, **options: int) -> Callable[[Path], Files]:
    """Return what writes one image a patient; {} in a name is the patient."""

    def write(root: Path) -> Files:
        for patient in reversed(patients):
            files = (
                save(root / image.format(patient), np.repeat(FLAT[:, :, None], 3, axis=2), **options),
                save(root / mask.format(patient), DISC, **options),
            )
        return files

    return write


def _volumes(image: str, mask: str, labels: np.ndarray, also: Callable[[Path], None]) -> Callable[[Path], Files]:
    def write(root: Path) -> Files:
        for patient in "3210":
            files = root / image.format(patient), root / mask.format(patient)
            for path, voxels in zip(files, (VOLUME, labels), strict=True):
                save_volume(path, voxels)
        also(root)
        return files

    return write


def make_smaller(image: Path) -> None:
    """Write another image in place of `image`, of one row or plane less."""
    if image.suffix in (".gz", ".mhd"):
        save_volume(image, VOLUME[:-1])
    else:
        save(image, FLAT[:-1])


def save_volume(path: Path, voxels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".mhd":
        sitk.WriteImage(sitk.GetImageFromArray(voxels), str(path))
    else:
        nibabel.save(nibabel.Nifti1Image(voxels.T, np.diag([1.0, 1.0, 4.0, 1.0])), path)


def _acdc(root: Path) -> Files:
    labels = LABELS.copy()
    labels[1:3, 2:5, 4] = 3
    for number, side in enumerate(("testing", "training", "training")):
        folder = root / side / f"patient{number:03d}"
        folder.mkdir(parents=True)
        (folder / "Info.cfg").write_text("ED: 1\nES: 2\n")
        for frame in ("01", "02"):
            save_volume(folder / f"{folder.name}_frame{frame}.nii.gz", (labels > 0).astype(np.int16) * 300 + 50)
            save_volume(folder / f"{folder.name}_frame{frame}_gt.nii.gz", labels)
    return folder / f"{folder.name}_frame01.nii.gz", folder / f"{folder.name}_frame01_gt.nii.gz"


def _kpis(group: str) -> Callable[[Path], Files]:
    def write(root: Path) -> Files:
        for side, patients in (("test", PATIENTS[:1]), ("train", PATIENTS[1:])):
            folder = f"{side}/{group}/{{0}}"
            files = _flat(f"{folder}/img/{{0}}_img.jpg", f"{folder}/mask/{{0}}_mask.jpg", patients, quality=95)(root)
        return files

    return write


def _msd(planes: np.ndarray, described: dict[str, object]) -> Callable[[Path], Files]:
    def describe(root: Path) -> None:
        training = [{"image": f"imagesTr/c{n}.nii.gz", "label": f"labelsTr/c{n}.nii.gz"} for n in "2103"]
        (root / "dataset.json").write_text(json.dumps({"training": training} | described))

    return _volumes("imagesTr/c{}.nii.gz", "labelsTr/c{}.nii.gz", planes, describe)


def _prepared(root: Path) -> Files:
    height, width = DISC.shape
    name = f"m.(1, {height}, {width}, 1).npz"
    (root / "label").mkdir(parents=True)
    entries = []
    for patient in PATIENTS:
        image, label = save(root / "image" / f"{patient}.png", FLAT), root / "label" / f"{patient}{name}"
        sparse.save_npz(label, sparse.csr_matrix(DISC // 255))
        entries.append([f"image/{image.name}", f"label/{label.name}"])
    described = {"training": entries[1:], "test": entries[:1], "labels": ["thing"]}
    (root / "dataset.json").write_text(json.dumps(described))
    return image, label


def _nnunet(root: Path) -> None:
    labels = {"background": 0, "whole": [1, 2], "core": 2}
    described = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(described))


def _nnunet_flat(root: Path) -> Files:
    files = _flat("imagesTr/{}_0000.png", "labelsTr/{}.png")(root)
    for path in (root / "labelsTr").iterdir():
        save(path, DISC // 255)
    described = {"channel_names": {"0": "R"}, "labels": {"background": 0, "thing": 1}, "file_ending": ".png"}
    (root / "dataset.json").write_text(json.dumps(described))
    return files


def _instances(root: Path) -> Files:
    for side, patients in (("test", PATIENTS[:1]), ("train", PATIENTS[1:])):
        image, mask = _flat(f"{side}/images/{{}}.png", f"{side}/masks/{{}}.png", patients)(root)
        for path in mask.parent.iterdir():
            save(path, np.where(np.arange(DISC.shape[1]) < 15, DISC // 255 * 7, DISC // 255 * 3).astype(np.uint8))
    return image, mask


ZONES = {"modality": {"0": "T2"}, "labels": {"0": "background", "1": "PZ", "2": "TZ"}}
SPLEEN = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "spleen"}}
FOLDER = {"kind": "folder", "classes": ["thing"]}

TINY: dict[str, TinyDataset] = {
    "folder": TinyDataset(FOLDER, _flat("images/{}.png", "masks/{}.tif"), ("thing",)),
    "instances": TinyDataset({**FOLDER, "labels": "instances"}, _instances, ("thing",), owned=True, instances=True),
    "acdc": TinyDataset({"kind": "acdc"}, _acdc, ("left ventricle", "myocardium", "right ventricle"), owned=True),
    "ebhi_seg": TinyDataset(
        {"kind": "ebhi_seg"},
        _flat("Polyp/image/{}-1.png", "Polyp/label/{}-1.png"),
        ("colorectal tumour area",),
        lone_is_noted=True,
    ),
    "kpis_56nx": TinyDataset({"kind": "kpis_56nx"}, _kpis("56Nx"), ("glomerulus",), owned=True),
    "kpis_dn": TinyDataset({"kind": "kpis_dn"}, _kpis("DN"), ("glomerulus",), owned=True),
    "polyp": TinyDataset({"kind": "polyp"}, _flat("images/{}.jpg", "masks/{}.jpg", quality=95), ("polyp",)),
    "msd_prostate": TinyDataset({"kind": "msd_prostate"}, _msd(LABELS, ZONES), ("peripheral zone", "transition zone")),
    "msd_spleen": TinyDataset({"kind": "msd_spleen"}, _msd((LABELS > 0).astype(np.uint8), SPLEEN), ("spleen",)),
    "promise12": TinyDataset(
        {"kind": "promise12"},
        _volumes("Case0{}.mhd", "Case0{}_segmentation.mhd", (LABELS > 0).astype(np.uint8), lambda root: None),
        ("prostate",),
    ),
    "sts_2d": TinyDataset({"kind": "sts_2d"}, _flat("image/{}.png", "mask/{}.png"), ("teeth",)),
    "prepared": TinyDataset({"kind": "prepared"}, _prepared, ("thing",), owned=True),
    "nnunet": TinyDataset(
        {"kind": "nnunet", "window": [0, 400]},
        _volumes("imagesTr/c{}_0000.nii.gz", "labelsTr/c{}.nii.gz", LABELS, _nnunet),
        ("whole", "core"),
    ),
    "nnunet_flat": TinyDataset({"kind": "nnunet"}, _nnunet_flat, ("thing",)),
}
