"""Procedurally drawn medical images with exact annotation: ten modalities, seeded, the data of the built-in demo.

Nothing here was taken from a picture of a patient. numpy and scipy only.
"""

from casam_fed.data.phantoms.abdominal_ct import draw_abdominal_ct
from casam_fed.data.phantoms.breast_ultrasound import draw_breast_ultrasound
from casam_fed.data.phantoms.cardiac_mr import draw_cardiac_mr
from casam_fed.data.phantoms.dental_xray import draw_dental_xray
from casam_fed.data.phantoms.endoscopy import draw_endoscopy
from casam_fed.data.phantoms.geometry import Phantom
from casam_fed.data.phantoms.kidney import draw_kidney_56nx, draw_kidney_dn
from casam_fed.data.phantoms.prostate import draw_prostate_msd, draw_prostate_promise12
from casam_fed.data.phantoms.reader import MODALITIES, PhantomReader
from casam_fed.data.phantoms.stained_tissue import draw_stained_tissue

__all__ = [
    "MODALITIES",
    "Phantom",
    "PhantomReader",
    "draw_abdominal_ct",
    "draw_breast_ultrasound",
    "draw_cardiac_mr",
    "draw_dental_xray",
    "draw_endoscopy",
    "draw_kidney_56nx",
    "draw_kidney_dn",
    "draw_prostate_msd",
    "draw_prostate_promise12",
    "draw_stained_tissue",
]
