"""Axial T2-weighted MR of the prostate: a bright peripheral zone behind a darker nodular transition zone, with its ADC.

The zones split the gland as McNeal (1981) drew it: the transition zone large at the base, where the bladder is, the
peripheral zone nearly alone at the apex. Around it lie fat, muscles, bones, vessels, bladder, rectum and lower urethra, in
turbo spin echo contrast: urine and fat bright, muscle dark, bone cortex and gas black. Lengths are millimetres around the
prostate's centre, so that the scanner decides pixel size and field of view. Two scanners, after two public data sets: the
Medical Segmentation Decathlon's prostate task (surface coil) and PROMISE12 (many centres, some with an endorectal coil).
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from casam_fed.drawn.geometry import Harmonic, Phantom, Plane, Point, around, blob, make_plane, wobble
from casam_fed.drawn.texture import Field, Rng, as_field, blend, cover, grain, smooth_noise, to_bytes

__all__ = ["CLASSES", "ProstateSlice", "Scanner", "draw_prostate_msd", "draw_prostate_promise12", "draw_prostate_slice"]

CLASSES = ("peripheral zone", "transition zone")

Scanner = Literal["msd", "promise12"]

_UNITS = 900.0
_LENGTH = 42.0
_SIDES = (-1, 1)  # The picture's left and right, as signs of x.


@dataclass(frozen=True)
class ProstateSlice:
    """One axial slice with its exact annotation.

    Attributes:
        t2: float32 [H, W], the scanner's arbitrary units, 0 or more, not windowed.
        adc: float32 [H, W], apparent diffusion coefficient in 1e-6 mm2/s.
        zones: uint8 [H, W], 0 background, 1 peripheral zone, 2 transition zone.
    """

    t2: Field
    adc: Field
    zones: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Device:
    """How one patient was scanned: pixels per mm, shading across the field, coil in the rectum, noise and contrast."""

    shape: tuple[int, int]
    zoom: float
    shift: Point
    blur: float
    noise: float
    shading: float
    endorectal: float
    contrast: float
    gain: float


@dataclass(frozen=True)
class _Lump:
    """A ball in the gland, cut by some slices: place (x, y) in mm, position 0..1, radius in mm, brightness, its rim."""

    place: Point
    position: float
    radius: float
    value: float
    rim: float


@dataclass(frozen=True)
class _Patient:
    """What stays the same in all slices of one patient; lengths in mm, signals around 1.

    Attributes:
        rotation: of the body, in radians.
        gland: half-axes where the gland is widest; what lies around it makes room.
        outline, lobe: how the gland and the transition zone's lobes differ from ellipses.
        hyperplasia: of the transition zone, 0..1.
        horns: how far the transition zone's front reaches back, relative.
        nodules, tumour: what lies in the gland.
        rectum: half-axes, `rectum_at` how far it lies from the midline.
        gas: what fills the rectum, 0..1, gas in the upper half.
        bladder, hips: size and width, relative.
        body: half-axes of the skin, `skin_fat` the thickness of the fat under it in front.
        peripheral, transition, muscle, fat, marrow: T2 signals, the first one also that of the seminal vesicles.
    """

    rotation: float
    gland: Point
    outline: tuple[Harmonic, ...]
    lobe: tuple[Harmonic, ...]
    hyperplasia: float
    horns: float
    nodules: tuple[_Lump, ...]
    tumour: _Lump | None
    rectum: Point
    rectum_at: float
    gas: float
    bladder: float
    hips: float
    body: Point
    skin_fat: float
    peripheral: float
    transition: float
    muscle: float
    fat: float
    marrow: float


@dataclass(frozen=True)
class _Scan:
    """What the anatomy is painted on: relative T2 signal and ADC in 1e-6 mm2/s."""

    t2: Field
    adc: Field

    def paint(self, t2: Field | float, adc: Field | float, depth: Field, softness: float = 1.2) -> None:
        """Paint both where `depth` is positive."""
        share = cover(depth, softness)
        blend(self.t2, t2, share)
        blend(self.adc, adc, share)


@dataclass(frozen=True)
class _Gland:
    """Depths in the whole prostate and in its transition zone."""

    outline: Field
    transition: Field
    centre: Point
    radii: Point


def draw_prostate_msd(patient: Rng, image: Rng, position: float) -> Phantom:
    """Draw one slice in the manner of the Decathlon's prostate task; `position` 0 at the base, 1 at the apex."""
    return _windowed(draw_prostate_slice(patient, image, position, "msd"))


def draw_prostate_promise12(patient: Rng, image: Rng, position: float) -> Phantom:
    """Draw one slice in the manner of PROMISE12; `position` 0 at the base, 1 at the apex."""
    return _windowed(draw_prostate_slice(patient, image, position, "promise12"))


def draw_prostate_slice(patient: Rng, image: Rng, position: float, scanner: Scanner) -> ProstateSlice:
    """Draw one slice at `position`: 0 at the base under the bladder, 1 at the apex.

    Below 0 the slice shows the bladder and the seminal vesicles, above 1 the urethra under the prostate; both without
    prostate and with empty zones. `patient` decides what all slices of the patient share, its size included, `image` what
    differs from slice to slice.
    """
    traits = _traits(patient)
    device = _device(patient, scanner)
    plane = make_plane(
        device.shape, patient, zoom=device.zoom, rotation=traits.rotation, shift=device.shift, bend=1.3, bend_scale=40
    )
    coil = device.endorectal > 0
    rectum = _rectum_outline(plane, traits, coil, image, position)
    scan = _paint_pelvis(plane, traits, rectum, image, position)
    zones = np.zeros(device.shape, dtype=np.uint8)
    if 0 <= position <= 1:
        gland = _gland(plane, traits, rectum, position)
        _paint_gland(scan, plane, gland, traits, image, position)
        zones[gland.outline > 0] = 1
        zones[gland.transition > 0] = 2
    elif position > 1:
        _paint_urethra(scan, plane, image)
    _paint_rectum(scan, rectum, traits, coil, image)
    return ProstateSlice(_acquire_t2(scan, plane, device, image), _acquire_adc(scan, device, image), zones)


def _windowed(drawn: ProstateSlice) -> Phantom:
    top = np.percentile(drawn.t2, 99.6)
    masks = {name: drawn.zones == number for number, name in enumerate(CLASSES, start=1)}
    return Phantom(to_bytes(as_field(drawn.t2 / np.float32(top))), masks, {})


# --- who is scanned, and how -----------------------------------------------------------------------------------------


def _traits(rng: Rng) -> _Patient:
    hyperplasia = rng.uniform(0.0, 1.0)
    gland = (rng.uniform(22, 26) + 3.5 * hyperplasia, rng.uniform(14.5, 17.5) + 5 * hyperplasia)
    return _Patient(
        rotation=rng.normal(0, 0.04),
        gland=gland,
        outline=wobble(rng, 0.018, (2, 3, 4)),
        lobe=wobble(rng, 0.05, (2, 3, 4)),
        hyperplasia=hyperplasia,
        horns=rng.uniform(-0.2, 0.2),
        nodules=_nodules(rng, gland, hyperplasia),
        tumour=_tumour(rng, gland),
        rectum=(rng.uniform(12, 20), rng.uniform(9, 15)),
        rectum_at=rng.normal(0, 3),
        gas=rng.uniform(0, 1),
        bladder=rng.uniform(0.7, 1.2),
        hips=rng.uniform(0.94, 1.06),
        body=(rng.uniform(168, 190), rng.uniform(98, 112)),
        skin_fat=rng.uniform(12, 30),
        peripheral=rng.uniform(0.64, 0.92),
        transition=rng.uniform(0.33, 0.46),
        muscle=rng.uniform(0.13, 0.2),
        fat=rng.uniform(0.4, 0.6),
        marrow=rng.uniform(0.28, 0.42),
    )


def _nodules(rng: Rng, gland: Point, hyperplasia: float) -> tuple[_Lump, ...]:
    """Return the nodules of the transition zone: glandular ones bright, stromal ones dark, each in a dark rim."""
    lumps = []
    for _ in range(int(rng.integers(4, 8) + 10 * hyperplasia)):
        side, up = rng.choice(_SIDES) * rng.uniform(0.12, 0.52) * gland[0], rng.uniform(-0.6, 0.2) * gland[1]
        value = rng.uniform(1.25, 2.1) if rng.random() < 0.6 else rng.uniform(0.55, 0.85)
        radius = rng.uniform(2.0, 4.5) + 3.5 * hyperplasia * rng.random()
        lumps.append(_Lump((side, up), rng.uniform(-0.05, 0.75), radius, value, rng.uniform(0.3, 0.8)))
    return tuple(lumps)


def _tumour(rng: Rng, gland: Point) -> _Lump | None:
    """Return a dark focus near the back of the peripheral zone, in every second patient."""
    direction = math.pi / 2 + rng.choice(_SIDES) * rng.uniform(0.3, 1.1)
    place = (0.76 * gland[0] * math.cos(direction), 0.76 * gland[1] * math.sin(direction))
    lump = _Lump(place, rng.uniform(0.2, 0.75), rng.uniform(4.0, 8.0), rng.uniform(0.35, 0.5), 0.0)
    return lump if rng.random() < 0.5 else None


def _device(rng: Rng, scanner: Scanner) -> _Device:
    if scanner == "msd":
        return _Device(
            shape=(256, 256),
            zoom=256 / rng.uniform(165, 195),
            shift=(rng.normal(0, 4), rng.normal(-2, 5)),
            blur=rng.uniform(0.5, 0.8),
            noise=rng.uniform(0.015, 0.035),
            shading=rng.uniform(0.1, 0.4),
            endorectal=0.0,
            contrast=rng.uniform(0.9, 1.1),
            gain=rng.uniform(0.8, 1.3),
        )
    side = int(rng.choice((240, 256, 272, 288)))
    coil = rng.random() < 0.25
    return _Device(
        shape=(side, side),
        zoom=side / (rng.uniform(140, 165) if coil else rng.uniform(175, 225)),
        shift=(rng.normal(0, 4), rng.normal(-4, 6)),
        blur=rng.uniform(0.5, 1.1),
        noise=rng.uniform(0.015, 0.055),
        shading=rng.uniform(0.1, 0.6),
        endorectal=rng.uniform(0.9, 1.7) if coil else 0.0,
        contrast=rng.uniform(0.8, 1.2),
        gain=rng.uniform(0.3, 1.6),
    )


# --- the gland -------------------------------------------------------------------------------------------------------


def _gland(plane: Plane, traits: _Patient, rectum: Field, position: float) -> _Gland:
    """Return the outlines at `position`: widest above the middle, the transition zone shrinking towards the apex."""
    centre, radii = _gland_size(traits, position)
    # Heart-shaped: flat or hollow where the rectum lies, its corners behind.
    heart = (*traits.outline, (1, 0.0, 0.03), (3, 0.0, 0.035))
    outline = blob(plane, centre, radii, 0.0, heart)
    outline = as_field(np.minimum(outline, -rectum - 0.8))
    share = (0.66 + 0.16 * traits.hyperplasia) * (1 - 0.6 * max(position - 0.15, 0) ** 1.2)
    inner = (radii[0] * share * 1.02, radii[1] * share * 0.9)
    lobe = (0.72 * inner[0], inner[1])
    places = [(centre[0] + side * 0.36 * inner[0], centre[1] - 0.26 * radii[1]) for side in _SIDES]
    left, right = (blob(plane, place, lobe, 0.0, traits.lobe) for place in places)
    # In front of its horns the gland has no peripheral zone: fibrous tissue counts as transition zone.
    front = blob(
        plane, (centre[0], centre[1] - radii[1]), (radii[0] * (0.84 - 0.4 * position), radii[1] * (0.7 + traits.horns))
    )
    transition = _rounded_maximum(_rounded_maximum(left, right), front)
    return _Gland(outline, as_field(np.minimum(transition, outline)), centre, radii)


def _paint_gland(scan: _Scan, plane: Plane, gland: _Gland, traits: _Patient, rng: Rng, position: float) -> None:
    scan.paint(0.16, 1100.0, gland.outline + 0.9, 1.0)
    _peripheral_zone(scan, plane, gland, traits, rng)
    mottle, fine = smooth_noise(rng, plane.shape, 9), smooth_noise(rng, plane.shape, 3)
    base = as_field(traits.transition * (1 + 0.16 * mottle + 0.14 * fine))
    # The surgical capsule: a dark line between the zones.
    scan.paint(0.17, 1150.0, np.minimum(gland.transition + 0.7, gland.outline), 1.0)
    scan.paint(base, 1330 + 90 * mottle, as_field(np.minimum(gland.transition - 0.5, gland.outline)), 1.2)
    for nodule in traits.nodules:
        value, adc = as_field(base * nodule.value), 900 + 330 * nodule.value
        _paint_lump(scan, plane, nodule, gland.transition - 1.2, value, adc, position)
    # Fibromuscular stroma in front, thick above and thin below.
    stroma = blob(plane, (0, gland.centre[1] - gland.radii[1]), (0.5 * gland.radii[0], 0.3 * gland.radii[1]))
    scan.paint(traits.muscle + 0.03, 1050.0, as_field(np.minimum(stroma, gland.outline)), 3.0)
    urethra = blob(plane, (0, gland.centre[1] + gland.radii[1] * (0.05 - 0.2 * (position - 0.5))), (2.3, 2.8))
    scan.paint(0.3, 1300.0, urethra + 1.2, 1.5)
    scan.paint(traits.transition + 0.25, 1600.0, urethra, 1.8)
    if traits.tumour is not None:
        value = traits.peripheral * traits.tumour.value * (1 + 0.08 * fine)
        _paint_lump(scan, plane, traits.tumour, gland.outline - 0.4, value, 780 + 40 * mottle, position)


def _peripheral_zone(scan: _Scan, plane: Plane, gland: _Gland, traits: _Patient, rng: Rng) -> None:
    """Bright glands parted by thin dark septa that fan out from the urethra."""
    directions = rng.standard_normal(720)
    fan = ndimage.gaussian_filter1d(directions, 2.2, mode="wrap") * 2.5
    rays = np.clip(around(plane, gland.centre, fan) + 0.3 * smooth_noise(rng, plane.shape, 4) - 0.7, 0, 1.2)
    patches = smooth_noise(rng, plane.shape, 10)
    value = traits.peripheral * (1 - 0.3 * rays + 0.1 * patches + 0.06 * smooth_noise(rng, plane.shape, 3))
    scan.paint(as_field(value), as_field(1720 + 110 * patches - 150 * rays), gland.outline, 1.2)


def _paint_lump(
    scan: _Scan, plane: Plane, lump: _Lump, within: Field, t2: Field, adc: Field | float, position: float
) -> None:
    """Paint where the slice at `position` cuts `lump`, `within` a depth."""
    away = (position - lump.position) * _LENGTH
    if abs(away) >= lump.radius:
        return
    radius = math.sqrt(lump.radius**2 - away**2)
    depth = np.minimum(blob(plane, lump.place, (radius * 1.08, radius * 0.92), lump.radius * 9.0), within)
    if lump.rim > 0:
        blend(scan.t2, 0.17, lump.rim * cover(as_field(depth + 0.6), 1.2))
    scan.paint(t2, adc, as_field(depth), 1.4)


def _gland_size(traits: _Patient, position: float) -> tuple[Point, Point]:
    """Return the gland's centre and half-axes at `position`; beyond its ends, those of the end."""
    at = min(max(position, 0.0), 1.0)
    size = math.sin(math.pi * (0.22 + 0.64 * at)) ** 0.6
    return (0.0, 2.0 * at - 1.0), (traits.gland[0] * size, traits.gland[1] * (0.25 + 0.75 * size))


def _rounded_maximum(one: Field, other: Field, softness: float = 5.0) -> Field:
    """Return the larger of two depths, with the notch between the two outlines filled."""
    near = np.clip(1 - np.abs(one - other) / np.float32(softness), 0, 1)
    return as_field(np.maximum(one, other) + near * near * np.float32(softness / 4))


# --- around the gland ------------------------------------------------------------------------------------------------


def _rectum_outline(plane: Plane, traits: _Patient, coil: bool, rng: Rng, position: float) -> Field:
    """Return the depth in the rectum's wall; an endorectal `coil` blows it up against the gland."""
    low = min(max(position, -0.4), 1.3)
    shrink = 1 - 0.3 * max(low, 0)
    radii = (traits.rectum[0] * shrink, traits.rectum[1] * shrink)
    gland, size = _gland_size(traits, position)
    back = gland[1] + size[1]
    if coil:
        radii = (20.0, 16.0)
        return blob(plane, (0, back + radii[1] - 4), radii, 0.0, wobble(rng, 0.012, (2, 3)))
    return blob(plane, (traits.rectum_at, back + radii[1] + 0.5), radii, 0.0, wobble(rng, 0.04))


def _paint_pelvis(plane: Plane, traits: _Patient, rectum: Field, rng: Rng, position: float) -> _Scan:
    """Paint everything but prostate and rectum, from the skin inwards."""
    shape = plane.shape
    scan = _Scan(np.full(shape, 0.01, dtype=np.float32), np.zeros(shape, dtype=np.float32))
    body = blob(plane, (0, 0), traits.body, 0.0, wobble(rng, 0.008, (2, 3)))
    cleft = blob(plane, (0, traits.body[1] + 2), (7, 20))
    body = np.minimum(body, -cleft)
    # Septa run through fat as dark threads.
    septa = np.exp(-((smooth_noise(rng, shape, 12) / 0.08) ** 2)) * np.clip(smooth_noise(rng, shape, 20), 0, 1)
    fat = traits.fat * (1 + 0.05 * smooth_noise(rng, shape, 5) - 0.35 * septa)
    scan.paint(fat, 150.0, body, 2.0)
    _muscles(scan, plane, traits, rng, position)
    _bones(scan, plane, traits, rng, position)
    _vessels(scan, plane, traits, rng, position)
    _pelvic_floor(scan, plane, traits, rectum, rng, position)
    _bladder(scan, plane, traits, rng, position)
    return scan


def _muscle(scan: _Scan, plane: Plane, traits: _Patient, rng: Rng, depth: Field) -> None:
    strands = np.clip(smooth_noise(rng, plane.shape, 4) - 1.4, 0, 1) * 0.16
    scan.paint(traits.muscle * (1 + 0.08 * smooth_noise(rng, plane.shape, 9)) + strands, 1250.0, depth, 1.5)


def _muscles(scan: _Scan, plane: Plane, traits: _Patient, rng: Rng, position: float) -> None:
    """Gluteal muscles behind, obturator internus on the inner pelvic wall, thigh muscles and rectus in front."""
    low = min(max(position, -0.3), 1.2)
    width = traits.hips
    front = -traits.body[1] + traits.skin_fat
    parts = []
    for side in _SIDES:
        parts.append(blob(plane, (side * 15 * width, front + 9), (14 * width, 6), side * 0.1, wobble(rng, 0.05)))
        gluteus = blob(plane, (side * 64 * width, 66), (54, 21), side * -0.55, wobble(rng, 0.05))
        # Its bundles are parted by fat.
        parts.append(np.minimum(gluteus, 7 * np.abs(smooth_noise(rng, plane.shape, 18)) - 0.3 + 0.12 * gluteus))
        obturator = blob(
            plane, (side * (47 - 2 * low) * width, 3), (38, 12.5 - 1.5 * low), side * -1.42, wobble(rng, 0.05)
        )
        parts.append(obturator)
        parts.append(blob(plane, (side * 62 * width, 38), (22, 8), side * -0.5, wobble(rng, 0.05)))
        parts.append(blob(plane, (side * 100 * width, 30), (14, 20), side * 0.2, wobble(rng, 0.05)))
        parts.append(blob(plane, (side * 78 * width, -46), (27, 13), side * 0.35, wobble(rng, 0.06)))
        parts.append(
            blob(plane, (side * (48 + 10 * low) * width, -42 - 12 * low), (18, 9), side * 0.5, wobble(rng, 0.06))
        )
        parts.append(blob(plane, (side * 100 * width, -66), (20, 15), side * 0.2, wobble(rng, 0.06)))
    _muscle(scan, plane, traits, rng, as_field(np.maximum.reduce(parts)))


def _bones(scan: _Scan, plane: Plane, traits: _Patient, rng: Rng, position: float) -> None:
    """Hip joints beside the base, pubic bones and ischium on the way down, coccyx behind: fatty marrow, black cortex."""
    low = min(max(position, -0.3), 1.3)
    width = traits.hips
    head = 23.5 - 7 * max(low, 0)
    bones = [blob(plane, (0, 68 + 3 * low), (9 - 3 * low, 5.5), 0.0, wobble(rng, 0.06))]
    for side in _SIDES:
        hip = (side * (92 + 5 * low) * width, -10 + 4 * low)
        ball = blob(plane, hip, (head, head), 0.0, wobble(rng, 0.02))
        # The cup is what the round head leaves of a larger circle nearer to the midline: a crescent.
        cup = blob(
            plane, (hip[0] - side * (9 - 11 * max(low, 0)), hip[1]), (head + 4, head + 6), 0.0, wobble(rng, 0.02)
        )
        ischium = blob(plane, (side * (71 - 3 * low) * width, 14 + 9 * low), (21, 11), side * -1.1, wobble(rng, 0.05))
        socket = _rounded_maximum(cup - 2.5 * max(low, 0), ischium)
        bones += [np.minimum(socket, -ball - 1.8), ball]
        if low > 0.0:
            # The upper branches meet in front of the gland, and the symphysis stays open between them.
            reach = 36 * min(1.0, 0.4 + 1.2 * low)
            pubis = blob(
                plane,
                (side * (4 + 0.82 * reach), -41 + 4 * low),
                (reach, 9.5),
                side * (0.35 + 0.3 * low),
                wobble(rng, 0.07),
            )
            bones.append(np.minimum(pubis, side * plane.x - 2.5))
    bone = as_field(np.maximum.reduce(bones))
    mottle = smooth_noise(rng, plane.shape, 4)
    scan.paint(0.03, 50.0, bone + 0.6, 1.2)
    scan.paint(as_field(traits.marrow * (1 + 0.1 * mottle)), as_field(330 + 60 * mottle), bone - 1.0, 1.5)
    if low > 0.0:
        disc = blob(plane, (0, -37 - 2 * low), (2.4, 11), 0.0, wobble(rng, 0.04))
        scan.paint(0.22, 900.0, disc)


def _pelvic_floor(scan: _Scan, plane: Plane, traits: _Patient, rectum: Field, rng: Rng, position: float) -> None:
    """The levator ani: a dark sling from the pubis past the gland and behind the rectum, thicker and tighter below."""
    low = min(max(position, -0.4), 1.3)
    centre, radii = _gland_size(traits, position)
    room = 5.5 - 3.0 * low
    beside = blob(plane, centre, (radii[0] + room, radii[1] + room + 6), 0.0, wobble(rng, 0.02))
    sling = _rounded_maximum(beside, rectum + np.float32(room), 16.0)
    thickness = 0.9 + 1.0 * max(low, 0) + 0.25 * smooth_noise(rng, plane.shape, 25)
    open_in_front = plane.y - centre[1] + 0.75 * radii[1]
    _muscle(scan, plane, traits, rng, as_field(np.minimum(thickness - np.abs(sling), open_in_front)))


def _bladder(scan: _Scan, plane: Plane, traits: _Patient, rng: Rng, position: float) -> None:
    """The bladder above and in front of the base, the seminal vesicles behind it above the gland."""
    size = traits.bladder * (0.85 - (2.2 if position > 0 else 0.7) * position)
    if size > 0.25:
        centre = (rng.normal(0, 0.6), -20 - 30 * max(position, 0))
        lumen = blob(plane, centre, (37 * min(size, 1.15), 25 * min(size, 1.15)), 0.0, wobble(rng, 0.03, (2, 3, 4)))
        wall = 2.4 + 0.5 * smooth_noise(rng, plane.shape, 20)
        scan.paint(0.21, 1300.0, as_field(lumen + wall), 1.5)
        scan.paint(1.05, 2900.0, lumen, 1.5)
    if position < 0:
        winding = np.abs(smooth_noise(rng, plane.shape, 6))
        for side in _SIDES:
            vesicle = blob(plane, (side * 17, 11), (17, 6.5), side * -0.25, wobble(rng, 0.1))
            scan.paint(0.32, 1300.0, vesicle, 1.5)
            scan.paint(traits.peripheral, 1900.0, as_field(np.minimum(vesicle - 0.6, 4 * winding - 0.9)), 1.2)


def _vessels(scan: _Scan, plane: Plane, traits: _Patient, rng: Rng, position: float) -> None:
    """Bright veins around and in front of the gland, black flow in the femoral arteries."""
    ring = blob(plane, (0, -2), (traits.gland[0] + 4, traits.gland[1] + 5))
    where = np.minimum(4.5 - np.abs(ring), 14 - plane.y)
    worms = np.minimum(1.0 - np.abs(smooth_noise(rng, plane.shape, 6)) * 5, where)
    scan.paint(0.9 * traits.fat + 0.15, 1500.0, as_field(worms), 1.2)
    plexus = blob(plane, (0, -traits.gland[1] - 7), (13, 5), 0.0, wobble(rng, 0.1))
    scan.paint(as_field(traits.fat + 0.16 * smooth_noise(rng, plane.shape, 3.5)), 1300.0, plexus, 3.0)
    for side in _SIDES:
        for offset, value in ((0.0, 0.05), (-12.0, 0.4)):
            vessel = blob(plane, (side * (58 + offset) * traits.hips, -70 - 3 * position), (5.2, 4.8))
            scan.paint(0.25, 900.0, vessel + 0.8)
            scan.paint(value, 600.0, vessel)


def _paint_urethra(scan: _Scan, plane: Plane, rng: Rng) -> None:
    """Below the apex: the membranous urethra in the dark ring of its sphincter."""
    ring = blob(plane, (0, 0), (7.5, 7), 0.0, wobble(rng, 0.04))
    scan.paint(0.2, 1200.0, ring, 1.5)
    scan.paint(0.5, 1400.0, ring - 3.4, 1.8)


def _paint_rectum(scan: _Scan, rectum: Field, traits: _Patient, coil: bool, rng: Rng) -> None:
    """Fat around, a dark wall with a brighter lining, and inside gas, stool or the coil's balloon."""
    shape = rectum.shape
    scan.paint(traits.muscle + 0.06, 1150.0, rectum, 1.2)
    if coil:
        scan.paint(0.02, 0.0, rectum - 2.0, 1.2)
        return
    folds = rectum - 2.6 - 0.9 * smooth_noise(rng, shape, 9)
    scan.paint(0.5 + 0.06 * smooth_noise(rng, shape, 4), 1500.0, as_field(folds), 1.2)
    content = as_field(folds - 1.6)
    if traits.gas > 0.45:
        scan.paint(0.02, 0.0, content, 1.2)
    else:
        lumps = smooth_noise(rng, shape, 5)
        scan.paint(np.clip(0.38 + 0.16 * lumps, 0.05, 1), 1100 + 250 * lumps, content, 1.5)


# --- the scanner -----------------------------------------------------------------------------------------------------


def _acquire_t2(scan: _Scan, plane: Plane, device: _Device, rng: Rng) -> Field:
    """Blur, coil sensitivity, Rician noise (Gudbjartsson and Patz 1995) and the scanner's units."""
    signal = ndimage.gaussian_filter(np.maximum(scan.t2, 0), device.blur, truncate=3.0) ** np.float32(device.contrast)
    # Coils lie in front and behind: the middle of the body gets less, and unevenly.
    nearness = (plane.y / 90) ** 2 - 0.25
    coil = np.exp(device.shading * nearness + 0.1 * smooth_noise(rng, plane.shape, 120))
    if device.endorectal > 0:
        distance = np.sqrt(plane.x**2 + (plane.y - 22) ** 2)
        coil = coil * (0.55 + device.endorectal * 1.8 * np.exp(-distance / 24))
    signal = signal * as_field(coil)
    sigma = np.float32(device.noise)
    real = signal + sigma * grain(rng, plane.shape, 0.5)
    imaginary = sigma * grain(rng, plane.shape, 0.5)
    return as_field(np.sqrt(real * real + imaginary * imaginary) * np.float32(device.gain * _UNITS))


def _acquire_adc(scan: _Scan, device: _Device, rng: Rng) -> Field:
    """Echo-planar images are coarse, and the ADC is noise where there is little signal."""
    coarse = ndimage.gaussian_filter(scan.adc, 1.1 * device.zoom, truncate=3.0)
    signal = ndimage.gaussian_filter(scan.t2, 0.9 * device.zoom, truncate=3.0)
    noise = grain(rng, scan.adc.shape, 0.7 * device.zoom) * (55 + 280 * np.exp(-signal / np.float32(0.06)))
    return as_field(np.maximum(coarse + noise, 0))
