"""KPIs 2024: patches of mouse kidney sections (PAS stain, 2048 px) in which the glomeruli are outlined.

Layout of the owner's archive (KPIs challenge at MICCAI 2024, patch-level task; Deng et al. 2025, "KPIs 2024 challenge:
advancing glomerular segmentation from patch- to slide-level"): {train,validation,test}/GROUP/CASE/{img,mask}/, files
*_img.jpg and *_mask.jpg; some copies keep both kinds directly in CASE. The groups are 56Nx, DN, NEP25 and normal.
"""

from functools import partial
from pathlib import Path
from typing import Final

from casam_fed.data.flat_images import FlatReader, Listing, Pair, binary
from casam_fed.data.layout import folders_in, require_folder, without_ends
from casam_fed.data.pairing import pair_by_name
from casam_fed.data.public import READ_THERE, DatasetCard, PublicDataset
from casam_fed.data.raster import list_rasters
from casam_fed.data.sample import Record
from casam_fed.errors import DataError

__all__ = ["KPIS_56NX", "KPIS_DN", "open_kpis"]

_CLASS: Final = "glomerulus"
_SIDES: Final = ("train", "test")
_LEFT_OUT: Final = "validation"
_IMAGE_END, _MASK_END = "_img", "_mask"


def open_kpis(root: Path, group: str) -> FlatReader:
    """Return a reader of one group of the KPIs challenge; ids are "SIDE/CASE/NAME", and the case is the patient.

    The owner's train/ and test/ fix the split, and validation/ is left out, counted in `notes`. Where only one of train/
    and test/ holds the group, as before the owner published the test masks, no split is fixed, and `notes` says so. The
    JPEG masks are thresholded at 128.

    Args:
        root: the folder with train/ and test/.
        group: name of the group, such as "56Nx" or "DN".
    """
    return FlatReader(root / group, (_CLASS,), partial(_listing, root, group), binary(_CLASS))


KPIS_56NX: Final = PublicDataset(
    DatasetCard(
        name="kpis_56nx",
        title="KPIs 2024 (Kidney Pathology Image Segmentation), group 56Nx",
        modality="PAS kidney pathology, 5/6 nephrectomy",
        classes=("glomerulus",),
        layout="{train,test}/56Nx/CASE/{img/*_img.jpg, mask/*_mask.jpg}",
        where="https://sites.google.com/view/kpis2024",
        licence=READ_THERE,
        counts=(558, 463),
    ),
    lambda folder, options: open_kpis(folder, "56Nx"),
)

KPIS_DN: Final = PublicDataset(
    DatasetCard(
        name="kpis_dn",
        title="KPIs 2024 (Kidney Pathology Image Segmentation), group DN",
        modality="PAS kidney pathology, diabetic nephropathy",
        classes=("glomerulus",),
        layout="{train,test}/DN/CASE/{img/*_img.jpg, mask/*_mask.jpg}",
        where="https://sites.google.com/view/kpis2024",
        licence=READ_THERE,
        counts=(724, 391),
    ),
    lambda folder, options: open_kpis(folder, "DN"),
)


def _listing(root: Path, group: str) -> Listing:
    sides = _sides_with(root, group)
    pairs: list[Pair] = []
    alone: list[str] = []
    for side in sides:
        for case in folders_in(root / side / group):
            for name, image, mask in _case_pairs(case, alone):
                split = side if len(sides) == len(_SIDES) else None
                pairs.append(Pair(Record(f"{side}/{case.name}/{name}", case.name, split), image, mask))
    notes = []
    if len(sides) < len(_SIDES):
        notes.append(f"Only {sides[0]}/ holds {group}: the owner's split is not complete and therefore not used.")
    if left_out := _count_images(root / _LEFT_OUT / group):
        notes.append(f"Validation images of {group} left out: {left_out}; only train/ and test/ are used.")
    return Listing(pairs, notes, alone)


def _sides_with(root: Path, group: str) -> list[str]:
    require_folder(root)
    groups = {side: [folder.name for folder in folders_in(root / side)] for side in _SIDES if (root / side).is_dir()}
    if not groups:
        raise DataError(f"{root} holds neither train/ nor test/; give the folder of the KPIs data that does")
    if sides := [side for side, names in groups.items() if group in names]:
        return sides
    there = ", ".join(sorted({name for names in groups.values() for name in names})) or "none"
    raise DataError(f"{root} has no group {group!r}; choose one of those there: {there}")


def _case_pairs(case: Path, alone: list[str]) -> list[tuple[str, Path, Path]]:
    if (case / "img").is_dir() or (case / "mask").is_dir():
        images, masks = list_rasters(case / "img"), list_rasters(case / "mask")
    else:
        files = list_rasters(case)
        images = {name: path for name, path in files.items() if name.endswith(_IMAGE_END)}
        masks = {name: path for name, path in files.items() if name.endswith(_MASK_END)}
        if strangers := sorted(files.keys() - images.keys() - masks.keys()):
            raise DataError(
                f"the name of {files[strangers[0]]} ends neither in {_IMAGE_END} nor in {_MASK_END}, so that it is "
                "unknown what it is; rename or remove it"
            )
    if not images and not masks:
        raise DataError(f"the case {case} holds no image; unpack the owner's archive again, or remove the folder")
    named = without_ends(images, (_IMAGE_END,)), without_ends(masks, (_MASK_END,))
    return pair_by_name(*named, case, case, alone)


def _count_images(folder: Path) -> int:
    return sum(path.stem.endswith(_IMAGE_END) for path in folder.rglob("*.*") if not path.name.startswith("."))
