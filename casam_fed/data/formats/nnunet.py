"""A raw dataset of nnU-Net v2 (Isensee et al. 2021; documentation/dataset_format.md in github.com/MIC-DKFZ/nnUNet).

imagesTr/CASE_0000.EXT and labelsTr/CASE.EXT, and perhaps imagesTs/ with labelsTs/ as the owner's test set; dataset.json
names the channels, the labels and the file ending. Volumes are cut into slices, 2-D images are read as they are.
"""

import re
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import numpy as np
from pydantic import BaseModel, BeforeValidator, Field, StrictInt

from casam_fed.data.flat_images import Annotation, FlatReader, Listing, Pair
from casam_fed.data.layout import PatientNames, read_json, require_folder
from casam_fed.data.public import DatasetCard, PublicDataset
from casam_fed.data.raster import MAX_LABEL, present_values, read_labels, require_values
from casam_fed.data.sample import Reader, Record
from casam_fed.data.volume import SUFFIXES, Percentiles, Window
from casam_fed.data.volume_cases import VolumeCase, VolumeReader, slices_cache
from casam_fed.errors import ConfigError, DataError

__all__ = ["NNUNET", "open_nnunet"]

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


def open_nnunet(
    root: Path,
    channel: int = 0,
    window: Window | None = None,
    patient: str | None = None,
    cache: Path | None = None,
) -> Reader:
    """Return a reader of a raw dataset; classes are the labels of dataset.json, of which regions may overlap.

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
    path = root / "dataset.json"
    require_folder(root)
    described = read_json(path, _Description)
    ending = described.file_ending
    if ending.lower() not in SUFFIXES + _FLAT:
        known = ", ".join(SUFFIXES + _FLAT)
        raise DataError(f"{path} has the file ending {ending!r}; convert the files to one of {known}")
    if problem := _unusable(described.labels):
        raise DataError(f"{path} {problem}")
    if str(channel) not in described.channel_names:
        raise DataError(f"{path} has no channel {channel}; choose one of {', '.join(described.channel_names)}")
    classes = {name: values for name, values in described.labels.items() if name != "background"}
    cases = _cases(root, ending, channel, PatientNames(patient))
    training = sum(case.image.parent.name == "imagesTr" for case in cases)
    notes = []
    if described.numTraining not in (None, training):
        notes.append(f"dataset.json announces {described.numTraining} training cases, but {training} are there.")
    if ending.lower() in SUFFIXES:
        reader = VolumeReader(cases, classes, window or Percentiles(), cache=cache)
        reader.notes += notes
        return reader
    if window is not None:
        raise ConfigError(f"a window of grey is for volumes, and {root} holds 2-D images; leave it out")
    pairs = [Pair(Record(case.id, case.patient, case.split), case.image, case.label) for case in cases]
    return FlatReader(root, tuple(classes), partial(Listing, pairs, notes), partial(_read_mask, classes))


NNUNET: Final = PublicDataset(
    DatasetCard(
        name="nnunet",
        title="nnU-Net v2 raw folder",
        modality="any",
        classes=(),
        layout="dataset.json, imagesTr/CASE_0000.EXT, labelsTr/CASE.EXT",
        where="your own",
        licence="yours",
    ),
    lambda folder, options: open_nnunet(folder, options.channel, options.window, options.patient, slices_cache()),
    options=("channel", "window", "patient"),
)


def _read_mask(classes: Mapping[str, tuple[int, ...]], path: Path, facts: Counter[str]) -> Annotation:
    values = read_labels(path, "classes", facts)
    declared = {value for chosen in classes.values() for value in chosen}
    mend = "declare it in dataset.json or repair the label"
    require_values(present_values(values, path), declared, path, mend)
    return Annotation({name: np.isin(values, chosen) for name, chosen in classes.items()})


def _unusable(labels: Mapping[str, tuple[int, ...]]) -> str | None:
    """Return what is wrong with the labels of dataset.json, and the mend."""
    if "ignore" in labels:
        return (
            "has an 'ignore' label, for pixels that nobody annotated, which cannot be learnt from; "
            "use fully annotated cases and remove the label"
        )
    if labels.get("background") != (0,):
        return "must give 'background' the label 0; correct its labels"
    classes = [values for name, values in labels.items() if name != "background"]
    if not classes or any(0 in values for values in classes) or len(set(classes)) < len(classes):
        return "must give every class label values above 0, and no two the same; correct its labels"
    return None


def _cases(root: Path, ending: str, channel: int, patients: PatientNames) -> list[VolumeCase]:
    tested = (root / "imagesTs").is_dir() and (root / "labelsTs").is_dir()
    cases: list[VolumeCase] = []
    for part in ("Tr", "Ts") if tested else ("Tr",):
        images, labels = root / f"images{part}", root / f"labels{part}"
        files, annotated = _listed(images, ending), _listed(labels, ending)
        numbered = {name: re.fullmatch(r"(.+)_(\d{4})", name) for name in files}
        names = sorted({match.group(1) for match in numbered.values() if match})
        lost = [
            *(
                f"{files[name]} has no channel number; name it {name}_0000{ending}"
                for name in numbered
                if not numbered[name]
            ),
            *(
                f"{images / f'{case}_{channel:04d}{ending}'} is missing; add that channel of the case"
                for case in names
                if f"{case}_{channel:04d}" not in files
            ),
            *(
                f"case {case} of {images} has no label; add {labels / f'{case}{ending}'} or remove the case"
                for case in names
                if case not in annotated
            ),
            *(
                f"label {annotated[name]} has no image in {images}; add the image or remove the label"
                for name in annotated
                if names and name not in names
            ),
        ]
        if not names and not lost:
            lost = [f"{images} holds no image CASE_0000{ending}; check file_ending in dataset.json and the path"]
        if lost:
            raise DataError(lost[0])
        for case in names:
            image = files[f"{case}_{channel:04d}"]
            split = _PARTS[part] if tested else None
            cases.append(VolumeCase(case, patients.find(case, image, case), image, annotated[case], split=split))
    return cases


def _listed(folder: Path, ending: str) -> dict[str, Path]:
    """Return the files with the dataset's ending by name before it; others, such as JSON notes, are not nnU-Net's."""
    require_folder(folder)
    return {
        path.name.removesuffix(ending): path
        for path in sorted(folder.iterdir())
        if path.name.endswith(ending) and not path.name.startswith(".") and path.is_file()
    }
