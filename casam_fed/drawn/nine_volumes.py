"""The four of the nine datasets that are volumes: ACDC, both tasks of the Decathlon, and PROMISE12.

Slices are drawn from the head downwards (position 0 to 1) and stored from the feet upwards. Where an organ ends, slices
without it follow, as in the scans the owners hand out.
"""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from casam_fed.drawn.abdominal_ct import PIXEL_MM, draw_ct_units
from casam_fed.drawn.cardiac_mr import draw_cardiac_signal
from casam_fed.drawn.nine_files import (
    APPLE_DOUBLE,
    POSES,
    Amount,
    Written,
    generator,
    make_folder,
    save_metaimage,
    save_nifti,
)
from casam_fed.drawn.prostate import ProstateSlice, Scanner, draw_prostate_slice

__all__ = ["write_acdc", "write_msd_prostate", "write_msd_spleen", "write_promise12"]

_LABELS: Final = {"right ventricle": 1, "myocardium": 2, "left ventricle": 3}
_GROUPS: Final = ("NOR", "DCM", "HCM", "MINF", "RV")
_PROSTATE_MM: Final = 42.0
_FIELD_MM: Final = 185.0  # Of a prostate scan, on average.
_SPLEEN_MM: Final = 90.0
_BEYOND: Final = 2  # Slices without the organ at either end.
_FAR: Final = 0.3  # In lengths of the organ: the drawings know no neighbours further away.
_INFO: Final = "ED: 1\nES: {end_systole}\nGroup: {group}\nHeight: {height}\nNbFrame: {frames}\nWeight: {weight}\n"
_REFERENCE: Final = "drawn phantom, no patient"

Voxels = npt.NDArray[Any]


def write_acdc(root: Path, amount: Amount, seed: int) -> Written:
    """Write training/ and testing/ with the frames of end diastole and end systole of every patient."""
    for number in range(amount.patients):
        side = "training" if number < amount.train else "testing"
        name = f"patient{number + 1:03d}"
        folder = make_folder(root, side, name)
        chance = generator(seed, "acdc", name, "scan")
        frames = int(chance.integers(20, 36))
        end_systole = int(chance.integers(8, 15))
        facts = {
            "group": _GROUPS[chance.integers(len(_GROUPS))],
            "height": round(chance.uniform(150, 192), 1),
            "weight": round(chance.uniform(52, 104), 1),
        }
        (folder / "Info.cfg").write_bytes(_INFO.format(end_systole=end_systole, frames=frames, **facts).encode())
        pixel, thick = chance.uniform(0.95, 1.15), float(chance.choice((8.0, 10.0)))
        gain, contraction = chance.uniform(180, 620), chance.uniform(0.26, 0.4)
        for frame, squeeze in ((1, 0.0), (end_systole, contraction)):
            image, label = _heart(amount.each, seed, name, frame, squeeze, gain)
            pose = POSES[number % len(POSES)]
            path = folder / f"{name}_frame{frame:02d}.nii.gz"
            save_nifti(path, image, (thick, pixel, pixel), pose)
            save_nifti(path.with_name(f"{name}_frame{frame:02d}_gt.nii.gz"), label, (thick, pixel, pixel), pose)
    return Written(amount.patients, 2 * amount.each * amount.patients)


def _heart(slices: int, seed: int, name: str, frame: int, squeeze: float, gain: float) -> tuple[Voxels, Voxels]:
    """Return int16 signal and uint8 labels, [Z, H, W]; the most basal slice is not annotated, as in the release."""
    images, labels = [], []
    for index in range(-1, slices):
        position = max(0.0, (index + 0.5) / slices)
        drawn = draw_cardiac_signal(
            generator(seed, "acdc", name), generator(seed, "acdc", name, frame, index), position, squeeze
        )
        label = np.zeros(drawn.signal.shape, dtype=np.uint8)
        for structure, value in _LABELS.items():
            label[drawn.masks[structure] & (index >= 0)] = value
        images.append(np.round(drawn.signal * gain).astype(np.int16))
        labels.append(label)
    return np.stack(images[::-1]), np.stack(labels[::-1])


def write_msd_prostate(root: Path, amount: Amount, seed: int) -> Written:
    """Write Task05: T2 and ADC in one 4-D volume for each patient, with both zones."""
    cases = [f"prostate_{2 * number:02d}" for number in range(amount.patients)]
    _start_task(root, "PROSTATE", {"0": "T2", "1": "ADC"}, ("background", "PZ", "TZ"), cases)
    for number, case in enumerate(cases):
        slices = _prostate("msd_prostate", amount.each, seed, case, "msd")
        images = [np.stack([drawn.t2, drawn.adc], axis=-1) for drawn in slices]
        pixel = _FIELD_MM / slices[0].t2.shape[1]
        spacing = (_PROSTATE_MM / amount.each, pixel, pixel)
        _save_case(root, case, np.stack(images), np.stack([drawn.zones for drawn in slices]), spacing, number)
    return Written(amount.patients, amount.each * amount.patients)


def write_msd_spleen(root: Path, amount: Amount, seed: int) -> Written:
    """Write Task09: CT in Hounsfield units, with slices above and below the spleen."""
    cases = [f"spleen_{number + 2}" for number in range(amount.patients)]
    _start_task(root, "SPLEEN", {"0": "CT"}, ("background", "spleen"), cases)
    for number, case in enumerate(cases):
        slices = [
            draw_ct_units(generator(seed, "msd_spleen", case), generator(seed, "msd_spleen", case, index), position)
            for index, position in _from_feet(amount.each)
        ]
        images = np.stack([np.clip(drawn.units, -1024, 3071) for drawn in slices])
        labels = np.stack([drawn.spleen for drawn in slices])
        spacing = (_SPLEEN_MM / amount.each, PIXEL_MM, PIXEL_MM)
        _save_case(root, case, images, labels, spacing, number)
    return Written(amount.patients, amount.each * amount.patients)


def write_promise12(root: Path, amount: Amount, seed: int) -> Written:
    """Write MetaImages of T2 with the whole prostate as one label."""
    folder = make_folder(root)
    for number in range(amount.patients):
        case = f"Case{number:02d}"
        slices = _prostate("promise12", amount.each, seed, case, "promise12")
        images = np.stack([np.round(drawn.t2) for drawn in slices]).astype(np.int16)
        labels = np.stack([drawn.zones > 0 for drawn in slices]).astype(np.int8)
        pixel = _FIELD_MM / slices[0].t2.shape[1]
        spacing = (_PROSTATE_MM / amount.each, pixel, pixel)
        pose = POSES[number % len(POSES)]
        save_metaimage(folder / f"{case}.mhd", images, spacing, pose)
        save_metaimage(folder / f"{case}_segmentation.mhd", labels, spacing, pose)
    return Written(amount.patients, amount.each * amount.patients)


def _prostate(dataset: str, slices: int, seed: int, case: str, scanner: Scanner) -> list[ProstateSlice]:
    return [
        draw_prostate_slice(generator(seed, dataset, case), generator(seed, dataset, case, index), position, scanner)
        for index, position in _from_feet(slices)
    ]


def _from_feet(slices: int) -> list[tuple[int, float]]:
    """Return (index, position) of `slices` slices through the organ and those beyond it, the lowest first."""
    positions = [min(max((index + 0.5) / slices, -_FAR), 1 + _FAR) for index in range(-_BEYOND, slices + _BEYOND)]
    return list(reversed(list(enumerate(positions))))


def _start_task(root: Path, name: str, modality: dict[str, str], labels: tuple[str, ...], cases: list[str]) -> None:
    """Write dataset.json with the owner's keys, and what macOS left in the owner's archive."""
    for folder in ("imagesTr", "labelsTr"):
        (make_folder(root, folder) / f"._{cases[0]}.nii.gz").write_bytes(APPLE_DOUBLE)
    description = {
        "name": name,
        "description": f"{name.capitalize()}: {_REFERENCE}",
        "reference": "casam-fed",
        "licence": "Apache-2.0",
        "release": "1.0",
        "tensorImageSize": "4D" if len(modality) > 1 else "3D",
        "modality": modality,
        "labels": {str(value): label for value, label in enumerate(labels)},
        "numTraining": len(cases),
        "numTest": 0,
        "training": [{"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in cases],
        "test": [],
    }
    (root / "dataset.json").write_bytes(json.dumps(description, indent=1).encode() + b"\n")


def _save_case(
    root: Path, case: str, images: Voxels, labels: Voxels, spacing: tuple[float, float, float], number: int
) -> None:
    pose = POSES[number % len(POSES)]
    save_nifti(root / "imagesTr" / f"{case}.nii.gz", np.round(images).astype(np.int16), spacing, pose)
    save_nifti(root / "labelsTr" / f"{case}.nii.gz", labels.astype(np.uint8), spacing, pose)
