"""Breast ultrasound: skin, fat, fibroglandular tissue, muscle, and one dark lesion, benign or malignant.

The picture is made as a scanner makes it: tissue scatters sound (speckle is the envelope of complex Gaussian scatterers
seen through the pulse, Wagner et al. 1983), every layer weakens it on the way down, and the log of the echo is shown. That
is why a cyst-like lesion is bright behind and a hard one throws a shadow. Margins and shapes follow BI-RADS.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from casam_fed.drawn.geometry import Phantom, Plane, Point, blob, make_plane, wobble
from casam_fed.drawn.texture import Field, Rng, as_field, blend, cover, smooth_noise, to_bytes

__all__ = ["CLASSES", "draw_breast_ultrasound"]

CLASSES = ("lesion",)

_SHAPES = ((256, 320), (256, 320), (240, 304), (272, 304))

# Echo in dB.
_SKIN, _FAT, _STRAND, _MUSCLE, _FASCIA, _RIB, _AIR = -11.0, -31.0, -17.0, -27.0, -11.0, -6.0, -58.0


@dataclass(frozen=True)
class _Patient:
    """What stays the same in all pictures of one patient; lengths in pixels, echoes in dB."""

    shape: tuple[int, int]
    zoom: float
    skin: float
    fat: float
    gland: float
    gland_echo: float
    lobules: float
    dense: float
    malignant: bool
    radius: float
    aspect: float
    tilt: float
    roughness: float
    place: Point
    lesion_echo: float
    behind: float
    pulse: Point
    range: float
    loss: float


@dataclass(frozen=True)
class _Layers:
    """Depths of the layers' lower borders at every pixel, in pixels from the top of the picture."""

    skin: Field
    fat: Field
    gland: Field
    muscle: Field


def draw_breast_ultrasound(patient: Rng, image: Rng, position: float) -> Phantom:
    """Draw one picture; `position` 0..1 moves the probe across the lesion, largest in the middle.

    `patient` decides what all pictures of the patient share, `image` what differs from picture to picture.
    """
    traits = _traits(patient)
    plane = make_plane(traits.shape, image, zoom=traits.zoom, bend=1.2, bend_scale=45)
    layers = _layers(plane, traits, image)
    echo = _tissue(plane, layers, traits, image)
    lesion = _lesion(plane, layers, traits, image, 0.72 + 0.28 * math.sin(math.pi * position))
    _paint_lesion(echo, plane, lesion, traits, image)
    echo += _attenuation(plane, layers, lesion, traits)
    return Phantom(to_bytes(_scan(echo, plane, traits, image)), {"lesion": lesion > 0}, {})


def _traits(rng: Rng) -> _Patient:
    malignant = bool(rng.random() < 0.45)
    return _Patient(
        shape=_SHAPES[rng.integers(len(_SHAPES))],
        zoom=rng.uniform(0.92, 1.08),
        skin=rng.uniform(6, 10),
        fat=rng.uniform(24, 58),
        gland=rng.uniform(85, 115),
        gland_echo=rng.uniform(-20, -15),
        lobules=rng.uniform(20, 32),
        dense=rng.uniform(0.0, 0.8),
        malignant=malignant,
        radius=rng.uniform(24, 46),
        aspect=rng.uniform(0.72, 1.05) if malignant else rng.uniform(1.35, 1.95),
        tilt=rng.normal(0, 0.12),
        roughness=rng.uniform(0.06, 0.11) if malignant else rng.uniform(0.008, 0.025),
        place=(rng.uniform(-55, 55), rng.uniform(-0.1, 0.35)),
        lesion_echo=rng.uniform(-43, -35),
        behind=rng.uniform(9, 22) if malignant else -rng.uniform(3, 9),
        pulse=(rng.uniform(0.7, 0.95), rng.uniform(1.3, 2.0)),
        range=rng.uniform(46, 56),
        loss=rng.uniform(6, 15),
    )


def _layers(plane: Plane, traits: _Patient, rng: Rng) -> _Layers:
    def bend(height: float, scale: float) -> Field:
        return height * smooth_noise(rng, plane.shape, scale)

    skin = as_field(4 + traits.skin + bend(0.8, 90))
    fat = as_field(skin + traits.fat + bend(0.16 * traits.fat, 60) + bend(2.5, 18))
    gland = as_field(fat + traits.gland + bend(6, 80))
    return _Layers(skin, fat, gland, as_field(gland + rng.uniform(26, 40) + bend(3, 100)))


def _down(plane: Plane) -> Field:
    """Return how deep every pixel lies below the probe."""
    return as_field(plane.y + np.float32((plane.shape[0] - 1) / 2))


def _tissue(plane: Plane, layers: _Layers, traits: _Patient, rng: Rng) -> Field:
    """Return the echo of everything but the lesion, in dB, before any loss."""
    shape, down = plane.shape, _down(plane)
    echo = np.full(shape, -20.0, dtype=np.float32)
    echo[...] = _fat_lobules(plane, traits, rng)
    gland = _gland(plane, traits, rng)
    # Fat lobules reach into the gland, more of them in breasts that are not dense.
    islands = np.clip((_stretched_noise(rng, shape, 20, 3.5) - 0.35 - traits.dense) * 2, 0, 1)
    blend(gland, _fat_lobules(plane, traits, rng), as_field(islands))
    blend(echo, gland, cover(np.minimum(down - layers.fat, layers.gland - 8 - down), 5.0))
    blend(echo, _SKIN + 2 * smooth_noise(rng, shape, 20), cover(layers.skin - down, 2.0))
    blend(echo, -20.0, 0.8 * cover(1.6 - np.abs(down - 4 - 0.45 * traits.skin), 2.0))
    muscle = _MUSCLE + 7 * _fibres(plane, rng)
    blend(echo, as_field(muscle), cover(down - layers.gland, 2.5))
    for border in (layers.gland, layers.muscle):
        line = 1.5 - np.abs(down - border)
        blend(echo, _FASCIA + 5 * smooth_noise(rng, shape, 25), 0.85 * cover(line, 2.0))
    below = cover(down - layers.muscle - 2, 3.0)
    ribs = np.clip(np.sin(plane.x / rng.uniform(26, 34) + rng.uniform(0, 6)) * 4 - 1.5, 0, 1)
    blend(echo, as_field(-30 - 22 * ribs - 0.12 * np.maximum(down - layers.muscle, 0)), below)
    surface = as_field(ribs) * cover(2.2 - np.abs(down - layers.muscle - 3), 2.0)
    blend(echo, _RIB, surface)
    return echo


def _fat_lobules(plane: Plane, traits: _Patient, rng: Rng) -> Field:
    """Dark lobules between bright, mostly level strands of connective tissue."""
    shape = plane.shape
    stretched = _stretched_noise(rng, shape, traits.lobules, 2.2)
    strands = np.exp(-((stretched / 0.13) ** 2)) * np.clip(0.55 + 0.6 * smooth_noise(rng, shape, 30), 0, 1)
    return as_field(_FAT + 1.5 * smooth_noise(rng, shape, 12) + (_STRAND - _FAT) * strands)


def _gland(plane: Plane, traits: _Patient, rng: Rng) -> Field:
    """Bright, streaky tissue with small dark ducts."""
    shape = plane.shape
    streaks = _stretched_noise(rng, shape, 9, 3.0)
    ducts = np.clip(_stretched_noise(rng, shape, 6, 2.5) - 1.2, 0, 1) * np.clip(smooth_noise(rng, shape, 40), 0, 1)
    return as_field(traits.gland_echo + 2.6 * streaks + 2.0 * smooth_noise(rng, shape, 30) - 12 * ducts)


def _fibres(plane: Plane, rng: Rng) -> Field:
    """Return -1..1: long level stripes, as muscle shows."""
    return as_field(np.tanh(_stretched_noise(rng, plane.shape, 3.0, 14.0)))


def _stretched_noise(rng: Rng, shape: tuple[int, int], scale: float, stretch: float) -> Field:
    """Return smooth noise that varies `stretch` times as slowly along rows as along columns."""
    narrow = smooth_noise(rng, (shape[0], math.ceil(shape[1] / stretch) + 2), scale)
    columns = np.arange(shape[1], dtype=np.float32) / np.float32(stretch)
    left = columns.astype(np.int64)
    share = (columns - left)[None, :]
    return as_field(narrow[:, left] * (1 - share) + narrow[:, left + 1] * share)


def _lesion(plane: Plane, layers: _Layers, traits: _Patient, rng: Rng, size: float) -> Field:
    """Return the lesion's depth; it lies in the gland, and a malignant one has angles and spikes."""
    stretch = math.sqrt(traits.aspect)
    radius = traits.radius * size
    height = radius / stretch
    x = traits.place[0] + rng.normal(0, 5)
    top = 4 + traits.skin + traits.fat
    y = top + (0.32 + 0.5 * traits.place[1]) * traits.gland + 0.3 * height - (plane.shape[0] - 1) / 2
    y = min(y, plane.shape[0] / 2 - 30 - height)
    orders = (2, 3, 4, 5, 7, 9, 12) if traits.malignant else (2, 3, 4)
    outline = wobble(rng, traits.roughness, orders)
    depth = blob(plane, (x, y), (radius * stretch, height), traits.tilt + rng.normal(0, 0.06), outline)
    if traits.malignant:
        depth = depth + np.float32(1.6) * smooth_noise(rng, plane.shape, 6)
        parts, count = ndimage.label(depth > 0)
        if count > 1:
            largest = 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
            depth = np.where((parts > 0) & (parts != largest), np.float32(-1.5), depth)
    return as_field(depth)


def _paint_lesion(echo: Field, plane: Plane, lesion: Field, traits: _Patient, rng: Rng) -> None:
    shape = plane.shape
    if traits.malignant:
        # Tissue that the tumour pulls on and fills with oedema: an echogenic halo without a sharp end.
        blend(echo, traits.gland_echo + 3 + 2 * smooth_noise(rng, shape, 8), 0.6 * cover(lesion + 7, 12.0))
        inside = traits.lesion_echo + 2.5 * smooth_noise(rng, shape, 9) + 1.5 * smooth_noise(rng, shape, 4)
        blend(echo, as_field(inside), cover(lesion, 5.0))
        specks = np.clip(smooth_noise(rng, shape, 3.2) - 2.1, 0, 1) * 2
        blend(echo, -10.0, as_field(np.clip(specks, 0, 1)) * cover(lesion - 4, 4.0) * np.float32(rng.random() < 0.6))
        return
    inside = traits.lesion_echo + 1.2 * smooth_noise(rng, shape, 14)
    blend(echo, as_field(inside), cover(lesion, 2.2))
    # A thin capsule, brightest where the beam meets it at a right angle: above and below.
    by_row, by_column = np.gradient(lesion)
    facing = np.abs(by_row) / np.sqrt(by_row**2 + by_column**2 + 1e-3)
    capsule = cover(1.3 - np.abs(lesion + 1.5), 2.0) * as_field(0.2 + 0.7 * facing**2)
    blend(echo, _STRAND + 2, as_field(capsule))


def _attenuation(plane: Plane, layers: _Layers, lesion: Field, traits: _Patient) -> Field:
    """Return what is added to the echo in dB by everything the sound passed through on its way."""
    height = plane.shape[0]
    steady = -traits.loss * (_down(plane) / height) ** 2
    passed = np.cumsum(cover(lesion, 3.0), axis=0) / np.float32(2 * traits.radius / math.sqrt(traits.aspect))
    after = cover(-lesion, 6.0) * np.clip(passed * 4, 0, 1)
    column = np.tanh(passed) * traits.behind * (0.45 + 0.55 * after)
    # Sound is bent away at the flanks of a smooth lesion: two narrow shadows beside the bright band.
    flank = np.zeros(plane.shape, dtype=np.float32)
    if not traits.malignant:
        through = passed.max(axis=0, keepdims=True)
        flank = as_field(5 * np.exp(-(((through - 0.16) / 0.1) ** 2)) * np.clip(passed / 0.05, 0, 1) * (passed > 0.02))
    spread = ndimage.gaussian_filter(column + flank, (2.0, 3.0), truncate=2.5)
    return as_field(steady - spread)


def _scan(echo: Field, plane: Plane, traits: _Patient, rng: Rng) -> Field:
    """Turn echoes into a log-compressed envelope with speckle, 0..1; speckle widens with depth as the beam does."""
    shape = plane.shape
    strength = np.power(np.float32(10), echo / 20)
    real, imaginary = (strength * rng.standard_normal(shape, dtype=np.float32) for _ in range(2))
    envelopes = []
    for widen in (1.0, 1.7):
        sigma = (traits.pulse[0], traits.pulse[1] * widen)
        gain = 2 * math.sqrt(math.pi * sigma[0] * sigma[1])
        parts = [ndimage.gaussian_filter(part, sigma, truncate=3.0) * np.float32(gain) for part in (real, imaginary)]
        envelopes.append(np.sqrt(parts[0] ** 2 + parts[1] ** 2))
    deep = np.clip(_down(plane) / shape[0] * 1.3 - 0.15, 0, 1)
    envelope = envelopes[0] * (1 - deep) + envelopes[1] * deep
    floor = np.float32(10 ** (_AIR / 20)) * np.abs(rng.standard_normal(shape, dtype=np.float32))
    level = 20 * np.log10(envelope + floor + np.float32(1e-6))
    shown: Field = as_field((level + traits.range) / traits.range)
    smoothed: Field = ndimage.gaussian_filter(np.clip(shown, 0, 1), 0.45, truncate=3.0)
    return smoothed
