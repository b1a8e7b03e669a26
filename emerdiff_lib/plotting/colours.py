"""Colours that are told apart by all: for segments, for curves, and for what was found and what was lost.

``python -m emerdiff_lib.plotting.colours`` searches again for the first colour of the segments (ten minutes).
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np
from skimage.color import deltaE_ciede2000, rgb2lab

# Machado, Oliveira, Fernandes, "A Physiologically-based Model for Simulation of Color Vision Deficiency", 2009, severity 1;
# act on linear RGB.
VISIONS: dict[str, np.ndarray] = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}

# Okabe and Ito, "Color Universal Design", 2008; those that print light on white come late.
CHART_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000", "#F0E442")
NEUTRAL = "#7F7F7F"  # baselines, and all that a chart does not speak of
FOUND, LOST = "#0072B2", "#E69F00"  # blue and orange: apart in every vision, and dark and light in grey

DISTINCT = 256  # segments beyond these get the same colours again
LIGHTNESS, CHROMA = (
    (25, 90),
    20,
)  # of segments' colours: neither the outlines' white nor a picture's black and grey
FIRST = (119, 187, 170)  # the first segment's; from :func:`best_first`


def simulate(colours: np.ndarray, vision: str) -> np.ndarray:
    """sRGB colours or pictures (..., 3), uint8 or floats in [0, 1], as that vision sees them: floats in [0, 1].

    Args:
        vision: a name in :data:`VISIONS`.
    """
    if vision not in VISIONS:
        raise ValueError(f"vision={vision!r} is unknown; choose one of {', '.join(map(repr, VISIONS))}.")
    colours = np.asarray(colours)
    encoded = colours / 255 if colours.dtype == np.uint8 else colours
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ VISIONS[vision].T, 0, 1)
    return np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)


def least_differences(colours: np.ndarray) -> np.ndarray:
    """(n, n) CIEDE2000 between sRGB colours (n, 3), uint8 or in [0, 1]: the least over all :data:`VISIONS`."""
    labs = [rgb2lab(simulate(colours, vision)) for vision in VISIONS]
    return np.array([[deltaE_ciede2000(lab[i][None], lab) for i in range(len(lab))] for lab in labs]).min(0)


def segment_palette(count: int) -> np.ndarray:
    """(count, 3) uint8 colours for segments without names, each as far as can be from those before it.

    The distance is CIEDE2000 as the worst of four visions sees it (normal, and none of each cone): at least 14 among the
    first 12 colours, whose lightness differs as well, 7 among 30, 6 among 40. A longer palette begins with the shorter
    ones. From :data:`DISTINCT` on, colours come again.
    """
    if count < 1:
        raise ValueError(f"count={count!r} is no number of colours; it is at least 1.")
    colours = _palette(40 if count <= 40 else DISTINCT)
    return colours[np.arange(count) % len(colours)]


@lru_cache(maxsize=2)
def _palette(count: int) -> np.ndarray:
    colours, _, _ = _candidates()
    return colours[_farthest(count, int(np.flatnonzero((colours == FIRST).all(1))[0]))]


@lru_cache(maxsize=1)
def _candidates() -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Colours that show on white, on black and beside grey: (n, 3) uint8, their lightness (n,), and Lab (n, 3) per vision."""
    lattice = np.array(list(product(range(0, 256, 17), repeat=3)), np.uint8)
    lab = rgb2lab(lattice / 255)
    low, high = LIGHTNESS
    fit = (lab[:, 0] >= low) & (lab[:, 0] <= high) & (np.hypot(lab[:, 1], lab[:, 2]) >= CHROMA)
    return lattice[fit], lab[fit, 0], [rgb2lab(simulate(lattice[fit], vision)) for vision in VISIONS]


def _farthest(count: int, first: int) -> list[int]:
    """Indices of ``count`` candidates, each the farthest from those before it; ``first`` is the first one's."""
    _, lightness, labs = _candidates()
    chosen = [first]
    nearest, lighter = np.full((2, len(lightness)), np.inf)
    while len(chosen) < count:
        last = chosen[-1]
        for lab in labs:
            nearest = np.minimum(nearest, deltaE_ciede2000(lab[last][None], lab).round(6))
        lighter = np.minimum(lighter, np.abs(lightness - lightness[last]))
        # a dozen differ in grey, too: by 0.4 of what an even spread would give; more cannot
        spread = (LIGHTNESS[1] - LIGHTNESS[0]) / (len(chosen) + 1)
        apart = 0.4 * spread if len(chosen) < 12 else 0.0
        chosen.append(int(np.where(lighter >= apart, nearest, -1.0).argmax()))
    return chosen


def best_first() -> np.ndarray:
    """How :data:`FIRST` was chosen (ten minutes): the first colour after which palettes of 6, 8, 12 and 30 stay apart, measured
    by what such palettes reach when made for their number alone (24, 18, 15 and 8); within 2 % of the best, the least vivid.
    """
    colours, _, labs = _candidates()
    scores = np.zeros(len(colours))
    for first in range(len(colours)):
        chosen = colours[_farthest(30, first)]
        apart = least_differences(chosen) + np.diag(np.full(30, np.inf))
        scores[first] = min(apart[:n, :n].min() / usual for n, usual in ((6, 24), (8, 18), (12, 15), (30, 8)))
    vivid = np.hypot(labs[0][:, 1], labs[0][:, 2])
    return colours[np.where(scores >= 0.98 * scores.max(), vivid, np.inf).argmin()]


if __name__ == "__main__":
    print("FIRST = ({}, {}, {})".format(*best_first()))
