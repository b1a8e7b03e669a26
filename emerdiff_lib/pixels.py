"""Segments made of pixels' own features: superpixels that differ across their borders, grouped by what they are.

k-means of all pixels spends its clusters where there is most area: it cuts skies and meadows, whose features drift slowly,
into bands. So pixels are over-segmented first, neighbours without contrast across their common border are joined, and
only what is left is grouped, large ones counting for little more than small ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt

# Numbers of the way from responses to segments, chosen on validation scenes (RESULTS.md: pixel_responses, pixel_recipe)
FLOOR = 2.0  # times the mean of a pixel's responses, which are taken off: what all parts share is no evidence for any
COLOUR = 0.05  # difference from a part's nearest cell, in RGB from 0 to 1, at which the part counts for 1/√e
ADAPTIVE = 5  # steps of pixel-adaptive refinement of features
DIMENSIONS = 16  # principal components of the parts' features that pixels are clustered in
CLUSTERS = 40  # of pixels, before they are cut into connected regions
SMALLEST = 0.2  # cells that a superpixel has at least
REACH = 0.25  # heights of a cell on either side of a border between which contrast is measured
SUPERPIXELS_PER_SEGMENT = 2.0  # left when neighbours have been joined
JOINING = 0.25  # exponent of the smaller neighbour's area, which its contrast is multiplied by
GROUPING = 0.25  # exponent of a superpixel's area, its weight when they are grouped
_SAMPLE = 4000  # pixels that k-means sees


@dataclass(repr=False)
class Superpixels:
    """Superpixels of an image, and in which order those without contrast join.

    Attributes:
        labels: (H, W) int, 0 … R−1.
        means: (R, d) mean feature of each; ``areas``: (R,) pixels.
        joins: (R−1, 2) regions, the second of which becomes part of the first, the least contrast first; fewer where the
            image has parts that do not touch.
    """

    labels: np.ndarray
    means: np.ndarray
    areas: np.ndarray
    joins: np.ndarray

    def segments(self, num_segments: int) -> np.ndarray:
        """(H, W) int32: neighbours joined, and what is left grouped into ``num_segments``, the largest first.

        Fewer come back only where there are fewer regions.
        """
        from sklearn.cluster import KMeans  # here: it takes a second to load

        owner = self._owners(round(SUPERPIXELS_PER_SEGMENT * num_segments))
        areas = np.bincount(owner, self.areas)
        totals = np.zeros((len(areas), self.means.shape[1]))
        np.add.at(totals, owner, self.means * self.areas[:, None])
        groups = np.arange(len(areas))
        if len(areas) > num_segments:
            fit = KMeans(num_segments, n_init=8, random_state=0)
            groups = fit.fit_predict(totals / areas[:, None], sample_weight=areas**GROUPING)
        pixels = np.bincount(groups, areas)
        rank = np.empty(len(pixels), np.int32)
        rank[np.argsort(-pixels, kind="stable")] = np.arange(len(pixels))
        return rank[groups][owner][self.labels]

    def joined(self, count: int) -> np.ndarray:
        """(H, W) int32 superpixels 0 … count−1, after neighbours without contrast have joined."""
        return self._owners(count).astype(np.int32)[self.labels]

    def _owners(self, count: int) -> np.ndarray:
        """(R,) which of ``count`` each superpixel belongs to."""
        owner = np.arange(len(self.areas))
        for first, second in self.joins[: max(0, len(owner) - count)]:
            owner[owner == second] = first
        return np.unique(owner, return_inverse=True)[1]


def feature_superpixels(features: torch.Tensor, cell: float) -> Superpixels:
    """Over-segment pixels by their features.

    Args:
        features: (H, W, d) float.
        cell: height of a coarse cell in pixels, the unit of all lengths and areas.
    """
    values = features.float().numpy()
    labels = _connected(_clustered(values), SMALLEST * cell**2)
    areas = np.bincount(labels.ravel()).astype(np.float64)
    flat = values.reshape(-1, values.shape[-1])
    sums = [np.bincount(labels.ravel(), channel, len(areas)) for channel in flat.T]
    means = np.stack(sums, 1) / areas[:, None]
    contrast, length = border_contrast(labels, values, max(1, round(REACH * cell)))
    return Superpixels(labels, means, areas, _joins(contrast, length, areas))


def _clustered(values: np.ndarray) -> np.ndarray:
    """(H, W) cluster of every pixel, of more clusters than anybody wants."""
    from sklearn.cluster import KMeans

    flat = values.reshape(-1, values.shape[-1])
    chosen = flat[np.random.default_rng(0).permutation(len(flat))[:_SAMPLE]]
    count = min(CLUSTERS, len(np.unique(chosen, axis=0)))
    fit = KMeans(count, n_init=1, random_state=0).fit(chosen)
    return fit.predict(flat).reshape(values.shape[:2])


def _connected(clusters: np.ndarray, smallest: float) -> np.ndarray:
    """Connected regions 0 … R−1 of a label map; those below ``smallest`` pixels go to what is nearest."""
    from skimage.measure import label as connected_components

    parts = connected_components(clusters, background=-1, connectivity=1)
    small = np.bincount(parts.ravel())[parts] < smallest
    if small.all():  # nothing but noise
        return np.zeros_like(parts)
    if small.any():
        nearest = distance_transform_edt(small, return_distances=False, return_indices=True)
        parts = connected_components(parts[tuple(nearest)], background=-1, connectivity=1)
    return parts - 1


def border_contrast(labels: np.ndarray, values: np.ndarray, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Differences of features across the borders between regions.

    Args:
        labels: (H, W) regions 0 … R−1; ``values``: (H, W, d) features.
        reach: pixels between the two that are compared are 2·reach − 1, the border in their middle.

    Returns:
        (R, R) summed Euclidean differences, and how many pixels of border they are sums over; both symmetric.
    """
    count = int(labels.max()) + 1
    contrast, length = np.zeros((count, count)), np.zeros((count, count))
    for one, image in ((labels, values), (labels.T, values.transpose(1, 0, 2))):
        border = one[:-1] != one[1:]
        rows, columns = np.nonzero(border)
        above, below = (rows - reach + 1).clip(0), (rows + reach).clip(max=len(one) - 1)
        difference = np.linalg.norm(image[above, columns] - image[below, columns], axis=-1)
        pair = one[rows, columns], one[rows + 1, columns]
        np.add.at(contrast, pair, difference)
        np.add.at(length, pair, 1)
    return contrast + contrast.T, length + length.T


def _joins(contrast: np.ndarray, length: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Pairs of neighbours in the order in which they join: least mean contrast times the smaller's area^JOINING first."""
    contrast, length, areas = contrast.copy(), length.copy(), areas.copy()
    joins: list[tuple[int, int]] = []
    while True:
        touching = length > 0
        if not touching.any():
            return np.array(joins, int).reshape(-1, 2)
        smaller = np.minimum(areas[:, None], areas[None]) ** JOINING
        cost = np.where(touching, contrast / np.maximum(length, 1) * smaller, np.inf)
        kept, gone = np.unravel_index(cost.argmin(), cost.shape)
        joins.append((int(kept), int(gone)))
        areas[kept] += areas[gone]
        for table in (contrast, length):
            table[kept] += table[gone]
            table[:, kept] += table[:, gone]
            table[kept, kept] = 0
            table[gone] = table[:, gone] = 0


def label_shares(labels: np.ndarray, grid: tuple[int, int]) -> torch.Tensor:
    """(K, h, w) float32: which share of every cell lies in each segment of (H, W) labels 0 … K−1."""
    found = torch.from_numpy(labels)
    count = int(found.max()) + 1
    return torch.stack([F.adaptive_avg_pool2d((found == k)[None].float(), grid)[0] for k in range(count)])
