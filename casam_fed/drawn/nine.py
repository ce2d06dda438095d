"""The nine datasets of the paper's stream (CA-SAM, arXiv 2511.17201) as phantoms, each in its owner's own format.

With them everything that reads, streams and trains can be tried out before any owner's terms are signed. The folders are
those of configs/streams/nine.yaml; the layouts are documented with the readers in casam_fed/data/formats. Slices of volumes
are drawn from the head downwards (position 0 to 1) and stored from the feet upwards; where an organ ends, slices without it
follow, as in the scans the owners hand out.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from casam_fed.drawn.abdominal_ct import PIXEL_MM, draw_ct_units
from casam_fed.drawn.cardiac_mr import draw_cardiac_signal
from casam_fed.drawn.dental_xray import draw_dental_xray
from casam_fed.drawn.endoscopy import draw_endoscopy
from casam_fed.drawn.kidney import draw_kidney_56nx, draw_kidney_dn
from casam_fed.drawn.prostate import ProstateSlice, Scanner, draw_prostate_slice
from casam_fed.drawn.stained_tissue import draw_stained_tissue
from casam_fed.drawn.texture import Rng
from casam_fed.drawn.volume_files import POSES, save_metaimage, save_nifti
from casam_fed.errors import ConfigError
from casam_fed.host.files import as_storage_error

__all__ = ["SIZES", "Amount", "Written", "generator", "write_nine"]

Pixels = npt.NDArray[np.uint8]
Voxels = npt.NDArray[Any]

# How crowded the glands are in each finding.
_FINDINGS: Final = {
    "Normal": 0.1,
    "Polyp": 0.35,
    "Low-grade IN": 0.6,
    "High-grade IN": 0.8,
    "Adenocarcinoma": 1.0,
    "Serrated adenoma": 0.45,
}
_EBHI_PIXELS: Final = 224
_IMAGE_QUALITY, _MASK_QUALITY = 95, 80
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
_LABELS: Final = {"right ventricle": 1, "myocardium": 2, "left ventricle": 3}
_GROUPS: Final = ("NOR", "DCM", "HCM", "MINF", "RV")
_PROSTATE_MM: Final = 42.0
_FIELD_MM: Final = 185.0  # Of a prostate scan, on average.
_SPLEEN_MM: Final = 90.0
_BEYOND: Final = 2  # Slices without the organ at either end.
_FAR: Final = 0.3  # In lengths of the organ: the drawings know no neighbours further away.
_INFO: Final = "ED: 1\nES: {end_systole}\nGroup: {group}\nHeight: {height}\nNbFrame: {frames}\nWeight: {weight}\n"
_REFERENCE: Final = "drawn phantom, no patient"

_APPLE_DOUBLE: Final = (
    bytes.fromhex("00051607 00020000") + b"Mac OS X        " + bytes.fromhex("0001 00000009") + bytes(60)
)
"""What macOS leaves beside a file, as ._NAME, in archives of some owners (RFC 1740); readers must not take it for data."""


@dataclass(frozen=True)
class Amount:
    """How much of a dataset is drawn.

    Attributes:
        train, test: patients on each side of the owner's split; where the owner has none, `test` is 0.
        each: images of a patient, or annotated slices of a volume.
        pixels: kidney patches: their side; 0: as drawn.
    """

    train: int
    test: int
    each: int
    pixels: int = 0

    @property
    def patients(self) -> int:
        """Both sides together."""
        return self.train + self.test


@dataclass(frozen=True)
class Written:
    """What a dataset holds once it is written: patients, and images with annotation."""

    patients: int
    images: int


_SMALL: Final = {
    "acdc": Amount(16, 6, 2),
    "ebhi_seg": Amount(26, 0, 3),
    "kpis_56nx": Amount(16, 6, 4),
    "kpis_dn": Amount(16, 6, 4),
    "polyp": Amount(76, 0, 1),
    "msd_prostate": Amount(20, 0, 4),
    "msd_spleen": Amount(20, 0, 4),
    "promise12": Amount(20, 0, 4),
    "sts_2d": Amount(76, 0, 1),
}

SIZES: Final = {
    "small": _SMALL,
    "medium": {
        name: Amount(4 * amount.train, 4 * amount.test, amount.each, 2048 if name.startswith("kpis") else 0)
        for name, amount in _SMALL.items()
    },
}
"""How much of each dataset is drawn, by the name of the size."""

_README: Final = """Nine drawn datasets of casam-fed, size {size}, seed {seed}.

Every image here was drawn by a computer program (casam data phantom nine). None was taken from a patient: names,
numbers and findings are made up, and scores on these images are no clinical evidence. Only the layout of the folders
and files is that of the owners of ACDC, EBHI-SEG, KPIs 2024, Kvasir-SEG, the Medical Segmentation Decathlon, PROMISE12
and STS-2D, whose data these are not.
"""


def write_nine(out: Path, size: str, seed: int, say: Callable[[str], None]) -> None:
    """Draw all nine datasets into the folder `out`, which appears when it is complete.

    The same size and seed give the same bytes, file by file.

    Args:
        out: a folder that is not there yet, or empty.
        size: one of `SIZES`.
        seed: 0 or more; another seed is other patients.
        say: is told one line for each dataset.

    Raises:
        ConfigError: `out` is there and not an empty folder.
        StorageError: the disk is full or the folder cannot be written; nothing of it stays.
    """
    out = out.absolute()
    with as_storage_error("write", out, "free space or choose a folder that can be written, then run again"):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ConfigError(
                f"{out} is not empty; give a new folder, so that nothing in it is mixed with drawn images"
            )
        parent = _make_folder(out.parent)
        # A sibling, so that the last step is one rename on the same disk.
        with tempfile.TemporaryDirectory(dir=parent, prefix=f".{out.name}.", suffix=".part") as hidden:
            drawn = _make_folder(hidden, "nine")
            (drawn / "README.txt").write_bytes(_README.format(size=size, seed=seed).encode())
            for name, amount in SIZES[size].items():
                written = _WRITERS[name](drawn / name, amount, seed)
                say(f"{name:13} {written.patients:3} patients, {written.images:4} images")
            if out.exists():
                out.rmdir()
            drawn.rename(out)


def generator(seed: int, *names: str | int) -> Rng:
    """Return the random numbers of one thing, which depend on its names and on no other thing."""
    text = "/".join(str(name) for name in ("nine", seed, *names))
    return np.random.default_rng(np.frombuffer(hashlib.sha256(text.encode()).digest(), dtype="<u4").tolist())


def _make_folder(*parts: Path | str) -> Path:
    folder = Path(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# --- flat pictures ---------------------------------------------------------------------------------------------------


def _write_ebhi_seg(root: Path, amount: Amount, seed: int) -> Written:
    """Write six folders of findings; the first patient has an image without label and a label without image."""
    findings = list(_FINDINGS)
    for finding in findings:
        for kind in ("image", "label"):
            _make_folder(root, finding, kind)
    for number in range(amount.patients):
        patient = f"GT20{12 + number % 5}{101 + 7 * number}"
        lone = {amount.each: "image", amount.each + 1: "label"} if number == 0 else {}
        for index in range(amount.each + len(lone)):
            # The last images of some patients show a second finding.
            finding = findings[(number + (index >= 4 and number % 2)) % len(findings)]
            name = f"{patient}-{1 + index // 3}-400-{index + 1:03d}.png"
            image, mask = _tissue(seed, patient, index, _FINDINGS[finding])
            for kind, pixels in (("image", image), ("label", mask)):
                if lone.get(index, kind) == kind:
                    Image.fromarray(pixels).save(root / finding / kind / name)
    return Written(amount.patients, amount.patients * amount.each)


def _tissue(seed: int, patient: str, index: int, crowding: float) -> tuple[Pixels, Pixels]:
    drawn = draw_stained_tissue(
        generator(seed, "ebhi_seg", patient), generator(seed, "ebhi_seg", patient, index), crowding
    )
    height, width = drawn.image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = np.s_[top : top + side, left : left + side]
    image = Image.fromarray(drawn.image[square]).resize((_EBHI_PIXELS, _EBHI_PIXELS), Image.Resampling.BICUBIC)
    return np.asarray(image), _resized_mask(drawn.masks["gland"][square], _EBHI_PIXELS)


def _resized_mask(mask: npt.NDArray[np.bool_], side: int) -> Pixels:
    grey = Image.fromarray(_mask_pixels(mask)).resize((side, side), Image.Resampling.BILINEAR)
    return _mask_pixels(np.asarray(grey) >= 128)


def _mask_pixels(mask: npt.NDArray[np.bool_]) -> Pixels:
    return mask.astype(np.uint8) * np.uint8(255)


def _write_kpis(root: Path, amount: Amount, seed: int, group: str) -> Written:
    """Write patches of kidneys after 5/6 nephrectomy ("56Nx") or with diabetic nephropathy ("DN"), with JPEG masks."""
    draw, slide, first = (draw_kidney_56nx, 12, 116) if group == "56Nx" else (draw_kidney_dn, 11, 363)
    for number in range(amount.patients):
        case = f"{slide}_{first + 2 * number}"
        folder = root / ("train" if number < amount.train else "test") / group / case
        images, masks = _make_folder(folder, "img"), _make_folder(folder, "mask")
        for index in range(amount.each):
            position = (index + 0.5) / amount.each
            drawn = draw(generator(seed, group, case), generator(seed, group, case, index), position)
            side = amount.pixels or drawn.image.shape[0]
            name = f"{case}_{1024 * (index // 3)}_{1024 * (index % 3)}"
            image = Image.fromarray(drawn.image).resize((side, side), Image.Resampling.BICUBIC)
            image.save(images / f"{name}_img.jpg", quality=_IMAGE_QUALITY)
            Image.fromarray(_resized_mask(drawn.masks["glomerulus"], side)).save(
                masks / f"{name}_mask.jpg", quality=_MASK_QUALITY
            )
            if number == index == 0:
                (images / f"._{name}_img.jpg").write_bytes(_APPLE_DOUBLE)
    return Written(amount.patients, amount.patients * amount.each)


def _write_polyp(root: Path, amount: Amount, seed: int) -> Written:
    """Write Kvasir-SEG's images/ and masks/, JPEG both, with names that say nothing."""
    images, masks = _make_folder(root, "images"), _make_folder(root, "masks")
    for patient, chance, _ in _one_by_one("polyp", amount, seed):
        name = f"cju{''.join(_LETTERS[place] for place in chance.integers(len(_LETTERS), size=22))}.jpg"
        drawn = draw_endoscopy(patient, chance, float(chance.random()))
        Image.fromarray(drawn.image).save(images / name, quality=_IMAGE_QUALITY)
        mask = _mask_pixels(drawn.masks["polyp"])
        Image.fromarray(np.repeat(mask[:, :, None], 3, axis=2)).save(masks / name, quality=_IMAGE_QUALITY)
    return Written(amount.patients, amount.patients * amount.each)


def _write_sts_2d(root: Path, amount: Amount, seed: int) -> Written:
    """Write STS-2D's image/ and mask/, grey PNG both."""
    images, masks = _make_folder(root, "image"), _make_folder(root, "mask")
    for patient, chance, number in _one_by_one("sts_2d", amount, seed):
        drawn = draw_dental_xray(patient, chance, float(chance.random()))
        Image.fromarray(np.ascontiguousarray(drawn.image[:, :, 0])).save(images / f"{number:04d}.png")
        Image.fromarray(_mask_pixels(drawn.masks["teeth"])).save(masks / f"{number:04d}.png")
    return Written(amount.patients, amount.patients * amount.each)


def _one_by_one(dataset: str, amount: Amount, seed: int) -> Iterator[tuple[Rng, Rng, int]]:
    """Yield the random numbers of the patient and of the image, and the image's number from 1."""
    for number in range(amount.patients):
        patient = generator(seed, dataset, number)
        for index in range(amount.each):
            yield patient, generator(seed, dataset, number, index), number * amount.each + index + 1


# --- volumes ---------------------------------------------------------------------------------------------------------


def _write_acdc(root: Path, amount: Amount, seed: int) -> Written:
    """Write training/ and testing/ with the frames of end diastole and end systole of every patient."""
    for number in range(amount.patients):
        side = "training" if number < amount.train else "testing"
        name = f"patient{number + 1:03d}"
        folder = _make_folder(root, side, name)
        chance = generator(seed, "acdc", name, "scan")
        frames = int(chance.integers(20, 36))
        end_systole = int(chance.integers(8, 15))
        facts = {
            "group": _GROUPS[chance.integers(len(_GROUPS))],
            "height": round(chance.uniform(150, 192), 1),
            "weight": round(chance.uniform(52, 104), 1),
        }
        (folder / "Info.cfg").write_bytes(_INFO.format(end_systole=end_systole, frames=frames, **facts).encode())
        pixel, thick = chance.uniform(0.95, 1.15), float(chance.choice((8.0, 10.0)))
        gain, contraction = chance.uniform(180, 620), chance.uniform(0.26, 0.4)
        for frame, squeeze in ((1, 0.0), (end_systole, contraction)):
            image, label = _heart(amount.each, seed, name, frame, squeeze, gain)
            pose = POSES[number % len(POSES)]
            path = folder / f"{name}_frame{frame:02d}.nii.gz"
            save_nifti(path, image, (thick, pixel, pixel), pose)
            save_nifti(path.with_name(f"{name}_frame{frame:02d}_gt.nii.gz"), label, (thick, pixel, pixel), pose)
    return Written(amount.patients, 2 * amount.each * amount.patients)


def _heart(slices: int, seed: int, name: str, frame: int, squeeze: float, gain: float) -> tuple[Voxels, Voxels]:
    """Return int16 signal and uint8 labels, [Z, H, W]; the most basal slice is not annotated, as in the release."""
    images, labels = [], []
    for index in range(-1, slices):
        position = max(0.0, (index + 0.5) / slices)
        drawn = draw_cardiac_signal(
            generator(seed, "acdc", name), generator(seed, "acdc", name, frame, index), position, squeeze
        )
        label = np.zeros(drawn.signal.shape, dtype=np.uint8)
        for structure, value in _LABELS.items():
            label[drawn.masks[structure] & (index >= 0)] = value
        images.append(np.round(drawn.signal * gain).astype(np.int16))
        labels.append(label)
    return np.stack(images[::-1]), np.stack(labels[::-1])


def _write_msd_prostate(root: Path, amount: Amount, seed: int) -> Written:
    """Write Task05: T2 and ADC in one 4-D volume for each patient, with both zones."""
    cases = [f"prostate_{2 * number:02d}" for number in range(amount.patients)]
    _start_task(root, "PROSTATE", {"0": "T2", "1": "ADC"}, ("background", "PZ", "TZ"), cases)
    for number, case in enumerate(cases):
        slices = _prostate("msd_prostate", amount.each, seed, case, "msd")
        images = [np.stack([drawn.t2, drawn.adc], axis=-1) for drawn in slices]
        pixel = _FIELD_MM / slices[0].t2.shape[1]
        spacing = (_PROSTATE_MM / amount.each, pixel, pixel)
        _save_case(root, case, np.stack(images), np.stack([drawn.zones for drawn in slices]), spacing, number)
    return Written(amount.patients, amount.each * amount.patients)


def _write_msd_spleen(root: Path, amount: Amount, seed: int) -> Written:
    """Write Task09: CT in Hounsfield units, with slices above and below the spleen."""
    cases = [f"spleen_{number + 2}" for number in range(amount.patients)]
    _start_task(root, "SPLEEN", {"0": "CT"}, ("background", "spleen"), cases)
    for number, case in enumerate(cases):
        slices = [
            draw_ct_units(generator(seed, "msd_spleen", case), generator(seed, "msd_spleen", case, index), position)
            for index, position in _from_feet(amount.each)
        ]
        images = np.stack([np.clip(drawn.units, -1024, 3071) for drawn in slices])
        labels = np.stack([drawn.spleen for drawn in slices])
        spacing = (_SPLEEN_MM / amount.each, PIXEL_MM, PIXEL_MM)
        _save_case(root, case, images, labels, spacing, number)
    return Written(amount.patients, amount.each * amount.patients)


def _write_promise12(root: Path, amount: Amount, seed: int) -> Written:
    """Write MetaImages of T2 with the whole prostate as one label."""
    folder = _make_folder(root)
    for number in range(amount.patients):
        case = f"Case{number:02d}"
        slices = _prostate("promise12", amount.each, seed, case, "promise12")
        images = np.stack([np.round(drawn.t2) for drawn in slices]).astype(np.int16)
        labels = np.stack([drawn.zones > 0 for drawn in slices]).astype(np.int8)
        pixel = _FIELD_MM / slices[0].t2.shape[1]
        spacing = (_PROSTATE_MM / amount.each, pixel, pixel)
        pose = POSES[number % len(POSES)]
        save_metaimage(folder / f"{case}.mhd", images, spacing, pose)
        save_metaimage(folder / f"{case}_segmentation.mhd", labels, spacing, pose)
    return Written(amount.patients, amount.each * amount.patients)


def _prostate(dataset: str, slices: int, seed: int, case: str, scanner: Scanner) -> list[ProstateSlice]:
    return [
        draw_prostate_slice(generator(seed, dataset, case), generator(seed, dataset, case, index), position, scanner)
        for index, position in _from_feet(slices)
    ]


def _from_feet(slices: int) -> list[tuple[int, float]]:
    """Return (index, position) of `slices` slices through the organ and those beyond it, the lowest first."""
    positions = [min(max((index + 0.5) / slices, -_FAR), 1 + _FAR) for index in range(-_BEYOND, slices + _BEYOND)]
    return list(reversed(list(enumerate(positions))))


def _start_task(root: Path, name: str, modality: dict[str, str], labels: tuple[str, ...], cases: list[str]) -> None:
    """Write dataset.json with the owner's keys, and what macOS left in the owner's archive."""
    for folder in ("imagesTr", "labelsTr"):
        (_make_folder(root, folder) / f"._{cases[0]}.nii.gz").write_bytes(_APPLE_DOUBLE)
    description = {
        "name": name,
        "description": f"{name.capitalize()}: {_REFERENCE}",
        "reference": "casam-fed",
        "licence": "Apache-2.0",
        "release": "1.0",
        "tensorImageSize": "4D" if len(modality) > 1 else "3D",
        "modality": modality,
        "labels": {str(value): label for value, label in enumerate(labels)},
        "numTraining": len(cases),
        "numTest": 0,
        "training": [{"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in cases],
        "test": [],
    }
    (root / "dataset.json").write_bytes(json.dumps(description, indent=1).encode() + b"\n")


def _save_case(
    root: Path, case: str, images: Voxels, labels: Voxels, spacing: tuple[float, float, float], number: int
) -> None:
    pose = POSES[number % len(POSES)]
    save_nifti(root / "imagesTr" / f"{case}.nii.gz", np.round(images).astype(np.int16), spacing, pose)
    save_nifti(root / "labelsTr" / f"{case}.nii.gz", labels.astype(np.uint8), spacing, pose)


_WRITERS: Final[dict[str, Callable[[Path, Amount, int], Written]]] = {
    "acdc": _write_acdc,
    "ebhi_seg": _write_ebhi_seg,
    "kpis_56nx": partial(_write_kpis, group="56Nx"),
    "kpis_dn": partial(_write_kpis, group="DN"),
    "polyp": _write_polyp,
    "msd_prostate": _write_msd_prostate,
    "msd_spleen": _write_msd_spleen,
    "promise12": _write_promise12,
    "sts_2d": _write_sts_2d,
}
