"""A label map and what is measured on it alone: known pixels, objects, boundaries, and the distances to them."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy.ndimage import distance_transform_cdt

from .regions import Region, find_regions


class LabelMap:
    """A label map and what scores need of it, each found once, when it is first asked for.

    Scores take arrays as well; give them this where one map is compared with many.

    Attributes:
        labels: (H, W) integers.
        ignore_index: the label of pixels of which nothing is known, or None.
    """

    def __init__(self, labels: np.ndarray, ignore_index: int | None = None):
        self.labels = labels
        self.ignore_index = ignore_index
        self._rims: dict[int, np.ndarray] = {}

    @classmethod
    def of(cls, labels: np.ndarray | LabelMap, ignore_index: int | None = None) -> LabelMap:
        """``labels`` themselves where they are one already, with an ``ignore_index`` of their own."""
        return labels if isinstance(labels, LabelMap) else cls(labels, ignore_index)

    @cached_property
    def known(self) -> np.ndarray:
        """(H, W) bool: pixels that are not ignored."""
        return known_pixels(self.labels, self.ignore_index)

    @cached_property
    def regions(self) -> list[Region]:
        """The objects, largest first."""
        return find_regions(self.labels, 0.0, 1.0, self.ignore_index)

    @cached_property
    def edges(self) -> np.ndarray:
        """(H, W) bool: :func:`boundaries`; the outline of ignored pixels is none."""
        edges = boundaries(self.labels)
        return edges if self.known.all() else edges & self.known & ~boundaries(self.known)

    @cached_property
    def edge_distance(self) -> np.ndarray:
        """(H, W) chessboard distance to the nearest of the edges, of which there must be one."""
        return distance_transform_cdt(~self.edges, metric="chessboard")

    @cached_property
    def void_distance(self) -> np.ndarray:
        """(H, W) chessboard distance to the nearest ignored pixel, of which there must be one."""
        return distance_transform_cdt(self.known, metric="chessboard")

    def rim(self, distance: int) -> np.ndarray:
        """(H, W) bool: pixels that an erosion of their own label's mask by ``distance`` (chessboard) takes away.

        Those are the pixels with another label, or the picture's outside, in the square around them: one price for any
        number of labels and any distance.
        """
        if distance not in self._rims:
            touching = np.ones(self.labels.shape, bool)  # pixels whose own 3 × 3 neighbours differ
            if min(self.labels.shape) > 2:
                touching[1:-1, 1:-1] = _differs_around(self.labels)
            inside = distance_transform_cdt(~touching, metric="chessboard")
            self._rims[distance] = inside < distance
        return self._rims[distance]


def boundaries(labels: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels that differ from their left or upper neighbour.

    Lines one pixel wide, on one side of an edge: none of the modes of ``skimage.segmentation.find_boundaries`` gives them
    ("thick" marks both sides, "inner" and "outer" choose the side by a background, "subpixel" doubles the picture).
    """
    edges = np.zeros(labels.shape, bool)
    edges[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edges[1:] |= labels[1:] != labels[:-1]
    return edges


def known_pixels(labels: np.ndarray, ignore_index: int | None) -> np.ndarray:
    """(H, W) bool: pixels that are not ignored."""
    return np.ones(labels.shape, bool) if ignore_index is None else labels != ignore_index


def _differs_around(labels: np.ndarray) -> np.ndarray:
    """(H − 2, W − 2) bool: inner pixels with another label among their eight neighbours."""
    height, width = labels.shape
    shift = lambda y, x: labels[y : y + height - 2, x : x + width - 2]
    shifts = (shift(y, x) for y in range(3) for x in range(3) if (y, x) != (1, 1))
    return np.logical_or.reduce([shift(1, 1) != other for other in shifts])
