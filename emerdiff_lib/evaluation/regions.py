"""Parts of a label map: known pixels, boundaries, objects, and the feature cells that they cover."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from skimage.measure import label as connected_components
from skimage.measure import regionprops


class Region(NamedTuple):
    """One connected region of one class, kept as the crop that holds it.

    Attributes:
        class_index: its class.
        window: (rows, columns), the slices of the image that crop it.
        inside: (h, w) bool, the region within that crop; ``pixels`` of it are True.
        size: (H, W) of the image.
    """

    class_index: int
    window: tuple[slice, slice]
    inside: np.ndarray
    pixels: int
    size: tuple[int, int]

    @property
    def area(self) -> float:
        """Share of the image, in [0, 1]."""
        return self.pixels / (self.size[0] * self.size[1])

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool, made anew at every call."""
        whole = np.zeros(self.size, bool)
        whole[self.window] = self.inside
        return whole


def known_pixels(labels: np.ndarray, ignore_index: int | None) -> np.ndarray:
    """(H, W) bool: pixels that are not ignored."""
    return np.ones(labels.shape, bool) if ignore_index is None else labels != ignore_index


def boundaries(labels: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels that differ from their left or upper neighbour.

    Lines one pixel wide, on one side of an edge: none of the modes of ``skimage.segmentation.find_boundaries`` gives them
    ("thick" marks both sides, "inner" and "outer" choose the side by a background, "subpixel" doubles the image).
    """
    edges = np.zeros(labels.shape, bool)
    edges[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edges[1:] |= labels[1:] != labels[:-1]
    return edges


def find_regions(
    labels: np.ndarray, smallest: float = 0.01, largest: float = 0.3, ignore_index: int | None = None
) -> list[Region]:
    """Connected regions of one class whose share of the image lies in [smallest, largest], largest first.

    Args:
        labels: (H, W) classes; pixels touch by their sides. Those of ``ignore_index`` belong to no region.
    """
    numbers = labels.astype(np.int64)
    nothing = int(numbers.min()) - 1 if ignore_index is None else ignore_index
    components = connected_components(numbers, background=nothing, connectivity=1)
    regions = []
    for part in regionprops(components):
        class_index = int(numbers[part.slice][part.image][0])
        region = Region(class_index, part.slice, part.image, int(part.num_pixels), labels.shape)
        if smallest <= region.area <= largest:
            regions.append(region)
    return sorted(regions, key=lambda r: (-r.pixels, r.class_index))


def cell_shares(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """(h, w) float, the share of every cell of ``grid`` that an (H, W) mask covers.

    Where the grid does not divide the image, a cell takes every pixel that it touches (as torch's adaptive pooling does).
    """
    overlaps = []
    for length, cells in zip(mask.shape, grid, strict=True):
        first, pixels = np.arange(cells)[:, None] * length, np.arange(length)
        overlaps.append((first // cells <= pixels) & (pixels < -(-(first + length) // cells)))
    rows, columns = (overlap.astype(np.float64) for overlap in overlaps)
    return rows @ mask @ columns.T / np.outer(rows.sum(1), columns.sum(1))


def cell_labels(labels: np.ndarray, grid: tuple[int, int], num_classes: int) -> np.ndarray:
    """(h, w) class of 0 to C − 1 that covers most of every cell; 0 where none covers any."""
    return np.stack([cell_shares(labels == index, grid) for index in range(num_classes)]).argmax(0)


def true_masks(labels: np.ndarray, grid: tuple[int, int], num_classes: int) -> np.ndarray:
    """(K, h, w) bool, the truth on a feature grid: a mask for each class that covers most of some cell, in order."""
    cells = cell_labels(labels, grid, num_classes)
    return np.stack([cells == index for index in np.unique(cells)])


def sample_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) labels at another size: each new pixel takes the label under its centre (nearest neighbour)."""
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new) for old, new in zip(labels.shape, size, strict=True)
    )
    return labels[np.ix_(rows, columns)]
