"""What the world is made of: its classes, their textures, its light, and the objects that stand in a scene."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from . import drawing
from .drawing import Canvas, Draw, Shape, box, colour_name, convex, ellipse, hsv

# Each class, the coarse class that it is a part of, and its colour in figures; a coarse class has that of its first part
CLASSES = (
    ("sky", "sky", (142, 197, 235)),
    ("cloud", "sky", (236, 242, 247)),
    ("sun", "sky", (255, 214, 92)),
    ("mountain", "mountain", (139, 126, 140)),
    ("water", "water", (58, 120, 186)),
    ("grass", "grass", (134, 179, 92)),
    ("road", "road", (102, 102, 110)),
    ("wall", "building", (214, 150, 118)),
    ("roof", "building", (170, 66, 58)),
    ("door", "building", (112, 66, 40)),
    ("window", "building", (244, 226, 150)),
    ("crown", "tree", (44, 116, 70)),
    ("trunk", "tree", (124, 88, 58)),
    ("car", "car", (226, 92, 44)),
    ("wheel", "car", (30, 30, 34)),
    ("hull", "boat", (128, 52, 104)),
    ("sail", "boat", (250, 236, 222)),
    ("person", "person", (240, 128, 176)),
)
CLASS_NAMES = tuple(name for name, _, _ in CLASSES)
COARSE_CLASS_NAMES = tuple(dict.fromkeys(coarse for _, coarse, _ in CLASSES))
FINE_TO_COARSE = np.array([COARSE_CLASS_NAMES.index(coarse) for _, coarse, _ in CLASSES], np.uint8)
PALETTE = np.array([colour for _, _, colour in CLASSES], np.uint8)
COARSE_PALETTE = PALETTE[np.unique(FINE_TO_COARSE, return_index=True)[1]]
ID = {name: index for index, name in enumerate(CLASS_NAMES)}

# What each class is made of, and how strongly it shows (a share of the colour). Gentle on purpose: see the model card.
TEXTURES = {
    "mountain": (drawing.rock, 0.14),
    "water": (drawing.ripple, 0.12),
    "grass": (drawing.blades, 0.13),
    "road": (drawing.speckle, 0.11),
    "wall": (drawing.brick, 0.11),
    "roof": (drawing.shingle, 0.16),
    "door": (drawing.bark, 0.13),
    "crown": (drawing.leaves, 0.17),
    "trunk": (drawing.bark, 0.17),
    "hull": (drawing.planks, 0.14),
    "person": (drawing.cloth, 0.18),
}


@dataclass(frozen=True)
class Light:
    """A time of day: its words, brightness, tint and the ranges of its sky colours as (hue, saturation, value)."""

    words: str
    level: float
    tint: tuple[float, float, float]
    top: tuple[tuple[float, float], ...]
    bottom: tuple[tuple[float, float], ...]
    shadow: float  # what is left of the light in a cast shadow


LIGHTS = (
    Light(
        "at day",
        1.0,
        (1, 1, 1),
        ((0.53, 0.61), (0.4, 0.8), (0.7, 0.95)),
        ((0.5, 0.6), (0.1, 0.3), (0.88, 1)),
        0.62,
    ),
    Light(
        "at sunset",
        0.8,
        (1.1, 0.92, 0.8),
        ((0.6, 0.85), (0.3, 0.6), (0.4, 0.7)),
        ((0.02, 0.12), (0.5, 0.9), (0.85, 1)),
        0.66,
    ),
    Light(
        "at night",
        0.56,
        (0.75, 0.85, 1.15),
        ((0.6, 0.72), (0.5, 0.9), (0.1, 0.24)),
        ((0.58, 0.7), (0.3, 0.7), (0.2, 0.42)),
        0.75,
    ),
    Light(
        "on a grey day",
        0.8,
        (0.95, 1, 1.03),
        ((0.5, 0.65), (0.02, 0.12), (0.5, 0.75)),
        ((0.5, 0.65), (0.02, 0.1), (0.72, 0.92)),
        0.9,
    ),
)


@dataclass
class ObjectPainter:
    """A canvas, and how each kind of object is put on it.

    Objects are decided on at once (``add_…``) and painted later, when their turn by depth comes.
    """

    draw: Draw
    canvas: Canvas
    horizon: float
    words: list[str] = field(default_factory=list)  # descriptions of objects 1, 2, … as drawn
    standing: list = field(default_factory=list)  # (y of the foot, callable): drawn later, far to near
    disguises: dict[str, str] = field(default_factory=dict)  # class → that whose texture it wears (shifts.py)
    aside: Draw | None = None  # random numbers for the disguises

    def paint(self, shape: Shape, colour, name: str, number: int = 0):
        texture, tint = None, 0.0
        if name in TEXTURES:
            make, strength = TEXTURES[name]
            texture = make(self.draw)
            if name in self.disguises:  # after the usual draw, so that the rest of the scene stays as it is
                make, strength = TEXTURES[self.disguises[name]]
                texture = make(self.aside)
            tint = strength * (1 + np.array([self.draw.uniform(-0.45, 0.45) for _ in range(3)], np.float32))
        self.canvas.paint(shape, colour, ID[name], number, texture, tint)

    def lit(self, colour) -> np.ndarray:
        lit = np.asarray(colour, np.float32) * self.light.level * np.asarray(self.light.tint, np.float32)
        return np.clip(lit, 0, 1)

    def colour(self, *ranges) -> tuple[tuple[float, float, float], np.ndarray]:
        """A random (hue, saturation, value) and the same as lit RGB."""
        triple = tuple(self.draw.uniform(*r) for r in ranges)
        return triple, self.lit(hsv(*triple))

    def paint_hue(self) -> tuple[float, float]:
        """A hue range for painted things, which share a few hues within a scene: colour alone does not tell them apart."""
        shared = lambda: self.draw.pick(self.palette) + self.draw.uniform(-0.02, 0.02)
        hue = shared() if self.draw.chance(0.75) else self.draw.uniform(0, 1)
        return hue, hue

    def mention(self, description: str) -> int:
        self.words.append(description)
        return len(self.words)

    def cast_shadow(self, x: float, y: float, reach: float):
        shift = self.sun_side * reach * 0.45
        self.canvas.shade(ellipse(x + shift, y, reach, reach * 0.2), self.light.shadow)

    def add_house(self, y: float, size: float):
        u = self.draw.uniform
        x, w, h = u(0.02, 0.98 - size), size * u(0.8, 1.3), size * u(0.5, 0.8)
        wall_words, wall = self.colour(self.paint_hue(), (0.05, 0.6), (0.55, 0.95))
        hue = self.draw.pick((u(-0.03, 0.05), u(0.55, 0.65), u(0.07, 0.1)))
        roof_words, roof = self.colour((hue, hue), (0.2, 0.8), (0.3, 0.7))
        _, door = self.colour((0, 0.12), (0.4, 0.8), (0.2, 0.5))
        _, glass = self.colour((0.55, 0.55), (0.2, 0.5), (0.3, 0.8))
        if self.light.words == "at night":
            glass = np.array((1, 0.85, 0.4), np.float32)
        number = self.mention(f"a {colour_name(*wall_words)} house with a {colour_name(*roof_words)} roof")
        eaves, rise = w * u(0.05, 0.15), h * u(0.4, 0.8)
        gable, dx = self.draw.chance(0.65), x + w * u(0.15, 0.65)
        # corner between the lit and the dark side
        edge = x + w * (u(0.62, 0.8) if self.sun_side > 0 else u(0.2, 0.38))
        two_sided, chimney = self.draw.chance(0.6), self.draw.chance(0.3)

        def paint():
            self.cast_shadow(x + w / 2, y, 0.62 * w)
            dark = (lambda px: (px - edge) * self.sun_side > 0) if two_sided else (lambda px: px < -9)
            shade = lambda px: np.where(dark(px), np.float32(0.62), np.float32(1))[..., None]
            shaded = lambda colour: lambda px, py: colour * shade(px)
            if chimney:
                stack = box(x + w * 0.7, y - h - rise * 0.9, x + w * 0.8, y - h)
                self.paint(stack, wall * 0.8, "wall", number)
            self.paint(box(x, y - h, x + w, y), shaded(wall), "wall", number)
            if gable:
                top = convex((x - eaves, y - h), (x + w / 2, y - h - rise), (x + w + eaves, y - h))
            else:
                ridge = y - h - rise * 0.7
                ends = (x + w * 0.2, ridge), (x + w * 0.8, ridge)
                top = convex((x - eaves, y - h), *ends, (x + w + eaves, y - h))
            self.paint(top, shaded(roof), "roof", number)
            self.paint(box(dx, y - h * 0.55, dx + w * 0.17, y), door, "door", number)
            for wx in (x + w * 0.06, x + w * 0.78):
                if abs(wx - dx) > w * 0.2:
                    self.paint(box(wx, y - h * 0.7, wx + w * 0.16, y - h * 0.42), glass, "window", number)

        self.standing.append((y, paint))

    def add_tree(self, y: float, size: float):
        u = self.draw.uniform
        x, trunk_height, girth = u(0, 1), size * u(0.25, 0.45), size * u(0.05, 0.09)
        hue = self.draw.pick((u(0.2, 0.42), u(0.05, 0.14)), (0.7, 0.3))
        words, leaf = self.colour((hue, hue), (0.4, 0.8), (0.35, 0.68))
        _, bark = self.colour((0.05, 0.1), (0.3, 0.6), (0.2, 0.45))
        kind = self.draw.pick(("round", "pine", "tall"))
        number = self.mention(f"a {colour_name(*words)} tree")
        foot = y - trunk_height
        if kind == "round":
            crown = ellipse(x, foot - 0.32 * size, 0.22 * size, 0.22 * size)
            for _ in range(5):
                r = size * u(0.16, 0.25)
                crown = crown | ellipse(x + u(-0.2, 0.2) * size, foot + (u(-0.18, 0.18) - 0.32) * size, r, r)
        elif kind == "pine":

            def tier(i):
                half, base = size * (0.32 - 0.07 * i), foot - 0.2 * i * size
                return convex((x - half, base), (x, foot - (0.2 * i + 0.4) * size), (x + half, base))

            crown = tier(0) | tier(1) | tier(2)
        else:
            crown = ellipse(x, foot - 0.41 * size, 0.17 * size, 0.44 * size)

        def foliage(px, py):
            towards_sun = (x - px) * self.sun_side / (0.3 * size) + (foot - 0.35 * size - py) / (0.6 * size)
            return np.clip(leaf * (1 + 0.38 * np.clip(towards_sun, -1, 1))[..., None], 0, 1)

        def paint():
            self.cast_shadow(x, y, 0.3 * size)
            self.paint(box(x - girth, foot - 0.2 * size, x + girth, y), bark, "trunk", number)
            self.paint(crown, foliage, "crown", number)

        self.standing.append((y, paint))

    def add_car(self, y: float, size: float):
        x, h = self.draw.uniform(0.02, 0.98 - size), size * 0.28
        words, body = self.colour(self.paint_hue(), (0.3, 0.95), (0.4, 0.95))
        number = self.mention(f"a {colour_name(*words)} car")
        roof = self.draw.pick((body * 0.9, self.lit((0.92, 0.92, 0.9)), body * 0.45), (0.5, 0.25, 0.25))
        at = lambda a, b: (x + size * a, y - h * b)

        def paint():
            self.cast_shadow(x + size / 2, y, 0.55 * size)
            cabin = convex(at(0.16, 0.95), at(0.29, 1.75), at(0.7, 1.75), at(0.86, 0.95))
            self.paint(cabin, roof, "car", number)
            back = convex(at(0.26, 1), at(0.34, 1.6), at(0.47, 1.6), at(0.47, 1))
            front = convex(at(0.52, 1), at(0.52, 1.6), at(0.66, 1.6), at(0.76, 1))
            for pane in (back, front):
                self.paint(pane, self.lit((0.6, 0.75, 0.85)), "window", number)
            hull = lambda px, py: body * (1.12 - 0.45 * np.clip((py - y + h) / (0.8 * h), 0, 1))[..., None]
            self.paint(box(x, y - h, x + size, y - h * 0.25), hull, "car", number)
            r = size * 0.11
            for wx in (x + size * 0.2, x + size * 0.78):
                self.paint(ellipse(wx, y - r, r, r), self.lit((0.12, 0.12, 0.13)), "wheel", number)
                self.paint(ellipse(wx, y - r, r * 0.45, r * 0.45), self.lit((0.7, 0.7, 0.7)), "wheel", number)

        self.standing.append((y, paint))

    def add_boat(self, water: tuple[float, float, float, float]):
        u, (left, right, top, bottom) = self.draw.uniform, water
        size = u(0.14, 0.3)
        y = u(top + 0.03, max(bottom - 0.02, top + 0.03))
        x = u(max(left, 0.02), max(min(right, 0.98) - size, max(left, 0.02) + 0.01))
        words, hull = self.colour(self.paint_hue(), (0.2, 0.9), (0.3, 0.9))
        _, sail = self.colour(self.paint_hue(), (0, 0.5), (0.75, 1))
        number, band = self.mention(f"a {colour_name(*words)} boat"), self.draw.chance(0.35)
        at = lambda a, b: (x + size * a, y - size * b)
        _, second = self.colour(self.paint_hue(), (0.3, 0.8), (0.5, 0.9))
        striped = lambda py: ((py > y - 0.62 * size) & (py < y - 0.42 * size) & band)[..., None]
        cloth = lambda px, py: np.where(striped(py), second, sail)

        def paint():
            self.canvas.shade(ellipse(x + size / 2, y + 0.01, 0.5 * size, 0.06 * size), 0.75)
            self.paint(convex(at(0, 0.2), at(1, 0.2), at(0.8, 0), at(0.2, 0)), hull, "hull", number)
            self.paint(convex(at(0.52, 1.05), at(0.95, 0.25), at(0.52, 0.25)), cloth, "sail", number)
            jib = convex(at(0.46, 0.9), at(0.46, 0.25), at(0.12, 0.25))
            self.paint(jib, lambda px, py: 0.86 * cloth(px, py), "sail", number)

        self.standing.append((y, paint))

    def add_person(self, y: float, size: float):
        x, w = self.draw.uniform(0.04, 0.96), size * 0.14
        _, skin = self.colour((0.04, 0.09), (0.25, 0.6), (0.4, 0.95))
        words, shirt = self.colour(self.paint_hue(), (0.3, 0.9), (0.3, 0.95))
        _, trousers = self.colour(self.paint_hue(), (0.1, 0.6), (0.15, 0.5))
        number = self.mention(f"a person in {colour_name(*words)}")
        hair = self.lit(hsv(0.07, 0.5, self.draw.uniform(0.1, 0.5)))

        def paint():
            self.cast_shadow(x, y, 0.2 * size)
            self.paint(box(x - w, y - size * 0.45, x - w * 0.15, y), trousers, "person", number)
            self.paint(box(x + w * 0.15, y - size * 0.45, x + w, y), trousers, "person", number)
            torso = box(x - w * 1.25, y - size * 0.8, x + w * 1.25, y - size * 0.42)
            self.paint(torso, shirt, "person", number)
            self.paint(ellipse(x, y - size * 0.9, size * 0.12, size * 0.12), skin, "person", number)
            self.paint(ellipse(x, y - size * 0.97, size * 0.12, size * 0.07), hair, "person", number)

        self.standing.append((y, paint))
