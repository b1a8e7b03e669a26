"""Drawing primitives of the Toyscapes world: random numbers, shapes, textures and a canvas.

Everything here is written with IEEE-exact elementwise operations (+ − × ÷ floor, comparisons) and raw uniform random
numbers only. No library rasteriser, resampler, matrix product or transcendental function takes part, because those may
differ in the last bit between machines and versions: the same seed has to give the same bytes everywhere.

Coordinates are *world units*: x runs right and y runs down, and the world's picture plane is [0, 1] × [0, 1]. Shapes and
textures are functions of broadcastable coordinate arrays ``x`` of shape (1, w) and ``y`` of shape (h, 1).
"""

from __future__ import annotations

import colorsys
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Field = Callable[[np.ndarray, np.ndarray], np.ndarray]
Bounds = tuple[float, float, float, float]  # left, top, right, bottom


class Draw:
    """Random draws that depend on nothing but PCG64's uniform doubles, so that they never change under us."""

    def __init__(self, seed: int):
        self._generator = np.random.Generator(np.random.PCG64(seed))

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(self._generator.random())

    def chance(self, probability: float) -> bool:
        return float(self._generator.random()) < probability

    def integer(self, low: int, high: int) -> int:
        """An integer from ``low`` to ``high``, both included."""
        return low + int(float(self._generator.random()) * (high - low + 1))

    def pick(self, options: Sequence, weights: Sequence[float] | None = None):
        weights = [1.0] * len(options) if weights is None else weights
        mark = float(self._generator.random()) * sum(weights)
        for option, weight in zip(options, weights, strict=True):
            mark -= weight
            if mark < 0:
                return option
        return options[-1]

    def table(self, rows: int, columns: int) -> np.ndarray:
        """(rows, columns) float32, uniform in [-1, 1)."""
        return (self._generator.random((rows, columns)) * 2 - 1).astype(np.float32)


def hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    """RGB in [0, 1] as (3,) float32; the hue wraps around."""
    clip = lambda v: min(max(v, 0.0), 1.0)
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, clip(saturation), clip(value)), np.float32)


HUES = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "red")
HUES_END = (0.04, 0.11, 0.19, 0.45, 0.54, 0.70, 0.94)


def colour_name(hue: float, saturation: float, value: float) -> str:
    """The plain English name that captions give to a colour."""
    if saturation < 0.16:
        return "white" if value > 0.75 else "grey"
    name = HUES[bisect(HUES_END, hue % 1.0)]
    return "brown" if name == "orange" and value < 0.6 else name


# --- fields: functions of position -----------------------------------------------------------------------------------


def fraction(a: np.ndarray) -> np.ndarray:
    return a - np.floor(a)


def wave(phase: np.ndarray) -> np.ndarray:
    """A parabolic stand-in for sin(2π·phase): period 1, range [-1, 1]."""
    s = 2 * fraction(phase) - 1
    return 4 * s * (np.abs(s) - 1)


def value_noise(draw: Draw, across: float, down: float, size: int = 24) -> Field:
    """Smoothly interpolated random lattice with ``across`` × ``down`` cells per world unit; range about [-1, 1]."""
    table = draw.table(size, size)

    def field(x, y):
        gx, gy = np.ravel(x) * np.float32(across), np.ravel(y) * np.float32(down)
        fx, fy = np.floor(gx), np.floor(gy)
        tx, ty = gx - fx, gy - fy
        tx, ty = tx * tx * (3 - 2 * tx), (ty * ty * (3 - 2 * ty))[:, None]
        ix, iy = fx.astype(np.int32) % size, fy.astype(np.int32) % size
        rows = table[iy] * (1 - ty) + table[(iy + 1) % size] * ty
        return rows[:, ix] * (1 - tx) + rows[:, (ix + 1) % size] * tx

    return field


def octaves(draw: Draw, cells: Sequence[float], decay: float = 0.6) -> Field:
    """A sum of value noises, each ``decay`` times as strong as the one before, normalised to about [-1, 1]."""
    layers = [value_noise(draw, c, c) for c in cells]
    strengths = [decay**i for i in range(len(cells))]
    shares = [np.float32(strength / sum(strengths)) for strength in strengths]
    return lambda x, y: sum(share * layer(x, y) for share, layer in zip(shares, layers, strict=True))


def brick(draw: Draw) -> Field:
    height, shift = draw.uniform(0.027, 0.043), draw.table(16, 16)

    def field(x, y):
        row = np.floor(y / height)
        along = x / (height * 2.1) + 0.5 * (row % 2)
        mortar = (fraction(along) < 0.09) | (fraction(y / height) < 0.18)
        tone = shift[row.astype(np.int32) % 16, np.floor(along).astype(np.int32) % 16]
        return np.where(mortar, np.float32(0.9), 0.35 * tone - 0.15)

    return field


def shingle(draw: Draw) -> Field:
    height = draw.uniform(0.031, 0.047)

    def field(x, y):
        row = np.floor(y / height)
        fx, fy = fraction(x / (height * 0.9) + 0.5 * (row % 2)) - 0.5, fraction(y / height)
        return np.clip(1.2 * (fy - 0.25) - 6 * np.maximum(np.abs(fx) - 0.3, 0) - 0.6 * (fy > 0.85), -1.2, 1)

    return field


def ripple(draw: Draw) -> Field:
    swell, frequency = octaves(draw, (3, 6, 12)), draw.uniform(18, 30)
    return lambda x, y: 0.8 * wave(y * frequency + 1.3 * swell(x, y) + 0.2 * wave(x * 2.1))


def blades(draw: Draw) -> Field:
    fine, broad = value_noise(draw, 85, 21, 48), octaves(draw, (4, 9))
    return lambda x, y: 0.9 * fine(x, y) + 0.9 * broad(x, y)


def leaves(draw: Draw) -> Field:
    clumps = value_noise(draw, 32, 32)
    return lambda x, y: np.clip(1.8 * clumps(x, y), -0.9, 0.9)


def bark(draw: Draw) -> Field:
    streaks = value_noise(draw, 64, 6)
    return lambda x, y: 1.2 * streaks(x, y)


def speckle(draw: Draw) -> Field:
    grain = value_noise(draw, 85, 85, 48)
    return lambda x, y: 1.1 * grain(x, y)


def rock(draw: Draw) -> Field:
    folds = octaves(draw, (6, 12, 24, 48), 0.75)
    return lambda x, y: np.abs(fraction(7 * (x + y) + 1.4 * folds(x, y)) * 2 - 1) * 1.6 - 0.8


def cloth(draw: Draw) -> Field:
    frequency = draw.uniform(28, 40)
    return lambda x, y: np.where(fraction((x + y) * frequency) < 0.5, np.float32(0.45), np.float32(-0.45))


def planks(draw: Draw) -> Field:
    height = draw.uniform(0.023, 0.035)
    return lambda x, y: np.where(fraction(y / height) < 0.25, np.float32(-1), np.float32(0.15)) + 0 * x


# --- shapes: boolean fields with bounds ------------------------------------------------------------------------------


@dataclass
class Shape:
    """A region of the world: a boolean field and the box that contains it. ``a | b`` is the union."""

    bounds: Bounds
    inside: Field

    def __or__(self, other: Shape) -> Shape:
        a, b = self.bounds, other.bounds
        bounds = (min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))
        return Shape(bounds, lambda x, y: self.inside(x, y) | other.inside(x, y))


def ellipse(cx: float, cy: float, rx: float, ry: float) -> Shape:
    inside = lambda x, y: ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1
    return Shape((cx - rx, cy - ry, cx + rx, cy + ry), inside)


def box(left: float, top: float, right: float, bottom: float) -> Shape:
    inside = lambda x, y: (x >= left) & (x < right) & (y >= top) & (y < bottom)
    return Shape((left, top, right, bottom), inside)


def convex(*points: tuple[float, float]) -> Shape:
    """A convex polygon; the points run clockwise on screen (y down)."""
    xs, ys = [p[0] for p in points], [p[1] for p in points]

    def inside(x, y):
        mask = True
        for (ax, ay), (bx, by) in zip(points, points[1:] + points[:1], strict=True):
            mask = mask & ((bx - ax) * (y - ay) - (by - ay) * (x - ax) >= 0)
        return mask

    return Shape((min(xs), min(ys), max(xs), max(ys)), inside)


def below(xs: Sequence[float], ys: Sequence[float], bottom: float) -> Shape:
    """Everything between the polyline through (xs, ys), xs ascending, and the line y = ``bottom``."""
    knots, heights = np.asarray(xs, np.float32), np.asarray(ys, np.float32)

    def inside(x, y):
        i = np.clip(np.searchsorted(knots, x, side="right") - 1, 0, len(knots) - 2)
        t = (x - knots[i]) / (knots[i + 1] - knots[i])  # np.interp may round otherwise elsewhere
        return (y >= heights[i] + (heights[i + 1] - heights[i]) * t) & (y < bottom)

    return Shape((float(knots[0]), float(heights.min()), float(knots[-1]), bottom), inside)


# --- canvas ----------------------------------------------------------------------------------------------------------


class Canvas:
    """An RGB image with a label and an object number at every pixel, seen through a window onto the world."""

    def __init__(self, pixels: int, left: float, top: float, extent: float):
        self.rgb = np.zeros((pixels, pixels, 3), np.float32)
        self.labels = np.zeros((pixels, pixels), np.uint8)
        self.objects = np.zeros((pixels, pixels), np.uint8)
        self.across = (np.arange(pixels, dtype=np.float32) + np.float32(0.5)) / np.float32(pixels)
        centres = self.across * np.float32(extent)
        self.x, self.y = (centres + np.float32(left))[None], (centres + np.float32(top))[:, None]

    def _visible(self, shape: Shape):
        left, top, right, bottom = shape.bounds
        columns = np.searchsorted(self.x[0], (left, right))
        rows = np.searchsorted(self.y[:, 0], (top, bottom))
        rows, columns = slice(rows[0], rows[1] + 1), slice(columns[0], columns[1] + 1)
        x, y = self.x[:, columns], self.y[rows]
        return rows, columns, x, y, np.broadcast_to(shape.inside(x, y), (y.shape[0], x.shape[1]))

    def paint(
        self, shape: Shape, colour, label: int, number: int = 0, texture: Field | None = None, tint=0.0
    ):
        """Cover ``shape`` with ``colour``, an RGB triple or a field of them, times 1 + ``tint`` · texture."""
        rows, columns, x, y, mask = self._visible(shape)
        colour = colour(x, y) if callable(colour) else np.asarray(colour, np.float32)
        if texture is not None:
            colour = colour * (1 + np.asarray(tint, np.float32) * texture(x, y).astype(np.float32)[..., None])
        colour = np.broadcast_to(colour.astype(np.float32), (*mask.shape, 3))
        np.copyto(self.rgb[rows, columns], colour, where=mask[..., None])
        np.copyto(self.labels[rows, columns], np.uint8(label), where=mask)
        np.copyto(self.objects[rows, columns], np.uint8(number), where=mask)

    def shade(self, shape: Shape, factor: float):
        """Darken what lies under ``shape``; labels stay."""
        rows, columns, _, _, mask = self._visible(shape)
        self.rgb[rows, columns] *= np.where(mask, np.float32(factor), np.float32(1))[..., None]

    def develop(self, illumination: Field) -> tuple[np.ndarray, np.ndarray]:
        """RGB (n/2, n/2, 3) uint8, averaged over 2 × 2, and labels (n/2, n/2) uint8, the majority of 2 × 2."""
        lit = np.clip(self.rgb * illumination(self.x, self.y)[..., None].astype(np.float32), 0, 1)
        fine = (lit * np.float32(255) + np.float32(0.5)).astype(np.uint16)
        sums = fine[::2, ::2] + fine[1::2, ::2] + fine[::2, 1::2] + fine[1::2, 1::2]
        image = ((sums + 2) >> 2).astype(np.uint8)
        quads = np.stack([self.labels[i::2, j::2] for i in (0, 1) for j in (0, 1)])
        quads.sort(axis=0)
        return image, quads[1]  # the second smallest of four is their majority whenever there is one
