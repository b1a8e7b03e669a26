"""Toyscapes as its model has never seen it: the same scenes with one thing changed, and labels that are still exact.

Random numbers for a change come from a stream of their own, so that nothing else about the scene changes with it.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image
from scipy.ndimage import binary_dilation, gaussian_filter

from .drawing import Canvas, Draw, Field, box, convex, ellipse, hsv
from .objects import CLASS_NAMES, COARSE_CLASS_NAMES

# Labels of objects of a kind that the world does not have; beyond the classes that it has.
UNSEEN, COARSE_UNSEEN = len(CLASS_NAMES), len(COARSE_CLASS_NAMES)


@dataclass(frozen=True)
class Shift:
    """What is changed about a scene; by default nothing.

    Attributes:
        disguises: {class name: the class whose texture it wears}.
        unseen_objects: a balloon, a lighthouse or a snowman, two per scene, are put in; labels :data:`UNSEEN`.
        lines: a line drawing, dark lines on white paper where classes or objects meet.
        window: side of the window onto the world over its usual side; below 1 everything is nearer.
        light: factors of RGB over the window, x and y in [0, 1]; they broadcast to (h, w, 3).
        spoil: finished (H, W, 3) uint8 image and a random generator → image.
    """

    disguises: dict[str, str] = field(default_factory=dict)
    unseen_objects: bool = False
    lines: bool = False
    window: float = 1.0
    light: Field | None = None
    spoil: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None


def blur(sigma: float):
    """Gaussian blur, ``sigma`` in pixels."""
    filtered = lambda image: gaussian_filter(image.astype(float), (sigma, sigma, 0))
    return lambda image, rng: np.round(filtered(image)).astype(np.uint8)


def noise(sigma: float):
    """Gaussian noise, ``sigma`` as a share of white."""
    noisy = lambda image, rng: image + 255 * sigma * rng.standard_normal(image.shape)
    return lambda image, rng: np.clip(noisy(image, rng), 0, 255).astype(np.uint8)


def jpeg(quality: int):
    """Compressed and read back; quality 1–95 as in Pillow."""

    def compress(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file))

    return compress


def line_drawing(canvas: Canvas) -> np.ndarray:
    """(h, w, 3) float32 in [0, 1]: ink where labels or object numbers change, about one pixel wide once developed."""
    parts = canvas.labels.astype(np.int32) * 256 + canvas.objects
    ink = np.zeros(parts.shape, bool)
    ink[:, :-1] |= parts[:, :-1] != parts[:, 1:]
    ink[:-1] |= parts[:-1] != parts[1:]
    ink = binary_dilation(ink)
    return np.repeat(np.where(ink, np.float32(0.1), np.float32(0.95))[..., None], 3, -1)


def paint_unseen_objects(canvas: Canvas, draw: Draw, horizon: float) -> None:
    """Put two objects of kinds that no training image shows in front of the scene."""
    left, right, bottom = float(canvas.x[0, 0]), float(canvas.x[0, -1]), float(canvas.y[-1, 0])
    side = right - left
    kinds = {_balloon: 254, _lighthouse: 255, _snowman: 253}  # and their object numbers
    kinds.pop(draw.pick(list(kinds)))
    for place, (parts_of, number) in enumerate(kinds.items()):
        x = left + side * (draw.uniform(0.15, 0.4) + 0.45 * place)
        far, near = max(horizon + 0.05, bottom - 0.5 * side), max(horizon + 0.06, bottom - 0.08 * side)
        foot = draw.uniform(far, near)
        for shape, colour in parts_of(draw, x, foot, side * draw.uniform(0.18, 0.3)):
            canvas.paint(shape, colour, UNSEEN, number)


def _balloon(draw: Draw, x: float, foot: float, size: float) -> list:
    """(shape, colour) of its parts, back to front."""
    y, hue, stripes = foot - 1.6 * size, draw.uniform(0, 1), draw.uniform(8, 14) / size
    first, second = hsv(hue, 0.7, 0.9), hsv(hue + 0.4, 0.5, 0.95)
    cloth = lambda px, py: np.where((np.floor((px - x) * stripes / 2) % 2 < 1)[..., None], first, second)
    basket = box(x - 0.12 * size, y + 0.62 * size, x + 0.12 * size, y + 0.85 * size)
    ropes = convex((x - 0.3 * size, y + 0.3 * size), (x + 0.3 * size, y + 0.3 * size), (x, y + 0.75 * size))
    return [(basket, (0.45, 0.3, 0.15)), (ropes, second), (ellipse(x, y, 0.45 * size, 0.5 * size), cloth)]


def _lighthouse(draw: Draw, x: float, foot: float, size: float) -> list:
    stripe = hsv(draw.uniform(0, 1), 0.8, 0.75)
    height = 1.7 * size
    striped = lambda py: (np.floor((foot - py) / height * 5) % 2 < 1)[..., None]
    bands = lambda px, py: np.where(striped(py), stripe, np.float32(0.93))
    top = foot - height
    upper = (x - 0.13 * size, top), (x + 0.13 * size, top)
    tower = convex((x - 0.2 * size, foot), *upper, (x + 0.2 * size, foot))
    lamp = box(x - 0.1 * size, top - 0.2 * size, x + 0.1 * size, top)
    dome = ellipse(x, top - 0.2 * size, 0.14 * size, 0.1 * size)
    return [(tower, bands), (lamp, (1, 0.95, 0.6)), (dome, (0.3, 0.1, 0.1))]


def _snowman(draw: Draw, x: float, foot: float, size: float) -> list:
    parts = []
    for share, up in ((0.36, 0.34), (0.27, 0.85), (0.19, 1.22)):
        y, r = foot - up * size, share * size
        ball = lambda px, py, y=y, r=r: np.float32(0.96) - 0.25 * np.clip((py - y) / r, 0, 1)[..., None]
        parts.append((ellipse(x, y, r, r), ball))
    hat = box(x - 0.15 * size, foot - 1.6 * size, x + 0.15 * size, foot - 1.36 * size)
    nose = ellipse(x, foot - 1.2 * size, 0.05 * size, 0.05 * size)
    return [*parts, (hat, (0.1, 0.1, 0.12)), (nose, (0.95, 0.5, 0.1))]


_SWAPPED = ("mountain", "water", "grass", "wall", "road", "crown", "roof", "hull", "person", "trunk", "door")

SHIFTS = {
    "as trained": Shift(),
    "textures swapped": Shift(disguises=dict(zip(_SWAPPED, _SWAPPED[1:] + _SWAPPED[:1], strict=True))),
    "unseen objects": Shift(unseen_objects=True),
    "line drawing": Shift(lines=True),
    "blur, 1 px": Shift(spoil=blur(1)),
    "blur, 3 px": Shift(spoil=blur(3)),
    "noise, 5 %": Shift(spoil=noise(0.05)),
    "noise, 20 %": Shift(spoil=noise(0.2)),
    "JPEG, quality 10": Shift(spoil=jpeg(10)),
    "light from one side": Shift(light=lambda x, y: (0.2 + 1.1 * x)[..., None]),  # the right
    "red light": Shift(light=lambda x, y: np.array((1.15, 0.5, 0.35))),
    "twice as near": Shift(window=0.5),
    "farther": Shift(window=1.5),
}
