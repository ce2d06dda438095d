"""Endoscopy: red mucosa with folds and vessels inside a dark octagonal frame, and one or two domed polyps.

The picture is lit like the real one: the light sits beside the camera, the bowel gets darker with depth, folds throw their
far side into shadow, and wet surfaces that face the light glare. A polyp is a relief on the wall, so that its shading,
its shadow and its glare follow from one height map.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from casam_fed.drawn.geometry import OUTSIDE, Phantom, Plane, Point, blob, make_plane, wobble
from casam_fed.drawn.texture import Field, Rng, blend, cover, grain, smooth_noise, to_bytes

__all__ = ["CLASSES", "draw_endoscopy"]

CLASSES = ("polyp",)

_SHAPES = ((256, 320), (240, 320), (264, 304), (256, 288))


@dataclass(frozen=True)
class _Patient:
    """What stays the same in all frames of one patient; colours in 0..1, lengths in pixels."""

    shape: tuple[int, int]
    aperture: tuple[float, float, float]
    mucosa: Field
    blotches: float
    vessels: float
    fold_spacing: float
    fold_depth: float
    wetness: float
    polyp_radius: float
    polyp_tint: Field
    polyp_relief: float
    polyp_roundness: float
    pits: float
    exposure: float


@dataclass(frozen=True)
class _Polyp:
    """One polyp: its outline's depth and its height above the wall, both in pixels."""

    depth: Field
    relief: Field


def draw_endoscopy(patient: Rng, image: Rng, position: float) -> Phantom:
    """Draw one frame; `position` 0..1 brings the camera nearer to the polyp.

    `patient` decides what all frames of the patient share, `image` what differs from frame to frame.
    """
    traits = _traits(patient)
    plane = make_plane(traits.shape, image, bend=3.0, bend_scale=40)
    aperture = _aperture(traits)
    lumen = _lumen(plane, image)
    polyps = _polyps(plane, traits, image, lumen, position)
    rgb = _light(plane, traits, image, lumen, polyps)
    frame = cover(aperture, 3.0)[:, :, None]
    rgb = frame * rgb + (1 - frame) * np.float32(0.02)
    rgb = ndimage.gaussian_filter(rgb, (0.6, 0.6, 0), truncate=3.0) + np.float32(0.01) * grain(image, rgb.shape, 0.5)
    target = np.zeros(traits.shape, dtype=np.int32)
    for number, polyp in enumerate(polyps, start=1):
        target[(polyp.depth > 0) & (aperture > 0)] = number
    return Phantom(to_bytes(rgb), {"polyp": target > 0}, {"polyp": target})


def _traits(rng: Rng) -> _Patient:
    return _Patient(
        shape=_SHAPES[rng.integers(len(_SHAPES))],
        aperture=(rng.uniform(0.92, 1.0), rng.uniform(0.94, 1.03), rng.uniform(1.42, 1.65)),
        mucosa=np.asarray(rng.uniform((0.84, 0.46, 0.36), (0.98, 0.6, 0.5)), dtype=np.float32),
        blotches=rng.uniform(0.03, 0.08),
        vessels=rng.uniform(0.1, 0.9),
        fold_spacing=rng.uniform(1.35, 1.8),
        fold_depth=rng.uniform(0.2, 0.5),
        wetness=rng.uniform(0.3, 1.0),
        polyp_radius=rng.uniform(20, 42),
        polyp_tint=_tint(rng),
        polyp_relief=rng.uniform(0.3, 0.7),
        polyp_roundness=rng.uniform(0.7, 1.3),
        pits=rng.uniform(0.01, 0.06),
        exposure=rng.uniform(0.9, 1.15),
    )


def _tint(rng: Rng) -> Field:
    """Return how a polyp's colour differs from the mucosa: from redder to paler, rarely far."""
    paler = float(np.clip(rng.normal(0, 0.1), -0.2, 0.2))
    tint = np.array((1 + 0.5 * paler, 1 + paler, 1 + paler)) * rng.uniform(0.97, 1.03, 3)
    return np.asarray(tint, dtype=np.float32)


def _aperture(traits: _Patient) -> Field:
    """Return the depth inside the visible octagon with rounded corners."""
    height, width = traits.shape
    x = np.abs(np.arange(width, dtype=np.float32)[None, :] - (width - 1) / 2) / (width / 2 * traits.aperture[0])
    y = np.abs(np.arange(height, dtype=np.float32)[:, None] - (height - 1) / 2) / (height / 2 * traits.aperture[1])
    power = 14.0
    rim = (x**power + y**power + ((x + y) / traits.aperture[2]) ** power) ** np.float32(1 / power)
    depth: Field = ((1 - rim) * (height / 2)).astype(np.float32)
    return depth


def _lumen(plane: Plane, rng: Rng) -> Point:
    """Return where the bowel leads away from the camera; sometimes out of the frame, when the camera faces the wall."""
    height, width = plane.shape
    away = rng.uniform(0.5, 0.8) if rng.random() < 0.35 else rng.uniform(0.1, 0.35)
    direction = rng.uniform(0, 2 * math.pi)
    return away * width * math.cos(direction), away * height * math.sin(direction)


def _polyps(plane: Plane, traits: _Patient, rng: Rng, lumen: Point, position: float) -> list[_Polyp]:
    height, width = plane.shape
    radius = traits.polyp_radius * (0.75 + 0.6 * position) * rng.uniform(0.85, 1.15)
    for _ in range(50):
        place = (rng.uniform(-0.3, 0.3) * width, rng.uniform(-0.3, 0.3) * height)
        if math.dist(place, lumen) > radius + 14:
            break
    first = _polyp(plane, traits, rng, place, radius)
    if rng.random() > 0.3:
        return [first]
    second_radius = radius * rng.uniform(0.45, 0.7)
    for _ in range(20):
        other = (rng.uniform(-0.34, 0.34) * width, rng.uniform(-0.32, 0.32) * height)
        if math.dist(other, place) > 1.35 * (radius + second_radius) + 8:
            second = _polyp(plane, traits, rng, other, second_radius)
            apart = not ((second.depth > -4) & (first.depth > -4)).any()
            return [first, second] if apart else [first]
    return [first]


def _polyp(plane: Plane, traits: _Patient, rng: Rng, place: Point, radius: float) -> _Polyp:
    stretch = math.sqrt(rng.uniform(1.0, 1.7))
    angle = rng.uniform(0, math.pi)
    depth = blob(plane, place, (radius * stretch, radius / stretch), angle, wobble(rng, 0.045, (2, 3, 4)))
    lobes = 1 + 0.1 * smooth_noise(rng, plane.shape, radius * 0.5)
    inside = np.clip(depth * stretch / radius, 0, 1)
    dome = (1 - (1 - inside) ** 2) ** traits.polyp_roundness * lobes
    # Smoothing removes the crease that the outline's depth has along the middle of a long polyp.
    dome = ndimage.gaussian_filter(dome.astype(np.float32), 0.12 * radius, truncate=2.5)
    return _Polyp(depth, (radius * traits.polyp_relief * dome).astype(np.float32))


def _wall(plane: Plane, traits: _Patient, rng: Rng, lumen: Point) -> tuple[Field, Field]:
    """Return how much light the wall sends back (0..1) and its relief in pixels: falling light and folds."""
    shape = plane.shape
    dx, dy = plane.x - np.float32(lumen[0]), plane.y - np.float32(lumen[1])
    distance = np.sqrt(dx * dx + dy * dy) + 1
    fall = distance**2 / (distance**2 + np.float32(rng.uniform(28, 48)) ** 2)
    # Folds are rings in the depth of the bowel, hence evenly spaced in the logarithm of the distance.
    bent = 0.14 * smooth_noise(rng, shape, 70) + 0.03 * smooth_noise(rng, shape, 22)
    phase = np.log(distance) / math.log(traits.fold_spacing) / 1.4 + bent / math.log(traits.fold_spacing) + rng.random()
    step = phase - np.floor(phase)
    arcs = np.clip(0.6 + 0.8 * smooth_noise(rng, shape, 55), 0, 1)
    shadow = np.exp(-(1 - step) / 0.3) * np.clip(step / 0.05, 0, 1) + 0.55 * np.exp(-step / 0.12)
    crest = np.exp(-(((step - 0.1) / 0.12) ** 2))
    light = fall * (1 - traits.fold_depth * arcs * shadow + 0.22 * arcs * crest)
    relief = 2.2 * arcs * crest + 0.9 * smooth_noise(rng, shape, 16) + 0.15 * smooth_noise(rng, shape, 5)
    return light.astype(np.float32), relief.astype(np.float32)


def _vessels(plane: Plane, traits: _Patient, rng: Rng) -> Field:
    """Return 0..1, high on thin branching lines: the zero crossings of smooth noise, thick and thin."""
    strong = np.exp(-((smooth_noise(rng, plane.shape, 55) / 0.04) ** 2))
    fine = np.exp(-((smooth_noise(rng, plane.shape, 24) / 0.05) ** 2))
    # Patches of both signs break the closed loops that zero crossings would make.
    where = np.clip(0.2 + 0.9 * smooth_noise(rng, plane.shape, 32), 0, 1)
    elsewhere = np.clip(0.2 + 0.9 * smooth_noise(rng, plane.shape, 22), 0, 1)
    lines: Field = traits.vessels * np.maximum(strong * where, 0.7 * fine * elsewhere)
    return lines


def _light(plane: Plane, traits: _Patient, rng: Rng, lumen: Point, polyps: list[_Polyp]) -> Field:
    """Return the lit colour picture, float32 [H, W, 3], before the frame."""
    shape = plane.shape
    light, relief = _wall(plane, traits, rng, lumen)
    vessels = _vessels(plane, traits, rng)
    mottle = smooth_noise(rng, shape, 45) + 0.6 * smooth_noise(rng, shape, 9) + 0.35 * grain(rng, shape, 1.2)
    tone = 1 + traits.blotches * mottle
    colour = traits.mucosa * tone[:, :, None]
    colour = colour * (1 - vessels[:, :, None] * np.array((0.16, 0.38, 0.34), dtype=np.float32))
    for polyp in polyps:
        share = cover(polyp.depth + 1, 5.0)
        near = 0.42 + 0.45 * light[polyp.depth > 0].mean() + 0.12 * light
        _shade_under(light, polyp, lumen, rng)
        surface = 1 + traits.pits * smooth_noise(rng, shape, 3.5) + 0.05 * smooth_noise(rng, shape, 12)
        skin = traits.mucosa * traits.polyp_tint * surface[:, :, None]
        colour += share[:, :, None] * (skin - colour)
        # The dome stands nearer to the lamp than the wall it grows from.
        blend(light, near, share)
        relief = relief * (1 - 0.85 * share) + polyp.relief
    shading, sheen, glare = _reflect(plane, relief, traits, rng)
    lamp = np.exp(-(plane.x**2 + plane.y**2) / (2 * (0.62 * shape[1]) ** 2))
    lit = np.clip(light * shading * lamp * traits.exposure, 0.02, None)
    # Deep tissue keeps red longest: darker means redder.
    rgb = colour * 1.04 * lit[:, :, None] ** np.array((0.8, 1.05, 1.1), dtype=np.float32)
    rgb = rgb + (0.22 * sheen * light * lamp)[:, :, None] * (np.array((1.0, 0.88, 0.8), dtype=np.float32) - rgb)
    picture: Field = rgb + glare[:, :, None] * (np.float32(0.97) - rgb)
    return picture.astype(np.float32)


def _shade_under(light: Field, polyp: _Polyp, lumen: Point, rng: Rng) -> None:
    """Darken the wall beside a polyp, on the side that lies deeper in the bowel, in place."""
    depth = np.where(polyp.depth <= OUTSIDE, np.float32(-40), polyp.depth)
    rows, columns = np.nonzero(polyp.depth > 0)
    if rows.size == 0:
        return
    height, width = light.shape
    dx = lumen[0] + width / 2 - float(columns.mean())
    dy = lumen[1] + height / 2 - float(rows.mean())
    length = math.hypot(dx, dy) + 1e-6
    reach = rng.uniform(4, 9)
    moved = ndimage.shift(depth, (reach * dy / length, reach * dx / length), order=1, mode="nearest")
    strength = np.float32(rng.uniform(0.3, 0.6))
    light *= 1 - strength * cover(moved + 2, 14.0)


def _reflect(plane: Plane, relief: Field, traits: _Patient, rng: Rng) -> tuple[Field, Field, Field]:
    """Return diffuse shading around 1, broad sheen 0..1 and glare 0..1 of a relief lit beside the camera (Blinn 1977)."""
    height, width = plane.shape
    by_row, by_column = np.gradient(ndimage.gaussian_filter(relief, 1.3, truncate=3.0))
    beside = rng.uniform(0, 2 * math.pi)
    lean_x = plane.x / width + np.float32(0.4 * math.cos(beside))
    lean_y = plane.y / height + np.float32(0.4 * math.sin(beside))
    norm = np.sqrt(1 + by_column**2 + by_row**2)
    towards = (1 + by_column * lean_x + by_row * lean_y) / norm / np.sqrt(1 + lean_x**2 + lean_y**2)
    shading = 0.25 + 0.75 * np.clip(towards, 0, None)
    ripple = ndimage.gaussian_filter(rng.standard_normal(plane.shape, dtype=np.float32), 4.0, truncate=2.5)
    wave_y, wave_x = np.gradient(ripple * np.float32(12))
    half_x, half_y = -lean_x / 2, -lean_y / 2
    miss = (-(by_column + wave_x) + 2 * half_x) ** 2 + (-(by_row + wave_y) + 2 * half_y) ** 2
    wet = np.clip(smooth_noise(rng, plane.shape, 26) + 1.6 * traits.wetness - 1.0, 0, 1)
    glare = np.clip(np.exp(-miss / 0.012) * 1.6 - 0.6, 0, 1) * wet
    sheen = np.exp(-((by_column - 2 * half_x) ** 2 + (by_row - 2 * half_y) ** 2) / 0.08)
    return shading.astype(np.float32), sheen.astype(np.float32), glare.astype(np.float32)
