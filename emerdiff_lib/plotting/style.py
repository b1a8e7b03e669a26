"""One look for all figures: sizes in columns of a paper, small text, fonts that stay text, no ink without a meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
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

# Beside their colours, so that curves differ in grey: one look per curve, for ``ax.plot(x, y, **look)``.
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


def save_figure(figure: Figure, path: Path | str) -> Path:
    """Write a figure in its own size, its fonts embedded as TrueType; the same figure makes the same file.

    Args:
        path: .png, .pdf, .svg or another suffix that matplotlib knows; its folder is made.
    """
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    dates = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
    with mpl.rc_context(STYLE):
        figure.savefig(path, metadata=dates.get(path.suffix.lower()))
    return path
