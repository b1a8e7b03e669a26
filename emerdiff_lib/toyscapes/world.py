"""The Toyscapes world: a scene is a pure function of its seed.

A :class:`Painter` composes a landscape back to front (sky, sun, clouds, mountains, ground, water, road, then objects by
depth) on a canvas of twice the final resolution, seen through a random crop. Every object knows the words that describe
it; the caption names those that are visible in the end.
"""

from __future__ import annotations

import numpy as np

from .drawing import Canvas, Draw, Shape, below, box, colour_name, convex, ellipse, hsv, octaves
from .objects import LIGHTS, ObjectPainter
from .shifts import SHIFTS, Shift, line_drawing, paint_unseen_objects

SIZE = 128


class Painter(ObjectPainter):
    """Draws one scene; :meth:`paint_scene` is the order of things, the other methods are the parts of the landscape."""

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
        random_colour = lambda ranges: hsv(*(self.draw.uniform(*r) for r in ranges))
        top, bottom = random_colour(self.light.top), random_colour(self.light.bottom)
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
        special = {"at sunset": (1, 0.76, 0.42), "at night": (0.92, 0.9, 0.76)}
        colour = special.get(self.light.words, (1, 0.97, 0.8))
        self.paint(ellipse(*self.glow, r, r), colour, "sun", self.mention("the moon" if night else "the sun"))

    def paint_clouds(self):
        u, number = self.draw.uniform, self.mention("clouds")
        brightness, white = (1.4, 0.06) if self.light.words == "at night" else (0.45, 0.52)
        base = self.sky_bottom * brightness + white
        for _ in range(self.draw.integer(1, 3)):
            x, y, w, tone = u(0, 1), u(0.02, 0.6 * self.horizon), u(0.1, 0.27), u(0.88, 1)
            cloud = None
            for _ in range(self.draw.integer(3, 5)):
                r = u(0.18, 0.34) * w
                puff = ellipse(x + 0.6 * u(-w, w), y + u(-0.02, 0.02), 1.4 * r, 0.8 * r)
                cloud = cloud | puff if cloud else puff
            foot = y + 0.3 * w
            under = lambda py, foot=foot, w=w: np.clip(1 - (foot - py) / (0.6 * w), 0, 1)[..., None]
            shaded = lambda px, py, tone=tone, under=under: np.clip(base * tone, 0, 1) * (1 - 0.3 * under(py))
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

        number = self.mention(colour_name(*triple) + " mountains")
        self.paint(below(xs, ys, self.horizon), faces, "mountain", number)

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
        deep = self.draw.uniform(0.6, 0.9)
        glitter = self.light.words in ("at sunset", "at day") and self.draw.chance(0.6)

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
            reflection = 0.22 * column[..., None] * self.sky_bottom
            return np.clip(colour * (1 - (1 - deep) * depth) + reflection, 0, 1)

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
                dash = box(i * 0.16, middle - 0.006, i * 0.16 + 0.08, middle + 0.006)
                self.paint(dash, np.clip(colour * 2, 0, 1), "road", number)
            return top, bottom
        vanish, left, width = u(0.3, 0.7), u(0.1, 0.6), u(0.3, 0.5)
        far = (vanish - 0.012, self.horizon), (vanish + 0.012, self.horizon)
        self.paint(convex(*far, (left + width, 1), (left, 1)), colour, "road", number)
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
                y = self.draw.uniform((road[0] + road[1]) / 2, road[1])
                self.add_car(y, self.draw.uniform(0.2, 0.36))
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
        """Names every object of which at least 0.2 % of the image is visible, far to near, and the light."""
        objects = self.canvas.objects.ravel()
        visible = np.bincount(objects, minlength=len(self.words) + 1) / objects.size
        seen = [description for number, description in enumerate(self.words, 1) if visible[number] >= 0.002]
        return f"a picture of {' and '.join(dict.fromkeys(seen)) or 'a field'} {self.light.words}"


def draw_scene(seed: int, shift: Shift = SHIFTS["as trained"]) -> tuple[np.ndarray, np.ndarray, str]:
    """The scene of a seed: RGB (128, 128, 3) uint8, fine labels (128, 128) uint8 and its caption.

    ``shift`` changes one thing about it, see :mod:`.shifts`; captions name what the world's own objects show.
    """
    draw, aside = Draw(seed), Draw(seed + 2**32)
    horizon, extent = draw.uniform(0.2, 0.75), draw.uniform(0.55, 1.0)
    highest = max(horizon - 0.66 * extent, 0.0)
    lowest = min(horizon - 0.12 * extent, 1 - extent)  # the horizon stays in view
    left, top = draw.uniform(0, 1 - extent), draw.uniform(highest, lowest)
    margin = extent * (1 - shift.window) / 2  # the centre of the window stays
    canvas = Canvas(2 * SIZE, left + margin, top + margin, extent * shift.window)
    painter = Painter(draw, canvas, horizon, disguises=shift.disguises, aside=aside)
    painter.paint_scene()
    illumination = painter.illumination()
    if shift.unseen_objects:
        paint_unseen_objects(canvas, aside, horizon)
    if shift.light is not None:
        canvas.rgb *= shift.light(canvas.across[None], canvas.across[:, None]).astype(np.float32)
    if shift.lines:
        canvas.rgb, illumination = line_drawing(canvas), lambda x, y: 1 + 0 * (x + y)
    image, labels = canvas.develop(illumination)
    if shift.spoil is not None:
        image = shift.spoil(image, np.random.default_rng(seed))
    return image, labels, painter.caption()
