"""Panoramic dental radiograph: two rows of teeth with their roots in the jaws, seen unrolled from ear to ear.

Everything is a shade of how much X-ray it stops: enamel and fillings most, then dentine, bone, pulp, and air not at all.
Tooth sizes follow the averages of dental anatomy (Nelson 2014), by the width of the crown; thin dark and bright lines
around the roots are the periodontal ligament and the lamina dura. The curved jaws are unrolled, so that both rising
branches of the lower jaw stand at the sides and the midline appears once; spine and palate, out of the plane in focus,
leave blurred shadows (Whaites and Drage 2013).
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from casam_fed.drawn.geometry import OUTSIDE, Phantom, Plane, Point, blob, make_plane, wobble
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
class _Jaws:
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


@dataclass(frozen=True)
class _Patient:
    """What stays the same in all radiographs of one patient; lengths in pixels, shades in 0..1."""

    shape: tuple[int, int]
    zoom: float
    jaws: _Jaws
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
    _paint_jaws(canvas, plane, traits.jaws, image)
    depth = np.full(plane.shape, OUTSIDE, dtype=np.float32)
    shapes = [_shape(plane, tooth) for tooth in teeth]
    for shape in shapes:
        _paint_socket(canvas, shape)
    for tooth, shape in zip(teeth, shapes, strict=True):
        _paint_tooth(canvas, plane, tooth, shape, depth, traits, image)
        depth[shape.window] = np.maximum(depth[shape.window], shape.depth)
    _paint_shadows(canvas, plane, image)
    return Phantom(to_bytes(_expose(canvas, traits, image)), {"teeth": depth > 0}, {})


def _traits(rng: Rng) -> _Patient:
    shape = _SHAPES[rng.integers(len(_SHAPES))]
    return _Patient(
        shape=shape,
        zoom=shape[1] / 512 * rng.uniform(0.93, 1.03),
        jaws=_make_jaws(rng),
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


def _make_jaws(rng: Rng) -> _Jaws:
    """Return the jaws of one patient."""
    return _Jaws(
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


# --- the jaws, from the air to the ghost of the spine ----------------------------------------------------------------


def _paint_jaws(canvas: Field, plane: Plane, jaws: _Jaws, rng: Rng) -> None:
    """Paint soft tissue, upper jaw and lower jaw, in place."""
    _soft_tissue(canvas, plane, jaws, rng)
    _upper_jaw(canvas, plane, jaws, rng)
    _lower_jaw(canvas, plane, jaws, rng)


def _paint_shadows(canvas: Field, plane: Plane, rng: Rng) -> None:
    """Add what lies out of focus over everything, in place: the spine in the middle, streaks of the opposite jaw."""
    spine = np.exp(-((plane.x / np.float32(rng.uniform(30, 44))) ** 2)) * (0.75 + 0.25 * plane.y / 128)
    ghost = np.exp(-(((np.abs(plane.x) - 165) / 40) ** 2) - ((plane.y + 18) / 26) ** 2)
    veil = 1 + 0.05 * smooth_noise(rng, plane.shape, 90)
    canvas *= as_field(veil)
    canvas += as_field(rng.uniform(0.06, 0.13) * np.clip(spine, 0, 1.2) + rng.uniform(0.0, 0.06) * ghost)


def _soft_tissue(canvas: Field, plane: Plane, jaws: _Jaws, rng: Rng) -> None:
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


def _upper_jaw(canvas: Field, plane: Plane, jaws: _Jaws, rng: Rng) -> None:
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


def _lower_jaw(canvas: Field, plane: Plane, jaws: _Jaws, rng: Rng) -> None:
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


def _canal(canvas: Field, plane: Plane, jaws: _Jaws, rng: Rng, depth: Field) -> None:
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


def _trabeculae(jaws: _Jaws, rng: Rng, shape: tuple[int, int], level: float) -> Field:
    """Return the shade of spongy bone: a fine mesh of bright struts."""
    mesh = 0.75 - np.abs(smooth_noise(rng, shape, jaws.mesh_scale)) - 0.5 * np.abs(smooth_noise(rng, shape, 2.2))
    patches = 0.03 * smooth_noise(rng, shape, 26)
    return as_field(level * jaws.bone + jaws.mesh * mesh + patches)
