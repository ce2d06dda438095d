"""Panoramic dental radiograph: two rows of teeth with their roots in the jaws, seen unrolled from ear to ear.

Everything is a shade of how much X-ray it stops: enamel and fillings most, then dentine, bone, pulp, and air not at all.
Tooth sizes follow the averages of dental anatomy (Nelson 2014), by the width of the crown; thin dark and bright lines
around the roots are the periodontal ligament and the lamina dura. The jaws are in `dental_jaws`.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from casam_fed.drawn.dental_jaws import Jaws, make_jaws, paint_jaws, paint_shadows
from casam_fed.drawn.geometry import OUTSIDE, Phantom, Plane, Point, make_plane
from casam_fed.drawn.texture import Field, Rng, as_field, blend, cover, grain, smooth_noise, to_bytes

__all__ = ["CLASSES", "draw_dental_xray"]

CLASSES = ("teeth",)

_SHAPES = ((256, 512), (256, 512), (248, 496), (264, 528))
_MM = 2.45  # Pixels.

# From the midline to the wisdom tooth, in mm: width and height of the crown, length of the root, number of roots.
_UPPER = (
    (8.5, 10.5, 13.0, 1),
    (6.6, 9.5, 13.0, 1),
    (7.6, 10.0, 16.5, 1),
    (7.0, 8.5, 13.5, 1),
    (6.8, 8.5, 13.5, 1),
    (10.2, 7.8, 12.5, 3),
    (9.8, 7.4, 12.0, 3),
    (8.8, 6.8, 11.0, 2),
)
_LOWER = (
    (5.4, 9.2, 12.5, 1),
    (5.8, 9.5, 13.5, 1),
    (6.9, 10.8, 15.5, 1),
    (7.0, 8.8, 14.0, 1),
    (7.2, 8.4, 14.5, 1),
    (11.2, 7.8, 13.5, 2),
    (10.6, 7.4, 13.0, 2),
    (10.2, 7.0, 11.5, 2),
)

# Half-width of a tooth in widths, where 0 is the biting edge, 1 the neck and 2 the tip of the root.
_MILESTONES = (0.0, 0.12, 0.35, 0.7, 1.0, 1.5, 1.85, 2.0)
_FRONT = (0.42, 0.465, 0.49, 0.45, 0.365, 0.27, 0.16, 0.05)
_PREMOLAR = (0.30, 0.42, 0.49, 0.46, 0.38, 0.27, 0.15, 0.05)
_MOLAR = (0.40, 0.46, 0.495, 0.47, 0.42, -0.4, -2.0, -2.0)
_ROOT = (-2.0, -2.0, -2.0, 0.05, 0.2, 0.165, 0.105, 0.03)
_PULP = (-0.3, -0.3, -0.1, 0.085, 0.085, 0.055, 0.03, 0.0)
_CHAMBER = (-0.3, -0.3, -0.12, 0.2, 0.17, -0.3, -0.5, -0.5)
_CANAL = (-0.3, -0.3, -0.3, 0.0, 0.05, 0.04, 0.025, 0.0)


@dataclass(frozen=True)
class _Patient:
    """What stays the same in all radiographs of one patient; lengths in pixels, shades in 0..1."""

    shape: tuple[int, int]
    zoom: float
    jaws: Jaws
    wisdom: float
    gaps: float
    treated: float
    wear: float
    enamel: float
    dentine: float
    pulp: float
    noise: float
    blur: float
    gamma: float


@dataclass(frozen=True)
class _Tooth:
    """One tooth: middle of its biting edge, direction of its root (radians), sizes in pixels, outline in widths."""

    place: Point
    direction: float
    width: float
    crown: float
    root: float
    roots: int
    outline: tuple[float, ...]
    bend: float
    treatment: str


@dataclass(frozen=True)
class _Shape:
    """Depths of a tooth and of its pulp in a window of the image, and the way along it (0 edge, 1 neck, 2 tip)."""

    window: tuple[slice, slice]
    depth: Field
    pulp: Field
    along: Field


def draw_dental_xray(patient: Rng, image: Rng, position: float) -> Phantom:
    """Draw one radiograph; `position` 0..1 raises the patient's chin: the row of teeth smiles less.

    `patient` decides what all radiographs of the patient share, `image` what differs from one to the next.
    """
    traits = _traits(patient)
    teeth = _teeth(traits, patient, 1.15 - 0.45 * position)
    plane = make_plane(
        traits.shape,
        image,
        zoom=traits.zoom,
        rotation=image.normal(0, 0.012),
        shift=(0.0, 4.0),
        bend=1.1,
        bend_scale=70,
    )
    canvas = np.full(plane.shape, 0.06, dtype=np.float32)
    paint_jaws(canvas, plane, traits.jaws, image)
    depth = np.full(plane.shape, OUTSIDE, dtype=np.float32)
    shapes = [_shape(plane, tooth) for tooth in teeth]
    for shape in shapes:
        _paint_socket(canvas, shape)
    for tooth, shape in zip(teeth, shapes, strict=True):
        _paint_tooth(canvas, plane, tooth, shape, depth, traits, image)
        depth[shape.window] = np.maximum(depth[shape.window], shape.depth)
    paint_shadows(canvas, plane, image)
    return Phantom(to_bytes(_expose(canvas, traits, image)), {"teeth": depth > 0}, {})


def _traits(rng: Rng) -> _Patient:
    shape = _SHAPES[rng.integers(len(_SHAPES))]
    return _Patient(
        shape=shape,
        zoom=shape[1] / 512 * rng.uniform(0.93, 1.03),
        jaws=make_jaws(rng),
        wisdom=rng.uniform(0.2, 1.0),
        gaps=float(rng.choice((0.0, 0.04, 0.14), p=(0.4, 0.35, 0.25))),
        treated=float(rng.choice((0.02, 0.25, 0.5), p=(0.3, 0.4, 0.3))),
        wear=rng.uniform(0.9, 1.0),
        enamel=rng.uniform(0.8, 0.9),
        dentine=rng.uniform(0.62, 0.7),
        pulp=rng.uniform(0.4, 0.48),
        noise=rng.uniform(0.012, 0.028),
        blur=rng.uniform(0.5, 0.9),
        gamma=rng.uniform(0.72, 1.0),
    )


def _teeth(traits: _Patient, rng: Rng, smile: float) -> list[_Tooth]:
    """Place up to 32 teeth side by side along both rows, from the midline outwards."""
    teeth: list[_Tooth] = []
    for upper, sizes in ((True, _UPPER), (False, _LOWER)):
        for side in (-1, 1):
            x = 0.0
            for number, size in enumerate(sizes):
                width = size[0] * _MM * rng.uniform(0.94, 1.06)
                # Premolars stand behind one another in the beam and overlap.
                x += 0.5 * width
                tooth = _tooth(traits, rng, smile, upper, side, number, side * x, width)
                x += 0.5 * width * (0.9 if number in (2, 3, 4) else 1.0) + rng.uniform(-0.5, 0.6)
                there = rng.random() < traits.wisdom if number == 7 else rng.random() > traits.gaps
                if there:
                    teeth.append(tooth)
    return teeth


def _tooth(
    traits: _Patient, rng: Rng, smile: float, upper: bool, side: int, number: int, x: float, width: float
) -> _Tooth:
    _, crown, root, roots = (_UPPER if upper else _LOWER)[number]
    upwards = -1 if upper else 1
    edge = traits.jaws.row(x, smile) + upwards * (1.5 + 5.5 * math.exp(-((x / 75) ** 2)) + rng.normal(0, 0.6))
    # Roots lean backwards, away from the midline, least in the front.
    lean = side * (0.02 + 0.05 * min(number, 4) / 4 + (0.16 * (number - 5) if number > 5 and not upper else 0.0))
    slope = traits.jaws.slope(x, smile)
    direction = math.atan2(upwards, upwards * -slope * 0.8 + lean + rng.normal(0, 0.025))
    kinds = ("filling", "filling", "crown", "root canal") if number > 2 else ("", "filling", "root canal")
    treatment = kinds[rng.integers(len(kinds))] if rng.random() < traits.treated and number < 7 else ""
    return _Tooth(
        place=(x, edge),
        direction=direction,
        width=width,
        crown=crown * _MM * traits.wear * rng.uniform(0.95, 1.05),
        root=root * _MM * rng.uniform(0.88, 1.08),
        roots=roots,
        outline=_FRONT if number < 3 else _PREMOLAR if number < 5 else _MOLAR,
        bend=side * rng.uniform(0.0, 0.13) * width,
        treatment=treatment,
    )


def _shape(plane: Plane, tooth: _Tooth) -> _Shape:
    """Return the depths of a tooth where it lies, from its profile along its axis."""
    window = _window(plane, tooth)
    dx, dy = plane.x[window] - np.float32(tooth.place[0]), plane.y[window] - np.float32(tooth.place[1])
    cosine, sine = np.float32(math.cos(tooth.direction)), np.float32(math.sin(tooth.direction))
    v = cosine * dx + sine * dy
    along = as_field(np.where(v < tooth.crown, v / tooth.crown, 1 + (v - tooth.crown) / tooth.root))
    beyond = np.clip(along - 1, 0, 1)
    u = cosine * dy - sine * dx
    u = u + np.float32(math.copysign(1.0, sine) * tooth.bend) * beyond**2
    depth = _profile(along, tooth.outline) * tooth.width - np.abs(u)
    if tooth.roots == 1:
        pulp = _profile(along, _PULP) * tooth.width - np.abs(u)
    else:
        pulp = _profile(along, _CHAMBER) * tooth.width - np.abs(u)
        for which in np.linspace(-1, 1, tooth.roots):
            middle = np.float32(which * tooth.width) * (0.23 + 0.09 * beyond)
            depth = np.maximum(depth, _profile(along, _ROOT) * tooth.width - np.abs(u - middle))
            pulp = np.maximum(pulp, _profile(along, _CANAL) * tooth.width - np.abs(u - middle))
    cusps = np.float32(1.6 * min(tooth.roots, 2) - 0.9) * np.cos(u * np.float32(4 * math.pi / tooth.width))
    depth = np.minimum(depth, np.minimum(v - 1.0 - cusps * (tooth.roots > 1), tooth.crown + tooth.root - v))
    return _Shape(window, as_field(depth), as_field(pulp), along)


def _window(plane: Plane, tooth: _Tooth) -> tuple[slice, slice]:
    reach = 0.6 * (tooth.crown + tooth.root) + 8
    middle = 0.5 * (tooth.crown + tooth.root)
    x, y = (
        tooth.place[0] + middle * math.cos(tooth.direction),
        tooth.place[1] + middle * math.sin(tooth.direction),
    )
    near = (np.abs(plane.x - np.float32(x)) < reach) & (np.abs(plane.y - np.float32(y)) < reach)
    rows, columns = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _profile(along: Field, values: tuple[float, ...]) -> Field:
    looked_up: npt.NDArray[np.float64] = np.interp(along, _MILESTONES, values)
    return as_field(looked_up)


def _paint_socket(canvas: Field, shape: _Shape) -> None:
    """The bone's bright lining and the dark cleft around a root."""
    part = canvas[shape.window]
    root = np.clip((shape.along - 1.12) * 8, 0, 1)
    blend(part, part + np.float32(0.1), root * cover(1.3 - np.abs(shape.depth + 2.6), 1.2))
    blend(part, part * np.float32(0.62), root * cover(shape.depth + 1.8, 1.2))


def _paint_tooth(
    canvas: Field, plane: Plane, tooth: _Tooth, shape: _Shape, before: Field, traits: _Patient, rng: Rng
) -> None:
    round_off = np.sqrt(np.clip(shape.depth / np.float32(0.35 * tooth.width), 0, 1))
    mottle = smooth_noise(rng, plane.shape, 5)[shape.window] * np.float32(0.012)
    # The neck, without enamel or bone around it, lets most through.
    shade = traits.dentine * (0.84 + 0.16 * round_off) - 0.05 * np.clip(shape.along - 1, 0, 1) + mottle
    shade -= 0.06 * np.exp(-(((shape.along - 1.06) / 0.12) ** 2))
    canal = 0.96 if tooth.treatment == "root canal" else traits.pulp
    blend(shade, canal, 0.8 * cover(shape.pulp, 1.8))
    thick = np.float32(1.9 * _MM) * np.sqrt(np.clip(1.02 - shape.along, 0, 1))
    enamel = np.minimum(thick - shape.depth, (0.98 - shape.along) * np.float32(tooth.crown))
    blend(shade, traits.enamel + mottle, cover(enamel, 3.4))
    _treat(shade, tooth, shape, rng)
    share = cover(shape.depth, 1.4)
    overlap = cover(before[shape.window], 1.4) * share
    part = canvas[shape.window]
    blend(part, np.maximum(shade, part * overlap) + np.float32(0.09) * overlap, share)


def _treat(shade: Field, tooth: _Tooth, shape: _Shape, rng: Rng) -> None:
    """Metal stops nearly everything: a filling in the biting surface, or a crown over all of it."""
    if tooth.treatment == "crown":
        blend(shade, 0.99, cover((0.94 - shape.along) * np.float32(tooth.crown), 1.5))
    elif tooth.treatment == "filling" or (tooth.treatment == "root canal" and tooth.roots > 1):
        lumps = smooth_noise(rng, (shade.shape[0], shade.shape[1]), 7) * np.float32(1.4)
        inset = rng.uniform(0.0, 0.16) * tooth.width
        floor = (rng.uniform(0.28, 0.5) - shape.along) * np.float32(tooth.crown)
        filling = np.minimum(floor, shape.depth - np.float32(inset)) + lumps
        blend(shade, 0.99, cover(np.minimum(filling, shape.depth), 1.3))


def _expose(canvas: Field, traits: _Patient, rng: Rng) -> Field:
    """Blur, grain and the film's curve."""
    film = ndimage.gaussian_filter(canvas, traits.blur, truncate=3.0)
    # Unsharp masking, which panoramic machines apply, is what gives the films their crisp edges.
    film += np.float32(0.45) * (film - ndimage.gaussian_filter(film, 3.0, truncate=3.0))
    film += np.float32(traits.noise) * grain(rng, (film.shape[0], film.shape[1]), 0.6)
    shown: Field = np.clip(film, 0, 1) ** np.float32(traits.gamma)
    return shown
