"""Polyps in colonoscopy, in the two layouts in which they are passed around.

Kvasir-SEG as its owner publishes it (Jha et al. 2020): images/NAME.jpg and masks/NAME.jpg. The collection behind PraNet
(Fan et al. 2020), which joins Kvasir-SEG and CVC-ClinicDB: TrainDataset/{image,mask}/NAME.png, and beside it
TestDataset/COLLECTION/{images,masks}/NAME.png. Copies call these folders image or images, mask or masks.
"""

from functools import partial
from pathlib import Path
from typing import Final

from casam_fed.data.flat_images import FlatReader, Listing, Pair, soft_binary
from casam_fed.data.layout import find_folder, folders_in, require_folder
from casam_fed.data.pairing import pair_by_name
from casam_fed.data.public import DatasetCard, PublicDataset
from casam_fed.data.raster import list_rasters
from casam_fed.data.sample import Record
from casam_fed.errors import DataError

__all__ = ["POLYP", "open_polyp"]

_CLASS: Final = "polyp"
_TRAIN: Final = "TrainDataset"
_TEST: Final = "TestDataset"
_IMAGES: Final = ("image", "images")
_MASKS: Final = ("mask", "masks")


def open_polyp(root: Path) -> FlatReader:
    """Return a reader of either layout; no release tells the patients, so every image is its own, as `notes` says.

    Ids are the name of the image. With both TrainDataset/ and TestDataset/ the owner's split is kept, and ids are
    "train/NAME" and "test/COLLECTION/NAME". JPEG masks are thresholded at 128, and so are PNG masks that were JPEGs once
    and hold values beside 0 and 255; both are counted in `notes`.

    Args:
        root: the folder with images/ and masks/, or the one with TrainDataset/.
    """
    return FlatReader(root, (_CLASS,), partial(_listing, root), soft_binary(_CLASS))


POLYP: Final = PublicDataset(
    DatasetCard(
        name="polyp",
        title="Kvasir-SEG, or the TrainDataset of polyp benchmarks",
        modality="endoscopy",
        classes=("polyp",),
        layout="{images,masks}/NAME.jpg, or TrainDataset/{image,mask}/NAME.png",
        where="https://datasets.simula.no/kvasir-seg/",
        licence="research and education only (Kvasir-SEG)",
        counts=(804, 196),
    ),
    lambda folder, options: open_polyp(folder),
)


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
    require_folder(root)
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
