"""Parts of a ground-truth label map: objects, and the feature cells that they cover."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.ndimage import find_objects
from skimage.measure import label as connected_components


@dataclass(frozen=True, eq=False)
class Region:
    """One connected region of one class, kept as the crop that holds it.

    Attributes:
        class_index: its class.
        window: (rows, columns), the slices of the picture that crop it.
        inside: (h, w) bool, the region within that crop.
        size: (H, W) of the picture.
    """

    class_index: int
    window: tuple[slice, slice]
    inside: np.ndarray
    size: tuple[int, int]

    @classmethod
    def from_mask(cls, class_index: int, mask: np.ndarray) -> Region:
        """The region that an (H, W) bool mask, not empty, describes."""
        (window,) = find_objects(mask.astype(np.uint8))
        return cls(class_index, window, mask[window], mask.shape)

    @cached_property
    def pixels(self) -> int:
        return int(self.inside.sum())

    @property
    def area(self) -> float:
        """Share of the picture, in [0, 1]."""
        return self.pixels / (self.size[0] * self.size[1])

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool, made anew at every call."""
        whole = np.zeros(self.size, bool)
        whole[self.window] = self.inside
        return whole


def find_regions(
    labels: np.ndarray, smallest: float = 0.01, largest: float = 0.3, ignore_index: int | None = None
) -> list[Region]:
    """Connected regions of one class whose share of the picture lies in [smallest, largest], largest first.

    Args:
        labels: (H, W) classes; pixels touch by their sides. Those of ``ignore_index`` belong to no region.
    """
    numbers = labels.astype(np.int64)
    nothing = int(numbers.min()) - 1 if ignore_index is None else ignore_index
    components = connected_components(numbers, background=nothing, connectivity=1)
    regions = []
    for index, window in enumerate(find_objects(components), start=1):
        inside = components[window] == index
        region = Region(int(numbers[window][inside][0]), window, inside, labels.shape)
        if smallest <= region.area <= largest:
            regions.append(region)
    return sorted(regions, key=lambda r: (-r.pixels, r.class_index))


def cell_shares(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """(h, w) float, the share of every cell of ``grid`` that an (H, W) mask covers.

    Where the grid does not divide the picture, a cell takes every pixel that it touches (as torch's adaptive pooling does).
    """
    sums = np.pad(mask.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    edges = []
    for length, cells in zip(mask.shape, grid, strict=True):
        index = np.arange(cells)
        edges.append((index * length // cells, -(-(index + 1) * length // cells)))
    (top, bottom), (left, right) = edges
    at = lambda rows, columns: sums[np.ix_(rows, columns)]
    covered = at(bottom, right) - at(top, right) - at(bottom, left) + at(top, left)
    return covered / np.outer(bottom - top, right - left)


def inner_cells(mask: np.ndarray, grid: tuple[int, int], share: float = 0.5) -> np.ndarray:
    """(h, w) bool: the ``share`` of a region's cells (at least one) that it covers best, a sub-region of it."""
    covered = cell_shares(mask, grid)
    count = max(1, round(share * float((covered >= 0.5).sum())))
    cells = np.zeros(covered.size, bool)
    cells[np.argsort(-covered.ravel(), kind="stable")[:count]] = True
    return cells.reshape(grid)


def cell_labels(labels: np.ndarray, grid: tuple[int, int], num_classes: int) -> np.ndarray:
    """(h, w) class of 0 to C − 1 that covers most of every cell; 0 where none covers any."""
    shares = np.zeros((num_classes, *grid))
    for index in np.unique(labels):
        if 0 <= index < num_classes:
            shares[index] = cell_shares(labels == index, grid)
    return shares.argmax(0)


def sample_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) labels at another size: each new pixel takes the label under its centre (nearest neighbour)."""
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new) for old, new in zip(labels.shape, size, strict=True)
    )
    return labels[np.ix_(rows, columns)]
