"""How a kidney section looks once stained: PAS with haematoxylin, laid on the structures of the cortex, and photographed.

PAS colours basement membranes, mesangium, brush borders and casts magenta, haematoxylin nuclei blue, and lumens stay
pale; colour follows from the amounts of both by the Beer-Lambert law (Ruifrok and Johnston 2001). Where the structures
lie is decided in `kidney`.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from casam_fed.drawn.texture import (
    Field,
    Rng,
    as_field,
    at_points,
    blend,
    cover,
    grain,
    jittered_grid,
    smooth_noise,
    stamp,
)

__all__ = ["HAEMATOXYLIN", "PAS", "Appearance", "Glomeruli", "Tubules", "make_dye", "stain_section"]

HAEMATOXYLIN = (0.95, 0.98, 0.46)
PAS = (0.24, 0.95, 0.42)
"""Optical densities of the dyes in red, green and blue."""


@dataclass(frozen=True)
class Appearance:
    """What the stain shows of one patient, the same in all fields; lengths in pixels.

    Attributes:
        membrane: thickness of basement membranes and capsules, relative to a healthy kidney.
        mesangium: how far it crowds out the capillaries, 0..1.
        brush, cytoplasm: PAS of the brush borders and of the tubules' cells, optical density.
        inflammation: how crowded with nuclei the tissue between the tubules is, 0..1.
        haematoxylin, pas: float32 [3], the dyes of this patient's laboratory (`make_dye`).
        light, blur: the microscope's white, float32 [3] in 0..1, and the width of its blur.
    """

    membrane: float
    mesangium: float
    brush: float
    cytoplasm: float
    inflammation: float
    haematoxylin: Field
    pas: Field
    light: Field
    blur: float


@dataclass(frozen=True)
class Glomeruli:
    """Depth in the capsules and which one (1..N), depth in the tufts, and in the scars and nodules of the tufts."""

    depth: Field
    labels: npt.NDArray[np.int32]
    tuft: Field
    solid: Field


@dataclass(frozen=True)
class Tubules:
    """Depth in the tubules, and for every pixel the traits of its tubule: lining, dark cells, content 0..1."""

    depth: Field
    lining: Field
    proximal: Field
    cast: Field


def make_dye(rng: Rng, density: tuple[float, float, float], strength: float) -> Field:
    """Return optical densities [3] around `strength` times `density`: no two laboratories stain alike."""
    return np.asarray(np.array(density) * strength * rng.uniform(0.88, 1.12, 3), dtype=np.float32)


def stain_section(tubules: Tubules, glomeruli: Glomeruli, artery: Field, traits: Appearance, rng: Rng) -> Field:
    """Stain and photograph one field; `artery` is the depth in a small artery. Returns float32 [H, W, 3], about 0..1."""
    pas, haematoxylin = _interstitium(artery.shape, rng)
    _paint_tubules(pas, haematoxylin, tubules, traits, rng)
    _paint_artery(pas, haematoxylin, artery, rng)
    lumens = _paint_glomeruli(pas, haematoxylin, glomeruli, traits, rng)
    nuclei = _nuclei(tubules, glomeruli, artery, lumens, traits, rng)
    chromatin = 1 + np.float32(0.2) * grain(rng, artery.shape, 0.9)
    haematoxylin = np.maximum(haematoxylin, nuclei * chromatin)
    density = haematoxylin[:, :, None] * traits.haematoxylin + np.maximum(pas, 0)[:, :, None] * traits.pas
    return _photograph(as_field(density), traits, rng)


def _interstitium(shape: tuple[int, int], rng: Rng) -> tuple[Field, Field]:
    """Return PAS and haematoxylin of the tissue between the tubules: loose, with small capillaries."""
    loose = smooth_noise(rng, shape, 7)
    pas = 0.22 + 0.07 * loose + 0.05 * smooth_noise(rng, shape, 3)
    holes = cover(smooth_noise(rng, shape, 8) - 0.7, 0.4)
    pas = as_field(pas * (1 - 0.7 * holes))
    return pas, as_field(0.1 + 0.02 * loose)


def _paint_tubules(pas: Field, haematoxylin: Field, tubules: Tubules, traits: Appearance, rng: Rng) -> None:
    """Paint cells, brush borders, lumens with their content, and the basement membrane around them, in place."""
    depth = tubules.depth
    fine, ripple = grain(rng, pas.shape, 1.0), smooth_noise(rng, pas.shape, 6)
    inside = cover(depth, 1.5)
    cells = traits.cytoplasm * (0.72 + 0.28 * tubules.proximal) + 0.035 * fine + 0.03 * ripple
    blend(pas, cells, inside)
    blend(haematoxylin, 0.085 + 0.035 * tubules.proximal + 0.012 * ripple, inside)
    ragged = (0.35 + 0.9 * np.clip(tubules.proximal, 0, 1)) * (1.6 * ripple + 0.7 * fine)
    edge = depth - tubules.lining + ragged
    blend(pas, pas + traits.brush * np.clip(tubules.proximal, 0, 1), np.exp(-(((edge + 1.2) / 2.2) ** 2)) * inside)
    lumen = cover(edge, 2.0) * inside
    debris = np.clip(0.16 * np.clip(tubules.proximal, 0, 1) * (1 + ripple), 0.01, 0.4)
    blend(pas, debris, lumen)
    blend(haematoxylin, 0.02, lumen)
    blend(pas, 0.85 * tubules.cast * (1 + 0.06 * fine), cover(edge - 1.5, 2.0) * inside * (tubules.cast > 0))
    membrane = np.exp(-(((depth - 0.9) / (0.75 * traits.membrane)) ** 2))
    uneven = np.clip(0.8 + 0.15 * smooth_noise(rng, pas.shape, 14), 0.3, 1.2)
    blend(pas, 0.9, as_field(np.clip(membrane * uneven, 0, 1)))


def _paint_artery(pas: Field, haematoxylin: Field, artery: Field, rng: Rng) -> None:
    """Paint a small artery in place: wavy muscle in rings, a magenta inner membrane, a pale lumen."""
    waves = np.sin(artery * np.float32(1.1) + 2 * smooth_noise(rng, pas.shape, 12))
    blend(pas, 0.36 + 0.13 * waves, cover(artery, 2.0))
    blend(haematoxylin, 0.12, cover(artery, 2.0))
    inner = as_field(artery - np.float32(rng.uniform(7, 10)) + smooth_noise(rng, pas.shape, 6))
    blend(pas, 0.8, as_field(np.exp(-((inner / 1.3) ** 2))))
    blend(pas, 0.04, cover(inner - 1.2, 1.5))
    blend(haematoxylin, 0.02, cover(inner - 1.2, 1.5))


def _paint_glomeruli(pas: Field, haematoxylin: Field, glomeruli: Glomeruli, traits: Appearance, rng: Rng) -> Field:
    """Paint capsule, Bowman's space and tuft in place, and return where capillaries are open, 0..1."""
    fine = grain(rng, pas.shape, 0.9)
    space = cover(glomeruli.depth, 1.5)
    blend(pas, 0.05 + 0.01 * fine, space)
    blend(haematoxylin, 0.02, space)
    # Level lines of smooth noise wind like capillaries: a membrane on the line, blood above, mesangium below.
    winding = smooth_noise(rng, pas.shape, 4.2)
    winding -= ndimage.gaussian_filter(winding, 5.0, truncate=2.5)
    stalks = smooth_noise(rng, pas.shape, 17)
    level = -0.15 + 0.45 * traits.mesangium + (0.1 + 0.3 * traits.mesangium) * stalks
    open_ = winding - level
    # No capillary opens into Bowman's space, and none lies in a scar.
    solid = cover(glomeruli.solid, 3.0)
    open_ = np.minimum(open_, np.minimum(glomeruli.tuft / 5 - 0.3, 0.5 - 3 * solid))
    tuft = cover(glomeruli.tuft, 1.8)
    matrix = 0.32 + 0.2 * traits.mesangium + 0.1 * stalks + 0.05 * fine
    blend(pas, np.clip(matrix, 0.2, 0.9), tuft)
    blend(haematoxylin, 0.13, tuft)
    blend(pas, 0.78 + 0.06 * fine + 0.08 * winding, solid * tuft)
    lumens = cover(open_ - 0.12, 0.3) * tuft
    blend(pas, 0.1, lumens)
    blend(haematoxylin, 0.04, lumens)
    loops = np.exp(-((open_ / np.float32(0.13 + 0.09 * traits.membrane)) ** 2)) * tuft * (1 - solid)
    blend(pas, 0.85, as_field(0.85 * loops))
    rim = np.exp(-(((glomeruli.tuft - 0.8) / (0.7 + 0.3 * traits.membrane)) ** 2))
    blend(pas, 0.6, as_field(0.6 * rim))
    capsule = np.exp(-(((glomeruli.depth - 0.3) / (0.5 + 0.9 * traits.membrane)) ** 2))
    blend(pas, 0.9, as_field(0.9 * capsule))
    return lumens


def _nuclei(
    tubules: Tubules, glomeruli: Glomeruli, artery: Field, lumens: Field, traits: Appearance, rng: Rng
) -> Field:
    """Return the amount of nuclear stain, 0..1: tubules, interstitium, artery, capsules and tufts."""
    canvas = np.zeros_like(tubules.depth)
    _tubule_nuclei(canvas, tubules, rng)
    _glomerular_nuclei(canvas, glomeruli, lumens, rng)
    # Between the tubules and in the artery's wall they are thin and lie along their surroundings.
    ground = np.maximum(np.maximum(tubules.depth, artery), glomeruli.depth)
    points = jittered_grid(rng, canvas.shape, 9.0, 0.3)
    free = (at_points(ground, points) < -0.5) & (rng.random(len(points)) < 0.35 + 0.5 * traits.inflammation)
    wall = at_points(artery, points)
    free |= (wall > 1) & (wall < 9) & (rng.random(len(points)) < 0.45)
    points = points[free]
    _, angles = _inwards(ground, points)
    long = rng.uniform(2.6, 4.6, len(points))
    short = rng.uniform(1.4, 2.4, len(points))
    stamp(canvas, points, np.stack([long, short], axis=1), angles + math.pi / 2, rng.uniform(0.7, 1.0, len(points)))
    return canvas


def _tubule_nuclei(canvas: Field, tubules: Tubules, rng: Rng) -> None:
    """A row of round nuclei in the lining, sparser in tall cells, flat in wide tubules."""
    points = jittered_grid(rng, canvas.shape, 8.0, 0.22)
    depth, lining, proximal = (at_points(field, points) for field in (tubules.depth, tubules.lining, tubules.proximal))
    kept = (depth > 1.0) & (depth < 10.0) & (rng.random(len(points)) < np.where(proximal > 0.5, 0.3, 0.45))
    points, depth, lining = points[kept], depth[kept], lining[kept]
    towards, angles = _inwards(tubules.depth, points)
    base = np.clip(0.45 * lining, 2.6, 6.0) + rng.normal(0, 0.7, len(points))
    points = as_field(points + towards * (base - depth)[:, None])
    long = rng.uniform(2.8, 3.7, len(points))
    short = np.minimum(long * rng.uniform(0.8, 1.0, len(points)), np.maximum(0.42 * lining, 1.6))
    radii = np.stack([long, short], axis=1)
    stamp(canvas, points, radii, angles + math.pi / 2, rng.uniform(0.62, 0.95, len(points)))


def _glomerular_nuclei(canvas: Field, glomeruli: Glomeruli, lumens: Field, rng: Rng) -> None:
    """Many nuclei between the capillaries, few in scars, and flat ones along the capsule."""
    points = jittered_grid(rng, canvas.shape, 7.8, 0.25)
    chance = np.where(at_points(glomeruli.solid, points) > 1, 0.2, 0.85 - 0.8 * at_points(lumens, points))
    points = points[(at_points(glomeruli.tuft, points) > 1.0) & (rng.random(len(points)) < chance)]
    long = rng.uniform(2.0, 3.2, len(points))
    radii = np.stack([long, long * rng.uniform(0.65, 1.0, len(points))], axis=1)
    stamp(canvas, points, radii, rng.uniform(0, math.pi, len(points)), rng.uniform(0.7, 1.0, len(points)))
    points = jittered_grid(rng, canvas.shape, 8.0, 0.25)
    depth = at_points(glomeruli.depth, points)
    kept = (depth > -1) & (depth < 5) & (rng.random(len(points)) < 0.4)
    points, depth = points[kept], depth[kept]
    towards, angles = _inwards(glomeruli.depth, points)
    points = as_field(points + towards * (2.4 - depth)[:, None])
    radii = np.stack([rng.uniform(3.2, 4.6, len(points)), rng.uniform(1.2, 1.7, len(points))], axis=1)
    stamp(canvas, points, radii, angles + math.pi / 2, rng.uniform(0.7, 1.0, len(points)))


def _inwards(depth: Field, points: npt.NDArray[np.float32]) -> tuple[Field, Field]:
    """Return unit vectors (x, y) at `points` in which `depth` rises, [n, 2], and their angles, [n]."""
    step = np.float32(2)
    right, down = np.array([step, 0], dtype=np.float32), np.array([0, step], dtype=np.float32)
    dx = at_points(depth, points + right) - at_points(depth, points - right)
    dy = at_points(depth, points + down) - at_points(depth, points - down)
    length = np.maximum(np.sqrt(dx * dx + dy * dy), np.float32(1e-3))
    return np.stack([dx / length, dy / length], axis=1), as_field(np.arctan2(dy, dx))


def _photograph(density: Field, traits: Appearance, rng: Rng) -> Field:
    uneven = 1 + np.float32(0.03) * smooth_noise(rng, density.shape[:2], 300)
    rgb = traits.light * np.exp(-density) * uneven[:, :, None]
    rgb = ndimage.gaussian_filter(rgb, (traits.blur, traits.blur, 0), truncate=3.0)
    picture: Field = rgb + np.float32(0.012) * grain(rng, rgb.shape, 0.0)
    return picture
