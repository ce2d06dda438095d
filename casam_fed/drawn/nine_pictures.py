"""The five of the nine datasets that are flat pictures: EBHI-SEG, both groups of KPIs, Kvasir-SEG, and STS-2D."""

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from casam_fed.drawn.dental_xray import draw_dental_xray
from casam_fed.drawn.endoscopy import draw_endoscopy
from casam_fed.drawn.kidney import draw_kidney_56nx, draw_kidney_dn
from casam_fed.drawn.nine_files import (
    APPLE_DOUBLE,
    Amount,
    Written,
    generator,
    make_folder,
    save_jpeg,
    save_png,
)
from casam_fed.drawn.stained_tissue import draw_stained_tissue
from casam_fed.drawn.texture import Rng

__all__ = ["write_ebhi_seg", "write_kpis_56nx", "write_kpis_dn", "write_polyp", "write_sts_2d"]

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

Pixels = npt.NDArray[np.uint8]


def write_ebhi_seg(root: Path, amount: Amount, seed: int) -> Written:
    """Write six folders of findings; the first patient has an image without label and a label without image."""
    findings = list(_FINDINGS)
    for finding in findings:
        for kind in ("image", "label"):
            make_folder(root, finding, kind)
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
                    save_png(root / finding / kind / name, pixels)
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


def write_kpis_56nx(root: Path, amount: Amount, seed: int) -> Written:
    """Write patches of kidneys after 5/6 nephrectomy, with JPEG masks."""
    return _write_kpis(root, amount, seed, "56Nx")


def write_kpis_dn(root: Path, amount: Amount, seed: int) -> Written:
    """Write patches of kidneys with diabetic nephropathy, with JPEG masks."""
    return _write_kpis(root, amount, seed, "DN")


def _write_kpis(root: Path, amount: Amount, seed: int, group: str) -> Written:
    draw, slide, first = (draw_kidney_56nx, 12, 116) if group == "56Nx" else (draw_kidney_dn, 11, 363)
    for number in range(amount.patients):
        case = f"{slide}_{first + 2 * number}"
        folder = root / ("train" if number < amount.train else "test") / group / case
        images, masks = make_folder(folder, "img"), make_folder(folder, "mask")
        for index in range(amount.each):
            position = (index + 0.5) / amount.each
            drawn = draw(generator(seed, group, case), generator(seed, group, case, index), position)
            side = amount.pixels or drawn.image.shape[0]
            name = f"{case}_{1024 * (index // 3)}_{1024 * (index % 3)}"
            image = Image.fromarray(drawn.image).resize((side, side), Image.Resampling.BICUBIC)
            save_jpeg(images / f"{name}_img.jpg", np.asarray(image), _IMAGE_QUALITY)
            save_jpeg(masks / f"{name}_mask.jpg", _resized_mask(drawn.masks["glomerulus"], side), _MASK_QUALITY)
            if number == index == 0:
                (images / f"._{name}_img.jpg").write_bytes(APPLE_DOUBLE)
    return Written(amount.patients, amount.patients * amount.each)


def write_polyp(root: Path, amount: Amount, seed: int) -> Written:
    """Write Kvasir-SEG's images/ and masks/, JPEG both, with names that say nothing."""
    images, masks = make_folder(root, "images"), make_folder(root, "masks")
    for number in range(amount.patients):
        patient = generator(seed, "polyp", number)
        for index in range(amount.each):
            chance = generator(seed, "polyp", number, index)
            name = f"cju{_word(chance, 22)}.jpg"
            drawn = draw_endoscopy(patient, chance, float(chance.random()))
            save_jpeg(images / name, drawn.image, _IMAGE_QUALITY)
            mask = _mask_pixels(drawn.masks["polyp"])
            save_jpeg(masks / name, np.repeat(mask[:, :, None], 3, axis=2), _IMAGE_QUALITY)
    return Written(amount.patients, amount.patients * amount.each)


def _word(chance: Rng, letters: int) -> str:
    return "".join(_LETTERS[place] for place in chance.integers(len(_LETTERS), size=letters))


def write_sts_2d(root: Path, amount: Amount, seed: int) -> Written:
    """Write STS-2D's image/ and mask/, grey PNG both."""
    images, masks = make_folder(root, "image"), make_folder(root, "mask")
    for number in range(amount.patients):
        patient = generator(seed, "sts_2d", number)
        for index in range(amount.each):
            chance = generator(seed, "sts_2d", number, index)
            name = f"{number * amount.each + index + 1:04d}.png"
            drawn = draw_dental_xray(patient, chance, float(chance.random()))
            save_png(images / name, np.ascontiguousarray(drawn.image[:, :, 0]))
            save_png(masks / name, _mask_pixels(drawn.masks["teeth"]))
    return Written(amount.patients, amount.patients * amount.each)
