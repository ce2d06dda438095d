"""Where things are: organ outlines as signed depths on a slightly bent plane.

An outline is never a mask first. It is a depth in pixels (positive inside, 0 on the outline), so that the same field gives
the annotation (`depth > 0`), a soft edge (partial volume), layers (skin, fat, muscle) and clipping (minimum of depths).
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from casam_fed.drawn.texture import Field, Rng, as_field, smooth_noise

__all__ = ["OUTSIDE", "Harmonic", "Phantom", "Plane", "Point", "around", "blob", "bump", "make_plane", "wobble"]

Harmonic = tuple[int, float, float]
Point = tuple[float, float]

OUTSIDE = -1000.0
"""Depth of every pixel that is too far from an outline to have been computed."""

_DIRECTIONS = 720


@dataclass(frozen=True)
class Phantom:
    """One drawn image with its exact annotation.

    Attributes:
        image: uint8 [H, W, 3].
        masks: class name -> bool [H, W].
        instances: class name -> int32 [H, W], 0 background and 1..N; empty where instances make no sense.
    """

    image: npt.NDArray[np.uint8]
    masks: dict[str, npt.NDArray[np.bool_]]
    instances: dict[str, npt.NDArray[np.int32]]


@dataclass(frozen=True)
class Plane:
    """Anatomical coordinates of every pixel, float32 [H, W] each; (0, 0) is the anatomy's centre, y points down."""

    x: Field
    y: Field

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.x.shape[0], self.x.shape[1]


def make_plane(
    shape: tuple[int, int],
    rng: Rng,
    *,
    zoom: float = 1.0,
    rotation: float = 0.0,
    shift: Point = (0.0, 0.0),
    bend: float = 0.0,
    bend_scale: float = 60.0,
) -> Plane:
    """Return the plane of an image of `shape` (H, W).

    `zoom` is pixels per unit, `rotation` in radians, `shift` (x, y) moves the anatomy in pixels. `bend` is the standard
    deviation, in units, of a smooth random displacement that varies over `bend_scale` pixels: no two circles are alike.
    """
    height, width = shape
    rows = (np.arange(height, dtype=np.float32)[:, None] - (height - 1) / 2 - shift[1]) / zoom
    columns = (np.arange(width, dtype=np.float32)[None, :] - (width - 1) / 2 - shift[0]) / zoom
    cosine, sine = math.cos(rotation), math.sin(rotation)
    x = as_field(cosine * columns + sine * rows)
    y = as_field(cosine * rows - sine * columns)
    if bend > 0:
        x += np.float32(bend) * smooth_noise(rng, shape, bend_scale)
        y += np.float32(bend) * smooth_noise(rng, shape, bend_scale)
    return Plane(x, y)


def wobble(rng: Rng, strength: float, orders: tuple[int, ...] = (2, 3, 4, 5)) -> tuple[Harmonic, ...]:
    """Return random harmonics (order, cosine amplitude, sine amplitude) for `blob`, relative to its radius.

    Amplitudes fall with the order, so that outlines stay smooth.
    """
    return tuple(
        (order, strength * float(rng.normal()) / order**0.7, strength * float(rng.normal()) / order**0.7)
        for order in orders
    )


def blob(plane: Plane, centre: Point, radii: Point, angle: float = 0.0, harmonics: tuple[Harmonic, ...] = ()) -> Field:
    """Return the depth of a wobbled ellipse, float32 [H, W], exact to first order near its outline.

    `radii` are its half-axes in units, the first one along `angle` (radians). Far pixels hold `OUTSIDE`.
    """
    swing = 1.0 + sum(math.hypot(a, b) for _, a, b in harmonics)
    reach = max(radii) * swing + 16.0
    depth = np.full(plane.shape, OUTSIDE, dtype=np.float32)
    near = (np.abs(plane.x - np.float32(centre[0])) < reach) & (np.abs(plane.y - np.float32(centre[1])) < reach)
    rows, columns = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
    if rows.size == 0:
        return depth
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    depth[window] = _blob_depth(plane.x[window] - centre[0], plane.y[window] - centre[1], radii, angle, harmonics)
    return depth


def _blob_depth(dx: Field, dy: Field, radii: Point, angle: float, harmonics: tuple[Harmonic, ...]) -> Field:
    cosine, sine = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    u = (cosine * dx + sine * dy) / np.float32(radii[0])
    v = (cosine * dy - sine * dx) / np.float32(radii[1])
    rho = np.sqrt(u * u + v * v) + np.float32(1e-6)
    edge = np.ones_like(rho)
    if harmonics:
        c, s = u / rho, v / rho
        amplitudes = {order: (a, b) for order, a, b in harmonics}
        power_c, power_s = c, s
        for order in range(1, max(amplitudes) + 1):
            if order in amplitudes:
                a, b = amplitudes[order]
                edge += np.float32(a) * power_c + np.float32(b) * power_s
            power_c, power_s = power_c * c - power_s * s, power_s * c + power_c * s
    # |grad rho| turns the relative distance to the outline into pixels; it vanishes only in the centre itself.
    slope = np.sqrt((u / np.float32(radii[0])) ** 2 + (v / np.float32(radii[1])) ** 2) / rho
    return as_field((edge - rho) / np.maximum(slope, np.float32(1.0 / max(radii))))


def around(plane: Plane, centre: Point, profile: npt.NDArray[np.float64]) -> Field:
    """Look `profile` up in the direction of every pixel from `centre`, float32 [H, W].

    `profile` holds one value for each of equally spaced directions from -pi (left) over -pi/2 (up) and 0 (right) to pi.
    """
    direction = np.arctan2(plane.y - np.float32(centre[1]), plane.x - np.float32(centre[0]))
    index = ((direction + np.float32(math.pi)) * np.float32(profile.size / (2 * math.pi))).astype(np.int32)
    looked_up: Field = profile.astype(np.float32)[np.minimum(index, profile.size - 1)]
    return looked_up


def bump(centre: float, half_width: float, height: float, power: float = 1.0) -> npt.NDArray[np.float64]:
    """Return a profile for `around` that rises from 0 to `height` at direction `centre` and is 0 beyond `half_width`.

    Angles in radians; `power` below 1 gives a plateau with steep ends, above 1 a peak.
    """
    directions = (np.arange(_DIRECTIONS) + 0.5) * (2 * math.pi / _DIRECTIONS) - math.pi
    offset = np.abs((directions - centre + math.pi) % (2 * math.pi) - math.pi) / half_width
    profile: npt.NDArray[np.float64] = height * np.clip(1 - offset**2, 0, None) ** power
    return profile
