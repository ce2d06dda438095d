"""STS-2D: panoramic dental X-rays in which the teeth are masked.

Layouts of the owner's releases (STS challenge at MICCAI 2023; Wang et al. 2025, "A multi-modal dental dataset for
semi-supervised deep learning image segmentation"): PNG files in image/ and mask/, directly in the folder or one to three
levels below it, as in STS-2D-Tooth/A-PXI/labeled/{image,mask}; beside them images without masks, for semi-supervision.
"""

from functools import partial
from pathlib import Path
from typing import Final

from casam_fed.data.flat_images import FlatReader, Listing, Pair, binary, examples
from casam_fed.data.layout import find_folder, folders_in, require_folder, without_ends
from casam_fed.data.pairing import pair_by_name
from casam_fed.data.public import READ_THERE, DatasetCard, PublicDataset
from casam_fed.data.raster import list_rasters
from casam_fed.data.sample import Record
from casam_fed.errors import DataError

__all__ = ["STS_2D", "open_sts2d"]

_CLASS: Final = "teeth"
_IMAGES: Final = ("image", "images")
_MASKS: Final = ("mask", "masks", "label", "labels")
_MASK_ENDS: Final = ("_mask", "-mask")
_LEVELS: Final = 3


def open_sts2d(root: Path) -> FlatReader:
    """Return a reader of every folder with images and masks; ids are "FOLDER/NAME" below the root, or "NAME" in it.

    A mask has the name of its image, or that name with "_mask" or "-mask" behind it. Folders with images and no masks are
    left out, counted in `notes`. The releases do not tell patients: every image is its own.

    Args:
        root: the folder of the release, or any below it that still holds image/ and mask/.
    """
    return FlatReader(root, (_CLASS,), partial(_listing, root), binary(_CLASS))


STS_2D: Final = PublicDataset(
    DatasetCard(
        name="sts_2d",
        title="STS-2D (Semi-supervised Teeth Segmentation, MICCAI 2023)",
        modality="panoramic dental X-ray",
        classes=("teeth",),
        layout="a folder of PNG radiographs beside a folder of PNG masks",
        where="https://zenodo.org/records/10597292",
        licence=READ_THERE,
        counts=(1700, 70),
    ),
    lambda folder, options: open_sts2d(folder),
)


def _listing(root: Path) -> Listing:
    require_folder(root)
    pairs: list[Pair] = []
    alone: list[str] = []
    unlabelled: dict[str, int] = {}
    for folder in _folders_to_look_in(root):
        images, masks = find_folder(folder, _IMAGES), find_folder(folder, _MASKS)
        if images and masks:
            pairs += _pairs_of(root, folder, images, masks, alone)
        elif images:
            unlabelled[images.relative_to(root).as_posix()] = len(list_rasters(images))
        elif masks:
            raise DataError(f"{masks} has no folder image/ beside it; put the images there, or take the masks out")
    if not pairs and not alone:
        raise DataError(
            f"{root} holds no image/ with a mask/ or label/ beside it, down to {_LEVELS} levels; unpack the labelled part "
            "of the release there"
        )
    notes = [f"Patients are not told: each of the {len(pairs)} images counts as a patient of its own."]
    if unlabelled:
        notes.append(
            f"Images without masks left out: {sum(unlabelled.values())} in {len(unlabelled)} folders "
            f"({examples(unlabelled)})."
        )
    return Listing(pairs, notes, alone)


def _folders_to_look_in(root: Path) -> list[Path]:
    looked, level = [root], [root]
    for _ in range(_LEVELS):
        level = [
            below for folder in level for below in folders_in(folder) if below.name.lower() not in (*_IMAGES, *_MASKS)
        ]
        looked += level
    return looked


def _pairs_of(root: Path, folder: Path, images: Path, masks: Path, alone: list[str]) -> list[Pair]:
    named = without_ends(list_rasters(masks), _MASK_ENDS)
    pairs: list[Pair] = []
    for name, image, mask in pair_by_name(list_rasters(images), named, images, masks, alone):
        record_id = (folder.relative_to(root) / name).as_posix()
        pairs.append(Pair(Record(record_id, record_id), image, mask))
    return pairs
