"""One look for all figures: sizes in columns of a paper, small text, fonts that stay text, no ink without a meaning; colours that
readers with any colour vision can tell apart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

# Everything that matplotlib calls a style, for ``with matplotlib.rc_context(STYLE):`` too
STYLE = mpl.rc_params_from_file(Path(__file__).with_name("paper.mplstyle"), use_default_template=False)
# Inches of so many columns of a two-column paper, with the gutter between them
WIDTHS = {1: 3.25, 1.5: 5.0, 2: 6.75}
TEXT, SMALL = 8.0, 7.0  # points: titles and axes; ticks, legends and labels inside
LINE = 1.35  # height of a line of text, in font sizes
POINTS = 72.0  # per inch

CHART_COLOURS = tuple(STYLE["axes.prop_cycle"].by_key()["color"])
NEUTRAL = "#7F7F7F"  # baselines, and all that a chart does not speak of
FOUND, LOST = "#0072B2", "#E69F00"  # blue and orange: apart in every vision, and dark and light in grey

# Each the farthest, among all colours with these digits, from those before it: CIEDE2000 as the worst of four visions sees it
# (Machado et al. 2009). Lightness is 25 to 90 and chroma at least 20: neither white outlines nor the grey of an image. The
# first dozen differ in lightness, too. Hexadecimal, a digit for each of red, green and blue.
SEGMENTS = """
7ba 519 a00 a6f fd3 176 c84 cbf d37 bd9 70f 633 78a aee 964 098 659 446 a97 bb0 d20 a35 99d cac 86b ebc
da6 f8a 00d 653 801 714 ae7 869 84c 94f f5c 671 5eb 63a a75 ab8 bdf a8f e58 917 187 065 947 d70 a56 744
9af 542 c79 6cd a23 b96 0a0 c58 4b9 b9b cc5 63c 50b 617 b18 68b ba4 b63 979 625 a67 d06 468 8cb 854 912
eb7 925 2a9 a6d d5a 7f5 a86 8dd c8a e45 98d f79 eab ce9 69b 9ad bc9 0d7 aca 734 a3a ec0 746 85d 28e 953
06a 647 74e b35 8ed bec ace 683 b78 6dc 740 b8c 816 c98 3fb 02e c32 aa7 458 0c5 e99 803 9da 564 73d 718
d64 aa1 c67 0ac cae d9a d6a 095 86a 479 cd8 8ea cc8 59e 78c 884 696 674 f95 819 96c e8f 62b 5a7 760 36f
b9e 248 3ee 52a e56 590 569 b4b f33 a8b 482 8bd f4b 635 c35 9b7 452 856 935 f84 8e5 d89 c38 60c 631 41a
0cb 35b b2d a95 ccf b04 61d a1b 8a8 8db e0c 242 449 5b2 6ab fa4 6c6 757 983 b0c 0f3 e20 c19 262 e5e dda
c65 24e 686 254 057 9c3 7bc ad6 a46 843 07e 908 d48 143 dc4 67c e26 e8c e19 be8 372 6b5 7d8 a7f 967 10c
95e c20 6c9 e6d e88 d44 1de bd7 da8 d0e 972 575 824 b74 a5a 1da 7cf 6a5 13e 7d5 a5d 23c
"""
PALETTE = np.array([[17 * int(digit, 16) for digit in colour] for colour in SEGMENTS.split()], np.uint8)

# Beside their colours, so that curves are told apart in grey: one look per curve, for ``ax.plot(x, y, **look)``.
LINES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")


def use_style() -> None:
    """Give all figures made from now on this style."""
    mpl.rcParams.update(STYLE)


def figsize(columns: float = 1, aspect: float = 0.62, height: float | None = None) -> tuple[float, float]:
    """(width, height) in inches of a figure that is 1, 1.5 or 2 columns wide.

    Args:
        aspect: height over width, unless a ``height`` in inches is given.
    """
    return WIDTHS[columns], height or aspect * WIDTHS[columns]


def looks(count: int) -> list[dict[str, Any]]:
    """How to draw each of ``count`` curves: {"color", "linestyle", "marker"}, no two alike even without colours (up to 32)."""
    return [
        {
            "color": CHART_COLOURS[i % len(CHART_COLOURS)],
            "linestyle": LINES[(i + i // len(MARKERS)) % len(LINES)],
            "marker": MARKERS[i % len(MARKERS)],
        }
        for i in range(count)
    ]


def segment_palette(count: int) -> np.ndarray:
    """(count, 3) uint8 colours for segments without names, each as far as can be from those before it.

    The least distance in any vision is 14 among the first 12 colours, whose lightness differs as well, 7 among 30, 6 among
    40. A longer palette begins with the shorter ones. After 256, colours come again.
    """
    return PALETTE[np.arange(count) % len(PALETTE)]


def save_figure(figure: Figure, path: Path | str) -> Path:
    """Write a figure in its own size, its fonts embedded as TrueType; the same figure makes the same file.

    Args:
        path: .png, .pdf, .svg or another suffix that matplotlib knows; its folder is made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    dates = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
    with mpl.rc_context(STYLE):
        figure.savefig(path, metadata=dates.get(path.suffix.lower()))
    return path
