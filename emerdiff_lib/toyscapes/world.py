"""The Toyscapes world: a scene is a pure function of its seed.

A :class:`Painter` composes a landscape back to front (sky, sun, clouds, mountains, ground, water, road, then objects by
depth) on a canvas of twice the final resolution, seen through a random crop. Every object knows the words that describe
it; the caption names those that are visible in the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from . import drawing
from .drawing import Canvas, Draw, Shape, below, box, colour_name, convex, ellipse, hsv, octaves

CLASS_NAMES = (
    "sky", "cloud", "sun", "mountain", "water", "grass", "road", "wall", "roof", "door", "window", "crown", "trunk",
    "car", "wheel", "hull", "sail", "person",
)  # fmt: skip
COARSE_CLASS_NAMES = ("sky", "mountain", "water", "grass", "road", "building", "tree", "car", "boat", "person")
_GROUPS = {
    "cloud": "sky", "sun": "sky", "wall": "building", "roof": "building", "door": "building", "window": "building",
    "crown": "tree", "trunk": "tree", "wheel": "car", "hull": "boat", "sail": "boat",
}  # fmt: skip
FINE_TO_COARSE = np.array([COARSE_CLASS_NAMES.index(_GROUPS.get(name, name)) for name in CLASS_NAMES], np.uint8)
ID = {name: index for index, name in enumerate(CLASS_NAMES)}

SIZE = 128

# What each class is made of, and how strongly it shows (a share of the colour). Gentle on purpose: see the model card.
TEXTURES = {
    "mountain": (drawing.rock, 0.14), "water": (drawing.ripple, 0.12), "grass": (drawing.blades, 0.13),
    "road": (drawing.speckle, 0.11), "wall": (drawing.brick, 0.11), "roof": (drawing.shingle, 0.16),
    "door": (drawing.bark, 0.13), "crown": (drawing.leaves, 0.17), "trunk": (drawing.bark, 0.17),
    "hull": (drawing.planks, 0.14), "person": (drawing.cloth, 0.18),
}  # fmt: skip


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
    Light("at day", 1.0, (1, 1, 1), ((0.53, 0.61), (0.4, 0.8), (0.7, 0.95)), ((0.5, 0.6), (0.1, 0.3), (0.88, 1)), 0.62),
    Light("at sunset", 0.8, (1.1, 0.92, 0.8), ((0.6, 0.85), (0.3, 0.6), (0.4, 0.7)),
          ((0.02, 0.12), (0.5, 0.9), (0.85, 1)), 0.66),
    Light("at night", 0.56, (0.75, 0.85, 1.15), ((0.6, 0.72), (0.5, 0.9), (0.1, 0.24)),
          ((0.58, 0.7), (0.3, 0.7), (0.2, 0.42)), 0.75),
    Light("on a grey day", 0.8, (0.95, 1, 1.03), ((0.5, 0.65), (0.02, 0.12), (0.5, 0.75)),
          ((0.5, 0.65), (0.02, 0.1), (0.72, 0.92)), 0.9),
)  # fmt: skip


@dataclass
class Painter:
    """Draws one scene; :meth:`paint_scene` is the order of things, the other methods are the things."""

    draw: Draw
    canvas: Canvas
    horizon: float
    words: list[tuple[int, str]] = field(default_factory=list)  # (object number, description), in drawing order
    standing: list = field(default_factory=list)  # (y of the foot, callable): drawn later, far to near

    # -- helpers

    def paint(self, shape: Shape, colour, name: str, number: int = 0, shine: float = 1.0):
        texture, tint = None, 0.0
        if name in TEXTURES:
            make, strength = TEXTURES[name]
            texture = make(self.draw)
            tint = strength * (1 + np.array([self.draw.uniform(-0.45, 0.45) for _ in range(3)], np.float32))
        if not callable(colour):
            colour = np.asarray(colour, np.float32) * np.float32(shine)
        self.canvas.paint(shape, colour, ID[name], number, texture, tint)

    def lit(self, colour) -> np.ndarray:
        return np.clip(np.asarray(colour, np.float32) * self.light.level * np.asarray(self.light.tint, np.float32), 0, 1)

    def colour(self, *ranges) -> tuple[tuple[float, float, float], np.ndarray]:
        """A random (hue, saturation, value) and the same as lit RGB."""
        triple = tuple(self.draw.uniform(*r) for r in ranges)
        return triple, self.lit(hsv(*triple))

    def paint_hue(self) -> tuple[float, float]:
        """A hue range for painted things, which share a few hues within a scene: colour alone does not tell them apart."""
        hue = self.draw.pick(self.palette) + self.draw.uniform(-0.02, 0.02) if self.draw.chance(0.75) else self.draw.uniform(0, 1)
        return hue, hue

    def mention(self, description: str) -> int:
        self.words.append((len(self.words) + 1, description))
        return len(self.words)

    def cast_shadow(self, x: float, y: float, reach: float):
        shift = self.sun_side * reach * 0.45
        self.canvas.shade(ellipse(x + shift, y, reach, reach * 0.2), self.light.shadow)

    # -- the scene

    def paint_scene(self):
        u, chance = self.draw.uniform, self.draw.chance
        self.light = self.draw.pick(LIGHTS, (0.45, 0.2, 0.15, 0.2))
        self.sun_side = self.draw.pick((-1.0, 1.0))
        self.palette = [u(0, 1) for _ in range(3)]
        self.sky_bottom = self.paint_sky()
        if self.light.words != "on a grey day" and chance(0.6):
            self.paint_sun()
        if chance(0.6):
            self.paint_clouds()
        if chance(0.55):
            for layer in range(self.draw.pick((1, 2), (0.6, 0.4))):
                self.paint_mountains(layer)
        self.paint_ground()
        layout = self.draw.pick(("plain", "lake", "sea", "road"), (0.16, 0.24, 0.22, 0.38))
        water = road = None
        if layout in ("lake", "sea"):
            water = self.paint_water(layout)
        elif layout == "road":
            road = self.paint_road()
        self.place_objects(layout, water, road)
        for _, paint in sorted(self.standing, key=lambda item: item[0]):
            paint()

    def paint_sky(self) -> np.ndarray:
        top, bottom = (hsv(*(self.draw.uniform(*r) for r in ranges)) for ranges in (self.light.top, self.light.bottom))
        haze, drift = octaves(self.draw, (3, 6, 12)), self.draw.uniform(-0.25, 0.25)
        self.glow = (self.draw.uniform(0.1, 0.9), self.draw.uniform(0.05, 0.65) * self.horizon)

        def gradient(x, y):
            t = np.clip((y + drift * (x - 0.5)) / self.horizon + 0.2 * haze(x, y), 0, 1)[..., None]
            nearness = 1 / (1 + 30 * ((x - self.glow[0]) ** 2 + (y - self.glow[1]) ** 2))
            return np.clip(top * (1 - t) + bottom * t + 0.16 * self.light.level * nearness[..., None], 0, 1)

        self.paint(box(-1, -1, 2, 2), gradient, "sky")
        return bottom

    def paint_sun(self):
        night, r = self.light.words == "at night", self.draw.uniform(0.03, 0.07)
        colour = {"at sunset": (1, 0.76, 0.42), "at night": (0.92, 0.9, 0.76)}.get(self.light.words, (1, 0.97, 0.8))
        self.paint(ellipse(*self.glow, r, r), colour, "sun", self.mention("the moon" if night else "the sun"))

    def paint_clouds(self):
        u, number = self.draw.uniform, self.mention("clouds")
        base = self.sky_bottom * 1.4 + 0.06 if self.light.words == "at night" else self.sky_bottom * 0.45 + 0.52
        for _ in range(self.draw.integer(1, 3)):
            x, y, w, tone = u(0, 1), u(0.02, 0.6 * self.horizon), u(0.1, 0.27), u(0.88, 1)
            puffs = []
            for _ in range(self.draw.integer(3, 5)):
                r = u(0.18, 0.34) * w
                puffs.append(ellipse(x + 0.6 * u(-w, w), y + u(-0.02, 0.02), 1.4 * r, 0.8 * r))
            cloud = puffs[0]
            for puff in puffs[1:]:
                cloud = cloud | puff
            foot = y + 0.3 * w
            shaded = lambda px, py, tone=tone, foot=foot, w=w: (  # noqa: E731
                np.clip(base * tone, 0, 1) * (1 - 0.3 * np.clip(1 - (foot - py) / (0.6 * w), 0, 1))[..., None] + 0 * px[..., None]
            )
            self.paint(cloud, shaded, "cloud", number)

    def paint_mountains(self, layer: int):
        u = self.draw.uniform
        hue = self.draw.pick((u(0.55, 0.7), u(0.05, 0.12), u(0.25, 0.4)))
        triple, colour = self.colour((hue, hue), (0.1, 0.4), (0.35, 0.7))
        count = self.draw.integer(8, 14)
        xs = [-0.1 + 1.2 * i / count + (u(-0.02, 0.02) if 0 < i < count else 0) for i in range(count + 1)]
        rise = 0.55 if layer == 0 else 0.3
        ys = [self.horizon * (1 - (u(0.15, rise) if i % 2 else u(0.0, 0.14))) for i in range(count + 1)]
        knots, slopes = np.asarray(xs, np.float32), np.diff(ys)
        haze = 0.35 if layer == 0 else 0.1
        snow = self.horizon * u(0.62, 0.8) if self.draw.chance(0.4) else -1.0
        jag = octaves(self.draw, (20, 40))

        def faces(x, y):
            slope = slopes[np.clip(np.searchsorted(knots, x[0], side="right") - 1, 0, count - 1)]
            shine = np.where(slope * self.sun_side > 0, np.float32(1.18), np.float32(0.8))[None, :, None]
            rocky = (colour * (1 - haze) + self.sky_bottom * haze * self.light.level) * shine
            cap = (y < snow + 0.04 * jag(x, y))[..., None]
            return np.clip(np.where(cap, self.lit((0.95, 0.96, 1)) * np.minimum(shine, 1), rocky), 0, 1)

        self.paint(below(xs, ys, self.horizon), faces, "mountain", self.mention(colour_name(*triple) + " mountains"))

    def paint_ground(self):
        u = self.draw.uniform
        if self.draw.chance(0.85):
            _, near = self.colour((0.18, 0.38), (0.35, 0.75), (0.4, 0.8))
        else:
            _, near = self.colour((0.08, 0.13), (0.2, 0.5), (0.7, 0.9))
        _, patch = self.colour((0.12, 0.4), (0.3, 0.7), (0.4, 0.8))
        patches, amount, h = octaves(self.draw, (3, 7)), u(0.2, 0.9), self.horizon

        def meadow(x, y):
            t = np.clip(0.9 * amount * patches(x, y) + 0.1, 0, 1)[..., None]
            return np.clip((near * (1 - t) + patch * t) * (0.85 + 0.35 * (y - h))[..., None], 0, 1)

        self.paint(box(-1, self.horizon, 2, 2), meadow, "grass")

    def paint_water(self, layout: str) -> tuple[float, float, float, float]:
        u, ground = self.draw.uniform, 1 - self.horizon
        _, colour = self.colour((0.48, 0.62), (0.35, 0.8), (0.35, 0.68))
        colour = colour * 0.62 + self.sky_bottom * 0.33
        deep, glitter = self.draw.uniform(0.6, 0.9), self.light.words in ("at sunset", "at day") and self.draw.chance(0.6)

        if layout == "lake":
            top = self.horizon + u(0.05, 0.2) * ground
            bottom = top + u(0.22, 0.42) * ground
            x, w = u(0.2, 0.8), u(0.3, 0.8)
            shape = ellipse(x, (top + bottom) / 2, w, (bottom - top) / 2)
            region = (x - 0.8 * w, x + 0.8 * w, top, bottom)
        else:
            top, bottom = self.horizon, self.horizon + u(0.35, 0.75) * ground
            xs = [i / 12 * 1.2 - 0.1 for i in range(13)]
            shore = [bottom + u(-0.035, 0.035) for _ in xs]
            land = below(xs, shore, 2)
            shape = Shape((-0.1, top, 1.1, bottom + 0.05), lambda px, py: ~land.inside(px, py) & (py >= top))
            region = (0.0, 1.0, top, bottom)

        def surface(px, py):
            depth = np.clip((py - top) / (bottom - top), 0, 1)[..., None]
            column = 1 / (1 + 120 * (px - self.glow[0]) ** 2) if glitter else 0 * px
            return np.clip(colour * (1 - (1 - deep) * depth) + 0.22 * column[..., None] * self.sky_bottom, 0, 1)

        self.paint(shape, surface, "water", self.mention("a lake" if layout == "lake" else "the sea"))
        return region

    def paint_road(self) -> tuple[float, float] | None:
        u, ground, number = self.draw.uniform, 1 - self.horizon, self.mention("a road")
        _, colour = self.colour((0.55, 0.7), (0, 0.12), (0.28, 0.52))
        if self.draw.chance(0.6):
            top = self.horizon + u(0.2, 0.5) * ground
            bottom = top + u(0.22, 0.34) * ground
            self.paint(box(-1, top, 2, bottom), colour, "road", number)
            middle = (top + bottom) / 2
            for i in range(7):
                self.paint(box(i * 0.16, middle - 0.006, i * 0.16 + 0.08, middle + 0.006), np.clip(colour * 2, 0, 1), "road", number)
            return top, bottom
        vanish, left, width = u(0.3, 0.7), u(0.1, 0.6), u(0.3, 0.5)
        verge = convex((vanish - 0.012, self.horizon), (vanish + 0.012, self.horizon), (left + width, 1), (left, 1))
        self.paint(verge, colour, "road", number)
        return None

    def place_objects(self, layout: str, water, road):
        pick, nearest = self.draw.pick, 0.8 if layout == "sea" else 0.1
        self.taken = ([water[2:]] if layout == "lake" else []) + ([road] if road else [])
        for _ in range(pick((0, 1, 2), (0.3, 0.45, 0.25))):
            self.on_ground(self.add_house, 0.18, 0.38, nearest, 0.98 if layout == "sea" else 0.7)
        for _ in range(pick((0, 1, 2, 3), (0.2, 0.3, 0.3, 0.2))):
            self.on_ground(self.add_tree, 0.18, 0.5, nearest)
        if road is not None:
            for _ in range(pick((1, 2), (0.6, 0.4))):
                self.add_car(self.draw.uniform((road[0] + road[1]) / 2, road[1]), self.draw.uniform(0.2, 0.36))
        elif layout != "sea" and self.draw.chance(0.3):
            self.on_ground(self.add_car, 0.16, 0.38, 0.3)
        if water is not None:
            for _ in range(pick((0, 1, 2), (0.2, 0.5, 0.3))):
                self.add_boat(water)
        for _ in range(pick((0, 1, 2), (0.45, 0.33, 0.22))):
            self.on_ground(self.add_person, 0.12, 0.34, max(0.2, nearest))

    def on_ground(self, add, far_size: float, near_size: float, nearest=0.1, farthest=0.95):
        """Stand something on the ground, smaller when farther away; out of the water and off the road if there is room."""
        for _ in range(6):
            t = self.draw.uniform(nearest, farthest)
            y = self.horizon + t * (1 - self.horizon)
            if not any(top <= y <= bottom for top, bottom in self.taken):
                break
        add(y, far_size + (near_size - far_size) * t)

    # -- objects: each decides everything now and is painted later, when its turn by depth comes

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
        eaves, rise, gable, dx = w * u(0.05, 0.15), h * u(0.4, 0.8), self.draw.chance(0.65), x + w * u(0.15, 0.65)
        edge = x + w * (u(0.62, 0.8) if self.sun_side > 0 else u(0.2, 0.38))  # corner between the lit and the dark side
        two_sided, chimney = self.draw.chance(0.6), self.draw.chance(0.3)

        def paint():
            self.cast_shadow(x + w / 2, y, 0.62 * w)
            dark = (lambda px: (px - edge) * self.sun_side > 0) if two_sided else (lambda px: px < -9)
            shaded = lambda c: lambda px, py: (  # noqa: E731
                c * np.where(dark(px), np.float32(0.62), np.float32(1))[..., None] + 0 * py[..., None]
            )
            if chimney:
                self.paint(box(x + w * 0.7, y - h - rise * 0.9, x + w * 0.8, y - h), wall * 0.8, "wall", number)
            self.paint(box(x, y - h, x + w, y), shaded(wall), "wall", number)
            if gable:
                top = convex((x - eaves, y - h), (x + w / 2, y - h - rise), (x + w + eaves, y - h))
            else:
                ridge = y - h - rise * 0.7
                top = convex((x - eaves, y - h), (x + w * 0.2, ridge), (x + w * 0.8, ridge), (x + w + eaves, y - h))
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
        kind, number = self.draw.pick(("round", "pine", "tall")), self.mention(f"a {colour_name(*words)} tree")
        foot = y - trunk_height
        if kind == "round":
            crown = ellipse(x, foot - 0.32 * size, 0.22 * size, 0.22 * size)
            for _ in range(5):
                r = size * u(0.16, 0.25)
                crown = crown | ellipse(x + u(-0.2, 0.2) * size, foot + (u(-0.18, 0.18) - 0.32) * size, r, r)
        elif kind == "pine":
            tiers = [convex((x - size * (0.32 - 0.07 * i), foot - 0.2 * i * size), (x, foot - (0.2 * i + 0.4) * size),
                            (x + size * (0.32 - 0.07 * i), foot - 0.2 * i * size)) for i in range(3)]  # fmt: skip
            crown = tiers[0] | tiers[1] | tiers[2]
        else:
            crown = ellipse(x, foot - 0.41 * size, 0.17 * size, 0.44 * size)

        def foliage(px, py):
            side = np.clip((x - px) * self.sun_side / (0.3 * size) + (foot - 0.35 * size - py) / (0.6 * size), -1, 1)
            return np.clip(leaf * (1 + 0.38 * side)[..., None], 0, 1)

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
        at = lambda a, b: (x + size * a, y - h * b)  # noqa: E731

        def paint():
            self.cast_shadow(x + size / 2, y, 0.55 * size)
            self.paint(convex(at(0.16, 0.95), at(0.29, 1.75), at(0.7, 1.75), at(0.86, 0.95)), roof, "car", number)
            self.paint(convex(at(0.26, 1), at(0.34, 1.6), at(0.47, 1.6), at(0.47, 1)), self.lit((0.6, 0.75, 0.85)), "window", number)
            self.paint(convex(at(0.52, 1), at(0.52, 1.6), at(0.66, 1.6), at(0.76, 1)), self.lit((0.6, 0.75, 0.85)), "window", number)
            hull = lambda px, py: body * (1.12 - 0.45 * np.clip((py - y + h) / (0.8 * h), 0, 1))[..., None] + 0 * px[..., None]  # noqa: E731
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
        at = lambda a, b: (x + size * a, y - size * b)  # noqa: E731
        _, second = self.colour(self.paint_hue(), (0.3, 0.8), (0.5, 0.9))
        cloth = lambda px, py: np.where(  # noqa: E731
            ((py > y - 0.62 * size) & (py < y - 0.42 * size) & band)[..., None], second, sail
        ) + 0 * px[..., None]

        def paint():
            self.canvas.shade(ellipse(x + size / 2, y + 0.01, 0.5 * size, 0.06 * size), 0.75)
            self.paint(convex(at(0, 0.2), at(1, 0.2), at(0.8, 0), at(0.2, 0)), hull, "hull", number)
            self.paint(convex(at(0.52, 1.05), at(0.95, 0.25), at(0.52, 0.25)), cloth, "sail", number)
            self.paint(convex(at(0.46, 0.9), at(0.46, 0.25), at(0.12, 0.25)), lambda px, py: 0.86 * cloth(px, py), "sail", number)

        self.standing.append((y, paint))

    def add_person(self, y: float, size: float):
        x, w = self.draw.uniform(0.04, 0.96), size * 0.14
        _, skin = self.colour((0.04, 0.09), (0.25, 0.6), (0.4, 0.95))
        words, shirt = self.colour(self.paint_hue(), (0.3, 0.9), (0.3, 0.95))
        _, trousers = self.colour(self.paint_hue(), (0.1, 0.6), (0.15, 0.5))
        number, hair = self.mention(f"a person in {colour_name(*words)}"), self.lit(hsv(0.07, 0.5, self.draw.uniform(0.1, 0.5)))

        def paint():
            self.cast_shadow(x, y, 0.2 * size)
            self.paint(box(x - w, y - size * 0.45, x - w * 0.15, y), trousers, "person", number)
            self.paint(box(x + w * 0.15, y - size * 0.45, x + w, y), trousers, "person", number)
            self.paint(box(x - w * 1.25, y - size * 0.8, x + w * 1.25, y - size * 0.42), shirt, "person", number)
            self.paint(ellipse(x, y - size * 0.9, size * 0.12, size * 0.12), skin, "person", number)
            self.paint(ellipse(x, y - size * 0.97, size * 0.12, size * 0.07), hair, "person", number)

        self.standing.append((y, paint))

    def illumination(self):
        """A smooth field of ±30 %, and the shadows of clouds on the land: colour is not what makes a class."""
        unevenness, clouds = octaves(self.draw, (2, 3, 5), 0.7), octaves(self.draw, (3, 7, 14))
        cloudy = 0.38 if self.light.words != "on a grey day" and self.draw.chance(0.65) else 0.0
        horizon = np.float32(self.horizon)

        def light(x, y):
            shadow = cloudy * np.clip(5 * clouds(x, y) + 0.2, 0, 1) * np.clip((y - horizon) / 0.04, 0, 1)
            return (1 + 0.3 * np.clip(1.6 * unevenness(x, y), -1, 1)) * (1 - shadow)

        return light

    def caption(self) -> str:
        """Names every object of which at least 0.2 % of the picture is visible, far to near, and the light."""
        visible = np.bincount(self.canvas.objects.ravel(), minlength=len(self.words) + 1) / self.canvas.objects.size
        seen = [description for number, description in self.words if visible[number] >= 0.002]
        unique = list(dict.fromkeys(seen))
        return f"a picture of {' and '.join(unique) if unique else 'a field'} {self.light.words}"


def colour_words(triple: tuple[float, float, float]) -> str:
    return drawing.colour_name(*triple)


def draw_scene(seed: int) -> tuple[np.ndarray, np.ndarray, str]:
    """The scene of a seed: RGB (128, 128, 3) uint8, fine labels (128, 128) uint8 and its caption."""
    draw = Draw(seed)
    horizon, extent = draw.uniform(0.2, 0.75), draw.uniform(0.55, 1.0)
    highest, lowest = max(horizon - 0.66 * extent, 0.0), min(horizon - 0.12 * extent, 1 - extent)  # horizon stays in view
    canvas = Canvas(2 * SIZE, draw.uniform(0, 1 - extent), draw.uniform(highest, lowest), extent)
    painter = Painter(draw, canvas, horizon)
    painter.paint_scene()
    image, labels = canvas.develop(painter.illumination())
    return image, labels, painter.caption()
