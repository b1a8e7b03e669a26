"""Charts from tidy tables: a row per point, with names in columns. Names that they draw go to :func:`shared_legend`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.ticker import LogLocator, NullLocator

from .colours import CHART_COLOURS, FOUND, LOST
from .style import SMALL, looks
from .text import text_width, wrap

DODGE = 0.16  # of the distance of two categories, between what is drawn at one of them
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
    """Curves over numbers, with bands; over anything else, points with bars, one beside the other, for short names;
    :func:`intervals` has room for long ones.

    Args:
        table: a row per point; text that reads as a number is one. Categories and curves keep their order.
        x, y: columns; ``low`` and ``high``: columns with the ends of the interval around ``y``, if there are any.
        hue: column that names the curves.
        colours: of curves, by their names; others follow the style.
        log: logarithmic x, for numbers.
    """
    check_columns(table, x, y, low, high, hue)
    numbers = pd.to_numeric(table[x], errors="coerce")
    numeric = not numbers.isna().any()
    names = [None] if hue is None else list(dict.fromkeys(table[hue]))
    labels = list(dict.fromkeys(table[x]))
    places = numbers if numeric else table[x].map({label: i for i, label in enumerate(labels)}).astype(float)
    table = table.assign(**{"_place": places})
    for i, (name, look) in enumerate(zip(names, looks_of(names, colours), strict=True)):
        rows = table if name is None else table[table[hue] == name]
        rows = rows.sort_values("_place", kind="stable") if numeric else rows
        at, value = rows["_place"].to_numpy(), rows[y].to_numpy(float)
        if not numeric:
            at = at + DODGE * (i - (len(names) - 1) / 2)
            look = look | {"linestyle": "none"}
        ax.plot(at, value, label=name, markeredgecolor="white", zorder=3, **look)
        if low and high and numeric:
            ax.fill_between(at, rows[low], rows[high], color=look["color"], alpha=0.15, linewidth=0)
        elif low and high:
            ax.vlines(at, rows[low], rows[high], color=look["color"], linewidth=1.2, zorder=2)
    if numeric:
        _number_axis(ax, np.unique(numbers), log)
    else:
        inches = ax.get_position().width * ax.figure.get_figure(root=True).get_figwidth()
        width = 0.95 * inches / len(labels)
        ax.set_xticks(range(len(labels)), [wrap(str(label), width, SMALL) for label in labels])
        ax.set_xlim(-0.5, len(labels) - 0.5)
        ax.grid(False, axis="x")
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
    width: float = 1.5,
) -> Axes:
    """A row per name, from top to bottom, with a point and its interval for every series.

    Args:
        table: a row per point, in the order of the rows.
        y: column with the names of the rows; ``x``, ``low``, ``high``: columns with numbers.
        hue: column that names the series.
        colours: of series, by their names.
        names: whether to write the rows' names, over as many lines of ``width`` inches as they need; not in the later panels
            of a row.
    """
    check_columns(table, x, y, low, high, hue)
    rows = list(dict.fromkeys(table[y]))
    series = [None] if hue is None else list(dict.fromkeys(table[hue]))
    # a series for each row, as when colours tell kinds of methods apart, needs no place of its own
    together = hue is None or table.groupby(y)[hue].nunique().max() == 1
    step = 0.0 if together else min(1.5 * DODGE, 0.8 / len(series))
    for i, (name, look) in enumerate(zip(series, looks_of(series, colours), strict=True)):
        part = table if name is None else table[table[hue] == name]
        at = part[y].map({row: k for k, row in enumerate(rows)}) + step * (i - (len(series) - 1) / 2)
        ax.hlines(at, part[low], part[high], color=look["color"], alpha=0.45, linewidth=2)
        ax.plot(part[x], at, label=name, zorder=3, markeredgecolor="white", **look | {"linestyle": "none"})
    _name_rows(ax, rows, names, width)
    return ax


def heatmap(
    ax: Axes,
    wide: pd.DataFrame,
    fmt: str = ".1f",
    cmap: str = "viridis",
    names: bool = True,
    width: float = 1.5,
) -> Axes:
    """Numbers in cells, coloured from the least to the largest; a colour map that is even and safe for the colour-blind.

    Args:
        wide: rows and columns as they are to be drawn; cells without a number stay empty.
        fmt: of the numbers.
        names: whether to write the rows' names, over as many lines of ``width`` inches as they need; a row is best 0.25
            inches high.
    """
    values = wide.to_numpy(float)
    image = ax.imshow(values, cmap=mpl.colormaps[cmap].with_extremes(bad=VOID), aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            ink = _ink(image.cmap(image.norm(value)))
            ax.text(j, i, format(value, fmt), ha="center", va="center", fontsize=SMALL, color=ink)
    ax.set_xticks(range(len(wide.columns)), [str(column) for column in wide.columns])
    _name_rows(ax, wide.index, names, width)
    ax.set(xlabel=wide.columns.name or "", ylabel=(wide.index.name or "") if names else "")
    ax.grid(False)
    ax.spines[:].set_visible(False)
    return ax


def fate_bars(ax: Axes, table: pd.DataFrame, found: str = "found", names: bool = True) -> Axes:
    """A bar per row, divided among its columns in percent, with each number in its part.

    Args:
        table: rows from top to bottom; columns are the ways of being lost, dark for the first, and ``found``.
    """
    if found not in table.columns:
        raise ValueError(f"found={found!r} is no column; the table has {', '.join(map(str, table.columns))}.")
    lost = [column for column in table.columns if column != found]
    shade = LinearSegmentedColormap.from_list("lost", ["#4A2100", LOST, "#FFF3D6"])
    shades = dict(zip(lost, shade(np.linspace(0, 1, max(len(lost), 2))), strict=False))
    left = np.zeros(len(table))
    for column in [*lost, found]:
        colour = to_rgb(shades.get(column, FOUND))
        share = table[column].fillna(0).to_numpy(float)
        bars = ax.barh(range(len(share)), share, 0.75, left, label=column, color=colour, edgecolor="white")
        numbers = [f"{part:.0f}" if part >= 7 else "" for part in share]  # narrower parts have no room
        ax.bar_label(bars, numbers, label_type="center", fontsize=SMALL, color=_ink(colour))
        left += share
    _name_rows(ax, table.index, names)
    ax.set_xlim(0, 100)
    ax.grid(False)
    return ax


def check_columns(table: pd.DataFrame, *columns: str | None) -> None:
    for column in columns:
        if column is not None and column not in table.columns:
            raise ValueError(
                f"{column!r} is no column; the table has {', '.join(map(repr, map(str, table.columns)))}."
            )


def looks_of(names: Sequence[str | None], colours: Mapping[str, str] | None = None) -> list[dict]:
    """Each curve's look, in its own colour if it has one; no other takes that one."""
    colours, styles = colours or {}, looks(len(names))
    free = cycle([c for c in CHART_COLOURS if c not in colours.values()] or CHART_COLOURS)
    return [
        style | {"color": colours[name] if name in colours else next(free)}
        for name, style in zip(names, styles, strict=True)
    ]


def _number_axis(ax: Axes, values: np.ndarray, log: bool) -> None:
    """Plain numbers under the points themselves, where they do not collide."""
    if log:
        plain_log_axis(ax)
    scale = np.log(values) if log else values
    inches = ax.get_position().width * ax.figure.get_figure(root=True).get_figwidth()
    room = np.diff(scale) / max(np.ptp(scale), 1e-9) * 0.9 * inches
    widths = np.array([text_width(f"{value:g}", SMALL) for value in values])
    if len(values) == 1 or (room >= (widths[1:] + widths[:-1]) / 2 + 0.05).all():
        ax.set_xticks(values, [f"{value:g}" for value in values])


def plain_log_axis(ax: Axes) -> None:
    """A logarithmic x axis whose ticks read 0.1, 0.2, 0.5, 1, …"""
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_locator(NullLocator())


def _name_rows(ax: Axes, rows: Sequence, names: bool, width: float = 1.5) -> None:
    """Rows from top to bottom, with their whole names or with none."""
    labels = [wrap(str(row), width, SMALL) if names else "" for row in rows]
    ax.set_yticks(range(len(labels)), labels, linespacing=1.0)
    ax.set_ylim(len(labels) - 0.5, -0.5)


def _ink(colour: tuple[float, ...]) -> str:
    """Black or white, whichever stands out more from a colour (WCAG's contrast ratio)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    return "black" if np.dot(linear, (0.2126, 0.7152, 0.0722)) > 0.179 else "white"
