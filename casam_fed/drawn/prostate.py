"""Axial T2-weighted MR of the prostate: a bright peripheral zone behind a darker nodular transition zone, with its ADC.

The zones split the gland as McNeal (1981) drew it: the transition zone large at the base, where the bladder is, the
peripheral zone nearly alone at the apex. Lengths are millimetres around the prostate's centre, so that the scanner decides
pixel size and field of view. Two scanners, after two public data sets: the Medical Segmentation Decathlon's prostate task
(surface coil) and PROMISE12 (many centres, some with an endorectal coil). What lies around the gland is in
`prostate_pelvis`.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from casam_fed.drawn.geometry import Harmonic, Phantom, Plane, Point, around, blob, make_plane, wobble
from casam_fed.drawn.prostate_pelvis import (
    SIDES,
    Scan,
    Surroundings,
    gland_size,
    paint_pelvis,
    paint_rectum,
    paint_urethra,
    rectum_outline,
    rounded_maximum,
)
from casam_fed.drawn.texture import Field, Rng, as_field, blend, cover, grain, smooth_noise, to_bytes

__all__ = ["CLASSES", "ProstateSlice", "Scanner", "draw_prostate_msd", "draw_prostate_promise12", "draw_prostate_slice"]

CLASSES = ("peripheral zone", "transition zone")

Scanner = Literal["msd", "promise12"]

_UNITS = 900.0
_LENGTH = 42.0


@dataclass(frozen=True)
class ProstateSlice:
    """One axial slice with its exact annotation.

    Attributes:
        t2: float32 [H, W], the scanner's arbitrary units, 0 or more, not windowed.
        adc: float32 [H, W], apparent diffusion coefficient in 1e-6 mm2/s.
        zones: uint8 [H, W], 0 background, 1 peripheral zone, 2 transition zone.
    """

    t2: Field
    adc: Field
    zones: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Device:
    """How one patient was scanned: pixels per mm, shading across the field, coil in the rectum, noise and contrast."""

    shape: tuple[int, int]
    zoom: float
    shift: Point
    blur: float
    noise: float
    shading: float
    endorectal: float
    contrast: float
    gain: float


@dataclass(frozen=True)
class _Lump:
    """A ball in the gland, cut by some slices: place (x, y) in mm, position 0..1, radius in mm, brightness, its rim."""

    place: Point
    position: float
    radius: float
    value: float
    rim: float


@dataclass(frozen=True)
class _Patient(Surroundings):
    """What stays the same in all slices of one patient, around the gland and in it; lengths in mm, signals around 1."""

    rotation: float
    outline: tuple[Harmonic, ...]
    lobe: tuple[Harmonic, ...]
    hyperplasia: float
    horns: float
    nodules: tuple[_Lump, ...]
    tumour: _Lump | None
    transition: float


@dataclass(frozen=True)
class _Gland:
    """Depths in the whole prostate and in its transition zone."""

    outline: Field
    transition: Field
    centre: Point
    radii: Point


def draw_prostate_msd(patient: Rng, image: Rng, position: float) -> Phantom:
    """Draw one slice in the manner of the Decathlon's prostate task; `position` 0 at the base, 1 at the apex."""
    return _windowed(draw_prostate_slice(patient, image, position, "msd"))


def draw_prostate_promise12(patient: Rng, image: Rng, position: float) -> Phantom:
    """Draw one slice in the manner of PROMISE12; `position` 0 at the base, 1 at the apex."""
    return _windowed(draw_prostate_slice(patient, image, position, "promise12"))


def draw_prostate_slice(patient: Rng, image: Rng, position: float, scanner: Scanner) -> ProstateSlice:
    """Draw one slice at `position`: 0 at the base under the bladder, 1 at the apex.

    Below 0 the slice shows the bladder and the seminal vesicles, above 1 the urethra under the prostate; both without
    prostate and with empty zones. `patient` decides what all slices of the patient share, its size included, `image` what
    differs from slice to slice.
    """
    traits = _traits(patient)
    device = _device(patient, scanner)
    plane = make_plane(
        device.shape, patient, zoom=device.zoom, rotation=traits.rotation, shift=device.shift, bend=1.3, bend_scale=40
    )
    coil = device.endorectal > 0
    rectum = rectum_outline(plane, traits, coil, image, position)
    scan = paint_pelvis(plane, traits, rectum, image, position)
    zones = np.zeros(device.shape, dtype=np.uint8)
    if 0 <= position <= 1:
        gland = _gland(plane, traits, rectum, position)
        _paint_gland(scan, plane, gland, traits, image, position)
        zones[gland.outline > 0] = 1
        zones[gland.transition > 0] = 2
    elif position > 1:
        paint_urethra(scan, plane, image)
    paint_rectum(scan, rectum, traits, coil, image)
    return ProstateSlice(_acquire_t2(scan, plane, device, image), _acquire_adc(scan, device, image), zones)


def _windowed(drawn: ProstateSlice) -> Phantom:
    top = np.percentile(drawn.t2, 99.6)
    masks = {name: drawn.zones == number for number, name in enumerate(CLASSES, start=1)}
    return Phantom(to_bytes(as_field(drawn.t2 / np.float32(top))), masks, {})


# --- who is scanned, and how -----------------------------------------------------------------------------------------


def _traits(rng: Rng) -> _Patient:
    hyperplasia = rng.uniform(0.0, 1.0)
    gland = (rng.uniform(22, 26) + 3.5 * hyperplasia, rng.uniform(14.5, 17.5) + 5 * hyperplasia)
    return _Patient(
        rotation=rng.normal(0, 0.04),
        gland=gland,
        outline=wobble(rng, 0.018, (2, 3, 4)),
        lobe=wobble(rng, 0.05, (2, 3, 4)),
        hyperplasia=hyperplasia,
        horns=rng.uniform(-0.2, 0.2),
        nodules=_nodules(rng, gland, hyperplasia),
        tumour=_tumour(rng, gland),
        rectum=(rng.uniform(12, 20), rng.uniform(9, 15)),
        rectum_at=rng.normal(0, 3),
        gas=rng.uniform(0, 1),
        bladder=rng.uniform(0.7, 1.2),
        hips=rng.uniform(0.94, 1.06),
        body=(rng.uniform(168, 190), rng.uniform(98, 112)),
        skin_fat=rng.uniform(12, 30),
        peripheral=rng.uniform(0.64, 0.92),
        transition=rng.uniform(0.33, 0.46),
        muscle=rng.uniform(0.13, 0.2),
        fat=rng.uniform(0.4, 0.6),
        marrow=rng.uniform(0.28, 0.42),
    )


def _nodules(rng: Rng, gland: Point, hyperplasia: float) -> tuple[_Lump, ...]:
    """Return the nodules of the transition zone: glandular ones bright, stromal ones dark, each in a dark rim."""
    lumps = []
    for _ in range(int(rng.integers(4, 8) + 10 * hyperplasia)):
        side, up = rng.choice(SIDES) * rng.uniform(0.12, 0.52) * gland[0], rng.uniform(-0.6, 0.2) * gland[1]
        value = rng.uniform(1.25, 2.1) if rng.random() < 0.6 else rng.uniform(0.55, 0.85)
        radius = rng.uniform(2.0, 4.5) + 3.5 * hyperplasia * rng.random()
        lumps.append(_Lump((side, up), rng.uniform(-0.05, 0.75), radius, value, rng.uniform(0.3, 0.8)))
    return tuple(lumps)


def _tumour(rng: Rng, gland: Point) -> _Lump | None:
    """Return a dark focus near the back of the peripheral zone, in every second patient."""
    direction = math.pi / 2 + rng.choice(SIDES) * rng.uniform(0.3, 1.1)
    place = (0.76 * gland[0] * math.cos(direction), 0.76 * gland[1] * math.sin(direction))
    lump = _Lump(place, rng.uniform(0.2, 0.75), rng.uniform(4.0, 8.0), rng.uniform(0.35, 0.5), 0.0)
    return lump if rng.random() < 0.5 else None


def _device(rng: Rng, scanner: Scanner) -> _Device:
    if scanner == "msd":
        return _Device(
            shape=(256, 256),
            zoom=256 / rng.uniform(165, 195),
            shift=(rng.normal(0, 4), rng.normal(-2, 5)),
            blur=rng.uniform(0.5, 0.8),
            noise=rng.uniform(0.015, 0.035),
            shading=rng.uniform(0.1, 0.4),
            endorectal=0.0,
            contrast=rng.uniform(0.9, 1.1),
            gain=rng.uniform(0.8, 1.3),
        )
    side = int(rng.choice((240, 256, 272, 288)))
    coil = rng.random() < 0.25
    return _Device(
        shape=(side, side),
        zoom=side / (rng.uniform(140, 165) if coil else rng.uniform(175, 225)),
        shift=(rng.normal(0, 4), rng.normal(-4, 6)),
        blur=rng.uniform(0.5, 1.1),
        noise=rng.uniform(0.015, 0.055),
        shading=rng.uniform(0.1, 0.6),
        endorectal=rng.uniform(0.9, 1.7) if coil else 0.0,
        contrast=rng.uniform(0.8, 1.2),
        gain=rng.uniform(0.3, 1.6),
    )


# --- the gland -------------------------------------------------------------------------------------------------------


def _gland(plane: Plane, traits: _Patient, rectum: Field, position: float) -> _Gland:
    """Return the outlines at `position`: widest above the middle, the transition zone shrinking towards the apex."""
    centre, radii = gland_size(traits, position)
    # Heart-shaped: flat or hollow where the rectum lies, its corners behind.
    heart = (*traits.outline, (1, 0.0, 0.03), (3, 0.0, 0.035))
    outline = blob(plane, centre, radii, 0.0, heart)
    outline = as_field(np.minimum(outline, -rectum - 0.8))
    share = (0.66 + 0.16 * traits.hyperplasia) * (1 - 0.6 * max(position - 0.15, 0) ** 1.2)
    inner = (radii[0] * share * 1.02, radii[1] * share * 0.9)
    lobe = (0.72 * inner[0], inner[1])
    places = [(centre[0] + side * 0.36 * inner[0], centre[1] - 0.26 * radii[1]) for side in SIDES]
    left, right = (blob(plane, place, lobe, 0.0, traits.lobe) for place in places)
    # In front of its horns the gland has no peripheral zone: fibrous tissue counts as transition zone.
    front = blob(
        plane, (centre[0], centre[1] - radii[1]), (radii[0] * (0.84 - 0.4 * position), radii[1] * (0.7 + traits.horns))
    )
    transition = rounded_maximum(rounded_maximum(left, right), front)
    return _Gland(outline, as_field(np.minimum(transition, outline)), centre, radii)


def _paint_gland(scan: Scan, plane: Plane, gland: _Gland, traits: _Patient, rng: Rng, position: float) -> None:
    scan.paint(0.16, 1100.0, gland.outline + 0.9, 1.0)
    _peripheral_zone(scan, plane, gland, traits, rng)
    mottle, fine = smooth_noise(rng, plane.shape, 9), smooth_noise(rng, plane.shape, 3)
    base = as_field(traits.transition * (1 + 0.16 * mottle + 0.14 * fine))
    # The surgical capsule: a dark line between the zones.
    scan.paint(0.17, 1150.0, np.minimum(gland.transition + 0.7, gland.outline), 1.0)
    scan.paint(base, 1330 + 90 * mottle, as_field(np.minimum(gland.transition - 0.5, gland.outline)), 1.2)
    for nodule in traits.nodules:
        value, adc = as_field(base * nodule.value), 900 + 330 * nodule.value
        _paint_lump(scan, plane, nodule, gland.transition - 1.2, value, adc, position)
    # Fibromuscular stroma in front, thick above and thin below.
    stroma = blob(plane, (0, gland.centre[1] - gland.radii[1]), (0.5 * gland.radii[0], 0.3 * gland.radii[1]))
    scan.paint(traits.muscle + 0.03, 1050.0, as_field(np.minimum(stroma, gland.outline)), 3.0)
    urethra = blob(plane, (0, gland.centre[1] + gland.radii[1] * (0.05 - 0.2 * (position - 0.5))), (2.3, 2.8))
    scan.paint(0.3, 1300.0, urethra + 1.2, 1.5)
    scan.paint(traits.transition + 0.25, 1600.0, urethra, 1.8)
    if traits.tumour is not None:
        value = traits.peripheral * traits.tumour.value * (1 + 0.08 * fine)
        _paint_lump(scan, plane, traits.tumour, gland.outline - 0.4, value, 780 + 40 * mottle, position)


def _peripheral_zone(scan: Scan, plane: Plane, gland: _Gland, traits: _Patient, rng: Rng) -> None:
    """Bright glands parted by thin dark septa that fan out from the urethra."""
    directions = rng.standard_normal(720)
    fan = ndimage.gaussian_filter1d(directions, 2.2, mode="wrap") * 2.5
    rays = np.clip(around(plane, gland.centre, fan) + 0.3 * smooth_noise(rng, plane.shape, 4) - 0.7, 0, 1.2)
    patches = smooth_noise(rng, plane.shape, 10)
    value = traits.peripheral * (1 - 0.3 * rays + 0.1 * patches + 0.06 * smooth_noise(rng, plane.shape, 3))
    scan.paint(as_field(value), as_field(1720 + 110 * patches - 150 * rays), gland.outline, 1.2)


def _paint_lump(
    scan: Scan, plane: Plane, lump: _Lump, within: Field, t2: Field, adc: Field | float, position: float
) -> None:
    """Paint where the slice at `position` cuts `lump`, `within` a depth."""
    away = (position - lump.position) * _LENGTH
    if abs(away) >= lump.radius:
        return
    radius = math.sqrt(lump.radius**2 - away**2)
    depth = np.minimum(blob(plane, lump.place, (radius * 1.08, radius * 0.92), lump.radius * 9.0), within)
    if lump.rim > 0:
        blend(scan.t2, 0.17, lump.rim * cover(as_field(depth + 0.6), 1.2))
    scan.paint(t2, adc, as_field(depth), 1.4)


# --- the scanner -----------------------------------------------------------------------------------------------------


def _acquire_t2(scan: Scan, plane: Plane, device: _Device, rng: Rng) -> Field:
    """Blur, coil sensitivity, Rician noise (Gudbjartsson and Patz 1995) and the scanner's units."""
    signal = ndimage.gaussian_filter(np.maximum(scan.t2, 0), device.blur, truncate=3.0) ** np.float32(device.contrast)
    # Coils lie in front and behind: the middle of the body gets less, and unevenly.
    nearness = (plane.y / 90) ** 2 - 0.25
    coil = np.exp(device.shading * nearness + 0.1 * smooth_noise(rng, plane.shape, 120))
    if device.endorectal > 0:
        distance = np.sqrt(plane.x**2 + (plane.y - 22) ** 2)
        coil = coil * (0.55 + device.endorectal * 1.8 * np.exp(-distance / 24))
    signal = signal * as_field(coil)
    sigma = np.float32(device.noise)
    real = signal + sigma * grain(rng, plane.shape, 0.5)
    imaginary = sigma * grain(rng, plane.shape, 0.5)
    return as_field(np.sqrt(real * real + imaginary * imaginary) * np.float32(device.gain * _UNITS))


def _acquire_adc(scan: Scan, device: _Device, rng: Rng) -> Field:
    """Echo-planar images are coarse, and the ADC is noise where there is little signal."""
    coarse = ndimage.gaussian_filter(scan.adc, 1.1 * device.zoom, truncate=3.0)
    signal = ndimage.gaussian_filter(scan.t2, 0.9 * device.zoom, truncate=3.0)
    noise = grain(rng, scan.adc.shape, 0.7 * device.zoom) * (55 + 280 * np.exp(-signal / np.float32(0.06)))
    return as_field(np.maximum(coarse + noise, 0))
