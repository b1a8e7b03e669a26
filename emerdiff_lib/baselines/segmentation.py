"""What every rival returns, and how embeddings follow from labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from skimage.segmentation import relabel_sequential

from ..assignment import assign_bilinear
from ..clustering import cluster_queries
from ..refinement import resize_maps


@dataclass
class Segmentation:
    """labels: (H, W) int32 segments 0 … K−1, every one of them present; embeddings: (K, d) float32, one per segment."""

    labels: np.ndarray
    embeddings: np.ndarray


def with_embeddings(labels: np.ndarray, features: np.ndarray) -> Segmentation:
    """Segments with the mean feature of their pixels.

    Args:
        labels: (H, W) any non-negative integers; renumbered without gaps.
        features: (h, w, d) brought to (H, W) bilinearly if they are smaller.
    """
    labels = relabel_sequential(labels.astype(np.int64) + 1)[0] - 1
    count = int(labels.max()) + 1
    maps = torch.from_numpy(np.ascontiguousarray(features)).float().permute(2, 0, 1)
    flat = resize_maps(maps, labels.shape).flatten(1).double()
    index = torch.from_numpy(labels.ravel())
    sums = torch.zeros(len(flat), count, dtype=torch.float64).index_add_(1, index, flat)
    sizes = torch.bincount(index, minlength=count)
    return Segmentation(labels.astype(np.int32), (sums / sizes).T.float().numpy())


def cluster_features(
    features: torch.Tensor, size: tuple[int, int], num_segments: int, seed: int
) -> Segmentation:
    """k-means of (h, w, d) features as EmerDiff clusters its queries, the masks upsampled bilinearly to (H, W) ``size``."""
    masks = cluster_queries(features, num_segments, seed)
    return with_embeddings(assign_bilinear(masks, size), features.numpy())
