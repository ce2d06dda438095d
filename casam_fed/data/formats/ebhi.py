"""EBHI-SEG: stained sections of the large bowel, 224 px, with the tumour area outlined.

Layout of the owner's archive (Shi et al. 2023, "EBHI-Seg: A novel enteroscope biopsy histopathological hematoxylin and
eosin image dataset for image segmentation tasks"): one folder for each of six findings, and in it image/NAME.png and
label/NAME.png.
"""

import re
from functools import partial
from pathlib import Path
from typing import Final

from casam_fed.data.flat_images import FlatReader, Listing, Pair, binary, examples, left_out_note
from casam_fed.data.layout import folders_in, require_folder
from casam_fed.data.public import DatasetCard, PublicDataset
from casam_fed.data.raster import list_rasters
from casam_fed.data.sample import Record
from casam_fed.errors import DataError

__all__ = ["EBHI_SEG", "open_ebhi"]

_CLASS: Final = "colorectal tumour area"
_PATIENT: Final = re.compile(r"([^-]+)-")


def open_ebhi(root: Path) -> FlatReader:
    """Return a reader of EBHI-SEG as one binary class over all findings; ids are "FINDING/NAME", because names repeat.

    A name such as GT2014141-1-400-001 begins with the number of the patient, who may appear under several findings. A
    name without a "-" is its own patient, counted in `notes`. Pairs of which the release lacks one half are left out and
    reported in `notes`.

    Args:
        root: the folder that holds the folders of the findings; any folder with image/ and label/ is one.
    """
    return FlatReader(root, (_CLASS,), partial(_listing, root), binary(_CLASS))


EBHI_SEG: Final = PublicDataset(
    DatasetCard(
        name="ebhi_seg",
        title="EBHI-SEG (enteroscope biopsy histopathology)",
        modality="H&E histology",
        classes=("colorectal tumour area",),
        layout="CLASS/{image,label}/NAME.png, six classes",
        where="https://doi.org/10.6084/m9.figshare.21540159",
        licence="CC BY 4.0",
        counts=(1701, 487),
    ),
    lambda folder, options: open_ebhi(folder),
)


def _listing(root: Path) -> Listing:
    pairs: list[Pair] = []
    lone: tuple[set[str], set[str]] = (set(), set())
    nameless: list[str] = []
    for folder in _findings(root):
        images, masks = list_rasters(folder / "image"), list_rasters(folder / "label")
        lone[0].update(f"{folder.name}/{name}" for name in images.keys() - masks.keys())
        lone[1].update(f"{folder.name}/{name}" for name in masks.keys() - images.keys())
        for name in sorted(images.keys() & masks.keys()):
            record_id = f"{folder.name}/{name}"
            match = _PATIENT.match(name)
            if match is None:
                nameless.append(record_id)
            pairs.append(Pair(Record(record_id, match.group(1) if match else record_id), images[name], masks[name]))
    notes = left_out_note(*lone)
    if nameless:
        notes.append(
            f"No patient in the name of {len(nameless)} of {len(pairs)} images ({examples(nameless)}); each of them "
            "counts as a patient of its own."
        )
    return Listing(pairs, notes)


def _findings(root: Path) -> list[Path]:
    require_folder(root)
    found: list[Path] = []
    for folder in folders_in(root):
        present = [name for name in ("image", "label") if (folder / name).is_dir()]
        if len(present) == 1:
            missing = "label" if present == ["image"] else "image"
            raise DataError(f"{folder} holds {present[0]}/ but no {missing}/; unpack the owner's archive again")
        if present:
            found.append(folder)
    if not found:
        raise DataError(
            f"{root} holds no folder with image/ and label/ in it; give the folder of EBHI-SEG in which Adenocarcinoma, "
            "Normal, Polyp and the others lie"
        )
    return found
