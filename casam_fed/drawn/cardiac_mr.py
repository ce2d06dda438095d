"""Short-axis cardiac MR: bright blood, a dark myocardial ring, the right ventricle as a crescent beside it.

Bright-blood cine contrast (balanced SSFP): fat and blood bright, muscle dark, lungs nearly black; surface-coil shading and
Rician noise (Gudbjartsson and Patz 1995). Slices run from base to apex and the ventricles shrink on the way.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from casam_fed.drawn.geometry import Phantom, Plane, Point, around, blob, bump, make_plane, wobble
from casam_fed.drawn.texture import Field, Rng, blend, cover, grain, smooth_noise, to_bytes

__all__ = ["CLASSES", "CardiacSlice", "draw_cardiac_mr", "draw_cardiac_signal"]

CLASSES = ("right ventricle", "myocardium", "left ventricle")

_SHAPES = ((256, 256), (256, 216), (208, 256), (232, 256))
_UP = -math.pi / 2


@dataclass(frozen=True)
class _Patient:
    """What stays the same in all slices of one patient; lengths in pixels, intensities in 0..1."""

    shape: tuple[int, int]
    zoom: float
    rotation: float
    chest: Point
    fat_thickness: float
    heart_centre: Point
    cavity: float
    wall: float
    septum: float
    rv_size: float
    blood: float
    muscle: float
    fat: float
    liver: float
    shading: float
    noise: float
    blur: float
    gamma: float


@dataclass(frozen=True)
class _Heart:
    """Depths of the heart's outlines in one slice; `centre` and `radius` of the left ventricle's cavity."""

    epicardium: Field
    cavity: Field
    right: Field
    sac: Field
    centre: Point
    radius: float


@dataclass(frozen=True)
class CardiacSlice:
    """One slice before display: the scanner's signal, float32 [H, W], where blood is near 1, and the masks by class."""

    signal: Field
    masks: dict[str, npt.NDArray[np.bool_]]


def draw_cardiac_mr(patient: Rng, image: Rng, position: float) -> Phantom:
    """Draw one slice at `position`, 0 at the base and 1 at the apex.

    `patient` decides what all slices of the patient share, `image` what differs from slice to slice.
    """
    traits = _traits(patient)
    drawn = _draw(traits, patient, image, position, None)
    return Phantom(to_bytes(_display(drawn.signal, traits, image)), drawn.masks, {})


def draw_cardiac_signal(patient: Rng, image: Rng, position: float, squeeze: float) -> CardiacSlice:
    """Draw a slice in the scanner's units at a known moment of the beat.

    `squeeze` is how far the left ventricle has contracted: 0 at end diastole, about 0.35 of its radius at end systole.
    """
    return _draw(_traits(patient), patient, image, position, squeeze)


def _draw(traits: _Patient, patient: Rng, image: Rng, position: float, squeeze: float | None) -> CardiacSlice:
    plane = make_plane(
        traits.shape, patient, zoom=traits.zoom, rotation=traits.rotation, shift=(0.0, -6.0), bend=3.0, bend_scale=55.0
    )
    any_moment = image.uniform(0, 0.35)
    heart = _heart(plane, traits, image, position, any_moment if squeeze is None else squeeze)
    canvas = _chest(plane, traits, image, position)
    _paint_heart(canvas, plane, heart, traits, image)
    left = heart.cavity > 0
    muscle = (heart.epicardium > 0) & ~left
    masks = {"right ventricle": (heart.right > 0) & ~left & ~muscle, "myocardium": muscle, "left ventricle": left}
    return CardiacSlice(_acquire(canvas, plane, traits, image), masks)


def _traits(rng: Rng) -> _Patient:
    large, thick = rng.random() < 0.2, rng.random() < 0.2
    return _Patient(
        shape=_SHAPES[rng.integers(len(_SHAPES))],
        zoom=rng.uniform(1.1, 1.5),
        rotation=rng.normal(0, 0.1),
        chest=(rng.uniform(116, 134), rng.uniform(84, 98)),
        fat_thickness=rng.uniform(3, 15),
        heart_centre=(rng.uniform(10, 26), rng.uniform(-16, 2)),
        cavity=rng.uniform(27, 33) if large else rng.uniform(17, 25),
        wall=rng.uniform(11, 15) if thick else rng.uniform(6.5, 10),
        septum=rng.uniform(0.15, 0.75),
        rv_size=rng.uniform(0.85, 1.15),
        blood=rng.uniform(0.62, 0.85),
        muscle=rng.uniform(0.22, 0.4),
        fat=rng.uniform(0.6, 0.95),
        liver=rng.uniform(0.25, 0.45),
        shading=rng.uniform(0.2, 0.7),
        noise=rng.uniform(0.015, 0.05),
        blur=rng.uniform(0.5, 1.0),
        gamma=rng.uniform(0.85, 1.2),
    )


def _heart(plane: Plane, traits: _Patient, rng: Rng, position: float, squeeze: float) -> _Heart:
    shrink = 1 - 0.5 * position**1.5
    wall = traits.wall * (1 + 0.8 * squeeze) * (1 - 0.15 * position)
    cavity = max(traits.cavity * (1 - squeeze) * shrink, 6.0)
    outer = cavity + wall
    tilt = rng.uniform(0, math.pi)
    centre = (traits.heart_centre[0] + 10 * position, traits.heart_centre[1] + 8 * position)
    epicardium = blob(plane, centre, (outer * 1.04, outer * 0.96), tilt, wobble(rng, 0.02))
    inner = (centre[0] + rng.normal(0, 0.06 * wall), centre[1] + rng.normal(0, 0.06 * wall))
    lumen = blob(plane, inner, (cavity * 1.04, cavity * 0.96), tilt, wobble(rng, 0.035))
    lumen = np.minimum(lumen, epicardium - np.float32(0.45 * wall))

    towards = math.pi + traits.septum
    size = outer * traits.rv_size
    reach = 0.98 * outer
    right_centre = (centre[0] + reach * math.cos(towards), centre[1] + reach * math.sin(towards))
    radii = (size * (0.82 - 0.3 * position), size * (1.12 - 0.3 * position))
    right = blob(plane, right_centre, radii, towards, wobble(rng, 0.05))
    sac = np.maximum(epicardium, right) + 4
    return _Heart(epicardium, lumen, right, sac, inner, cavity)


def _chest(plane: Plane, traits: _Patient, rng: Rng, position: float) -> Field:
    """Return everything but the heart, in order from the skin inwards."""
    shape = plane.shape
    mottle = smooth_noise(rng, shape, 9)
    body = blob(plane, (0, 6), traits.chest, 0.0, wobble(rng, 0.015, (2, 3, 4)))
    canvas = np.full(shape, 0.015, dtype=np.float32)
    blend(canvas, traits.fat * (1 + 0.06 * mottle), cover(body, 1.5))
    back = around(plane, (0, 6), bump(math.pi / 2, 1.1, 15) + bump(_UP, 0.7, -3))
    muscle = body - traits.fat_thickness - np.float32(0.4) * smooth_noise(rng, shape, 14)
    streaks = np.clip(smooth_noise(rng, shape, 6) - 0.7, 0, 1) * 0.4
    blend(canvas, traits.muscle * (1 + 0.1 * mottle) + streaks, cover(muscle, 1.5))
    _ribs(canvas, plane, muscle, traits, rng)
    cavity = muscle - 10 - back
    lung_vessels = np.clip(smooth_noise(rng, shape, 5) - 1.3, 0, 1) * 0.35
    blend(canvas, 0.06 + lung_vessels, cover(cavity, 2.0))
    _organs(canvas, plane, cavity, traits, rng, position)
    _spine(canvas, plane, traits, rng)
    return canvas


def _ribs(canvas: Field, plane: Plane, muscle: Field, traits: _Patient, rng: Rng) -> None:
    starts = np.linspace(-math.pi, math.pi, 13)[:-1] + rng.uniform(0, 0.5)
    profile = np.maximum.reduce([bump(float(start + rng.normal(0, 0.05)), 0.13, 3.2, 0.5) for start in starts])
    half = around(plane, (0, 6), profile)
    depth = half - np.abs(muscle - 6)
    blend(canvas, 0.08, cover(depth + 1.2, 1.5) * (half > 0))
    blend(canvas, 0.75 * traits.fat, cover(depth, 1.5) * (half > 0))


def _organs(canvas: Field, plane: Plane, cavity: Field, traits: _Patient, rng: Rng, position: float) -> None:
    mottle = smooth_noise(rng, plane.shape, 7)
    x, y = traits.heart_centre
    # Fat and vessels between the lungs: what the heart lies in.
    size = (traits.cavity + traits.wall) * (1 - 0.3 * position)
    middle = blob(plane, (x - 0.6 * size, y + 6), (1.55 * size, 1.35 * size), 0.6, wobble(rng, 0.07))
    strut = blob(plane, (rng.uniform(-6, 6), -62), (rng.uniform(8, 18), 30), 0.0, wobble(rng, 0.06))
    bridge = blob(plane, (6, 44), (24, 30), 0.0, wobble(rng, 0.06))
    fat = np.minimum(np.maximum.reduce([middle, strut, bridge]), cavity + 2)
    blend(canvas, traits.fat * (0.6 + 0.1 * mottle), cover(fat, 3.0))
    # The dome of the diaphragm comes up towards the apex.
    rise = 26 * position + rng.uniform(-6, 6)
    liver = np.minimum(blob(plane, (-52, 82 - rise), (66, 48), 0.25, wobble(rng, 0.05)), cavity)
    blend(canvas, traits.liver * (1 + 0.06 * mottle), cover(liver, 2.5))
    vessels = np.minimum(np.abs(smooth_noise(rng, plane.shape, 16)) * -14 + 1.2, liver - 5)
    blend(canvas, traits.liver * 1.5, 0.8 * cover(vessels, 2.0))
    stomach = np.minimum(blob(plane, (66, 84 - 0.8 * rise), (46, 36), -0.4, wobble(rng, 0.06)), cavity)
    blend(canvas, rng.uniform(0.15, 0.6) + 0.05 * mottle, cover(stomach, 2.5))


def _spine(canvas: Field, plane: Plane, traits: _Patient, rng: Rng) -> None:
    bottom = traits.chest[1] + 6 - traits.fat_thickness
    mottle = smooth_noise(rng, plane.shape, 4)
    vertebra = blob(plane, (0, bottom - 36), (17, 14), 0.0, wobble(rng, 0.03))
    blend(canvas, 0.08, cover(vertebra + 1.5, 1.5))
    blend(canvas, 0.42 + 0.05 * mottle, cover(vertebra, 1.5))
    canal = blob(plane, (0, bottom - 17), (8, 6))
    blend(canvas, 0.8, cover(canal, 2.0))
    blend(canvas, 0.4, cover(canal - 3, 2.0))
    process = blob(plane, (0, bottom - 5), (2.5, 8), 0.0, wobble(rng, 0.05))
    blend(canvas, 0.45, cover(process, 1.5))
    aorta = blob(plane, (rng.uniform(17, 24), bottom - rng.uniform(50, 58)), (9.5, 9.5), 0.0, wobble(rng, 0.02))
    blend(canvas, 0.2, cover(aorta + 1.5, 1.5))
    blend(canvas, traits.blood * rng.uniform(0.85, 1.1), cover(aorta, 1.5))


def _paint_heart(canvas: Field, plane: Plane, heart: _Heart, traits: _Patient, rng: Rng) -> None:
    shape = plane.shape
    flow, mottle = smooth_noise(rng, shape, 11), smooth_noise(rng, shape, 4)
    patchy = np.clip(0.6 + 0.35 * smooth_noise(rng, shape, 14), 0, 1)
    blend(canvas, traits.fat * 0.9, cover(heart.sac, 2.0) * patchy)
    blend(canvas, traits.muscle * 1.05, cover(heart.right + 2.0, 1.5))
    ragged = heart.right - np.float32(1.2) * np.abs(smooth_noise(rng, shape, 5))
    blend(canvas, traits.blood * rng.uniform(0.85, 1.0) * (1 + 0.09 * flow), cover(ragged, 2.0))
    blend(canvas, traits.muscle * (1 + 0.08 * mottle), cover(heart.epicardium, 1.5))
    blend(canvas, traits.blood * (1 + 0.07 * flow), cover(heart.cavity, 2.0))
    _papillary_muscles(canvas, plane, heart, traits, rng)


def _papillary_muscles(canvas: Field, plane: Plane, heart: _Heart, traits: _Patient, rng: Rng) -> None:
    """Two dark spots in the blood near the lateral wall; the annotation counts them as blood, as readers do."""
    centre, radius = heart.centre, heart.radius
    if radius < 10:
        return
    for direction in (rng.normal(-0.7, 0.2), rng.normal(1.1, 0.2)):
        place = (centre[0] + 0.68 * radius * math.cos(direction), centre[1] + 0.68 * radius * math.sin(direction))
        spot = blob(plane, place, (0.2 * radius, 0.15 * radius), direction)
        blend(canvas, traits.muscle * 1.1, rng.uniform(0.5, 0.95) * cover(spot, 2.0))


def _acquire(canvas: Field, plane: Plane, traits: _Patient, rng: Rng) -> Field:
    """Blur, surface-coil shading and Rician noise."""
    signal = ndimage.gaussian_filter(canvas, traits.blur, truncate=3.0)
    # Coils lie on the chest: the signal falls with the distance from it, and unevenly.
    coil = np.exp(-traits.shading * (plane.y + 20) / 110 + 0.12 * smooth_noise(rng, plane.shape, 110))
    signal = signal * coil.astype(np.float32)
    ghost = np.roll(signal, plane.shape[0] // 3, axis=0) * np.float32(rng.uniform(0, 0.03))
    sigma = np.float32(traits.noise)
    real = signal + ghost + sigma * grain(rng, plane.shape, 0.5)
    imaginary = sigma * grain(rng, plane.shape, 0.5)
    magnitude: Field = np.sqrt(real * real + imaginary * imaginary)
    return magnitude


def _display(magnitude: Field, traits: _Patient, rng: Rng) -> Field:
    """Apply the display window, to 0..1."""
    top = np.float32(rng.uniform(0.85, 1.15))
    displayed: Field = np.clip(magnitude / top, 0, 1) ** np.float32(traits.gamma)
    return displayed
