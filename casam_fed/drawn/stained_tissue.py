"""Stained tissue: glands of purple epithelium around pale lumens, in pink fibrous stroma.

Two stains absorb light (haematoxylin in nuclei, eosin elsewhere); colour follows from their amounts by the Beer-Lambert
law, as in colour deconvolution (Ruifrok and Johnston 2001). Stain strengths, hue, gland architecture and nuclear crowding
vary between patients.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from casam_fed.drawn.geometry import OUTSIDE, Phantom, Plane, blob, make_plane, wobble
from casam_fed.drawn.texture import (
    Field,
    Rng,
    as_field,
    at_points,
    cover,
    grain,
    jittered_grid,
    smooth_noise,
    stamp,
    to_bytes,
)

__all__ = ["CLASSES", "draw_stained_tissue"]

CLASSES = ("gland",)

_SHAPES = ((256, 320), (256, 320), (320, 256), (240, 304))
_HAEMATOXYLIN = (0.70, 0.92, 0.42)
_EOSIN = (0.10, 0.60, 0.30)


@dataclass(frozen=True)
class _Patient:
    """What stays the same in all images of one patient; lengths in pixels, stains in optical density."""

    shape: tuple[int, int]
    radius: float
    elongation: float
    direction: float
    irregularity: float
    epithelium: float
    spacing: float
    mucin: float
    crowding: float
    cellularity: float
    haematoxylin: Field
    eosin: Field
    nucleus: float
    stroma: float
    light: Field
    blur: float


@dataclass(frozen=True)
class _Glands:
    """All glands of one image: depth of every pixel in its gland, and which gland, int32 1..N."""

    depth: Field
    labels: npt.NDArray[np.int32]


def draw_stained_tissue(patient: Rng, image: Rng, position: float) -> Phantom:
    """Draw one field of view; `position` 0..1 goes from sparse to crowded glands of the patient.

    `patient` decides what all images of the patient share, `image` what differs from field to field.
    """
    traits = _traits(patient)
    plane = make_plane(traits.shape, image, bend=2.2, bend_scale=22)
    glands = _place_glands(plane, traits, image, traits.crowding * (0.85 + 0.3 * position))
    rgb = _stain(plane, glands, traits, image)
    return Phantom(to_bytes(rgb), {"gland": glands.labels > 0}, {"gland": glands.labels})


def _traits(rng: Rng) -> _Patient:
    radius = rng.uniform(36, 62)
    return _Patient(
        shape=_SHAPES[rng.integers(len(_SHAPES))],
        radius=radius,
        elongation=rng.uniform(1.0, 1.7),
        direction=rng.uniform(0, math.pi),
        irregularity=rng.uniform(0.03, 0.12),
        epithelium=float(np.clip(rng.uniform(0.3, 0.7) * radius, 13, 32)),
        spacing=rng.uniform(6.0, 8.0),
        mucin=rng.uniform(0, 1),
        crowding=rng.uniform(0.3, 0.55),
        cellularity=rng.uniform(0.15, 0.6),
        haematoxylin=_hue(rng, _HAEMATOXYLIN),
        eosin=_hue(rng, _EOSIN),
        nucleus=rng.uniform(0.75, 1.3),
        stroma=rng.uniform(0.45, 0.85),
        light=np.asarray(rng.uniform((0.93, 0.92, 0.93), (0.98, 0.97, 0.99)), dtype=np.float32),
        blur=rng.uniform(0.4, 0.8),
    )


def _hue(rng: Rng, density: tuple[float, float, float]) -> Field:
    return np.asarray(np.array(density) * rng.uniform(0.85, 1.15, 3), dtype=np.float32)


def _place_glands(plane: Plane, traits: _Patient, rng: Rng, share: float) -> _Glands:
    """Place glands one after another until they cover `share` of the image; at least two, with stroma between them."""
    height, width = plane.shape
    depth = np.full(plane.shape, OUTSIDE, dtype=np.float32)
    labels = np.zeros(plane.shape, dtype=np.int32)
    placed: list[tuple[float, float, float]] = []
    for attempt in range(90):
        radius = traits.radius * rng.uniform(0.7, 1.2)
        margin = 0.4 if attempt == 0 else 0.55
        x, y = rng.uniform(-margin, margin) * width, rng.uniform(-margin, margin) * height
        if any(math.hypot(x - ox, y - oy) < 0.92 * (radius + other) + 4 for ox, oy, other in placed):
            continue
        stretch = math.sqrt(1 + (traits.elongation - 1) * rng.uniform(0.3, 1.3))
        angle = traits.direction + rng.normal(0, 0.35)
        outline = wobble(rng, traits.irregularity, (2, 3, 4, 5, 6, 8))
        own = blob(plane, (x, y), (radius * stretch, radius / stretch), angle, outline)
        own = np.minimum(own, -depth - rng.uniform(3, 7))
        placed.append((x, y, radius))
        if (own > 0).sum() < 250:
            continue
        labels[own > 0] = labels.max() + 1
        depth = np.maximum(depth, own)
        if labels.max() >= 2 and (labels > 0).mean() > share:
            break
    return _Glands(depth, labels)


def _stain(plane: Plane, glands: _Glands, traits: _Patient, rng: Rng) -> Field:
    """Lay down both stains, stroma first, and turn them into colour."""
    shape = plane.shape
    flow, eosin = _fibres(plane, glands, traits, rng)
    haematoxylin = np.full(shape, 0.05, dtype=np.float32) + np.float32(0.03) * smooth_noise(rng, shape, 30)
    tissue = cover(glands.depth, 2.0)
    height = traits.epithelium * (1 + 0.16 * smooth_noise(rng, shape, 20))
    lumen = cover(glands.depth - height, 2.5)
    cytoplasm = 0.55 * traits.stroma + 0.25 + 0.06 * smooth_noise(rng, shape, 5)
    eosin += tissue * (cytoplasm - eosin)
    haematoxylin += tissue * (0.24 + 0.04 * smooth_noise(rng, shape, 7) - haematoxylin)
    vacuoles = _vacuoles(glands, traits, rng)
    secretion = np.clip(smooth_noise(rng, shape, 18) - 0.4, 0, 1) * 0.5
    for stain, left in ((eosin, 0.25), (haematoxylin, 0.5)):
        stain *= 1 - (1 - left) * vacuoles
        stain *= 1 - lumen * 0.96
    eosin += lumen * secretion * 0.5
    nuclei = _nuclei(glands, flow, traits, rng)
    chromatin = 1 + 0.22 * grain(rng, shape, 0.9)
    haematoxylin = np.maximum(haematoxylin, nuclei * chromatin * traits.nucleus)
    density = haematoxylin[:, :, None] * traits.haematoxylin + np.maximum(eosin, 0)[:, :, None] * traits.eosin
    return _photograph(as_field(density), traits, rng)


def _fibres(plane: Plane, glands: _Glands, traits: _Patient, rng: Rng) -> tuple[Field, Field]:
    """Return the direction of the stroma's fibres (radians) and their eosin; fibres bend around the glands."""
    shape = plane.shape
    drift = 26 * smooth_noise(rng, shape, 75)
    near = np.exp(np.minimum(glands.depth, 0) / 14)
    cosine, sine = math.cos(traits.direction), math.sin(traits.direction)
    across = cosine * plane.y - sine * plane.x + drift + 22 * near
    along = cosine * plane.x + sine * plane.y
    by_row, by_column = np.gradient(ndimage.gaussian_filter(across, 2.0, truncate=2.5))
    flow = np.arctan2(by_row, by_column) + np.float32(math.pi / 2)
    tile = grain(rng, (256, 256), 1.0)
    coordinates = np.stack([across / 1.9, along / 14.0])
    strands = ndimage.map_coordinates(tile, coordinates, order=1, mode="grid-wrap")
    threads = ndimage.map_coordinates(tile, np.stack([across / 0.8, along / 9.0]), order=1, mode="grid-wrap")
    gaps = np.clip(smooth_noise(rng, shape, 16) + 1.1 * strands - 1.5, 0, 1)
    eosin = traits.stroma * (1 + 0.2 * strands + 0.12 * threads + 0.16 * smooth_noise(rng, shape, 34))
    eosin = np.maximum(eosin, 0.1) * (1 - 0.85 * gaps)
    return flow.astype(np.float32), eosin.astype(np.float32)


def _nuclei(glands: _Glands, flow: Field, traits: _Patient, rng: Rng) -> Field:
    """Return the amount of nuclear stain, 0..1: a row at the base of the epithelium, and scattered ones in the stroma."""
    shape = glands.depth.shape
    canvas = np.zeros(shape, dtype=np.float32)
    smooth = ndimage.gaussian_filter(np.maximum(glands.depth, -30), 1.5, truncate=2.5)
    by_row, by_column = np.gradient(smooth)

    points = jittered_grid(rng, shape, traits.spacing, 0.16)
    depth = at_points(smooth, points)
    points = points[(depth > 1.5) & (depth < 2.7 + traits.spacing)]
    inwards = np.stack([at_points(by_column, points), at_points(by_row, points)], axis=1)
    inwards /= np.maximum(np.linalg.norm(inwards, axis=1, keepdims=True), 1e-3)
    base = traits.spacing * 0.5 + 2.8 + rng.normal(0, 1.0, len(points)) + (rng.random(len(points)) < 0.15) * 4
    points = points + inwards * (base - at_points(smooth, points))[:, None]
    long = rng.uniform(3.4, 5.0, len(points)) * traits.spacing / 6
    radii = np.stack([long, long * rng.uniform(0.5, 0.75, len(points))], axis=1)
    angles = np.arctan2(inwards[:, 1], inwards[:, 0]) + rng.normal(0, 0.25, len(points))
    stamp(canvas, points, radii, angles, rng.uniform(0.75, 1.0, len(points)))

    points = jittered_grid(rng, shape, 11.0, 0.3)
    crowd = traits.cellularity * np.clip(1 + 0.7 * smooth_noise(rng, shape, 45), 0.1, 2)
    chance = at_points(as_field(crowd), points)
    points = points[(at_points(smooth, points) < -4) & (rng.random(len(points)) < chance)]
    round_ones = rng.random(len(points)) < 0.35
    long = np.where(round_ones, rng.uniform(2.2, 3.0, len(points)), rng.uniform(4.0, 6.5, len(points)))
    short = np.where(round_ones, long * 0.9, rng.uniform(1.3, 2.0, len(points)))
    angles = at_points(flow, points) + rng.normal(0, 0.25, len(points))
    stamp(canvas, points, np.stack([long, short], axis=1), angles, rng.uniform(0.65, 1.0, len(points)))
    return canvas


def _vacuoles(glands: _Glands, traits: _Patient, rng: Rng) -> Field:
    """Return the share of mucin, 0..1: pale goblets between the nuclei and the lumen, many in some patients."""
    canvas = np.zeros(glands.depth.shape, dtype=np.float32)
    points = jittered_grid(rng, glands.labels.shape, 8.5, 0.2)
    depth = at_points(glands.depth, points)
    middle = (depth > traits.spacing + 3.5) & (depth < traits.epithelium)
    points = points[middle & (rng.random(len(points)) < traits.mucin)]
    size = rng.uniform(2.4, 4.2, len(points))
    stamp(canvas, points, np.stack([size, size * 0.8], axis=1), rng.uniform(0, math.pi, len(points)), size / 4.2)
    return canvas


def _photograph(density: Field, traits: _Patient, rng: Rng) -> Field:
    uneven = 1 + np.float32(0.05) * smooth_noise(rng, density.shape[:2], 200)
    rgb = traits.light * np.exp(-density) * uneven[:, :, None]
    rgb = ndimage.gaussian_filter(rgb, (traits.blur, traits.blur, 0), truncate=3.0)
    picture: Field = rgb + np.float32(0.012) * grain(rng, rgb.shape, 0.4)
    return picture
