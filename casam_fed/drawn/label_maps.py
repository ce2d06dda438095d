"""Drawn images: endless, seeded, without any real picture.

The mini SAM is pre-trained on them, and every backbone's background statistics (routing standardisation) are taken on
them. A drawing is a label map (smooth regions, crowds of cells, a few large nested blobs), coloured per label and then
disturbed by what scanners and microscopes do: texture, bias field, blur, noise, gamma, padding.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

__all__ = ["Drawing", "draw", "draw_targets"]

Rng = np.random.Generator
Field = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Drawing:
    """One drawn image.

    Attributes:
        image: uint8 [h, w, 3], the longest side is the requested size.
        labels: int32 [h, w]; every value is one region or object.
        layers: where the labels of each layer of objects begin, ascending, and where the last one ends; labels below
            the first are regions. The objects of a layer are often of one kind: alike in colour.
    """

    image: npt.NDArray[np.uint8]
    labels: Labels
    layers: tuple[int, ...]


def draw(seed: int, index: int, size: int) -> Drawing:
    """Return drawing `index` of the endless series `seed`, its longest side `size` pixels.

    The same arguments give the same bytes on the same platform.
    """
    rng = np.random.default_rng((seed, index))
    height, width = _sides(rng, size)
    labels, layers = _label_map(rng, height, width)
    image = _acquire(rng, _colour(rng, labels, layers))
    return Drawing(np.round(image * 255).astype(np.uint8), labels, layers)


def draw_targets(
    drawing: Drawing, count: int, rng: Rng, min_pixels: int = 24, single: bool = False
) -> npt.NDArray[np.bool_]:
    """Return up to `count` masks of a drawing, bool [n, h, w], objects preferred to regions.

    Half of the objects stand for all objects of their layer, as a class does, but each layer only once; of the rest, most
    masks are one connected object or region, and some are all parts of one label. With `single` every mask is connected:
    what one click can mean. Each covers between `min_pixels` and 70% of the image; n is 0 when nothing does.
    """
    areas = np.bincount(drawing.labels.ravel())
    largest = 0.7 * drawing.labels.size
    fits = np.flatnonzero((areas >= min_pixels) & (areas <= largest))
    if fits.size == 0:
        return np.zeros((0, *drawing.labels.shape), dtype=bool)
    # Small objects are the many: weighting by the square root of the area shows all sizes equally often.
    weights = np.sqrt(areas[fits]) * np.where(fits >= drawing.layers[0], 4.0, 1.0)
    chosen = rng.choice(fits, size=min(count, fits.size), replace=False, p=weights / weights.sum())
    masks = []
    shown = {0}
    for label in chosen:
        layer = int(np.searchsorted(drawing.layers, label, side="right"))
        way = rng.random()
        mask = drawing.labels == label
        if not single and way < 0.5 and layer not in shown:
            shown.add(layer)
            mask = (drawing.labels >= drawing.layers[layer - 1]) & (drawing.labels < drawing.layers[layer])
        elif single or way < 0.85:
            mask = _one_component(mask, rng)
        if min_pixels <= mask.sum() <= largest:
            masks.append(mask)
    return np.stack(masks) if masks else np.zeros((0, *drawing.labels.shape), dtype=bool)


def _one_component(mask: npt.NDArray[np.bool_], rng: Rng) -> npt.NDArray[np.bool_]:
    parts, count = ndimage.label(mask)
    if count <= 1:
        return mask
    pixels = parts[mask]
    component: npt.NDArray[np.bool_] = parts == pixels[rng.integers(pixels.size)]
    return component


def _sides(rng: Rng, size: int) -> tuple[int, int]:
    if rng.random() < 0.75:
        return size, size
    short = int(size * rng.uniform(0.6, 0.98))
    return (size, short) if rng.random() < 0.5 else (short, size)


def _smooth(rng: Rng, height: int, width: int, coarse: int, count: int = 1) -> Field:
    """Return smooth noise [count, height, width] of about unit variance with `coarse` bumps along a side."""
    seeds = rng.standard_normal((count, coarse + 3, coarse + 3), dtype=np.float32)
    rows = _spline_matrix(height, coarse)
    columns = _spline_matrix(width, coarse)
    return np.asarray(rows @ seeds @ columns.T * 1.6, dtype=np.float32)


def _spline_matrix(length: int, coarse: int) -> Field:
    """Return the [length, coarse + 3] matrix of uniform cubic B-spline weights."""
    position = np.linspace(0, coarse - 1e-4, length, dtype=np.float32)
    cell = np.floor(position).astype(np.int64)
    t = position - cell
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1) / 6
    matrix = np.zeros((length, coarse + 3), dtype=np.float32)
    np.put_along_axis(matrix, cell[:, None] + np.arange(4)[None], weights.astype(np.float32), axis=1)
    return matrix


def _label_map(rng: Rng, height: int, width: int) -> tuple[Labels, tuple[int, ...]]:
    regions = int(rng.integers(1, 8))
    coarse = int(rng.integers(1, 9))
    labels = _smooth(rng, height, width, coarse, regions).argmax(axis=0).astype(np.int32)
    layers = [regions]
    # One crowd and nothing else is what many microscopes show, and where "all objects" has one meaning only.
    crowds, blobs = (1, 0) if rng.random() < 0.35 else (int(rng.integers(0, 3)), int(rng.integers(0, 4)))
    for paint, count in ((_paint_cells, crowds), (_paint_blob, blobs)):
        for _ in range(count):
            labels, next_label = paint(rng, labels, layers[-1])
            layers.append(next_label)
    return labels, tuple(layers)


def _paint_cells(rng: Rng, labels: Labels, next_label: int) -> tuple[Labels, int]:
    """Paint a crowd: one warped ellipse per cell of a jittered lattice, the nearest one winning where they meet."""
    height, width = labels.shape
    pitch = math.exp(rng.uniform(math.log(9), math.log(90)))
    rows, columns = int(height / pitch) + 3, int(width / pitch) + 3
    centre = rng.uniform(0.1, 0.9, (2, rows, columns)).astype(np.float32)
    mean_radius = rng.uniform(0.28, 0.62)
    spread = rng.uniform(0.05, 0.35)
    axes = (mean_radius * np.exp(spread * rng.standard_normal((2, rows, columns)))).astype(np.float32)
    angle = rng.uniform(0, math.pi, (rows, columns)).astype(np.float32)
    alive = rng.random((rows, columns)) < rng.uniform(0.15, 1.0)
    if rng.random() < 0.5:
        alive &= _smooth(rng, rows, columns, 2)[0] > rng.uniform(-0.8, 0.3)

    warp = _smooth(rng, height, width, max(2, int(height / pitch * rng.uniform(0.5, 1.5))), 2) * rng.uniform(0, 0.22)
    y = np.arange(height, dtype=np.float32)[:, None] / pitch + 1 + warp[0]
    x = np.arange(width, dtype=np.float32)[None, :] / pitch + 1 + warp[1]
    row, column = np.floor(y).astype(np.int32), np.floor(x).astype(np.int32)
    best = np.full(labels.shape, np.inf, dtype=np.float32)
    winner = np.zeros(labels.shape, dtype=np.int32)
    cosine, sine = np.cos(angle), np.sin(angle)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            r, c = np.clip(row + dy, 0, rows - 1), np.clip(column + dx, 0, columns - 1)
            flat = r * columns + c
            v = y - r - centre[0].ravel()[flat]
            u = x - c - centre[1].ravel()[flat]
            cos, sin = cosine.ravel()[flat], sine.ravel()[flat]
            distance = ((u * cos + v * sin) / axes[0].ravel()[flat]) ** 2
            distance += ((v * cos - u * sin) / axes[1].ravel()[flat]) ** 2
            distance[~alive.ravel()[flat]] = np.inf
            nearer = distance < best
            best[nearer] = distance[nearer]
            winner[nearer] = flat[nearer]
    inside = best < 1
    painted = np.where(inside, next_label + winner, labels)
    next_label += rows * columns
    if rng.random() < 0.25:
        core = best < rng.uniform(0.1, 0.5)
        painted = np.where(core, next_label + winner, painted)
        next_label += rows * columns
    return painted.astype(np.int32), next_label


def _paint_blob(rng: Rng, labels: Labels, next_label: int) -> tuple[Labels, int]:
    """Paint one large warped ellipse, sometimes with a nested one: a ring and its inside."""
    height, width = labels.shape
    size = max(height, width)
    cy, cx = rng.uniform(0.05, 0.95) * height, rng.uniform(0.05, 0.95) * width
    scale = math.exp(rng.uniform(math.log(0.04), math.log(0.38))) * size
    a, b = scale * np.exp(0.35 * rng.standard_normal(2))
    angle = rng.uniform(0, math.pi)
    y = np.arange(height, dtype=np.float32)[:, None] - cy
    x = np.arange(width, dtype=np.float32)[None, :] - cx
    u = (x * math.cos(angle) + y * math.sin(angle)) / a
    v = (y * math.cos(angle) - x * math.sin(angle)) / b
    radius = np.sqrt(u * u + v * v)
    coarse = int(np.clip(size / scale * rng.uniform(0.7, 2.5), 2, 40))
    radius += _smooth(rng, height, width, coarse)[0] * rng.uniform(0, 0.25)
    painted = np.where(radius < 1, next_label, labels)
    next_label += 1
    if rng.random() < 0.4:
        painted = np.where(radius < rng.uniform(0.4, 0.85), next_label, painted)
        next_label += 1
    return painted.astype(np.int32), next_label


def _colour(rng: Rng, labels: Labels, layers: tuple[int, ...]) -> Field:
    """Return the undisturbed image, float32 [3, h, w]: a colour and a texture strength for every label."""
    height, width = labels.shape
    count, first_object = layers[-1], layers[0]
    grey = rng.random() < 0.5
    colours = rng.random((count, 3), dtype=np.float32)
    background = rng.random(3, dtype=np.float32)
    if rng.random() < 0.6:
        colours[:first_object] = background + rng.uniform(0, 0.12) * rng.standard_normal((first_object, 3))
    for begin, end in itertools.pairwise(layers):
        if rng.random() < 0.8:
            # Objects of one kind: alike among themselves, more or less far from the background.
            contrast = rng.uniform(0.08, 0.8)
            direction = rng.standard_normal(3).astype(np.float32)
            kind = background + contrast * direction / np.abs(direction).max()
            shade = rng.standard_normal((end - begin, 1), dtype=np.float32) * rng.uniform(0.02, 0.12)
            colours[begin:end] = kind + shade + 0.02 * rng.standard_normal((end - begin, 3))
    if grey:
        colours[:] = colours[:, :1]
    strength = (rng.random(count, dtype=np.float32) * rng.uniform(0, 0.25))[labels]
    texture = _smooth(rng, height, width, int(rng.integers(12, 110)))[0] * strength
    image: Field = colours[labels].transpose(2, 0, 1) + texture
    if rng.random() < 0.35:
        image += _rim(rng, labels)
    return image


def _rim(rng: Rng, labels: Labels) -> Field:
    """Return a thin bright or dark line along all label borders, float32 [h, w]."""
    edge = np.zeros(labels.shape, dtype=np.float32)
    edge[:, 1:] = labels[:, 1:] != labels[:, :-1]
    edge[1:] = np.maximum(edge[1:], labels[1:] != labels[:-1])
    line: Field = ndimage.gaussian_filter(edge, rng.uniform(0.4, 1.5))
    return line * np.float32(rng.uniform(-0.5, 0.5))


def _acquire(rng: Rng, image: Field) -> Field:
    """Disturb an image as an instrument would and return it in [0, 1], float32 [h, w, 3]."""
    _, height, width = image.shape
    image = image * (1 + _smooth(rng, height, width, int(rng.integers(1, 4)))[0] * rng.uniform(0, 0.3))
    if rng.random() < 0.75:
        image = ndimage.gaussian_filter(image, (0, *[rng.uniform(0.3, 2.2)] * 2))
    noise = rng.standard_normal(image.shape if rng.random() < 0.5 else image.shape[1:], dtype=np.float32)
    if rng.random() < 0.3:
        noise = ndimage.gaussian_filter(noise, (0,) * (noise.ndim - 2) + (0.8, 0.8)) * 2
    image = image + noise * rng.uniform(0, 0.12)
    image = np.clip(image, 0, 1) ** np.float32(math.exp(0.4 * rng.standard_normal()))
    return np.asarray(image.transpose(1, 2, 0), dtype=np.float32)
