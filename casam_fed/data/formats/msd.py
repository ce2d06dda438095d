"""A task of the Medical Segmentation Decathlon (Antonelli et al. 2022; medicaldecathlon.com), such as Task09_Spleen.

dataset.json lists pairs of imagesTr/ and labelsTr/, the channels ("modality") and the label values. The labels of
imagesTs/ are not public, so that these images are not used.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from casam_fed.data.volume import Intensity, Percentiles, Window
from casam_fed.data.volume_cases import (
    ClassValues,
    VolumeCase,
    VolumeReader,
    read_json,
    require_folder,
    without_suffix,
)
from casam_fed.errors import ConfigError, DataError

__all__ = ["SOFT_TISSUE", "MsdReader"]

SOFT_TISSUE: Final = Window(-100, 240)
"""Hounsfield units in which the organs of the abdomen differ; the default for CT."""


class _Pair(BaseModel):
    image: str
    label: str


class _Description(BaseModel):
    modality: dict[str, str]
    labels: dict[int, str]
    training: list[_Pair]


class MsdReader(VolumeReader):
    """Reads the training cases of a task; a case is a file name without its extension, and a patient of its own.

    Args:
        root: the task's folder.
        classes: None: the names of dataset.json; or names in the order of the label values, to rename them; or name ->
            label value, or several to merge, where labels that no class takes become background and are noted.
        channel: of the image; 0 is T2 in Task05_Prostate.
        window: None: -100 to 240 Hounsfield units for CT, otherwise percentiles of the volume.
        cache: see `VolumeReader`.

    Raises:
        ConfigError: `classes` do not fit the labels of dataset.json.
        DataError: dataset.json is missing or wrong, has no such channel, or names a file that is not there.
    """

    def __init__(
        self,
        root: Path,
        classes: Sequence[str] | ClassValues | None = None,
        channel: int = 0,
        window: Window | None = None,
        *,
        cache: Path | None = None,
    ) -> None:
        path = root / "dataset.json"
        described = _description(root, path)
        if str(channel) not in described.modality:
            raise DataError(f"{path} has no channel {channel}; choose one of {', '.join(sorted(described.modality))}")
        labels = {value: name for value, name in sorted(described.labels.items()) if value != 0}
        values = _class_values(classes, labels, path)
        computed_tomography = described.modality[str(channel)].strip().upper() == "CT"
        intensity: Intensity = window or (SOFT_TISSUE if computed_tomography else Percentiles())
        cases = [_case(root, pair, channel) for pair in described.training]
        super().__init__(cases, values, intensity, background=tuple(labels), cache=cache)
        taken = {value for chosen in values.values() for value in (chosen if isinstance(chosen, tuple) else (chosen,))}
        if left := [name for value, name in labels.items() if value not in taken]:
            self.notes.append(f"{len(left)} of {len(labels)} labels count as background: {', '.join(left)}.")


def _description(root: Path, path: Path) -> _Description:
    require_folder(root)
    described = read_json(path, _Description)
    labels = [name for value, name in described.labels.items() if value != 0]
    if not labels or min(described.labels) < 0 or max(Counter(labels).values()) > 1:
        raise DataError(f"{path} must give every label above 0 a name of its own; replace it with an intact copy")
    if not described.training:
        raise DataError(f"{path} lists no training cases; point to a task with imagesTr/ and labelsTr/")
    return described


def _class_values(
    classes: Sequence[str] | ClassValues | None, labels: Mapping[int, str], path: Path
) -> dict[str, int | tuple[int, ...]]:
    if classes is None:
        return {name: value for value, name in labels.items()}
    listed = ", ".join(f"{value} {name}" for value, name in labels.items())
    if isinstance(classes, Mapping):
        for name, chosen in classes.items():
            if not set(chosen if isinstance(chosen, tuple) else (chosen,)) <= set(labels):
                raise ConfigError(
                    f"class {name!r} takes label value {chosen}, but {path} has {listed}; correct the class"
                )
        values = dict(classes)
    else:
        if isinstance(classes, str) or len(set(classes)) != len(labels) or len(classes) != len(labels):
            raise ConfigError(
                f"classes {classes!r} do not rename the labels of {path} ({listed}); give one name for each"
            )
        values = dict(zip(classes, labels, strict=True))
    if not values:
        raise ConfigError(f"classes are empty; choose from the labels of {path} ({listed})")
    return values


def _case(root: Path, pair: _Pair, channel: int) -> VolumeCase:
    image, label = (_inside(root, name) for name in (pair.image, pair.label))
    case = without_suffix(image)
    return VolumeCase(case, case, image, label, channel)


def _inside(root: Path, name: str) -> Path:
    if not name.isprintable() or "\\" in name or ":" in name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise DataError(
            f"{root / 'dataset.json'} names {name!r}, which is not a path inside the task; correct the path"
        )
    path = root / name
    if not path.is_file():
        raise DataError(f"{root / 'dataset.json'} names {name}, which is not there; unpack the task again")
    return path
