"""A task of the Medical Segmentation Decathlon (Antonelli et al. 2022; medicaldecathlon.com), such as Task09_Spleen.

dataset.json lists pairs of imagesTr/ and labelsTr/, the channels ("modality") and the label values. The labels of
imagesTs/ are not public, so that these images are not used.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, Field

from casam_fed.data.layout import read_json, require_folder, without_suffix
from casam_fed.data.public import DatasetCard, PublicDataset
from casam_fed.data.volume import Intensity, Percentiles, Window
from casam_fed.data.volume_cases import VolumeCase, VolumeReader, slices_cache
from casam_fed.errors import ConfigError, DataError

__all__ = ["MSD_PROSTATE", "MSD_SPLEEN", "SOFT_TISSUE", "open_msd"]

SOFT_TISSUE: Final = Window(-100, 240)
"""Hounsfield units in which the organs of the abdomen differ; the default for CT."""


class _Pair(BaseModel):
    image: str
    label: str


class _Description(BaseModel):
    modality: dict[str, str]
    labels: dict[int, str]
    training: Annotated[list[_Pair], Field(min_length=1)]


def open_msd(
    root: Path, classes: Sequence[str], channel: int = 0, window: Window | None = None, cache: Path | None = None
) -> VolumeReader:
    """Return a reader of the training cases of a task; a case is a file name without its extension, and its own patient.

    Args:
        root: the task's folder.
        classes: our names for the labels of dataset.json, in the order of their values.
        channel: of the image; 0 is T2 in Task05_Prostate.
        window: None: -100 to 240 Hounsfield units for CT, otherwise percentiles of the volume.
        cache: see `VolumeReader`.

    Raises:
        ConfigError: `classes` are not as many as the labels of dataset.json.
        DataError: dataset.json is missing or wrong, has no such channel, or names a file that is not there.
    """
    path = root / "dataset.json"
    require_folder(root)
    described = read_json(path, _Description)
    if str(channel) not in described.modality:
        raise DataError(f"{path} has no channel {channel}; choose one of {', '.join(sorted(described.modality))}")
    labels = {value: name for value, name in sorted(described.labels.items()) if value != 0}
    if not labels or min(labels) < 0 or len(set(labels.values())) < len(labels):
        raise DataError(f"{path} must give every label above 0 a name of its own; replace it with an intact copy")
    if len(classes) != len(labels):
        listed = ", ".join(f"{value} {name}" for value, name in labels.items())
        raise ConfigError(f"classes {classes!r} do not rename the labels of {path} ({listed}); give one name for each")
    computed_tomography = described.modality[str(channel)].strip().upper() == "CT"
    intensity: Intensity = window or (SOFT_TISSUE if computed_tomography else Percentiles())
    cases = [_case(root, pair, channel) for pair in described.training]
    return VolumeReader(cases, dict(zip(classes, labels, strict=True)), intensity, cache=cache)


def _task(card: DatasetCard) -> PublicDataset:
    return PublicDataset(
        card,
        lambda folder, options: open_msd(folder, card.classes, options.channel, options.window, slices_cache()),
        options=("channel", "window"),
    )


MSD_PROSTATE: Final = _task(
    DatasetCard(
        name="msd_prostate",
        title="Medical Segmentation Decathlon, Task05 Prostate",
        modality="T2 MR",
        classes=("peripheral zone", "transition zone"),
        layout="dataset.json, imagesTr/*.nii.gz (T2, ADC), labelsTr/*.nii.gz",
        where="http://medicaldecathlon.com",
        licence="CC BY-SA 4.0",
        counts=(419, 53),
    )
)

MSD_SPLEEN: Final = _task(
    DatasetCard(
        name="msd_spleen",
        title="Medical Segmentation Decathlon, Task09 Spleen",
        modality="abdominal CT",
        classes=("spleen",),
        layout="dataset.json, imagesTr/*.nii.gz, labelsTr/*.nii.gz",
        where="http://medicaldecathlon.com",
        licence="CC BY-SA 4.0",
        counts=(876, 146),
    )
)


def _case(root: Path, pair: _Pair, channel: int) -> VolumeCase:
    image, label = (_inside(root, name) for name in (pair.image, pair.label))
    case = without_suffix(image)
    return VolumeCase(case, case, image, label, channel)


def _inside(root: Path, name: str) -> Path:
    inside = name.isprintable() and not any(mark in name for mark in "\\:")
    if inside and not Path(name).is_absolute() and ".." not in Path(name).parts:
        if (root / name).is_file():
            return root / name
        problem = f"{name}, which is not there; unpack the task again"
    else:
        problem = f"{name!r}, which is not a path inside the task; correct the path"
    raise DataError(f"{root / 'dataset.json'} names {problem}")
