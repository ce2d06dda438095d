"""The `folder` reader: images and masks paired by name, the layout every annotation tool can export.

Either ROOT/images and ROOT/masks (not yet split), or ROOT/{train,test}/{images,masks} (split fixed by the owner). What
cannot be read in exactly one way stops with a `DataError`; what had to be altered to fit is counted in `notes`.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from casam_fed.data.flat_images import Annotation, AnnotationReader, FlatReader, Listing, Pair, binary
from casam_fed.data.layout import PatientNames, require_folder
from casam_fed.data.pairing import pair_by_name
from casam_fed.data.raster import MAX_LABEL, Labels, list_rasters, present_values, read_labels, require_values
from casam_fed.data.sample import Reader, Record
from casam_fed.errors import ConfigError, DataError
from casam_fed.forms import STRICT

__all__ = ["FolderData", "open_folder"]


@dataclass(frozen=True, config=STRICT)
class FolderData:
    """The `data:` block of a folder of images and masks; see `open_folder` for the meaning of the keys.

    Attributes:
        kind: "folder".
        path: the folder; relative paths start at the data root that the user gives.
        classes: names of the target classes in the order of their label values.
        labels: binary, classes or instances.
        patient: regular expression for the patient id in a file name; None: every image is its own patient.
        test_fraction, split_seed: of a patient-wise split, where the folder has no train/ and test/.
        split: a file that keeps the split, see `casam_fed.data.split_file`.
    """

    kind: Literal["folder"]
    path: str
    classes: tuple[str, ...]
    labels: Labels = "binary"
    patient: str | None = None
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    split_seed: int = 0
    split: str | None = None

    def reader(self, root: Path) -> Reader:
        """Return the reader of the folder, whose path starts at `root`; see `open_folder` for what may be raised."""
        return open_folder(root / self.path, self.classes, self.labels, self.patient)


def open_folder(
    root: Path, classes: Sequence[str], labels: Labels = "binary", patient: str | None = None
) -> FlatReader:
    """Return a reader of PNG, JPEG or TIFF images and their masks; both share the name before the dot.

    Hidden files (.DS_Store, ._name) are ignored. Record ids are that name, with "train/" or "test/" in front where the
    split is fixed. Images become uint8 [H,W,3]: grey is repeated, transparency dropped, 16-bit (or 32-bit, or float)
    grey is rescaled per image from its 0.5th to 99.5th percentile to 0..255, because scanners seldom fill their 16 bits
    and one hot pixel must not darken the rest; 16-bit colour keeps its high byte.

    Masks hold label values, as `labels` says:
        "binary": 0 and 1, or 0 and 255, of the single class. A JPEG mask is thresholded at 128.
        "classes": 0 background, then the values of `classes`.
        "instances": 0 background, any other value one instance of the single class, renumbered 1..N in order.
    Palette masks are read by index. RGB(A) masks are read as grey where the channels are equal (for JPEG: fall on the
    same side of the threshold) and nothing is transparent, and refused otherwise. EXIF orientation other than upright
    is refused in images and masks alike: the files do not say whether a mask follows the stored or the turned pixels.

    Args:
        root: the folder.
        classes: names in order; pixel values 1..K.
        labels: what the mask values mean.
        patient: regular expression searched in the file name without its extension; its first group, or else the whole
            match, is the patient id. None: every image is its own patient.

    Raises:
        ConfigError: options do not fit together.
    """
    if not classes or len(set(classes)) < len(classes):
        raise ConfigError(f"classes must be a list of different names, not {classes!r}; write one name per class")
    if labels != "classes" and len(classes) != 1:
        raise ConfigError(
            f"labels {labels!r} describe a single class, but classes are {classes!r}; give one name, or set labels to "
            "classes"
        )
    read_mask: dict[Labels, AnnotationReader] = {
        "binary": binary(classes[0]),
        "classes": partial(_read_classes, tuple(classes)),
        "instances": partial(_read_instances, classes[0]),
    }
    return FlatReader(root, classes, partial(_listing, root, PatientNames(patient)), read_mask[labels])


def _read_classes(classes: tuple[str, ...], path: Path, facts: Counter[str]) -> Annotation:
    values = read_labels(path, "classes", facts)
    mend = "add the value to the classes or repair the mask"
    require_values(present_values(values, path), set(range(1, len(classes) + 1)), path, mend)
    return Annotation({name: values == value for value, name in enumerate(classes, start=1)})


def _read_instances(name: str, path: Path, facts: Counter[str]) -> Annotation:
    values = read_labels(path, "instances", facts)
    present = present_values(values, path)
    if present.tolist() == [255]:
        raise DataError(
            f"mask {path} holds only 0 and 255, which is a binary mask and not instance numbers; "
            "set labels to binary, or number the instances from 1"
        )
    numbers = np.zeros(MAX_LABEL + 1, dtype=np.int32)
    numbers[present] = np.arange(1, present.size + 1)
    return Annotation({name: values > 0}, {name: numbers[values]})


def _listing(root: Path, patients: PatientNames) -> Listing:
    alone: list[str] = []
    pairs: list[Pair] = []
    for split, folder in _parts(root):
        for stem, image, mask in _paired(folder, alone):
            record_id = f"{split}/{stem}" if split else stem
            pairs.append(Pair(Record(record_id, patients.find(stem, image, record_id), split), image, mask))
    return Listing(pairs, alone=alone)


def _parts(root: Path) -> list[tuple[str | None, Path]]:
    require_folder(root)
    flat = any((root / name).is_dir() for name in ("images", "masks"))
    parted = any((root / name).is_dir() for name in ("train", "test"))
    if flat == parted:
        found = "both layouts at once" if flat else "neither layout"
        raise DataError(
            f"{root} has {found}; it must hold images/ and masks/, or train/ and test/ with images/ and masks/ in each"
        )
    return [(None, root)] if flat else [("train", root / "train"), ("test", root / "test")]


def _paired(folder: Path, alone: list[str]) -> list[tuple[str, Path, Path]]:
    images, masks = list_rasters(folder / "images"), list_rasters(folder / "masks")
    if not images and not masks:
        raise DataError(f"{folder / 'images'} holds no image; put PNG, JPEG or TIFF files there")
    return pair_by_name(images, masks, folder / "images", folder / "masks", alone)
