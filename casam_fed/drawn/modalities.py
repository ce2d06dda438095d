"""The modalities that can be drawn: for each its target classes and what draws one image of a patient."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from casam_fed.drawn import (
    abdominal_ct,
    breast_ultrasound,
    cardiac_mr,
    dental_xray,
    endoscopy,
    kidney,
    prostate,
    stained_tissue,
)
from casam_fed.drawn.geometry import Phantom
from casam_fed.drawn.texture import Rng

__all__ = ["MODALITIES", "Modality"]


@dataclass(frozen=True)
class Modality:
    """What is annotated, and what draws an image from the random numbers of its patient and its own, at a position 0..1."""

    classes: tuple[str, ...]
    draw: Callable[[Rng, Rng, float], Phantom]


MODALITIES: Final = {
    "cardiac_mr": Modality(cardiac_mr.CLASSES, cardiac_mr.draw_cardiac_mr),
    "stained_tissue": Modality(stained_tissue.CLASSES, stained_tissue.draw_stained_tissue),
    "endoscopy": Modality(endoscopy.CLASSES, endoscopy.draw_endoscopy),
    "abdominal_ct": Modality(abdominal_ct.CLASSES, abdominal_ct.draw_abdominal_ct),
    "kidney_56nx": Modality(kidney.CLASSES, kidney.draw_kidney_56nx),
    "kidney_dn": Modality(kidney.CLASSES, kidney.draw_kidney_dn),
    "prostate_msd": Modality(prostate.CLASSES, prostate.draw_prostate_msd),
    "prostate_promise12": Modality(prostate.CLASSES, prostate.draw_prostate_promise12),
    "dental_xray": Modality(dental_xray.CLASSES, dental_xray.draw_dental_xray),
    "breast_ultrasound": Modality(breast_ultrasound.CLASSES, breast_ultrasound.draw_breast_ultrasound),
}
"""By name."""
