"""What lies around the prostate in an axial slice: fat, muscles, bones, vessels, bladder, rectum and lower urethra.

Turbo spin echo contrast: urine and fat bright, muscle dark, bone cortex and gas black. Lengths are millimetres around the
prostate's centre. A slice's `position` is 0 at the gland's base under the bladder, 1 at its apex, and goes on beyond both.
What lies in the gland, and the scanner, are in `prostate`.
"""

import math
from dataclasses import dataclass

import numpy as np

from casam_fed.drawn.geometry import Plane, Point, blob, wobble
from casam_fed.drawn.texture import Field, Rng, as_field, blend, cover, smooth_noise

__all__ = [
    "SIDES",
    "Scan",
    "Surroundings",
    "gland_size",
    "paint_pelvis",
    "paint_rectum",
    "paint_urethra",
    "rectum_outline",
    "rounded_maximum",
]

SIDES = (-1, 1)
"""The picture's left and right, as signs of x."""


@dataclass(frozen=True)
class Surroundings:
    """What stays the same around the gland of one patient; lengths in mm, signals around 1.

    Attributes:
        gland: half-axes where the gland is widest; what lies around it makes room.
        rectum: half-axes, `rectum_at` how far it lies from the midline.
        gas: what fills the rectum, 0..1, gas in the upper half.
        bladder, hips: size and width, relative.
        body: half-axes of the skin, `skin_fat` the thickness of the fat under it in front.
        peripheral, muscle, fat, marrow: T2 signals, the first one also that of the seminal vesicles.
    """

    gland: Point
    rectum: Point
    rectum_at: float
    gas: float
    bladder: float
    hips: float
    body: Point
    skin_fat: float
    peripheral: float
    muscle: float
    fat: float
    marrow: float


@dataclass(frozen=True)
class Scan:
    """What the anatomy is painted on: relative T2 signal and ADC in 1e-6 mm2/s."""

    t2: Field
    adc: Field

    def paint(self, t2: Field | float, adc: Field | float, depth: Field, softness: float = 1.2) -> None:
        """Paint both where `depth` is positive."""
        share = cover(depth, softness)
        blend(self.t2, t2, share)
        blend(self.adc, adc, share)


def rectum_outline(plane: Plane, traits: Surroundings, coil: bool, rng: Rng, position: float) -> Field:
    """Return the depth in the rectum's wall; an endorectal `coil` blows it up against the gland."""
    low = min(max(position, -0.4), 1.3)
    shrink = 1 - 0.3 * max(low, 0)
    radii = (traits.rectum[0] * shrink, traits.rectum[1] * shrink)
    gland, size = gland_size(traits, position)
    back = gland[1] + size[1]
    if coil:
        radii = (20.0, 16.0)
        return blob(plane, (0, back + radii[1] - 4), radii, 0.0, wobble(rng, 0.012, (2, 3)))
    return blob(plane, (traits.rectum_at, back + radii[1] + 0.5), radii, 0.0, wobble(rng, 0.04))


def paint_pelvis(plane: Plane, traits: Surroundings, rectum: Field, rng: Rng, position: float) -> Scan:
    """Paint everything but prostate and rectum, from the skin inwards."""
    shape = plane.shape
    scan = Scan(np.full(shape, 0.01, dtype=np.float32), np.zeros(shape, dtype=np.float32))
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


def _muscle(scan: Scan, plane: Plane, traits: Surroundings, rng: Rng, depth: Field) -> None:
    strands = np.clip(smooth_noise(rng, plane.shape, 4) - 1.4, 0, 1) * 0.16
    scan.paint(traits.muscle * (1 + 0.08 * smooth_noise(rng, plane.shape, 9)) + strands, 1250.0, depth, 1.5)


def _muscles(scan: Scan, plane: Plane, traits: Surroundings, rng: Rng, position: float) -> None:
    """Gluteal muscles behind, obturator internus on the inner pelvic wall, thigh muscles and rectus in front."""
    low = min(max(position, -0.3), 1.2)
    width = traits.hips
    front = -traits.body[1] + traits.skin_fat
    parts = []
    for side in SIDES:
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


def _bones(scan: Scan, plane: Plane, traits: Surroundings, rng: Rng, position: float) -> None:
    """Hip joints beside the base, pubic bones and ischium on the way down, coccyx behind: fatty marrow, black cortex."""
    low = min(max(position, -0.3), 1.3)
    width = traits.hips
    head = 23.5 - 7 * max(low, 0)
    bones = [blob(plane, (0, 68 + 3 * low), (9 - 3 * low, 5.5), 0.0, wobble(rng, 0.06))]
    for side in SIDES:
        hip = (side * (92 + 5 * low) * width, -10 + 4 * low)
        ball = blob(plane, hip, (head, head), 0.0, wobble(rng, 0.02))
        # The cup is what the round head leaves of a larger circle nearer to the midline: a crescent.
        cup = blob(
            plane, (hip[0] - side * (9 - 11 * max(low, 0)), hip[1]), (head + 4, head + 6), 0.0, wobble(rng, 0.02)
        )
        ischium = blob(plane, (side * (71 - 3 * low) * width, 14 + 9 * low), (21, 11), side * -1.1, wobble(rng, 0.05))
        socket = rounded_maximum(cup - 2.5 * max(low, 0), ischium)
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


def _pelvic_floor(scan: Scan, plane: Plane, traits: Surroundings, rectum: Field, rng: Rng, position: float) -> None:
    """The levator ani: a dark sling from the pubis past the gland and behind the rectum, thicker and tighter below."""
    low = min(max(position, -0.4), 1.3)
    centre, radii = gland_size(traits, position)
    room = 5.5 - 3.0 * low
    beside = blob(plane, centre, (radii[0] + room, radii[1] + room + 6), 0.0, wobble(rng, 0.02))
    sling = rounded_maximum(beside, rectum + np.float32(room), 16.0)
    thickness = 0.9 + 1.0 * max(low, 0) + 0.25 * smooth_noise(rng, plane.shape, 25)
    open_in_front = plane.y - centre[1] + 0.75 * radii[1]
    _muscle(scan, plane, traits, rng, as_field(np.minimum(thickness - np.abs(sling), open_in_front)))


def _bladder(scan: Scan, plane: Plane, traits: Surroundings, rng: Rng, position: float) -> None:
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
        for side in SIDES:
            vesicle = blob(plane, (side * 17, 11), (17, 6.5), side * -0.25, wobble(rng, 0.1))
            scan.paint(0.32, 1300.0, vesicle, 1.5)
            scan.paint(traits.peripheral, 1900.0, as_field(np.minimum(vesicle - 0.6, 4 * winding - 0.9)), 1.2)


def _vessels(scan: Scan, plane: Plane, traits: Surroundings, rng: Rng, position: float) -> None:
    """Bright veins around and in front of the gland, black flow in the femoral arteries."""
    ring = blob(plane, (0, -2), (traits.gland[0] + 4, traits.gland[1] + 5))
    where = np.minimum(4.5 - np.abs(ring), 14 - plane.y)
    worms = np.minimum(1.0 - np.abs(smooth_noise(rng, plane.shape, 6)) * 5, where)
    scan.paint(0.9 * traits.fat + 0.15, 1500.0, as_field(worms), 1.2)
    plexus = blob(plane, (0, -traits.gland[1] - 7), (13, 5), 0.0, wobble(rng, 0.1))
    scan.paint(as_field(traits.fat + 0.16 * smooth_noise(rng, plane.shape, 3.5)), 1300.0, plexus, 3.0)
    for side in SIDES:
        for offset, value in ((0.0, 0.05), (-12.0, 0.4)):
            vessel = blob(plane, (side * (58 + offset) * traits.hips, -70 - 3 * position), (5.2, 4.8))
            scan.paint(0.25, 900.0, vessel + 0.8)
            scan.paint(value, 600.0, vessel)


def paint_urethra(scan: Scan, plane: Plane, rng: Rng) -> None:
    """Below the apex: the membranous urethra in the dark ring of its sphincter."""
    ring = blob(plane, (0, 0), (7.5, 7), 0.0, wobble(rng, 0.04))
    scan.paint(0.2, 1200.0, ring, 1.5)
    scan.paint(0.5, 1400.0, ring - 3.4, 1.8)


def paint_rectum(scan: Scan, rectum: Field, traits: Surroundings, coil: bool, rng: Rng) -> None:
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


def gland_size(traits: Surroundings, position: float) -> tuple[Point, Point]:
    """Return the gland's centre and half-axes at `position`; beyond its ends, those of the end."""
    at = min(max(position, 0.0), 1.0)
    size = math.sin(math.pi * (0.22 + 0.64 * at)) ** 0.6
    return (0.0, 2.0 * at - 1.0), (traits.gland[0] * size, traits.gland[1] * (0.25 + 0.75 * size))


def rounded_maximum(one: Field, other: Field, softness: float = 5.0) -> Field:
    """Return the larger of two depths, with the notch between the two outlines filled."""
    near = np.clip(1 - np.abs(one - other) / np.float32(softness), 0, 1)
    return as_field(np.maximum(one, other) + near * near * np.float32(softness / 4))
