"""What things look like: smooth and fine noise, soft edges, and many small ellipses at once.

Everything is float32 and element-wise, without matrix products, so that the number of threads never changes a byte.
"""

import math

import numpy as np
import numpy.typing as npt
from scipy import ndimage

__all__ = [
    "Field",
    "Rng",
    "as_field",
    "at_points",
    "blend",
    "cover",
    "grain",
    "jittered_grid",
    "smooth_noise",
    "stamp",
    "to_bytes",
]

Rng = np.random.Generator
Field = npt.NDArray[np.float32]


def as_field(values: npt.NDArray[np.floating]) -> Field:
    """Return `values` as float32, without a copy where they are already."""
    return values.astype(np.float32, copy=False)


def smooth_noise(rng: Rng, shape: tuple[int, int], scale: float) -> Field:
    """Return Gaussian noise of about unit variance that varies over `scale` pixels, float32 [H, W].

    White noise on a coarse grid, interpolated by cubic B-splines.
    """
    height, width = shape
    coarse = rng.standard_normal((math.ceil(height / scale) + 4, math.ceil(width / scale) + 4), dtype=np.float32)
    rows = _spline_upsample(coarse, height, scale, float(rng.random()))
    both = _spline_upsample(np.ascontiguousarray(rows.T), width, scale, float(rng.random())).T
    # A cubic B-spline keeps 0.479 of the variance of white noise along each axis.
    return np.ascontiguousarray(both) / np.float32(0.479)


def _spline_upsample(coarse: Field, size: int, scale: float, phase: float) -> Field:
    position = np.arange(size) / scale + phase
    base = position.astype(np.int64)
    t = (position - base).astype(np.float32)[:, None]
    weights = (
        (1 - t) ** 3 / 6,
        (3 * t**3 - 6 * t**2 + 4) / 6,
        (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
        t**3 / 6,
    )
    fine = as_field(weights[0] * coarse[base])
    for offset in (1, 2, 3):
        fine += weights[offset] * coarse[base + offset]
    return fine


def grain(rng: Rng, shape: tuple[int, ...], sigma: float) -> Field:
    """Return unit-variance Gaussian noise blurred by `sigma` pixels along the first two axes, float32 of `shape`."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    if sigma > 0:
        sigmas = (sigma, sigma) + (0.0,) * (len(shape) - 2)
        noise = ndimage.gaussian_filter(noise, sigmas, mode="wrap", truncate=3.0)
        noise /= noise.std()
    return noise


def cover(depth: npt.NDArray[np.floating], softness: float = 1.0) -> Field:
    """Return the share of each pixel that lies inside, 0..1, for an edge `softness` pixels wide, float32 [H, W]."""
    return as_field(np.clip(depth / np.float32(softness) + np.float32(0.5), 0, 1))


def blend(canvas: Field, value: Field | float, share: Field) -> None:
    """Paint `value` over `canvas` in place where `share` is 1, and mix where it is between 0 and 1."""
    canvas += share * (np.asarray(value, dtype=np.float32) - canvas)


def stamp(
    canvas: Field,
    centres: npt.NDArray[np.floating],
    radii: npt.NDArray[np.floating],
    angles: npt.NDArray[np.floating],
    values: npt.NDArray[np.floating],
) -> None:
    """Draw n soft ellipses on `canvas` [H, W] in place, keeping the larger value where they overlap.

    `centres` [n, 2] are (x, y) pixels, `radii` [n, 2] half-axes, the first along `angles` [n] (radians), `values` [n].
    """
    if len(centres) == 0:
        return
    height, width = canvas.shape
    reach = math.ceil(float(radii.max())) + 1
    offsets = np.arange(-reach, reach + 1)
    anchor = np.round(centres).astype(np.int64)
    columns, rows = anchor[:, 0, None, None] + offsets[None, None, :], anchor[:, 1, None, None] + offsets[None, :, None]
    dx = (columns - centres[:, 0, None, None]).astype(np.float32)
    dy = (rows - centres[:, 1, None, None]).astype(np.float32)
    cosine = np.cos(angles).astype(np.float32)[:, None, None]
    sine = np.sin(angles).astype(np.float32)[:, None, None]
    u = (cosine * dx + sine * dy) / radii[:, 0, None, None].astype(np.float32)
    v = (cosine * dy - sine * dx) / radii[:, 1, None, None].astype(np.float32)
    smallest = radii.min(axis=1)[:, None, None].astype(np.float32)
    share = cover((1 - np.sqrt(u * u + v * v)) * smallest, 1.2)
    painted = share * values[:, None, None].astype(np.float32)
    rows, columns = np.broadcast_arrays(rows, columns)
    inside = (share > 0) & (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    np.maximum.at(canvas, (rows[inside], columns[inside]), painted[inside])


def jittered_grid(rng: Rng, shape: tuple[int, int], spacing: float, jitter: float) -> npt.NDArray[np.float32]:
    """Return points (x, y) that cover an image of `shape` evenly but not regularly, float32 [n, 2].

    A hexagonal grid `spacing` pixels apart, each point moved by a normal offset of `jitter` spacings.
    """
    height, width = shape
    rows = np.arange(-spacing, height + spacing, spacing * math.sqrt(3) / 2)
    columns = np.arange(-spacing, width + spacing, spacing)
    y, x = np.meshgrid(rows, columns, indexing="ij")
    x = x + (np.arange(rows.size) % 2)[:, None] * spacing / 2
    points = np.stack([x.ravel(), y.ravel()], axis=1) + rng.normal(0, jitter * spacing, (x.size, 2))
    return points.astype(np.float32)


def at_points(field: Field, points: npt.NDArray[np.float32]) -> Field:
    """Return the values of `field` [H, W] at `points` (x, y) [n, 2]: nearest pixel, the border repeated, float32 [n]."""
    columns = np.clip(np.round(points[:, 0]).astype(int), 0, field.shape[1] - 1)
    rows = np.clip(np.round(points[:, 1]).astype(int), 0, field.shape[0] - 1)
    values: Field = field[rows, columns]
    return values


def to_bytes(image: Field) -> npt.NDArray[np.uint8]:
    """Return an image in 0..1 as uint8 [H, W, 3]; a grey [H, W] image becomes three equal channels."""
    levels = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return levels if levels.ndim == 3 else np.repeat(levels[:, :, None], 3, axis=2)
