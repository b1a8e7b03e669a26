"""Charts from tidy tables: a row per point, with names in columns; legends that cover no data, beneath the panels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullLocator
from seaborn.utils import relative_luminance

from .folder import keep
from .style import CHART_COLOURS, FOUND, LINE, LOST, POINTS, SMALL, looks
from .text import text_width, wrap

DODGE = 0.24  # of the distance of two rows, between the series in one
HANDLE = 26.0  # points that a legend's handle and the space around an entry take
VOID = "0.92"  # cells without a value


def line_with_bands(
    ax: Axes,
    table: pd.DataFrame,
    x: str,
    y: str,
    low: str | None = None,
    high: str | None = None,
    hue: str | None = None,
    colours: Mapping[str, str] | None = None,
    log: bool = False,
) -> Axes:
    """Curves over numbers, with bands; over anything else, see :func:`intervals`.

    Args:
        table: a row per point; text that reads as a number is one. Curves keep their order.
        x, y: columns; ``low`` and ``high``: columns with the ends of the interval around ``y``, if there are any.
        hue: column that names the curves.
        colours: of curves, by their names; others follow the style.
        log: logarithmic x.
    """
    keep(ax, table[[column for column in (hue, x, y, low, high) if column]])
    table = table.assign(**{x: pd.to_numeric(table[x])})
    for name, rows, look in _series(table, hue, colours):
        rows = rows.sort_values(x, kind="stable")
        ax.plot(rows[x], rows[y], label=name, markeredgecolor="white", zorder=3, **look)
        if low and high:
            ax.fill_between(rows[x], rows[low], rows[high], color=look["color"], alpha=0.15, linewidth=0)
    _number_axis(ax, np.unique(table[x]), log)
    return ax


def intervals(
    ax: Axes,
    table: pd.DataFrame,
    y: str,
    x: str,
    low: str,
    high: str,
    hue: str | None = None,
    colours: Mapping[str, str] | None = None,
    names: bool = True,
) -> Axes:
    """A row per name, from top to bottom, with a point and its interval for every series.

    Args:
        table: a row per point, in the order of the rows.
        y: column with the names of the rows; ``x``, ``low``, ``high``: columns with numbers.
        hue: column that names the series.
        colours: of series, by their names.
        names: whether to write the rows' names, over as many lines as they need; not in the later panels of a row.
    """
    keep(ax, table[[column for column in (hue, y, x, low, high) if column]])
    rows = list(dict.fromkeys(table[y]))
    series = _series(table, hue, colours)
    # a series for each row, as when colours tell kinds of methods apart, needs no place of its own
    together = hue is None or table.groupby(y)[hue].nunique().max() == 1
    step = 0.0 if together else min(DODGE, 0.8 / max(1, len(series)))
    for i, (name, part, look) in enumerate(series):
        at = part[y].map(rows.index) + step * (i - (len(series) - 1) / 2)
        ax.hlines(at, part[low], part[high], color=look["color"], alpha=0.45, linewidth=2)
        ax.plot(part[x], at, label=name, zorder=3, markeredgecolor="white", **look | {"linestyle": "none"})
    _name_rows(ax, rows, names)
    return ax


def heatmap(
    ax: Axes,
    wide: pd.DataFrame,
    fmt: str = ".1f",
    names: bool = True,
    width: float = 1.5,
    signed: bool = False,
) -> Axes:
    """Numbers in cells, coloured from the least to the largest; a colour map that is even and safe for the colour-blind.

    Args:
        wide: rows and columns as they are to be drawn; cells without a number stay empty.
        fmt: of the numbers.
        names: whether to write the rows' names, over as many lines of ``width`` inches as they need; a row is best 0.25
            inches high.
        signed: gains and losses, in two colours from zero on.
    """
    keep(ax, wide.reset_index())
    cells = wide.astype(float)
    bare = {"cbar": False, "xticklabels": False, "yticklabels": False}  # names are ours: in lines
    look = {"cmap": "RdBu", "center": 0} if signed else {"cmap": "viridis"}
    sns.heatmap(cells, annot=True, fmt=fmt, ax=ax, annot_kws={"fontsize": SMALL}, **look, **bare)
    ax.set_facecolor(VOID)  # cells without a number
    ax.set_xticks(np.arange(len(wide.columns)) + 0.5, [str(column) for column in wide.columns], rotation=0)
    rows = [wrap(str(row), width, SMALL) if names else "" for row in wide.index]
    ax.set_yticks(np.arange(len(rows)) + 0.5, rows, rotation=0, linespacing=1.0)
    ax.set(xlabel=wide.columns.name or "", ylabel=(wide.index.name or "") if names else "")
    ax.grid(False)
    ax.spines[:].set_visible(False)
    return ax


def stage_bars(ax: Axes, table: pd.DataFrame, names: bool = True) -> Axes:
    """A bar per row, divided among its columns in percent, with each number in its part.

    Args:
        table: rows from top to bottom; columns are the stages at which objects are lost, dark for the first, and "found".
    """
    keep(ax, table.reset_index())
    table = table.fillna(0)
    lost = LinearSegmentedColormap.from_list("lost", ["#4A2100", LOST, "#F0E442"])
    colours = [*map(to_hex, lost(np.linspace(0, 1, len(table.columns) - 1))), FOUND]
    table.plot.barh(ax=ax, stacked=True, width=0.75, color=colours, edgecolor="white", legend=False)
    for bars, colour in zip(ax.containers, colours, strict=True):
        number = lambda share: f"{share:.0f}" if share >= 7 else ""  # narrower parts have no room
        ink = "black" if relative_luminance(colour) > 0.179 else "white"  # WCAG: what stands out more
        ax.bar_label(bars, fmt=number, label_type="center", fontsize=SMALL, color=ink)
    _name_rows(ax, table.index, names)
    ax.set_xlim(0, 100)
    ax.grid(False)
    return ax


def legend_below(figure: Figure, handles: Sequence[Artist], names: Sequence[str], title: str = "") -> Legend:
    """A legend under all panels of a figure, with as many columns as fit; the panels keep their height.

    The figure needs a constrained (or compressed) layout, which :func:`use_style` and :func:`gallery` give it.
    """
    width, height = figure.get_size_inches()
    entries = [text_width(name, SMALL) + HANDLE / POINTS for name in names]
    needed = {n: sum(max(part) for part in np.array_split(entries, n)) for n in range(1, len(entries) + 1)}
    columns = max([n for n, inches in needed.items() if inches <= width], default=1)
    rows = -(-len(names) // columns) + bool(title)
    figure.set_size_inches(width, height + (rows * LINE * SMALL + 8) / POINTS)
    return figure.legend(handles, names, title=title or None, loc="outside lower center", ncols=columns)


def shared_legend(figure: Figure, title: str = "") -> Legend | None:
    """One legend for all panels, each name once; None if nothing has a name."""
    entries: dict[str, Artist] = {}
    for ax in figure.axes:
        for handle, name in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(name, handle)
    return legend_below(figure, list(entries.values()), list(entries), title) if entries else None


def class_legend(
    ax: Axes, names: Sequence[str], palette: np.ndarray, present: np.ndarray | None = None
) -> Legend:
    """Names beside their colours, under the figure of ``ax``.

    Args:
        palette: (n, 3) uint8.
        present: labels of any shape; only those are named, and only those that have a name (void has none).
    """
    ids = range(len(names)) if present is None else np.unique(present)
    ids = [int(i) for i in ids if 0 <= i < len(names)]
    handles = [Patch(facecolor=np.asarray(palette[i]) / 255, edgecolor="0.4", linewidth=0.5) for i in ids]
    return legend_below(ax.figure.get_figure(root=True), handles, [names[i] for i in ids])


def _series(
    table: pd.DataFrame, hue: str | None, colours: Mapping[str, str] | None = None
) -> list[tuple[str | None, pd.DataFrame, dict]]:
    """(name, rows, look) of each series in a table; a series keeps its own colour, if it has one, and no other takes that."""
    parts = [(None, table)] if hue is None else list(table.groupby(hue, sort=False, observed=True))
    colours = colours or {}
    free = cycle([c for c in CHART_COLOURS if c not in colours.values()] or CHART_COLOURS)
    looked = zip(parts, looks(len(parts)), strict=True)
    return [(name, part, look | {"color": colours.get(name) or next(free)}) for (name, part), look in looked]


def _number_axis(ax: Axes, values: np.ndarray, log: bool) -> None:
    """Plain numbers under the points themselves, where they do not collide."""
    if log:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_locator(NullLocator())
    scale = np.log(values) if log else values
    inches = ax.get_position().width * ax.figure.get_figure(root=True).get_figwidth()
    room = np.diff(scale) / max(np.ptp(scale), 1e-9) * 0.9 * inches
    widths = np.array([text_width(f"{value:g}", SMALL) for value in values])
    if len(values) == 1 or (room >= (widths[1:] + widths[:-1]) / 2 + 0.05).all():
        ax.set_xticks(values, [f"{value:g}" for value in values])


def _name_rows(ax: Axes, rows: Sequence, names: bool) -> None:
    """Rows from top to bottom, with their whole names or with none."""
    labels = [wrap(str(row), 1.5, SMALL) if names else "" for row in rows]
    ax.set_yticks(range(len(labels)), labels, linespacing=1.0)
    ax.set_ylim(len(labels) - 0.5, -0.5)
