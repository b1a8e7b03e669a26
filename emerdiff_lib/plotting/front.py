"""Quality against cost: a scatter whose labels find places where they cover neither each other nor the points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.text import Annotation, Text

from .charts import check_columns, looks_of
from .style import SMALL
from .text import wrap

GAP = 3.0  # points between a point's centre and its label, beside the point's own radius
DIRECTIONS = ((1, 0), (1, 1), (1, -1), (-1, 0), (-1, 1), (-1, -1), (0, 1), (0, -1))
RINGS = (1, 2, 3.5, 5, 7, 9, 12, 15, 19, 24)  # distances that are tried, in gaps


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
        ax.set_xscale("log")
    best = table.sort_values([x, y], ascending=[True, False], kind="stable")
    best = best[best[y] > best[y].cummax().shift(fill_value=-np.inf)]
    ax.plot(best[x], best[y], color="0.75", linewidth=1, zorder=1)
    for name, look in zip(kinds, looks_of(kinds), strict=True):
        part = table if name is None else table[table[kind] == name]
        ax.plot(
            part[x], part[y], label=name, markeredgecolor="white", zorder=3, **look | {"linestyle": "none"}
        )
    if log:
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter("")
    ax.margins(0.08)
    ax.set(xlabel=x, ylabel=y)
    names = [wrap(str(name), width, SMALL) for name in table.index]
    label_points(ax, table[x].to_numpy(float), table[y].to_numpy(float), names)
    return ax


def label_points(ax: Axes, x: Sequence[float], y: Sequence[float], names: Sequence[str]) -> list[Annotation]:
    """Names beside their points, placed each time the figure is drawn, whatever its size then is."""
    labels = [
        ax.annotate(
            name,
            point,
            (GAP, 0),
            textcoords="offset points",
            fontsize=SMALL,
            linespacing=1.0,
            zorder=4,
            in_layout=False,
            arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3},
        )
        for name, point in zip(names, zip(x, y, strict=True), strict=True)
    ]
    ax.add_artist(_Placer(labels))
    return labels


class _Placer(Artist):
    """Draws nothing, but moves labels to free places just before they are drawn."""

    def __init__(self, labels: list[Annotation]) -> None:
        super().__init__()
        self.labels = labels
        self.set(zorder=3.9, in_layout=False)

    def draw(self, renderer) -> None:
        point = renderer.points_to_pixels(1.0)
        anchors = self.axes.transData.transform([label.xy for label in self.labels])
        boxes = [Text.get_window_extent(label, renderer) for label in self.labels]  # without their leaders
        sizes = np.array([(box.width, box.height) for box in boxes])
        corners, near = place(anchors, sizes, self.axes.bbox.extents, GAP * point)
        for label, anchor, corner, beside in zip(self.labels, anchors, corners, near, strict=True):
            label.xyann = tuple((corner - anchor) / point)
            label.arrow_patch.set_visible(not beside)


def place(
    points: np.ndarray, sizes: np.ndarray, bounds: tuple[float, float, float, float], gap: float
) -> tuple[np.ndarray, np.ndarray]:
    """Places for labels beside points: for each the first in a list of offsets that is free, in several orders, the best of
    which is kept.

    Args:
        points: (n, 2) centres of the points.
        sizes: (n, 2) widths and heights of the labels.
        bounds: left, bottom, right, top of the area that the labels may take.
        gap: half the side of a point, and the unit of the offsets.

    Returns:
        Lower left corners (n, 2), and whether each label stands right beside its point (n,). Labels overlap only where
        there is no free place at all.
    """
    spread = np.linalg.norm(points[:, None] - points[None], axis=-1)
    crowded = (spread < 3 * np.median(sizes[:, 0])).sum(1) if len(points) else np.zeros(0)
    orders = (np.lexsort((points[:, 0], -crowded)), *(np.lexsort((key,)) for key in (*points.T, *-points.T)))
    return min((_place(points, sizes, bounds, gap, order) for order in orders), key=lambda found: found[0])[
        1:
    ]


def _place(points, sizes, bounds, gap, order) -> tuple[tuple[float, float], np.ndarray, np.ndarray]:
    """One order's ((what overlaps, how far all are), corners, beside)."""
    markers = np.hstack([points - gap, points + gap])
    corners, rings = np.zeros_like(points), np.zeros(len(points))
    taken, leaders = np.zeros((0, 4)), np.zeros((0, 2))
    overlapped = 0.0
    for i in order:
        offered = [(ring, box) for ring in RINGS for box in _offsets(points[i], sizes[i], gap * (1 + ring))]
        cost = [
            _overlap(box, np.vstack([taken, markers]), leaders, points[i], taken, bounds)
            for _, box in offered
        ]
        best = int(np.argmin(cost))  # the first free one, or the least bad
        rings[i], box = offered[best]
        overlapped += cost[best]
        corners[i] = box[:2]
        taken = np.vstack([taken, box])
        if rings[i] > RINGS[0]:
            leaders = np.vstack([leaders, _leader(points[i], box)])
    return (overlapped, float(rings.sum())), corners, rings == RINGS[0]


def _offsets(point: np.ndarray, size: np.ndarray, distance: float) -> list[np.ndarray]:
    """Boxes (left, bottom, right, top) of a label around its point, the nearest side ``distance`` away."""
    boxes = []
    for way in DIRECTIONS:
        centre = point + np.array(way) * (size / 2 + distance * (1 if 0 in way else 0.7))
        boxes.append(np.concatenate([centre - size / 2, centre + size / 2]))
    return boxes


def _leader(point: np.ndarray, box: np.ndarray) -> np.ndarray:
    """(m, 2) places along the line from a point to its label."""
    return point + np.linspace(0.05, 1, 24)[:, None] * ((box[:2] + box[2:]) / 2 - point)


def _overlap(box, boxes, leaders, point, labels, bounds) -> float:
    """How much of a label's box, in its own areas and lines, is not free; 0 for a free place."""
    wide = np.clip(np.minimum(box[2], boxes[:, 2]) - np.maximum(box[0], boxes[:, 0]), 0, None)
    high = np.clip(np.minimum(box[3], boxes[:, 3]) - np.maximum(box[1], boxes[:, 1]), 0, None)
    inside = np.clip(
        [min(box[2], bounds[2]) - max(box[0], bounds[0]), min(box[3], bounds[3]) - max(box[1], bounds[1])],
        0,
        None,
    )
    area = np.prod(box[2:] - box[:2])
    crossed = _inside(leaders, box[None]) + _inside(_leader(point, box), labels)
    return float((wide * high).sum() + area - np.prod(inside)) / area + 0.01 * crossed


def _inside(places: np.ndarray, boxes: np.ndarray) -> int:
    """How many of the places (m, 2) lie in any of the boxes (n, 4)."""
    if not len(places) or not len(boxes):
        return 0
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    return int(((places > low) & (places < high)).all(-1).any(0).sum())
