"""Places for labels beside points, so that none covers another or a point. Boxes are (left, bottom, right, top)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

DIRECTIONS = [(1, 0), (1, 1), (1, -1), (-1, 0), (-1, 1), (-1, -1), (0, 1), (0, -1)]
DIRECTIONS += [(1, 0.5), (1, -0.5), (-1, 0.5), (-1, -0.5), (0.5, 1), (0.5, -1), (-0.5, 1), (-0.5, -1)]
RINGS = (
    1,
    2,
    3.5,
    5,
    7,
    10,
    14,
    20,
    28,
    40,
)  # distances of labels, in gaps; those of the first need no leader
PLACES = 16  # along a leader
# costs of any overlap and of a label's whole area, of a place of a leader inside a box, of a ring, of a place of the line
OVERLAP, CROSSED, FAR, OVER_LINE = 100.0, 1.0, 0.5, 0.05


def place(
    points: np.ndarray,
    sizes: np.ndarray,
    bounds: Sequence[float],
    gap: float,
    line: np.ndarray | None = None,
    passes: int = 4,
) -> tuple[np.ndarray, np.ndarray]:
    """Places for labels around their points, in pixels.

    Every label in turn takes the cheapest of a list of places: one that overlaps no label and no marker and lies in bounds,
    with a leader that crosses none, near its point. Then all choose again, for a few passes. Of three orders (those in a
    crowd first, from the left, from the right) the cheapest is kept.

    Args:
        points: (n, 2) centres of the markers.
        sizes: (n, 2) widths and heights of the labels.
        bounds: the box that the labels may take.
        gap: half the side of a marker, and the unit of the distances.
        line: (m, 2) corners of a line to keep away from.

    Returns:
        Boxes (n, 4), and whether each stands right beside its point (n,), with no need for a leader. Labels overlap only
        where no place in the list is free.
    """
    if not len(points):
        return np.zeros((0, 4)), np.zeros(0, bool)
    corners = np.zeros((0, 2)) if line is None else np.asarray(line)
    line = _between(corners[:-1], corners[1:], 60).reshape(-1, 2)
    close = np.linalg.norm(points[:, None] - points[None], axis=-1) < 2 * sizes.mean()
    keys = (-close.sum(1), points[:, 0], -points[:, 0])
    orders = [np.lexsort((points[:, 1], points[:, 0], key)) for key in keys]
    found = [_place(points, sizes, bounds, gap, line, passes, order) for order in orders]
    return min(found, key=lambda result: result[0])[1:]


def nearest(boxes: np.ndarray, point: np.ndarray) -> np.ndarray:
    """(..., 2) places in boxes (..., 4) that are nearest to a point: where leaders end."""
    return np.clip(point, boxes[..., :2], boxes[..., 2:])


def _place(points, sizes, bounds, gap, line, passes, order) -> tuple[float, np.ndarray, np.ndarray]:
    """(total cost, boxes, beside) when labels choose in one order."""
    everyone = np.arange(len(points))
    markers = np.hstack([points - gap, points + gap])
    boxes, leaders = np.full((len(points), 4), np.nan), np.full((len(points), PLACES, 2), np.nan)
    chosen = np.zeros(len(points), int)
    offers = [_offers(point, size, gap, bounds) for point, size in zip(points, sizes, strict=True)]
    fixed = []
    for i, (offered, rings, ways) in enumerate(offers):
        cost = _covered(offered, markers, bounds) + FAR * rings + OVER_LINE * _inside(line, offered).sum(0)
        fixed.append(cost + CROSSED * _inside(ways, markers[everyone != i]).any(-1).sum(1))

    def costs(i: int) -> np.ndarray:
        others, (offered, _, ways) = everyone != i, offers[i]
        crossed = _inside(ways, boxes[others]).any(-1).sum(1)
        crossed += _inside(leaders[others].reshape(-1, 2), offered).sum(0)
        return fixed[i] + _covered(offered, boxes[others]) + CROSSED * crossed

    for _ in range(passes):
        before = chosen.copy()
        for i in order:
            chosen[i] = costs(i).argmin()
            boxes[i], leaders[i] = offers[i][0][chosen[i]], offers[i][2][chosen[i]]
        if np.array_equal(before, chosen):
            break
    total = sum(costs(i)[chosen[i]] for i in everyone)
    return float(total), boxes, np.array([offers[i][1][chosen[i]] == RINGS[0] for i in everyone], bool)


def _offers(
    point: np.ndarray, size: np.ndarray, gap: float, bounds: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Around a point, nearest first, and moved into the bounds: boxes (m, 4), the rings (m,) they lie in, and the places
    (m, PLACES, 2) of their leaders, NaN in the first ring."""
    ways = np.array(DIRECTIONS)
    slanted = np.where((np.abs(ways) == 1).all(1), 0.7, 1.0)[:, None]
    middle = np.concatenate([point + ways * (size / 2 + gap * (0.3 + ring) * slanted) for ring in RINGS])
    low, high = np.array(bounds[:2]) + size / 2, np.array(bounds[2:]) - size / 2
    middle = np.clip(middle, np.minimum(low, high), np.maximum(low, high))
    boxes, rings = np.hstack([middle - size / 2, middle + size / 2]), np.repeat(RINGS, len(ways))
    leaders = _between(np.broadcast_to(point, middle.shape), nearest(boxes, point), PLACES)
    leaders[rings == RINGS[0]] = np.nan
    return boxes, rings, leaders


def _between(starts: np.ndarray, ends: np.ndarray, count: int) -> np.ndarray:
    """(n, count, 2) places along the lines between starts and ends (n, 2)."""
    return starts[:, None] + np.linspace(0.0, 1.0, count)[:, None] * (ends - starts)[:, None]


def _covered(boxes: np.ndarray, others: np.ndarray, bounds: Sequence[float] | None = None) -> np.ndarray:
    """(m,) what it costs that other boxes (n, 4) cover a box (m, 4), or that it is out of bounds; NaN covers nothing."""
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    share = _shared(boxes, others) / area
    if bounds is not None:
        share = share + 1 - _shared(boxes, np.array([bounds])) / area
    return OVERLAP * ((share > 1e-6) + share)


def _shared(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(m,) the area of each box that others have as well."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.nan_to_num(high - low).clip(0).prod(-1).sum(1)


def _inside(places: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(..., n) bool: which places (..., 2) lie in which boxes (n, 4); NaN lies nowhere and holds nothing."""
    place = places[..., None, :]
    return ((place > boxes[:, :2]) & (place < boxes[:, 2:])).all(-1)
