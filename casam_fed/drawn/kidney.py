"""Kidney sections: glomeruli among tubules of the cortex, PAS stain, from kidneys of two diseases.

The groups are those of the KPIs 2024 challenge: after 5/6 nephrectomy glomeruli are large, some partly scarred, tubules
wide and here and there filled with casts; in diabetic nephropathy the mesangium expands into nodules and membranes
thicken. Both ranges overlap widely, as they do in kidneys. PAS colours basement membranes, mesangium, brush borders and
casts magenta, haematoxylin nuclei blue, and lumens stay pale; colour follows from the amounts of both by the Beer-Lambert
law (Ruifrok and Johnston 2001).
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from casam_fed.drawn.geometry import OUTSIDE, Phantom, Plane, Point, blob, make_plane, wobble
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
    to_bytes,
)

__all__ = ["CLASSES", "draw_kidney_56nx", "draw_kidney_dn"]

CLASSES = ("glomerulus",)

_SHAPE = (512, 512)

# Optical densities of the dyes in red, green and blue.
_HAEMATOXYLIN = (0.95, 0.98, 0.46)
_PAS = (0.24, 0.95, 0.42)

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
class _Patient:
    """What stays the same in all fields of one patient, in the kidney and on the slide; lengths in pixels.

    Attributes:
        radius: of the glomeruli.
        membrane: thickness of basement membranes and capsules, relative to a healthy kidney.
        mesangium: how far it crowds out the capillaries, 0..1.
        nodules, sclerosis, dilation, casts: how much there is of each, 0..1.
        spacing: of the tubules.
        fibrosis: how far it parts the tubules, 0..1.
        proximal: share of the tubules that are.
        brush, cytoplasm: PAS of the brush borders and of the tubules' cells, optical density.
        inflammation: how crowded with nuclei the tissue between the tubules is, 0..1.
        haematoxylin, pas: float32 [3], the dyes of this patient's laboratory.
        light, blur: the microscope's white, float32 [3] in 0..1, and the width of its blur.
    """

    radius: float
    membrane: float
    mesangium: float
    nodules: float
    sclerosis: float
    dilation: float
    casts: float
    spacing: float
    fibrosis: float
    proximal: float
    brush: float
    cytoplasm: float
    inflammation: float
    haematoxylin: Field
    pas: Field
    light: Field
    blur: float


@dataclass(frozen=True)
class _Glomeruli:
    """Depth in the capsules and which one (1..N), depth in the tufts, and in the scars and nodules of the tufts."""

    depth: Field
    labels: npt.NDArray[np.int32]
    tuft: Field
    solid: Field


@dataclass(frozen=True)
class _Tubules:
    """Depth in the tubules, and for every pixel the traits of its tubule: lining, dark cells, content 0..1."""

    depth: Field
    lining: Field
    proximal: Field
    cast: Field


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
    rgb = _stain_section(tubules, glomeruli, artery, traits, rng)
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
        haematoxylin=_make_dye(rng, _HAEMATOXYLIN, rng.uniform(*disease.blue)),
        pas=_make_dye(rng, _PAS, rng.uniform(*disease.magenta)),
        light=np.asarray(rng.uniform((0.89, 0.88, 0.9), (0.98, 0.97, 0.99)), dtype=np.float32),
        blur=rng.uniform(0.5, 0.8),
    )


def _make_dye(rng: Rng, density: tuple[float, float, float], strength: float) -> Field:
    """Return optical densities [3] around `strength` times `density`: no two laboratories stain alike."""
    return np.asarray(np.array(density) * strength * rng.uniform(0.88, 1.12, 3), dtype=np.float32)


# --- where things lie ------------------------------------------------------------------------------------------------


def _glomeruli(plane: Plane, traits: _Patient, rng: Rng, position: float) -> _Glomeruli:
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
    return _Glomeruli(depth, labels, tuft, solid)


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


def _artery_outline(plane: Plane, glomeruli: _Glomeruli, rng: Rng) -> Field:
    """Return the depth in a small artery, in about every second field."""
    radius = rng.uniform(14, 28)
    x, y = rng.uniform(-230, 230, 2)
    depth = blob(plane, (x, y), (radius * rng.uniform(1.0, 1.6), radius), rng.uniform(0, math.pi), wobble(rng, 0.04))
    if rng.random() < 0.4 or (np.minimum(depth, glomeruli.depth) > -6).any():
        return np.full(_SHAPE, OUTSIDE, dtype=np.float32)
    return depth


def _tubules(plane: Plane, traits: _Patient, taken: Field, rng: Rng) -> _Tubules:
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


def _cells(depth: Field, owner: _Labels, wide: npt.NDArray[np.bool_], traits: _Patient, rng: Rng) -> _Tubules:
    """Give every tubule its lining: tall dark cells with a brush border, low pale ones, flat ones where it is wide."""
    count = len(wide)
    proximal = (rng.random(count) < traits.proximal) & ~wide
    tall = np.where(proximal, rng.uniform(0.24, 0.38, count), rng.uniform(0.16, 0.23, count)) * traits.spacing
    lining = np.where(wide, rng.uniform(4.0, 6.0, count), tall)
    cast = np.where(rng.random(count) < traits.casts * np.where(wide, 1.3, 0.15), rng.uniform(0.5, 1.0, count), 0.0)
    shade = np.where(proximal, 1.0, 0.0) + rng.normal(0, 0.06, count)
    return _Tubules(
        depth,
        lining.astype(np.float32)[owner],
        shade.astype(np.float32)[owner],
        cast.astype(np.float32)[owner],
    )


# --- how it looks once stained ---------------------------------------------------------------------------------------


def _stain_section(tubules: _Tubules, glomeruli: _Glomeruli, artery: Field, traits: _Patient, rng: Rng) -> Field:
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


def _paint_tubules(pas: Field, haematoxylin: Field, tubules: _Tubules, traits: _Patient, rng: Rng) -> None:
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


def _paint_glomeruli(pas: Field, haematoxylin: Field, glomeruli: _Glomeruli, traits: _Patient, rng: Rng) -> Field:
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
    tubules: _Tubules, glomeruli: _Glomeruli, artery: Field, lumens: Field, traits: _Patient, rng: Rng
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


def _tubule_nuclei(canvas: Field, tubules: _Tubules, rng: Rng) -> None:
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


def _glomerular_nuclei(canvas: Field, glomeruli: _Glomeruli, lumens: Field, rng: Rng) -> None:
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


def _photograph(density: Field, traits: _Patient, rng: Rng) -> Field:
    uneven = 1 + np.float32(0.03) * smooth_noise(rng, density.shape[:2], 300)
    rgb = traits.light * np.exp(-density) * uneven[:, :, None]
    rgb = ndimage.gaussian_filter(rgb, (traits.blur, traits.blur, 0), truncate=3.0)
    picture: Field = rgb + np.float32(0.012) * grain(rng, rgb.shape, 0.0)
    return picture
