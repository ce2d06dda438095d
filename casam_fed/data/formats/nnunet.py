"""A raw dataset of nnU-Net v2 (Isensee et al. 2021; documentation/dataset_format.md in github.com/MIC-DKFZ/nnUNet).

imagesTr/CASE_0000.EXT and labelsTr/CASE.EXT, and perhaps imagesTs/ with labelsTs/ as the owner's test set; dataset.json
names the channels, the labels and the file ending. Volumes are cut into slices, 2-D images are read as they are.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import numpy as np
from pydantic import BaseModel, BeforeValidator, Field, StrictInt

from casam_fed.data.raster import (
    MAX_LABEL,
    fact_sentences,
    present_values,
    read_image,
    read_labels,
    require_same_size,
    require_values,
)
from casam_fed.data.sample import Reader, Record, Sample
from casam_fed.data.volume import SUFFIXES, Percentiles, Window
from casam_fed.data.volume_cases import (
    ClassValues,
    VolumeCase,
    VolumeReader,
    read_json,
    require_folder,
)
from casam_fed.errors import ConfigError, DataError

__all__ = ["NnUNetReader"]

_FLAT: Final = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
_PARTS: Final = {"Tr": "train", "Ts": "test"}


def _as_tuple(value: object) -> object:
    return value if isinstance(value, list) else [value]


_Label = Annotated[StrictInt, Field(ge=0, le=MAX_LABEL)]


class _Description(BaseModel):
    channel_names: dict[str, str]
    labels: dict[str, Annotated[tuple[_Label, ...], BeforeValidator(_as_tuple), Field(min_length=1)]]
    file_ending: str
    numTraining: int | None = None  # noqa: N815  (nnU-Net's spelling)


class NnUNetReader:
    """Reads a raw dataset; classes are the labels of dataset.json, of which regions may overlap.

    Slices of volumes without foreground are left out, see `VolumeReader`; 2-D images are all kept, and their record is
    the case. imagesTs/ is used only where labelsTs/ is there too.

    Args:
        root: the folder DatasetNNN_NAME.
        channel: which of a case's image files to read; an RGB image is one file, CASE_0000.
        window: grey from a fixed range, for CT; None: percentiles of the volume. 2-D images need none.
        patient: regular expression searched in the case; its first group, or else the whole match, is the patient id.
            None: every case is its own patient.
        cache: see `VolumeReader`; used for volumes only.

    Raises:
        ConfigError: `patient` is no regular expression, or a window is given for 2-D images.
        DataError: dataset.json is missing or wrong or has an "ignore" label, there is no such channel, there are no
            cases, images and labels do not pair up, or a case has no match for `patient`.
    """

    def __init__(
        self,
        root: Path,
        channel: int = 0,
        window: Window | None = None,
        patient: str | None = None,
        *,
        cache: Path | None = None,
    ) -> None:
        path = root / "dataset.json"
        require_folder(root)
        described = _description(path)
        classes = _classes(described, path)
        if str(channel) not in described.channel_names:
            raise DataError(f"{path} has no channel {channel}; choose one of {', '.join(described.channel_names)}")
        cases = _cases(root, described.file_ending, channel, patient)
        background = tuple(value for values in described.labels.values() for value in values)
        if described.file_ending.lower() in SUFFIXES:
            self._reader: Reader = VolumeReader(
                cases, classes, window or Percentiles(), background=background, cache=cache
            )
        elif window is not None:
            raise ConfigError(f"a window of grey is for volumes, and {root} holds 2-D images; leave it out")
        else:
            self._reader = _FlatReader(cases, classes)
        self.classes: tuple[str, ...] = self._reader.classes
        self.notes: list[str] = self._reader.notes
        training = sum(case.image.parent.name == "imagesTr" for case in cases)
        if described.numTraining not in (None, training):
            self.notes.append(
                f"dataset.json announces {described.numTraining} training cases, but {training} are there."
            )

    def records(self) -> list[Record]:
        """Return all records, sorted by id; see `VolumeReader.records` for what may be raised."""
        return self._reader.records()

    def read(self, record: Record) -> Sample:
        """Return the sample of `record`.

        Raises:
            DataError: a file is unreadable, image and label do not fit together, or a label value is not declared.
        """
        return self._reader.read(record)


class _FlatReader:
    """Reads 2-D cases; labels hold class values."""

    def __init__(self, cases: Sequence[VolumeCase], classes: ClassValues) -> None:
        self._cases = {case.id: case for case in cases}
        self._values = {name: value if isinstance(value, tuple) else (value,) for name, value in classes.items()}
        self._met: set[str] = set()
        self._totals: Counter[str] = Counter()
        self.classes: tuple[str, ...] = tuple(classes)
        self.notes: list[str] = []

    def records(self) -> list[Record]:
        return [Record(case.id, case.patient, case.split) for case in self._cases.values()]

    def read(self, record: Record) -> Sample:
        case = self._cases.get(record.id)
        if case is None:
            raise DataError(f"there is no image {record.id!r}; list the dataset again with records()")
        facts: Counter[str] = Counter(samples=1)
        image = read_image(case.image, facts)
        values = read_labels(case.label, "classes", facts)
        declared = {value for chosen in self._values.values() for value in chosen}
        mend = "declare it in dataset.json or repair the label"
        require_values(present_values(values, case.label), declared, case.label, mend)
        masks = {name: np.isin(values, chosen) for name, chosen in self._values.items()}
        require_same_size(image, values > 0, case.image, case.label)
        facts["empty"] += not values.any()
        if record.id not in self._met:
            self._met.add(record.id)
            old = fact_sentences(self._totals)
            self._totals.update(facts)
            self.notes[:] = [note for note in self.notes if note not in old] + fact_sentences(self._totals)
        return Sample(record.id, record.patient, image, masks, {})


def _description(path: Path) -> _Description:
    described = read_json(path, _Description)
    if described.file_ending.lower() not in SUFFIXES + _FLAT:
        known = ", ".join(SUFFIXES + _FLAT)
        raise DataError(f"{path} has the file ending {described.file_ending!r}; convert the files to one of {known}")
    return described


def _classes(described: _Description, path: Path) -> dict[str, tuple[int, ...]]:
    if "ignore" in described.labels:
        raise DataError(
            f"{path} has an 'ignore' label, for pixels that nobody annotated, which cannot be learnt from; "
            "use fully annotated cases and remove the label"
        )
    if described.labels.get("background") != (0,):
        raise DataError(f"{path} must give 'background' the label 0; correct its labels")
    classes = {name: values for name, values in described.labels.items() if name != "background"}
    wrong = [name for name, values in classes.items() if 0 in values]
    if wrong or not classes or len(set(classes.values())) < len(classes):
        raise DataError(f"{path} must give every class label values above 0, and no two the same; correct its labels")
    return classes


def _cases(root: Path, ending: str, channel: int, patient: str | None) -> list[VolumeCase]:
    tested = (root / "imagesTs").is_dir() and (root / "labelsTs").is_dir()
    cases: dict[str, VolumeCase] = {}
    for part in ("Tr", "Ts") if tested else ("Tr",):
        for case, image, label in _pairs(root / f"images{part}", root / f"labels{part}", ending, channel):
            if case in cases:
                raise DataError(f"{cases[case].image} and {image} are both case {case!r}; rename or remove one")
            name = _patient(case, patient, image)
            cases[case] = VolumeCase(case, name, image, label, split=_PARTS[part] if tested else None)
    return [cases[case] for case in sorted(cases)]


def _pairs(images: Path, labels: Path, ending: str, channel: int) -> list[tuple[str, Path, Path]]:
    files, annotated = _listed(images, ending), _listed(labels, ending)
    numbered = {name: re.fullmatch(r"(.+)_(\d{4})", name) for name in files}
    if wrong := [files[name] for name, match in numbered.items() if match is None]:
        raise DataError(f"{wrong[0]} has no channel number; name it {wrong[0].name.removesuffix(ending)}_0000{ending}")
    cases = sorted({match.group(1) for match in numbered.values() if match})
    if not cases:
        raise DataError(f"{images} holds no image CASE_0000{ending}; check file_ending in dataset.json and the path")
    if lost := [case for case in cases if f"{case}_{channel:04d}" not in files]:
        raise DataError(f"{images / f'{lost[0]}_{channel:04d}{ending}'} is missing; add that channel of the case")
    if lost := [case for case in cases if case not in annotated]:
        raise DataError(
            f"case {lost[0]} of {images} has no label; add {labels / f'{lost[0]}{ending}'} or remove the case"
        )
    if lost := [name for name in annotated if name not in cases]:
        raise DataError(f"label {annotated[lost[0]]} has no image in {images}; add the image or remove the label")
    return [(case, files[f"{case}_{channel:04d}"], annotated[case]) for case in cases]


def _listed(folder: Path, ending: str) -> dict[str, Path]:
    """Return the files with the dataset's ending by name before it; others, such as JSON notes, are not nnU-Net's."""
    require_folder(folder)
    return {
        path.name.removesuffix(ending): path
        for path in sorted(folder.iterdir())
        if path.name.endswith(ending) and not path.name.startswith(".") and path.is_file()
    }


def _patient(case: str, expression: str | None, image: Path) -> str:
    if expression is None:
        return case
    try:
        match = re.search(expression, case)
    except re.error as error:
        raise ConfigError(
            f"the patient expression {expression!r} is not a regular one ({error}); correct it"
        ) from error
    found = match and (match.group(1) if match.re.groups else match.group())
    if not found:
        raise DataError(
            f"the patient expression {expression!r} finds no patient in the case {case!r} of {image}; "
            "correct the expression or rename the file"
        )
    return found
