"""Polyps in colonoscopy, in the two layouts in which they are passed around.

Kvasir-SEG as its owner publishes it (Jha et al. 2020): images/NAME.jpg and masks/NAME.jpg. The collection behind PraNet
(Fan et al. 2020), which joins Kvasir-SEG and CVC-ClinicDB: TrainDataset/{image,mask}/NAME.png, and beside it
TestDataset/COLLECTION/{images,masks}/NAME.png. Copies call these folders image or images, mask or masks.
"""

from functools import partial
from pathlib import Path
from typing import Final

from casam_fed.data.flat_images import (
    FlatPairs,
    Listing,
    Pair,
    find_folder,
    folders_in,
    require_root,
    soft_binary,
)
from casam_fed.data.pairing import pair_by_name
from casam_fed.data.raster import list_rasters
from casam_fed.data.sample import Record, Sample
from casam_fed.errors import DataError

__all__ = ["PolypReader"]

_CLASS: Final = "polyp"
_TRAIN: Final = "TrainDataset"
_TEST: Final = "TestDataset"
_IMAGES: Final = ("image", "images")
_MASKS: Final = ("mask", "masks")


class PolypReader:
    """Reads either layout; no release tells the patients, so every image is its own, as `notes` says.

    Ids are the name of the image. With both TrainDataset/ and TestDataset/ the owner's split is kept, and ids are
    "train/NAME" and "test/COLLECTION/NAME". JPEG masks are thresholded at 128, and so are PNG masks that were JPEGs once
    and hold values beside 0 and 255; both are counted in `notes`.

    Args:
        root: the folder with images/ and masks/, or the one with TrainDataset/.
    """

    def __init__(self, root: Path) -> None:
        self._flat = FlatPairs(root, partial(_listing, root), soft_binary(_CLASS))
        self.classes: tuple[str, ...] = (_CLASS,)
        self.notes: list[str] = self._flat.notes

    def records(self) -> list[Record]:
        """Return all records, sorted by id.

        Raises:
            DataError: the folders follow neither layout or both, or an image or a mask is without the other.
        """
        return self._flat.records()

    def read(self, record: Record) -> Sample:
        """Return the sample of `record`.

        Raises:
            DataError: the record is unknown, a file is unreadable, or image and mask do not fit together.
        """
        return self._flat.read(record)


def _listing(root: Path) -> Listing:
    pairs: list[Pair] = []
    alone: list[str] = []
    for prefix, split, images, masks in _parts(root):
        for name, image, mask in pair_by_name(list_rasters(images), list_rasters(masks), images, masks, alone):
            record_id = f"{prefix}{name}"
            pairs.append(Pair(Record(record_id, record_id, split), image, mask))
    note = f"Patients are not told: each of the {len(pairs)} images counts as a patient of its own."
    return Listing(pairs, [note], alone)


def _parts(root: Path) -> list[tuple[str, str | None, Path, Path]]:
    """Return (prefix of ids, split, folder of images, folder of masks) of every part."""
    require_root(root)
    train, test = root / _TRAIN, root / _TEST
    flat = find_folder(root, _IMAGES) or find_folder(root, _MASKS)
    if bool(flat) == train.is_dir():
        found = "both layouts at once" if flat else "neither layout"
        raise DataError(f"{root} has {found}; it must hold images/ and masks/, or {_TRAIN}/ with image/ and mask/")
    if flat:
        return [("", None, *_images_and_masks(root))]
    if not test.is_dir():
        return [("", None, *_images_and_masks(train))]
    if find_folder(test, _IMAGES):
        collections = [("test/", test)]
    else:
        collections = [(f"test/{folder.name}/", folder) for folder in folders_in(test)]
    return [
        ("train/", "train", *_images_and_masks(train)),
        *((prefix, "test", *_images_and_masks(folder)) for prefix, folder in collections),
    ]


def _images_and_masks(folder: Path) -> tuple[Path, Path]:
    images, masks = find_folder(folder, _IMAGES), find_folder(folder, _MASKS)
    if images is None or masks is None:
        missing = "images" if images is None else "masks"
        raise DataError(f"{folder} has no folder {missing}/; unpack the release again, or correct the data path")
    return images, masks
