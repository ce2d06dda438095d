"""PROMISE12, T2 MR of the prostate (Litjens et al. 2014; promise12.grand-challenge.org).

The challenge ships TrainingData_Part1 to 3 with CaseNN.mhd beside its CaseNN.raw, and CaseNN_segmentation.mhd likewise.
"""

import re
from pathlib import Path
from typing import Final

from casam_fed.data.layout import require_folder
from casam_fed.data.public import READ_THERE, DatasetCard, PublicDataset
from casam_fed.data.volume_cases import VolumeCase, VolumeReader, slices_cache
from casam_fed.errors import DataError

__all__ = ["PROMISE12", "open_promise12"]

_NAME: Final = re.compile(r"(Case\d+)(_segmentation)?\.mhd", re.IGNORECASE)
_LEVELS: Final = ("*", "*/*", "*/*/*")


def open_promise12(root: Path, cache: Path | None = None) -> VolumeReader:
    """Return a reader of PROMISE12; a case is "Case00", and a patient of its own.

    Args:
        root: the folder that holds the cases, at most two folders further down.
        cache: see `VolumeReader`.

    Raises:
        DataError: there are no cases, one is there twice, or an image or its segmentation is missing.
    """
    return VolumeReader(_cases(root), {"prostate": 1}, cache=cache)


PROMISE12: Final = PublicDataset(
    DatasetCard(
        name="promise12",
        title="PROMISE12 (Prostate MR Image Segmentation, MICCAI 2012)",
        modality="T2 MR",
        classes=("prostate",),
        layout="CaseNN.mhd, CaseNN.raw, CaseNN_segmentation.mhd, CaseNN_segmentation.raw",
        where="https://promise12.grand-challenge.org",
        licence=READ_THERE,
        counts=(712, 66),
    ),
    lambda folder, options: open_promise12(folder, slices_cache()),
)


def _cases(root: Path) -> list[VolumeCase]:
    require_folder(root)
    images: dict[Path, Path] = {}
    labels: dict[Path, Path] = {}
    for path in sorted(path for level in _LEVELS for path in root.glob(level)):
        match = _NAME.fullmatch(path.name)
        if match and path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts):
            (labels if match.group(2) else images)[path.with_name(match.group(1))] = path
    if not images and not labels:
        raise DataError(f"{root} holds no Case00.mhd, Case01.mhd, ... in itself or two folders down; check the path")
    for these, others, kind, other in (
        (images, labels, "image", "segmentation"),
        (labels, images, "segmentation", "image"),
    ):
        if alone := sorted(these.keys() - others.keys()):
            raise DataError(f"{kind} {these[alone[0]]} has no {other} beside it; add the {other} or remove the {kind}")
    return [VolumeCase(case.name, case.name, images[case], labels[case]) for case in images]
