"""Abdominal CT: one axial slice of the upper abdomen in a soft-tissue window, seen from the feet (liver on the left).

Drawn in Hounsfield units and windowed at the end, so that organs differ as little as they do in patients. Every slice
holds the spleen, large in the middle and small at its dome and tip, but in Hounsfield units one may also lie beyond it.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from casam_fed.drawn.geometry import OUTSIDE, Phantom, Plane, Point, around, blob, bump, make_plane, wobble
from casam_fed.drawn.texture import Field, Rng, blend, cover, grain, smooth_noise, to_bytes

__all__ = ["CLASSES", "PIXEL_MM", "CtSlice", "draw_abdominal_ct", "draw_ct_units"]

CLASSES = ("spleen",)

PIXEL_MM = 1.5  # About: a body of 224 pixels is then 34 cm wide.

_SHAPES = ((256, 256), (216, 280), (232, 296), (256, 256))
_AIR, _FAT, _MUSCLE, _GAS = -1000.0, -105.0, 55.0, -850.0

# Liver, spleen, renal cortex, renal medulla, arteries, veins: without contrast agent, arterial phase, portal phase.
_PHASES = ((58, 50, 34, 30, 42, 40), (78, 118, 190, 90, 260, 80), (108, 116, 175, 150, 150, 160))


@dataclass(frozen=True)
class _Patient:
    """What stays the same in all slices of one patient; lengths in pixels, tissues in Hounsfield units."""

    shape: tuple[int, int]
    zoom: float
    rotation: float
    body: Point
    fat: float
    gap: float
    liver: float
    spleen: float
    kidney: float
    medulla: float
    artery: float
    vein: float
    liver_size: float
    spleen_size: float
    spleen_thickness: float
    spleen_at: float
    noise: float
    width: float
    level: float


@dataclass(frozen=True)
class CtSlice:
    """One slice as the scanner has it: Hounsfield units with noise, float32 [H, W], and the spleen, bool [H, W]."""

    units: Field
    spleen: npt.NDArray[np.bool_]


def draw_abdominal_ct(patient: Rng, image: Rng, position: float) -> Phantom:
    """Draw one slice at `position`, 0 at the dome of the spleen and 1 at its lower tip.

    `patient` decides what all slices of the patient share, `image` what differs from slice to slice.
    """
    traits = _traits(patient)
    drawn = _draw(traits, patient, image, position)
    shown = (drawn.units - np.float32(traits.level)) / np.float32(traits.width) + np.float32(0.5)
    return Phantom(to_bytes(shown), {"spleen": drawn.spleen}, {})


def draw_ct_units(patient: Rng, image: Rng, position: float) -> CtSlice:
    """Draw the slice of `draw_abdominal_ct` in Hounsfield units; outside 0..1 it lies beyond the spleen."""
    return _draw(_traits(patient), patient, image, position)


def _draw(traits: _Patient, patient: Rng, image: Rng, position: float) -> CtSlice:
    plane = make_plane(
        traits.shape, patient, zoom=traits.zoom, rotation=traits.rotation, shift=(0.0, -4.0), bend=1.6, bend_scale=50.0
    )
    units, cavity = _torso(plane, traits, image, position)
    _gut(units, plane, cavity, traits, image, position)
    spleen = _solid_organs(units, plane, cavity, traits, image, position)
    _midline(units, plane, traits, image, position)
    return CtSlice(units + np.float32(traits.noise) * grain(image, plane.shape, 0.8), spleen > 0)


def _traits(rng: Rng) -> _Patient:
    phase = rng.choice(3, p=(0.2, 0.2, 0.6))
    liver, spleen, kidney, medulla, artery, vein = _PHASES[phase]
    slim = rng.uniform(0.9, 1.08)
    shape = _SHAPES[rng.integers(len(_SHAPES))]
    return _Patient(
        shape=shape,
        zoom=min(shape[1] / 252, shape[0] / 200) * rng.uniform(0.95, 1.08),
        rotation=rng.normal(0, 0.05),
        body=(112 * slim, rng.uniform(73, 86) * slim),
        fat=rng.uniform(4, 20),
        gap=rng.uniform(0.2, 2.5),
        liver=liver + rng.normal(0, 8),
        spleen=spleen + rng.normal(0, 7),
        kidney=kidney + rng.normal(0, 10),
        medulla=medulla + rng.normal(0, 8),
        artery=artery + rng.normal(0, 10),
        vein=vein + rng.normal(0, 8),
        liver_size=rng.uniform(0.85, 1.1),
        spleen_size=rng.uniform(0.75, 1.25),
        spleen_thickness=rng.uniform(20, 37),
        spleen_at=rng.uniform(0.15, 0.45),
        noise=rng.uniform(8, 20),
        width=rng.uniform(320, 420),
        level=rng.uniform(35, 60),
    )


def _torso(plane: Plane, traits: _Patient, rng: Rng, position: float) -> tuple[Field, Field]:
    """Return Hounsfield units of table, skin, fat, muscle wall and ribs, and the depth inside the peritoneal cavity."""
    shape = plane.shape
    height = traits.body[1]
    units = np.full(shape, _AIR, dtype=np.float32)
    sag = height + 5 - plane.x**2 / 900
    for offset, value in ((0.0, 20.0), (9.0, -60.0)):
        line = np.minimum(1.3 - np.abs(plane.y - sag - offset), 92 - np.abs(plane.x))
        blend(units, value, cover(line, 1.0))
    body = blob(plane, (0, 0), traits.body, 0.0, wobble(rng, 0.012, (2, 3, 4)))
    blend(units, 10.0, cover(body, 1.2))
    blend(units, _FAT + 6 * smooth_noise(rng, shape, 8), cover(body - 1.6, 1.2))
    sides = bump(math.pi / 2, 1.6, 0.35 * traits.fat) + bump(0.0, 1.0, 2.0) + bump(math.pi, 1.0, 2.0)
    wall = body - traits.fat - around(plane, (0, 0), sides)
    streaks = np.clip(smooth_noise(rng, shape, 4) - 1.0, 0, 1) * -90
    blend(units, _MUSCLE + streaks, cover(wall, 1.2))
    cavity = wall - 7 - np.abs(smooth_noise(rng, shape, 30)) - around(plane, (0, 0), bump(math.pi / 2, 0.9, 10.0))
    vessels = np.clip(smooth_noise(rng, shape, 4) - 1.5, 0, 1) * 160
    blend(units, _FAT + 8 + 9 * smooth_noise(rng, shape, 6) + vessels, cover(cavity, 1.5))
    _ribs(units, plane, wall, rng, position)
    return units, cavity


def _ribs(units: Field, plane: Plane, wall: Field, rng: Rng, position: float) -> None:
    # The costal margin runs backwards on the way down: ribs leave the front first.
    reach = 2.6 - 1.1 * position
    backwards = np.arange(0.55, reach, 0.4)
    places = np.concatenate([math.pi / 2 - backwards, math.pi / 2 + backwards]) + rng.normal(0, 0.06)
    places = (places + math.pi) % (2 * math.pi) - math.pi
    profiles = [bump(float(place + rng.normal(0, 0.05)), rng.uniform(0.07, 0.13), 3.4, 0.5) for place in places]
    half = around(plane, (0, 0), np.maximum.reduce(profiles))
    depth = half - np.abs(wall - 4.5)
    shown = cover(depth, 1.2) * (half > 0)
    blend(units, 480.0, shown)
    blend(units, 170.0 + 40 * smooth_noise(rng, plane.shape, 3), cover(depth - 1.6, 1.2) * (half > 0))


def _gut(units: Field, plane: Plane, cavity: Field, traits: _Patient, rng: Rng, position: float) -> None:
    """Stomach with its level of fluid and gas, pancreas, colon and small bowel, behind the solid organs."""
    shape = plane.shape
    height = traits.body[1]
    loops = [
        (rng.uniform(-28, 60), rng.uniform(-0.55, 0.3) * height, rng.uniform(7, 12))
        for _ in range(rng.integers(3, 7) + int(9 * position))
    ]
    for x, y, radius in loops:
        outline = blob(plane, (x, y), (radius * 1.25, radius), rng.uniform(0, math.pi), wobble(rng, 0.06))
        outline = np.minimum(outline, cavity - 1)
        content = rng.choice((25.0, 45.0, 190.0), p=(0.45, 0.4, 0.15))
        blend(units, 75.0, cover(outline, 1.3))
        blend(units, content + 8 * smooth_noise(rng, shape, 4), cover(outline - 1.8, 1.3))
        if rng.random() < 0.35:
            bubble = np.minimum(outline - 2.2, y - 0.15 * radius - plane.y)
            blend(units, _GAS, cover(bubble, 1.3))
    pancreas = blob(plane, (8, -0.05 * height), (34, 8), -0.35, wobble(rng, 0.14, (2, 3, 4, 5, 7)))
    blend(units, 85 + 14 * smooth_noise(rng, shape, 4), cover(np.minimum(pancreas, cavity - 3), 1.5))
    _stomach(units, plane, cavity, traits, rng, position)


def _stomach(units: Field, plane: Plane, cavity: Field, traits: _Patient, rng: Rng, position: float) -> None:
    size = (1 - 0.35 * position) * rng.uniform(0.85, 1.15)
    centre = (40 + rng.normal(0, 5), -0.36 * traits.body[1] + rng.normal(0, 4))
    outline = blob(plane, centre, (36 * size, 25 * size), rng.normal(0.5, 0.2), wobble(rng, 0.07))
    outline = np.minimum(outline, cavity - 1.5)
    inside = outline - rng.uniform(2, 4)
    food = rng.choice((12.0, 40.0, 170.0), p=(0.4, 0.4, 0.2))
    lumps = 30 * np.clip(smooth_noise(rng, plane.shape, 6), 0, 2) * (rng.random() < 0.5)
    blend(units, 80.0, cover(outline, 1.3))
    blend(units, food + lumps, cover(inside, 1.3))
    # The patient lies on the back: gas collects in front, above a level line.
    surface = centre[1] - rng.uniform(-8, 12) * size
    blend(units, _GAS, cover(np.minimum(inside, surface - plane.y), 1.3))


def _solid_organs(units: Field, plane: Plane, cavity: Field, traits: _Patient, rng: Rng, position: float) -> Field:
    """Paint lungs, liver, kidneys and spleen, and return the spleen's depth."""
    shape = plane.shape
    bases = max(0.0, 0.3 - position) * 55
    lung = around(plane, (0, 0), bump(1.0, 0.85, bases) + bump(math.pi - 1.0, 0.85, bases))
    if bases > 2:
        blend(units, _GAS + 25 * smooth_noise(rng, shape, 4), cover(np.minimum(cavity, lung - cavity), 1.5))
    # In most places organs touch the wall, here and there a film of fat lies between.
    free = cavity + 0.8 - np.maximum(lung, 0) - np.clip(1.6 * smooth_noise(rng, shape, 20), 0, 3)
    _liver(units, plane, free, traits, rng, position)
    kidney = _kidneys(units, plane, free, traits, rng, position)

    if not 0 <= position <= 1:
        return np.full(shape, OUTSIDE, dtype=np.float32)
    big = math.sin(math.pi * (0.14 + 0.76 * position)) ** 0.8 * traits.spleen_size
    profile = bump(traits.spleen_at, 0.3 + 0.38 * big, traits.spleen_thickness * big + 5, 0.6)
    thickness = around(plane, (0, 0), np.where(profile > 0, profile, -12.0))
    thickness += np.float32(1.8) * smooth_noise(rng, shape, 16)
    lobulated = np.minimum(free, thickness - free)
    spine = blob(plane, (0, traits.body[1] - traits.fat - 40), (36, 32))
    spleen = np.minimum(lobulated, -np.maximum(kidney + traits.gap + 0.5, spine + 1))
    spleen = _largest_part(spleen)
    blend(units, _FAT + 10, cover(spleen + traits.gap, 1.3))
    blend(units, traits.spleen + 5 * smooth_noise(rng, shape, 9), cover(spleen, 1.5))
    hilum = np.minimum(1.6 - np.abs(smooth_noise(rng, shape, 13)) * 9, np.minimum(spleen + 12, 2 - spleen))
    blend(units, traits.vein, cover(hilum, 1.5) * (cavity > 20))
    return spleen


def _largest_part(depth: Field) -> Field:
    """Return `depth` with every inside pixel that is not connected to the largest region pushed outside."""
    parts, count = ndimage.label(depth > 0)
    if count <= 1:
        return depth
    largest = 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    pruned: Field = np.where((parts > 0) & (parts != largest), np.float32(-3), depth)
    return pruned


def _liver(units: Field, plane: Plane, free: Field, traits: _Patient, rng: Rng, position: float) -> None:
    shape = plane.shape
    size = traits.liver_size * (1 - 0.3 * max(0.0, position - 0.5))
    right = bump(math.pi - 0.1, 1.55 - 0.2 * position, 84 * size, 0.95)
    left = bump(-2.0 + rng.normal(0, 0.1), 1.15, (46 - 26 * position) * size, 0.9)
    ripple = np.float32(2.5) * smooth_noise(rng, shape, 22)
    right_depth, left_depth = (
        around(plane, (0, 0), np.where(profile > 0, profile, -12.0)) + ripple - free for profile in (right, left)
    )
    rounded = blob(plane, (-62, 4), (70 * size, 78), -0.25, wobble(rng, 0.03))
    depth = np.minimum(free, np.maximum(np.minimum(right_depth, rounded), left_depth))
    blend(units, traits.liver + 5 * smooth_noise(rng, shape, 8), cover(depth, 1.5))
    # Hepatic and portal veins: zero crossings of smooth noise branch like vessels.
    veins = np.minimum(2.0 - np.abs(smooth_noise(rng, shape, 24)) * 16, depth - 7)
    broken = np.clip(0.2 + smooth_noise(rng, shape, 18), 0, 1)
    blend(units, 0.4 * traits.liver + 0.6 * traits.vein, cover(veins, 2.0) * broken)
    if 0.3 < position < 0.85 and rng.random() < 0.6:
        gallbladder = blob(plane, (-34, 6), (9, 13), 0.4, wobble(rng, 0.04))
        blend(units, 8.0, cover(gallbladder, 1.5))


def _kidneys(units: Field, plane: Plane, free: Field, traits: _Patient, rng: Rng, position: float) -> Field:
    """Paint both kidneys and return the depth inside the left one; they appear on the way down, the left one first."""
    shape = plane.shape
    left_depth = np.full(shape, -99.0, dtype=np.float32)
    for side, first in ((1, 0.2), (-1, 0.38)):
        size = min(1.0, max(0.0, (position - first) * 2.2)) ** 0.5
        centre = (side * 43 + rng.normal(0, 2), traits.body[1] - traits.fat - 37 + rng.normal(0, 2))
        if size < 0.5:
            continue
        outline = blob(plane, centre, (19 * size, 14 * size), side * -0.9, wobble(rng, 0.04))
        outline = np.minimum(outline, free)
        notch = blob(plane, (centre[0] - side * 15 * size, centre[1] - 7 * size), (11 * size, 6 * size), side * -0.6)
        fat = outline + np.float32(2.5)
        blend(units, _FAT, cover(fat, 1.3))
        pyramids = np.minimum(outline - 4, 3 * smooth_noise(rng, shape, 5))
        blend(units, traits.kidney, cover(outline, 1.5))
        blend(units, traits.medulla, cover(pyramids, 2.5))
        blend(units, _FAT + 25, cover(notch, 3.0) * (size > 0.75))
        if side == 1:
            left_depth = outline
    return left_depth


def _midline(units: Field, plane: Plane, traits: _Patient, rng: Rng, position: float) -> None:
    """Paint spine, back muscles, aorta and inferior vena cava."""
    shape = plane.shape
    bottom = traits.body[1] - traits.fat
    mottle = smooth_noise(rng, shape, 3)
    for side in (-1, 1):
        back = blob(plane, (side * 21, bottom - 17), (19, 12), side * 0.25, wobble(rng, 0.04))
        blend(units, _MUSCLE + np.clip(mottle - 0.9, 0, 1) * -70, cover(back, 1.5))
        psoas = blob(plane, (side * 22, bottom - 38), (4 + 7 * position, 5 + 8 * position), 0.0, wobble(rng, 0.04))
        blend(units, _MUSCLE, cover(psoas, 1.5))
        crus = blob(plane, (side * 11, bottom - 58), (3.5, 12), side * 0.35, wobble(rng, 0.04))
        blend(units, _MUSCLE, cover(crus, 1.5))
    arch = blob(plane, (0, bottom - 27), (15, 9), 0.0, wobble(rng, 0.03))
    spine = np.maximum(arch, blob(plane, (0, bottom - 14), (2.2, 11), 0.0, wobble(rng, 0.05)))
    spine = np.maximum(spine, blob(plane, (0, bottom - 28), (24, 2.6), 0.0, wobble(rng, 0.06)))
    vertebra = blob(plane, (0, bottom - 42), (18, 14), 0.0, wobble(rng, 0.02))
    for bone in (spine, vertebra):
        blend(units, 420.0, cover(bone, 1.5))
        blend(units, 190 + 40 * mottle, cover(bone - 1.8, 1.5))
    canal = blob(plane, (0, bottom - 26), (8, 6))
    blend(units, 420.0, cover(canal + 2, 1.5))
    blend(units, 35.0, cover(canal, 1.5))
    aorta = blob(plane, (9 + rng.normal(0, 2), bottom - 63), (8, 8), 0.0, wobble(rng, 0.02))
    blend(units, traits.artery, cover(aorta, 1.5))
    cava = blob(plane, (-15 + rng.normal(0, 2), bottom - 62), (9.5, 7), 0.3, wobble(rng, 0.05))
    blend(units, 0.9 * traits.vein, cover(cava, 1.5))
