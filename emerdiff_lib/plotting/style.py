"""One look for all figures: sizes in columns of a paper, small text, fonts that stay text, no ink without a meaning."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import cycler
from matplotlib import image as files
from matplotlib.figure import Figure

from .colours import CHART_COLOURS, VISIONS, simulate

COLUMN = 3.25  # inches: a column of a two-column paper on letter or A4 paper
COLUMN_WIDE = 6.75  # two columns and the gutter between them
WIDTHS = {1: COLUMN, 1.5: (COLUMN + COLUMN_WIDE) / 2, 2: COLUMN_WIDE}
TEXT, SMALL = 8.0, 7.0  # points: titles and axes; ticks, legends and labels inside
LINE = 1.35  # height of a line of text, in font sizes
SUFFIXES = (".png", ".pdf", ".svg")
POINTS = 72.0  # per inch

STYLE: dict[str, Any] = {
    "figure.figsize": (COLUMN, 0.62 * COLUMN),
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "figure.titlesize": TEXT,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,  # TrueType: text can be searched and edited, and journals take it
    "ps.fonttype": 42,
    "svg.fonttype": "none",
    "font.size": TEXT,
    "axes.titlesize": TEXT,
    "axes.labelsize": TEXT,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.title_fontsize": SMALL,
    "legend.frameon": False,
    "axes.prop_cycle": cycler(color=CHART_COLOURS),
    "axes.axisbelow": True,
    "axes.edgecolor": "0.7",
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "0.88",
    "grid.linewidth": 0.6,
    "xtick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "lines.markeredgewidth": 0.6,
    "patch.linewidth": 0.6,
    "errorbar.capsize": 2,
    "image.cmap": "viridis",
    "image.interpolation": "nearest",
}

# Beside their colours, so that curves are told apart in grey: one look per curve, for ``ax.plot(x, y, **look)``.
LINES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")


def use_style() -> None:
    """Give all figures made from now on this style; ``with matplotlib.rc_context(STYLE):`` does it for a block only."""
    mpl.rcParams.update(STYLE)


def figsize(columns: float = 1, aspect: float = 0.62, height: float | None = None) -> tuple[float, float]:
    """(width, height) in inches of a figure that is 1, 1.5 or 2 columns wide.

    Args:
        aspect: height over width, unless a ``height`` in inches is given.
    """
    if columns not in WIDTHS:
        raise ValueError(
            f"columns={columns!r} is no width of a figure; choose one of {', '.join(map(str, WIDTHS))}."
        )
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


def save_figure(figure: Figure, path: Path | str, vision: str = "normal") -> Path:
    """Write a figure in its own size, its fonts embedded as TrueType; the same figure makes the same file.

    Args:
        path: .png, .pdf or .svg; its folder is made.
        vision: for a PNG, a name in :data:`VISIONS`: what the colour-blind will see.

    Raises:
        ValueError: for another suffix, an unknown vision, or one that the format cannot show.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"Figures are written as {', '.join(SUFFIXES)}, not {path.suffix or 'without a suffix'}: {path}."
        )
    if vision not in VISIONS:
        raise ValueError(f"vision={vision!r} is unknown; choose one of {', '.join(map(repr, VISIONS))}.")
    if vision != "normal" and path.suffix.lower() != ".png":
        raise ValueError(f"vision={vision!r} is shown in pixels: give {path.name} the suffix .png.")
    path.parent.mkdir(parents=True, exist_ok=True)
    dates = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
    fonts = {name: STYLE[name] for name in ("pdf.fonttype", "ps.fonttype", "svg.fonttype")}
    pictures = _whole_pictures(figure) if path.suffix.lower() in dates else nullcontext()
    with mpl.rc_context(fonts), pictures:
        figure.savefig(path, dpi=STYLE["savefig.dpi"], metadata=dates.get(path.suffix.lower()))
    if vision != "normal":
        seen = simulate(files.imread(path)[..., :3], vision)
        files.imsave(path, seen, dpi=STYLE["savefig.dpi"])
    return path


@contextmanager
def _whole_pictures(figure: Figure) -> Iterator[None]:
    """Within the context, pictures are embedded pixel by pixel as they are, not brought to the figure's resolution."""
    images = [image for ax in figure.axes for image in ax.images]
    before = [image.get_interpolation() for image in images]
    try:
        for image in images:
            image.set_interpolation("none")
        yield
    finally:
        for image, kind in zip(images, before, strict=True):
            image.set_interpolation(kind)
