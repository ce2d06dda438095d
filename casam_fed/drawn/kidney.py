"""Kidney sections: glomeruli among tubules of the cortex, PAS stain, from kidneys of two diseases.

Here is what lies where, and in whom; how it looks is in `kidney_stain`. The groups are those of the KPIs 2024 challenge:
after 5/6 nephrectomy glomeruli are large, some partly scarred, tubules wide and here and there filled with casts; in
diabetic nephropathy the mesangium expands into nodules and membranes thicken. Both ranges overlap widely, as they do in
kidneys.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from casam_fed.drawn.geometry import OUTSIDE, Phantom, Plane, Point, blob, make_plane, wobble
from casam_fed.drawn.kidney_stain import (
    HAEMATOXYLIN,
    PAS,
    Appearance,
    Glomeruli,
    Tubules,
    make_dye,
    stain_section,
)
from casam_fed.drawn.texture import Field, Rng, as_field, jittered_grid, smooth_noise, to_bytes

__all__ = ["CLASSES", "draw_kidney_56nx", "draw_kidney_dn"]

CLASSES = ("glomerulus",)

_SHAPE = (512, 512)

_Range = tuple[float, float]
_Labels = npt.NDArray[np.int32]


@dataclass(frozen=True)
class _Disease:
    """Between which values the patients of a group lie; lengths in pixels, shares and strengths in 0..1."""

    radius: _Range
    membrane: _Range
    mesangium: _Range
    nodules: _Range
    sclerosis: _Range
    dilation: _Range
    casts: _Range
    magenta: _Range
    blue: _Range


_NEPHRECTOMY = _Disease(
    radius=(42, 58),
    membrane=(0.9, 1.5),
    mesangium=(0.1, 0.5),
    nodules=(0.0, 0.1),
    sclerosis=(0.1, 0.6),
    dilation=(0.15, 0.65),
    casts=(0.0, 0.2),
    magenta=(0.8, 1.25),
    blue=(0.8, 1.2),
)
_DIABETES = _Disease(
    radius=(36, 52),
    membrane=(1.2, 2.1),
    mesangium=(0.3, 0.9),
    nodules=(0.0, 0.8),
    sclerosis=(0.0, 0.2),
    dilation=(0.0, 0.3),
    casts=(0.0, 0.06),
    magenta=(0.85, 1.35),
    blue=(0.75, 1.15),
)


@dataclass(frozen=True)
class _Patient(Appearance):
    """What stays the same in all fields of one patient, its appearance included; lengths in pixels."""

    radius: float
    nodules: float
    sclerosis: float
    dilation: float
    casts: float
    spacing: float
    fibrosis: float
    proximal: float


def draw_kidney_56nx(patient: Rng, image: Rng, position: float) -> Phantom:
    """Draw one field of a kidney after 5/6 nephrectomy; `position` 0..1 goes from the deep to the outer cortex.

    `patient` decides what all fields of the patient share, `image` what differs from field to field.
    """
    return _draw(_traits(patient, _NEPHRECTOMY), image, position)


def draw_kidney_dn(patient: Rng, image: Rng, position: float) -> Phantom:
    """Draw one field of a kidney with diabetic nephropathy, otherwise like `draw_kidney_56nx`."""
    return _draw(_traits(patient, _DIABETES), image, position)


def _draw(traits: _Patient, rng: Rng, position: float) -> Phantom:
    plane = make_plane(_SHAPE, rng, bend=2.5, bend_scale=24)
    glomeruli = _glomeruli(plane, traits, rng, position)
    artery = _artery_outline(plane, glomeruli, rng)
    tubules = _tubules(plane, traits, np.maximum(glomeruli.depth, artery), rng)
    rgb = stain_section(tubules, glomeruli, artery, traits, rng)
    return Phantom(to_bytes(rgb), {"glomerulus": glomeruli.labels > 0}, {"glomerulus": glomeruli.labels})


def _traits(rng: Rng, disease: _Disease) -> _Patient:
    return _Patient(
        radius=rng.uniform(*disease.radius),
        membrane=rng.uniform(*disease.membrane),
        mesangium=rng.uniform(*disease.mesangium),
        nodules=rng.uniform(*disease.nodules),
        sclerosis=rng.uniform(*disease.sclerosis),
        dilation=rng.uniform(*disease.dilation),
        casts=rng.uniform(*disease.casts),
        spacing=rng.uniform(36, 46),
        fibrosis=rng.uniform(0.0, 1.0),
        proximal=rng.uniform(0.55, 0.75),
        brush=rng.uniform(0.1, 0.4),
        cytoplasm=rng.uniform(0.26, 0.42),
        inflammation=rng.uniform(0.1, 0.5),
        haematoxylin=make_dye(rng, HAEMATOXYLIN, rng.uniform(*disease.blue)),
        pas=make_dye(rng, PAS, rng.uniform(*disease.magenta)),
        light=np.asarray(rng.uniform((0.89, 0.88, 0.9), (0.98, 0.97, 0.99)), dtype=np.float32),
        blur=rng.uniform(0.5, 0.8),
    )


# --- where things lie ------------------------------------------------------------------------------------------------


def _glomeruli(plane: Plane, traits: _Patient, rng: Rng, position: float) -> Glomeruli:
    """Place one to four glomeruli, the first one wholly inside the field, the others perhaps cut by its border."""
    depth, tuft, solid = (np.full(_SHAPE, OUTSIDE, dtype=np.float32) for _ in range(3))
    labels = np.zeros(_SHAPE, dtype=np.int32)
    wanted = 1 + int(rng.binomial(3, 0.2 + 0.45 * position))
    placed: list[tuple[float, float, float]] = []
    for _ in range(60):
        radius = traits.radius * rng.uniform(0.8, 1.15)
        span = 240 if placed else 250 - 1.3 * radius
        x, y = rng.uniform(-span, span, 2)
        if any(math.hypot(x - ox, y - oy) < 1.15 * (radius + other) + 8 for ox, oy, other in placed):
            continue
        stretch = math.sqrt(rng.uniform(1.0, 1.3))
        outline = (radius * stretch, radius / stretch)
        own = blob(plane, (x, y), outline, rng.uniform(0, math.pi), wobble(rng, 0.025, (2, 3, 4)))
        if placed and (own > 0).sum() < 900:
            continue
        placed.append((x, y, radius))
        labels[own > 0] = len(placed)
        depth = np.maximum(depth, own)
        own_tuft = _tuft(plane, own, (x, y), radius, rng)
        tuft = np.maximum(tuft, own_tuft)
        solid = np.maximum(solid, _solid(plane, own_tuft, (x, y), radius, traits, rng))
        if len(placed) == wanted:
            break
    return Glomeruli(depth, labels, tuft, solid)


def _tuft(plane: Plane, capsule: Field, centre: Point, radius: float, rng: Rng) -> Field:
    """Return the depth in the tuft of capillaries: lobed, hanging to one side in its capsule."""
    lean = rng.uniform(0, 2 * math.pi)
    shift = radius * rng.uniform(0.02, 0.09)
    middle = (centre[0] + shift * math.cos(lean), centre[1] + shift * math.sin(lean))
    size = radius * rng.uniform(0.84, 0.93)
    lobed = blob(plane, middle, (size, size), 0.0, wobble(rng, 0.05, (2, 3, 5, 6, 7, 9)))
    return as_field(np.minimum(lobed, capsule - np.float32(2.5)))


def _solid(plane: Plane, tuft: Field, centre: Point, radius: float, traits: _Patient, rng: Rng) -> Field:
    """Return the depth in what has no open capillaries: scarred segments at the rim, nodules of matrix inside."""
    x, y = centre
    depth = np.full(_SHAPE, OUTSIDE, dtype=np.float32)
    if rng.random() < traits.sclerosis:
        at, size = rng.uniform(0, 2 * math.pi), radius * rng.uniform(0.3, 0.6)
        place = (x + 0.72 * radius * math.cos(at), y + 0.72 * radius * math.sin(at))
        depth = np.maximum(depth, blob(plane, place, (size, 0.8 * size), at, wobble(rng, 0.12)))
    for _ in range(rng.poisson(5 * traits.nodules)):
        at, away, size = rng.uniform(0, 2 * math.pi), radius * rng.uniform(0.2, 0.66), radius * rng.uniform(0.13, 0.26)
        place = (x + away * math.cos(at), y + away * math.sin(at))
        depth = np.maximum(depth, blob(plane, place, (size * 1.1, size * 0.9), at, wobble(rng, 0.05)))
    return as_field(np.minimum(depth, tuft))


def _artery_outline(plane: Plane, glomeruli: Glomeruli, rng: Rng) -> Field:
    """Return the depth in a small artery, in about every second field."""
    radius = rng.uniform(14, 28)
    x, y = rng.uniform(-230, 230, 2)
    depth = blob(plane, (x, y), (radius * rng.uniform(1.0, 1.6), radius), rng.uniform(0, math.pi), wobble(rng, 0.04))
    if rng.random() < 0.4 or (np.minimum(depth, glomeruli.depth) > -6).any():
        return np.full(_SHAPE, OUTSIDE, dtype=np.float32)
    return depth


def _tubules(plane: Plane, traits: _Patient, taken: Field, rng: Rng) -> Tubules:
    """Pack tubules around what is `taken`: each one a segment cut across or along, next to each other without overlap."""
    points = jittered_grid(rng, _SHAPE, traits.spacing, 0.18)
    rng.shuffle(points)
    first, second = (np.full(_SHAPE, 999.0, dtype=np.float32) for _ in range(2))
    owner = np.zeros(_SHAPE, dtype=np.int32)
    along = rng.uniform(0, math.pi)
    centre = np.array([_SHAPE[1] / 2, _SHAPE[0] / 2], dtype=np.float32)
    wide = rng.random(len(points)) < traits.dilation * 0.5
    bulge = np.where(wide, rng.uniform(0.1, 0.3, len(points)), rng.uniform(-0.08, 0.08, len(points))) * traits.spacing
    length = np.where(rng.random(len(points)) < 0.35, rng.uniform(0.3, 1.1, len(points)), 0.12) * traits.spacing
    angle = np.where(
        rng.random(len(points)) < 0.6, along + rng.normal(0, 0.4, len(points)), rng.uniform(0, 3.1, len(points))
    )
    for number, point in enumerate(points):
        column, row = np.clip(np.round(point).astype(int), 0, np.array(_SHAPE) - 1)
        if taken[row, column] > -6 or first[row, column] < 0.4 * traits.spacing - bulge[owner[row, column]]:
            continue
        reach = int(2.2 * traits.spacing + length[number])
        window = np.s_[max(0, row - reach) : row + reach, max(0, column - reach) : column + reach]
        dx, dy = plane.x[window] - (point - centre)[0], plane.y[window] - (point - centre)[1]
        distance = _segment(dx, dy, float(length[number]), float(angle[number])) - np.float32(bulge[number])
        near, next_near = first[window], second[window]
        closer = distance < near
        second[window] = np.where(closer, near, np.minimum(next_near, distance))
        first[window] = np.where(closer, distance, near)
        owner[window][closer] = number
    fibrosis = traits.fibrosis * np.clip(smooth_noise(rng, _SHAPE, 70), 0, 2)
    depth = np.minimum((second - first) / 2 - 1.2 - 2.4 * fibrosis, np.float32(0.53 * traits.spacing) - first)
    depth = ndimage.gaussian_filter(as_field(depth), 2.0, truncate=2.5)
    depth = np.minimum(depth, -taken - 2.5)
    return _cells(as_field(depth), owner, wide, traits, rng)


def _segment(dx: Field, dy: Field, length: float, angle: float) -> Field:
    """Return the distance to a segment of `length` around the origin in direction `angle`."""
    cosine, sine = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    u, v = cosine * dx + sine * dy, cosine * dy - sine * dx
    beyond = np.maximum(np.abs(u) - np.float32(length / 2), 0)
    return as_field(np.sqrt(beyond * beyond + v * v))


def _cells(depth: Field, owner: _Labels, wide: npt.NDArray[np.bool_], traits: _Patient, rng: Rng) -> Tubules:
    """Give every tubule its lining: tall dark cells with a brush border, low pale ones, flat ones where it is wide."""
    count = len(wide)
    proximal = (rng.random(count) < traits.proximal) & ~wide
    tall = np.where(proximal, rng.uniform(0.24, 0.38, count), rng.uniform(0.16, 0.23, count)) * traits.spacing
    lining = np.where(wide, rng.uniform(4.0, 6.0, count), tall)
    cast = np.where(rng.random(count) < traits.casts * np.where(wide, 1.3, 0.15), rng.uniform(0.5, 1.0, count), 0.0)
    shade = np.where(proximal, 1.0, 0.0) + rng.normal(0, 0.06, count)
    return Tubules(
        depth,
        lining.astype(np.float32)[owner],
        shade.astype(np.float32)[owner],
        cast.astype(np.float32)[owner],
    )
