"""Quality against cost: a scatter with labels that cover neither each other nor the points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.transforms import IdentityTransform

from .charts import check_columns, looks_of, plain_log_axis
from .placement import nearest, place
from .style import SMALL
from .text import wrap

GAP = 3.0  # points: half the side of a marker, and the unit of the labels' distances


def front(
    ax: Axes,
    table: pd.DataFrame,
    x: str,
    y: str,
    kind: str | None = None,
    log: bool = True,
    width: float = 1.1,
) -> Axes:
    """A point per row, named by the table's index, and a line through those that no other beats in both.

    Args:
        x: column with what is better small, such as seconds; ``y``: with what is better large.
        kind: column that groups the points by colour and marker.
        log: logarithmic x.
        width: inches that a line of a label may take.
    """
    check_columns(table, x, y, kind)
    kinds = [None] if kind is None else list(dict.fromkeys(table[kind]))
    if log:
        plain_log_axis(ax)
    best = table.sort_values([x, y], ascending=[True, False], kind="stable")
    best = best[best[y] > best[y].cummax().shift(fill_value=-np.inf)]
    ax.plot(best[x], best[y], color="0.75", linewidth=1, zorder=1)
    for name, look in zip(kinds, looks_of(kinds), strict=True):
        part = table if name is None else table[table[kind] == name]
        look = look | {"linestyle": "none", "label": name}
        ax.plot(part[x], part[y], markeredgecolor="white", zorder=3, **look)
    ax.margins(0.08)
    ax.set(xlabel=x, ylabel=y)
    names = [wrap(str(name), width, SMALL) for name in table.index]
    label_points(ax, table[[x, y]].to_numpy(float), names, best[[x, y]].to_numpy(float))
    return ax


def label_points(
    ax: Axes, points: np.ndarray, names: Sequence[str], line: np.ndarray | None = None
) -> list[Annotation]:
    """Names beside their points (n, 2), placed whenever the figure is drawn, for the size that it has then.

    Args:
        line: (m, 2) corners of a line that labels keep away from where they can.
    """
    look = {"textcoords": "offset points", "fontsize": SMALL, "linespacing": 1.0, "zorder": 4}
    labels = [ax.annotate(name, point, (GAP, 0), **look) for name, point in zip(names, points, strict=True)]
    leaders = [ax.add_artist(Line2D([], [], color="0.5", linewidth=0.5, zorder=4)) for _ in names]
    for artist in [*labels, *leaders]:
        artist.set_in_layout(False)
    ax.add_artist(_Placer(labels, leaders, np.zeros((0, 2)) if line is None else line))
    return labels


class _Placer(Artist):
    """Draws nothing, but moves labels and their leaders to free places just before they are drawn."""

    def __init__(self, labels: list[Annotation], leaders: list[Line2D], line: np.ndarray) -> None:
        super().__init__()
        self.labels, self.leaders, self.line = labels, leaders, line
        self.set(zorder=3.9, in_layout=False)
        self.last = self.found = None

    def draw(self, renderer) -> None:
        point = renderer.points_to_pixels(1.0)
        anchors = self.axes.transData.transform([label.xy for label in self.labels])
        extents = [label.get_window_extent(renderer) for label in self.labels]
        sizes = np.array([(box.width, box.height) for box in extents])
        task = [values.round(3) for values in (anchors, sizes, self.axes.bbox.extents)]
        if self.last is None or not all(
            map(np.array_equal, task, self.last)
        ):  # figures are drawn more than once
            line = self.axes.transData.transform(self.line) if len(self.line) else self.line
            self.last = task
            self.found = place(anchors, sizes + point, self.axes.bbox.extents, GAP * point, line)
        for i, (anchor, box, beside) in enumerate(zip(anchors, *self.found, strict=True)):
            end = nearest(box, anchor)
            self.labels[i].xyann = tuple((box[:2] - anchor) / point + 0.5)  # half a point of air all around
            self.labels[i].set_multialignment("left" if end[0] < box[[0, 2]].mean() else "right")
            self.leaders[i].set(transform=IdentityTransform(), visible=not beside)
            self.leaders[i].set_data(*np.transpose([anchor, end]))
