"""What every baseline returns, and how embeddings follow from labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from skimage.segmentation import relabel_sequential

from ..assignment import assign_bilinear
from ..clustering import cluster_queries
from ..refinement import resize_maps

Tried = TypeVar("Tried")


@dataclass
class Segmentation:
    """labels: (H, W) int32 segments 0 … K−1, every one of them present; embeddings: (K, d) float32, one per segment; seconds
    that they took, where somebody measured that."""

    labels: np.ndarray
    embeddings: np.ndarray
    seconds: float = 0.0


def with_embeddings(labels: np.ndarray, features: np.ndarray) -> Segmentation:
    """Segments with the mean feature of their pixels.

    Args:
        labels: (H, W) any non-negative integers; renumbered without gaps.
        features: (h, w, d) brought to (H, W) bilinearly if they are smaller.
    """
    labels = relabel_sequential(labels.astype(np.int64) + 1)[0] - 1
    count = int(labels.max()) + 1
    index, maps = torch.from_numpy(labels), torch.from_numpy(np.ascontiguousarray(features)).double()
    if maps.shape[:2] == index.shape:
        sums = torch.zeros(count, maps.shape[2], dtype=torch.float64)
        sums.index_add_(0, index.ravel(), maps.flatten(0, 1))
    else:  # a segment's sum is linear in the small features: how much each cell counts, without enlarging any of them
        rows, columns = (_bilinear(old, new) for old, new in zip(maps.shape, index.shape, strict=False))
        shares = torch.stack([rows.T @ (index == k).double() @ columns for k in range(count)])
        sums = shares.flatten(1) @ maps.flatten(0, 1)
    sizes = torch.bincount(index.ravel(), minlength=count)
    return Segmentation(labels.astype(np.int32), (sums / sizes[:, None]).float().numpy())


def _bilinear(old: int, new: int) -> torch.Tensor:
    """(new, old) float64 weights with which bilinear interpolation makes ``new`` values in a row of ``old``."""
    return resize_maps(torch.eye(old)[:, :, None], (new, 1))[:, :, 0].T.double()


def cluster_features(
    features: torch.Tensor, size: tuple[int, int], num_segments: int, seed: int
) -> Segmentation:
    """k-means of (h, w, d) features as EmerDiff clusters its queries, the masks upsampled bilinearly to (H, W) ``size``."""
    masks = cluster_queries(features, num_segments, seed)
    return with_embeddings(assign_bilinear(masks, size), features.numpy())


def bisected(
    segment: Callable[[float], Tried],
    count: Callable[[Tried], int],
    wanted: int,
    low: float,
    high: float,
    steps: int,
) -> Tried:
    """Of what ``segment`` makes of ``steps`` thresholds between low and high, nearer and nearer to ``wanted`` segments, the
    nearest to that; a higher threshold makes fewer."""
    tried = []
    for _ in range(steps):
        middle = (low + high) / 2
        tried.append(segment(middle))
        low, high = (middle, high) if count(tried[-1]) > wanted else (low, middle)
    return min(tried, key=lambda one: abs(count(one) - wanted))
