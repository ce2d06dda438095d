"""The jaws of a panoramic radiograph: everything that is not a tooth, in order from the air to the ghost of the spine.

The curved jaws are unrolled, so that both rising branches of the lower jaw stand at the sides and the midline appears
once; spine and palate, out of the plane in focus, leave blurred shadows (Whaites and Drage 2013).
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from casam_fed.drawn.geometry import Plane, Point, blob, wobble
from casam_fed.drawn.texture import Field, Rng, as_field, blend, cover, smooth_noise

__all__ = ["Jaws", "make_jaws", "paint_jaws", "paint_shadows"]


@dataclass(frozen=True)
class Jaws:
    """What stays the same of a patient's jaws; lengths in pixels, shades in 0..1.

    Attributes:
        level: height of the biting plane in the midline.
        smile: how much higher it is at the sides.
        chin, angle: height of the lower border in the midline and at the jaw's angle.
        ramus: half-distance of the rising branches.
        crest: how far the bone's edge lies from the biting plane.
        bone, cortex, air, soft: shades.
        mesh: strength of the trabecular pattern, `mesh_scale` its width.
        sinus: size of the maxillary sinuses, relative.
    """

    level: float
    smile: float
    chin: float
    angle: float
    ramus: float
    crest: float
    bone: float
    cortex: float
    air: float
    soft: float
    mesh: float
    mesh_scale: float
    sinus: float

    def row(self, x: float, smile: float) -> float:
        """Return the height of the biting plane at `x`, for a chin that makes the smile `smile` times as strong."""
        return self.level - smile * self.smile * (x / 160) ** 2

    def slope(self, x: float, smile: float) -> float:
        """Return how steeply the biting plane falls at `x`."""
        return -2 * smile * self.smile * x / 160**2


def make_jaws(rng: Rng) -> Jaws:
    """Return the jaws of one patient."""
    return Jaws(
        level=rng.uniform(8, 15),
        smile=rng.uniform(24, 40),
        chin=rng.uniform(94, 102),
        angle=rng.uniform(54, 66),
        ramus=rng.uniform(198, 208),
        crest=rng.uniform(24, 31),
        bone=rng.uniform(0.36, 0.44),
        cortex=rng.uniform(0.56, 0.68),
        air=rng.uniform(0.08, 0.16),
        soft=rng.uniform(0.2, 0.27),
        mesh=rng.uniform(0.03, 0.07),
        mesh_scale=rng.uniform(2.6, 4.0),
        sinus=rng.uniform(0.85, 1.15),
    )


def paint_jaws(canvas: Field, plane: Plane, jaws: Jaws, rng: Rng) -> None:
    """Paint soft tissue, upper jaw and lower jaw, in place."""
    _soft_tissue(canvas, plane, jaws, rng)
    _upper_jaw(canvas, plane, jaws, rng)
    _lower_jaw(canvas, plane, jaws, rng)


def paint_shadows(canvas: Field, plane: Plane, rng: Rng) -> None:
    """Add what lies out of focus over everything, in place: the spine in the middle, streaks of the opposite jaw."""
    spine = np.exp(-((plane.x / np.float32(rng.uniform(30, 44))) ** 2)) * (0.75 + 0.25 * plane.y / 128)
    ghost = np.exp(-(((np.abs(plane.x) - 165) / 40) ** 2) - ((plane.y + 18) / 26) ** 2)
    veil = 1 + 0.05 * smooth_noise(rng, plane.shape, 90)
    canvas *= as_field(veil)
    canvas += as_field(rng.uniform(0.06, 0.13) * np.clip(spine, 0, 1.2) + rng.uniform(0.0, 0.06) * ghost)


def _soft_tissue(canvas: Field, plane: Plane, jaws: Jaws, rng: Rng) -> None:
    """Cheeks and neck, grey down to below the chin; tongue, and the dark air of mouth and throat."""
    shape = plane.shape
    x = np.abs(plane.x)
    skin = as_field(jaws.chin + 16 - 0.0009 * plane.x**2 - plane.y) + 3 * smooth_noise(rng, shape, 60)
    blend(canvas, jaws.soft + 0.03 * smooth_noise(rng, shape, 30), cover(skin, 14.0))
    # Behind the jaw the neck's spine is in focus again, at both edges of the film.
    vertebrae = 0.07 * np.cos(as_field(plane.y * 2 * math.pi / 44)) + 0.24
    blend(canvas, as_field(jaws.soft + vertebrae), 0.75 * cover(x - 249 + 2 * smooth_noise(rng, shape, 22), 9.0))
    throat = 9 + 4 * smooth_noise(rng, shape, 40) - np.abs(x - 186 + 0.25 * (plane.y - 20))
    blend(canvas, jaws.air, 0.75 * cover(np.minimum(throat, plane.y + 50), 10.0))


def _upper_jaw(canvas: Field, plane: Plane, jaws: Jaws, rng: Rng) -> None:
    shape = plane.shape
    x = np.abs(plane.x)
    row = jaws.level - jaws.smile * (plane.x / 160) ** 2
    crest = row - jaws.crest + 2.5 * np.abs(np.sin(plane.x / 8)) - 1
    bone = np.minimum(crest - plane.y, 172 + 0.5 * (plane.y + 40) - x + 5 * smooth_noise(rng, shape, 30))
    blend(canvas, _trabeculae(jaws, rng, shape, 0.93), 0.9 * cover(bone, 9.0))
    mouth = np.minimum(np.minimum(row + 3 - plane.y, plane.y - crest + 3), 190 - x)
    blend(canvas, jaws.air * 1.3, 0.6 * cover(mouth, 6.0))
    for side in (-1, 1):
        middle = (side * rng.uniform(84, 98), -98 + rng.normal(0, 3))
        sinus = blob(plane, middle, (64 * jaws.sinus, 36 * jaws.sinus), side * -0.14, wobble(rng, 0.05))
        # Its floor dips between the roots of the molars.
        sinus = sinus + 3 * np.sin(plane.x / 9 + rng.uniform(0, 6)) * np.clip((plane.y + 90) / 20, 0, 1)
        _cavity(canvas, as_field(sinus), jaws.air * 1.5 + 0.07, jaws.cortex, 0.5)
        nose = blob(plane, (side * 17, -108), (14, 34), side * -0.12, wobble(rng, 0.04))
        _cavity(canvas, nose, jaws.air * 1.4, jaws.cortex, 0.4)
        shell = blob(plane, (side * 19, -94), (8, 17), side * -0.1, wobble(rng, 0.06))
        blend(canvas, jaws.soft * 1.6, 0.8 * cover(shell, 5.0))
        cheek = 5 - np.abs(plane.y + 92 + 0.16 * (x - 120) - 0.002 * (x - 160) ** 2)
        arch = np.minimum(cheek, np.minimum(side * plane.x - 118, 240 - side * plane.x))
        blend(canvas, jaws.cortex * 0.9, 0.6 * cover(arch, 5.0))
        column = 7 - np.abs(side * plane.x - 132 + 0.35 * (plane.y + 90))
        blend(canvas, jaws.cortex * 0.8, 0.4 * cover(np.minimum(column, -70 - plane.y), 6.0))
    palate = 1.8 - np.abs(plane.y + 64 - 0.00045 * plane.x**2 + 2 * smooth_noise(rng, shape, 70))
    blend(canvas, jaws.cortex, 0.65 * cover(np.minimum(palate, 165 - x), 3.0))
    septum = np.minimum(2.2 - x, -66 - plane.y)
    blend(canvas, jaws.cortex * 0.9, 0.8 * cover(septum, 2.0))


def _cavity(canvas: Field, depth: Field, shade: float, wall: float, strength: float) -> None:
    blend(canvas, shade, 0.7 * cover(depth, 5.0))
    blend(canvas, wall, strength * cover(1.0 - np.abs(depth), 1.8))


def _lower_jaw(canvas: Field, plane: Plane, jaws: Jaws, rng: Rng) -> None:
    shape = plane.shape
    x = np.abs(plane.x) + 2 * smooth_noise(rng, shape, 80)
    row = jaws.level - jaws.smile * (plane.x / 160) ** 2
    crest = plane.y - row - jaws.crest - 2.5 * np.abs(np.sin(plane.x / 8)) + 1
    # The lower border is nearly level under the front teeth and rises towards the angle.
    border = jaws.chin - (jaws.chin - jaws.angle) * np.abs(x / 200) ** 2.6
    body = np.minimum(np.minimum(border - plane.y, crest), jaws.ramus + 12 - x)
    back = jaws.ramus + 26 - 0.0011 * (plane.y + 40) ** 2 * (plane.y > -40) - 0.05 * (plane.y - 20)
    front = jaws.ramus - 30 - 0.16 * (plane.y - 10) + 0.004 * np.maximum(-plane.y - 40, 0) ** 2
    ramus = np.minimum(np.minimum(back - x, x - front), np.minimum(border - plane.y, plane.y + 88))
    depth = np.maximum(body, ramus)
    for side in (-1, 1):
        head = blob(plane, (side * (jaws.ramus + 21), -99), (12, 10), side * -0.3, wobble(rng, 0.04))
        neck = blob(plane, (side * (jaws.ramus + 19), -82), (9, 20), side * -0.12, wobble(rng, 0.03))
        beak = blob(plane, (side * (jaws.ramus - 15), -84), (9, 24), side * 0.22, wobble(rng, 0.03))
        depth = np.maximum(depth, np.maximum.reduce([head, neck, beak]))
    depth = _rounded(depth)
    blend(canvas, _trabeculae(jaws, rng, shape, 1.0), cover(depth, 3.0))
    thick = 2.2 + 2.6 * np.clip((plane.y - 40) / 50, 0, 1)
    blend(canvas, jaws.cortex + 0.04 * smooth_noise(rng, shape, 30), 0.8 * cover(thick - np.abs(depth - thick), 2.5))
    _canal(canvas, plane, jaws, rng, depth)


def _rounded(depth: Field) -> Field:
    """Return the distance inside an outline whose corners, where its parts meet, are worn round."""
    smooth = ndimage.gaussian_filter(np.clip(depth, -24, 24), 5.0, truncate=2.5)
    inside = ndimage.distance_transform_edt(smooth > 0)
    return as_field(np.where(smooth > 0, inside - 0.5, smooth))


def _canal(canvas: Field, plane: Plane, jaws: Jaws, rng: Rng, depth: Field) -> None:
    """The nerve's canal, two fine bright lines from the branch to the hole beside the premolars."""
    x = np.abs(plane.x)
    drop = rng.uniform(0, 4)
    middle = 78 + drop - 0.0072 * np.maximum(x - 85, 0) ** 2 + 1.5 * smooth_noise(rng, plane.shape, 60)
    # Steeper is narrower: the distance across, not down.
    distance = np.abs(plane.y - middle) / np.sqrt(1 + (0.0144 * np.maximum(x - 85, 0)) ** 2)
    inside = np.clip(np.minimum(x - 78, 196 - x) / 8, 0, 1) * cover(depth - 6, 4.0)
    blend(canvas, canvas * np.float32(0.8), as_field(inside * cover(3.4 - distance, 2.0)))
    blend(canvas, jaws.cortex, as_field(0.3 * inside * cover(0.9 - np.abs(distance - 4.2), 1.4)))
    for side in (-1, 1):
        hole: Point = (side * 76.0, 77.0 + drop)
        blend(canvas, jaws.bone * 0.6, 0.7 * cover(blob(plane, hole, (5, 4)), 3.0))


def _trabeculae(jaws: Jaws, rng: Rng, shape: tuple[int, int], level: float) -> Field:
    """Return the shade of spongy bone: a fine mesh of bright struts."""
    mesh = 0.75 - np.abs(smooth_noise(rng, shape, jaws.mesh_scale)) - 0.5 * np.abs(smooth_noise(rng, shape, 2.2))
    patches = 0.03 * smooth_noise(rng, shape, 26)
    return as_field(level * jaws.bone + jaws.mesh * mesh + patches)
