"""ACDC, cine MR of the heart in short-axis slices (Bernard et al. 2018; acdc.creatis.insa-lyon.fr).

PATIENT/Info.cfg names the frames at end diastole and end systole, the only annotated ones; PATIENT_frameNN.nii.gz is such
a frame and PATIENT_frameNN_gt.nii.gz its label: 1 right ventricle, 2 myocardium, 3 left ventricle.
"""

import re
from pathlib import Path
from typing import Final

from casam_fed.data.layout import read_description, require_folder
from casam_fed.data.public import DatasetCard, PublicDataset
from casam_fed.data.volume_cases import VolumeCase, VolumeReader, slices_cache
from casam_fed.errors import DataError

__all__ = ["ACDC", "open_acdc"]

_CLASSES: Final = {"left ventricle": 3, "myocardium": 2, "right ventricle": 1}
_SPLITS: Final = {"training": "train", "testing": "test"}
_PATIENT: Final = re.compile(r"patient\d+")


def open_acdc(root: Path, cache: Path | None = None) -> VolumeReader:
    """Return a reader of ACDC: a case is a patient at end diastole or end systole, record "patient001_frame01/004".

    Args:
        root: the folder with the patients, or with training/ and testing/ that hold them: the owner's split.
        cache: see `VolumeReader`.

    Raises:
        DataError: there are no patients, or Info.cfg, a frame or its label is missing.
    """
    cases = [case for folder, split in _patients(root) for case in _cases(folder, split)]
    return VolumeReader(cases, _CLASSES, cache=cache)


ACDC: Final = PublicDataset(
    DatasetCard(
        name="acdc",
        title="ACDC (Automated Cardiac Diagnosis Challenge, MICCAI 2017)",
        modality="cardiac MR",
        classes=tuple(_CLASSES),
        layout="patientXXX/{Info.cfg, patientXXX_frameNN.nii.gz, patientXXX_frameNN_gt.nii.gz}",
        where="https://humanheart-project.creatis.insa-lyon.fr/database/",
        licence="CC BY-NC-SA 4.0",
        counts=(1632, 177),
    ),
    lambda folder, options: open_acdc(folder, slices_cache()),
)


def _patients(root: Path) -> list[tuple[Path, str | None]]:
    require_folder(root)
    flat = _patient_folders(root)
    parts = {name: _patient_folders(root / name) for name in _SPLITS if (root / name).is_dir()}
    if flat and parts:
        raise DataError(f"{root} holds patients both in itself and in {'/ and '.join(parts)}/; keep one of the two")
    empty = [name for name, folders in parts.items() if not folders]
    if empty or not (flat or parts):
        raise DataError(
            f"{root / empty[0] if empty else root} holds no folders patient001, patient002, ...; point to the folder that "
            "holds them, or that holds training/ and testing/"
        )
    if len(parts) == 1:  # One side alone is no split.
        return [(folder, None) for folders in parts.values() for folder in folders]
    return [(folder, None) for folder in flat] + [
        (folder, _SPLITS[name]) for name, folders in parts.items() for folder in folders
    ]


def _patient_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _PATIENT.fullmatch(path.name) and path.is_dir())


def _cases(folder: Path, split: str | None) -> list[VolumeCase]:
    cases = []
    for frame in sorted({_frame(folder, "ED"), _frame(folder, "ES")}):
        case = f"{folder.name}_frame{frame:02d}"
        image, label = folder / f"{case}.nii.gz", folder / f"{case}_gt.nii.gz"
        for path in (image, label):
            if not path.is_file():
                raise DataError(f"{path} is missing although Info.cfg names frame {frame}; unpack the patient again")
        cases.append(VolumeCase(case, folder.name, image, label, split=split))
    return cases


def _frame(folder: Path, phase: str) -> int:
    info = folder / "Info.cfg"
    found = re.search(rf"^{phase}[ \t]*:[ \t]*(\d{{1,6}})[ \t\r]*$", read_description(info), re.MULTILINE)
    if not found:
        raise DataError(f"{info} does not say which frame is {phase}; add a line such as '{phase}: 1'")
    return int(found.group(1))
