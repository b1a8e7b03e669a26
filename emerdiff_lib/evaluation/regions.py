"""Parts of a ground-truth label map: objects, and the feature cells that they cover."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import label as connected_components


@dataclass(frozen=True)
class Region:
    """One connected region: its class index and its (H, W) bool mask."""

    class_index: int
    mask: np.ndarray

    @property
    def area(self) -> float:
        """Share of the picture, in [0, 1]."""
        return float(self.mask.mean())


def find_regions(labels: np.ndarray, smallest: float = 0.01, largest: float = 0.3) -> list[Region]:
    """Connected regions of one class whose share of the picture lies in [smallest, largest], largest first."""
    regions = []
    for index in np.unique(labels):
        components, count = connected_components(labels == index)
        regions += [Region(int(index), components == i) for i in range(1, count + 1)]
    return sorted((r for r in regions if smallest <= r.area <= largest), key=lambda r: -r.area)


def cell_shares(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """(h, w) share of every cell of ``grid`` that an (H, W) mask covers."""
    return torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(mask)[None, None].float(), grid)[0, 0].numpy()


def inner_cells(mask: np.ndarray, grid: tuple[int, int], share: float = 0.5) -> np.ndarray:
    """(h, w) bool: the ``share`` of a region's cells (at least one) that it covers best, a sub-region of it."""
    covered = cell_shares(mask, grid)
    count = max(1, round(share * float((covered >= 0.5).sum())))
    cells = np.zeros(covered.size, bool)
    cells[np.argsort(-covered.ravel(), kind="stable")[:count]] = True
    return cells.reshape(grid)


def cell_labels(labels: np.ndarray, grid: tuple[int, int], num_classes: int) -> np.ndarray:
    """(h, w) class that covers most of every cell."""
    return np.stack([cell_shares(labels == c, grid) for c in range(num_classes)]).argmax(0)
