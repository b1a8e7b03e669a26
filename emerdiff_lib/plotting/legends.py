"""Legends that cover no data: beneath the panels, in a figure that grows by their height."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.patches import Patch

from .style import LINE, POINTS, SMALL
from .text import text_width

HANDLE = 26.0  # points that a handle and the space around an entry take


def legend_below(figure: Figure, handles: Sequence[Artist], names: Sequence[str], title: str = "") -> Legend:
    """A legend under all panels of a figure, with as many columns as fit; the panels keep their height.

    The figure needs a constrained (or compressed) layout, which :func:`use_style` and :func:`gallery` give it; one without
    any gets it here.
    """
    if figure.get_layout_engine() is None:
        figure.set_layout_engine("constrained")
    width, height = figure.get_size_inches()
    entries = [text_width(name, SMALL) + HANDLE / POINTS for name in names]
    needed = {n: sum(max(part) for part in np.array_split(entries, n)) for n in range(1, len(entries) + 1)}
    columns = max([n for n, inches in needed.items() if inches <= width], default=1)
    rows = -(-len(names) // columns) + bool(title)
    figure.set_size_inches(width, height + (rows * LINE * SMALL + 8) / POINTS)
    return figure.legend(
        handles,
        names,
        title=title or None,
        loc="outside lower center",
        ncols=columns,
        fontsize=SMALL,
        title_fontsize=SMALL,
        frameon=False,
        borderpad=0,
        columnspacing=1.2,
        handlelength=1.8,
        handletextpad=0.5,
    )


def shared_legend(figure: Figure, title: str = "") -> Legend | None:
    """One legend for all panels, each name once, instead of those that the panels may have; None if nothing has a name."""
    entries: dict[str, Artist] = {}
    for ax in figure.axes:
        for handle, name in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(name, handle)
        if (own := ax.get_legend()) is not None:
            own.remove()
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
