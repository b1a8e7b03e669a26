"""Quality against cost: a scatter whose labels find places where they cover neither each other nor the points."""

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
from .style import SMALL
from .text import wrap

GAP = 3.0  # points: half the side of a marker, and the unit of the distances that are tried
DIRECTIONS = [(1, 0), (1, 1), (1, -1), (-1, 0), (-1, 1), (-1, -1), (0, 1), (0, -1)]
DIRECTIONS += [(1, 0.5), (1, -0.5), (-1, 0.5), (-1, -0.5), (0.5, 1), (0.5, -1), (-0.5, 1), (-0.5, -1)]
RINGS = (1, 2, 3.5, 5, 7, 9, 12, 15, 19, 24)  # distances of labels; those of the first need no leader
OVERLAP, CROSSED, FAR, OVER_LINE = (
    100.0,
    0.5,
    0.15,
    0.05,
)  # costs of each and of own areas, of places of a leader, of rings, of places of the line


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
    for name, look in zip(kinds, looks_of(kinds, None), strict=True):
        part = table if name is None else table[table[kind] == name]
        ax.plot(
            part[x], part[y], label=name, markeredgecolor="white", zorder=3, **look | {"linestyle": "none"}
        )
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
    look = {"fontsize": SMALL, "linespacing": 1.0, "zorder": 4}
    labels = [
        ax.annotate(name, tuple(point), (GAP, 0), textcoords="offset points", **look)
        for name, point in zip(names, points, strict=True)
    ]
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

    def draw(self, renderer) -> None:
        point = renderer.points_to_pixels(1.0)
        anchors = self.axes.transData.transform([label.xy for label in self.labels])
        line = self.axes.transData.transform(self.line) if len(self.line) else self.line
        extents = [label.get_window_extent(renderer) for label in self.labels]
        sizes = np.array([(box.width, box.height) for box in extents])
        boxes, beside = place(anchors, sizes, self.axes.bbox.extents, GAP * point, line)
        for i, (anchor, box) in enumerate(zip(anchors, boxes, strict=True)):
            end = nearest(box, anchor)
            self.labels[i].xyann = tuple((box[:2] - anchor) / point)
            self.labels[i].set_multialignment("left" if end[0] < box[[0, 2]].mean() else "right")
            self.leaders[i].set(transform=IdentityTransform(), visible=not beside[i])
            self.leaders[i].set_data(*np.transpose([anchor, end]))


def place(
    points: np.ndarray,
    sizes: np.ndarray,
    bounds: tuple[float, float, float, float],
    gap: float,
    line: np.ndarray | None = None,
    passes: int = 4,
) -> tuple[np.ndarray, np.ndarray]:
    """Places for labels around their points, in pixels.

    Every label in turn takes the cheapest of a list of places: one that overlaps no label and no marker and lies in bounds,
    with a leader that crosses none, near its point. Then all choose again, for a few passes. Of several orders (those in a
    crowd first, from the left, …) the cheapest is kept.

    Args:
        points: (n, 2) centres of the markers.
        sizes: (n, 2) widths and heights of the labels.
        bounds: left, bottom, right, top of the area that the labels may take.
        gap: half the side of a marker, and the unit of the distances.
        line: (m, 2) corners of a line to keep away from.

    Returns:
        Boxes of left, bottom, right and top (n, 4), and whether each stands right beside its point (n,), with no need for a
        leader.
        Labels overlap only where no place in the list is free.
    """
    line = (
        np.zeros((0, 2))
        if line is None or len(line) < 2
        else _between(line[:-1], line[1:], 60).reshape(-1, 2)
    )
    close = (
        np.linalg.norm(points[:, None] - points[None], axis=-1) < 2 * sizes.mean() if len(points) else points
    )
    orders = [np.lexsort((points[:, 1], points[:, 0], key)) for key in (-close.sum(1), *points.T, *-points.T)]
    found = [_place(points, sizes, bounds, gap, line, passes, order) for order in orders]
    return min(found, key=lambda result: result[0])[1:]


def _place(points, sizes, bounds, gap, line, passes, order) -> tuple[float, np.ndarray, np.ndarray]:
    """(total cost, boxes, beside) when labels choose in one order."""
    count = len(points)
    markers = np.hstack([points - gap, points + gap])
    boxes, leaders = np.full((count, 4), np.nan), np.full((count, 24, 2), np.nan)
    rings, costs = np.zeros((2, count))
    offers = [_offers(point, size, gap) for point, size in zip(points, sizes, strict=True)]
    for _ in range(passes):
        before = boxes.copy()
        for i in order:
            others = np.arange(count) != i
            offered, ring = offers[i]
            ways = _between(np.broadcast_to(points[i], (len(offered), 2)), nearest(offered, points[i]), 24)
            ways[ring == RINGS[0]] = np.nan
            covered = _overlaps(offered, np.vstack([boxes[others], markers])) + _outside(offered, bounds)
            crossed = _inside(ways, np.vstack([boxes[others], markers[others]])).any(-1).sum(1)
            crossed += _inside(leaders[others].reshape(-1, 2), offered).sum(0)
            cost = OVERLAP * ((covered > 1e-6) + covered) + CROSSED * crossed + FAR * ring
            cost += OVER_LINE * _inside(line, offered).sum(0)
            best = int(cost.argmin())
            boxes[i], rings[i], leaders[i], costs[i] = offered[best], ring[best], ways[best], cost[best]
        if np.array_equal(before, boxes):
            break
    return float(costs.sum()), boxes, rings == RINGS[0]


def _offers(point: np.ndarray, size: np.ndarray, gap: float) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (m, 4) of left, bottom, right and top around a point, nearest first, and the rings (m,) they lie in."""
    ways = np.array(DIRECTIONS)
    slanted = np.where((np.abs(ways) == 1).all(1), 0.7, 1.0)[:, None]
    centres = [point + ways * (size / 2 + gap * (0.3 + ring) * slanted) for ring in RINGS]
    middle = np.concatenate(centres)
    return np.hstack([middle - size / 2, middle + size / 2]), np.repeat(RINGS, len(ways))


def nearest(boxes: np.ndarray, point: np.ndarray) -> np.ndarray:
    """(..., 2) places in boxes (..., 4) that are nearest to a point."""
    return np.clip(point, boxes[..., :2], boxes[..., 2:])


def _between(starts: np.ndarray, ends: np.ndarray, count: int) -> np.ndarray:
    """(n, count, 2) places along the lines between starts and ends (n, 2)."""
    return starts[:, None] + np.linspace(0.0, 1.0, count)[:, None] * (ends - starts)[:, None]


def _overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(m,) how much of each box others cover, in its own areas; others that are NaN cover nothing."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.nan_to_num(high - low).clip(0).prod(-1).sum(1)
    return shared / (boxes[:, 2:] - boxes[:, :2]).prod(-1)


def _outside(boxes: np.ndarray, bounds: tuple[float, float, float, float]) -> np.ndarray:
    """(m,) the share of each box that is out of bounds."""
    return 1 - _overlaps(boxes, np.array([bounds]))


def _inside(places: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(..., n) bool: which places (..., 2) lie in which boxes (n, 4); NaN lies nowhere and holds nothing."""
    place = places[..., None, :]
    return ((place > boxes[:, :2]) & (place < boxes[:, 2:])).all(-1)
