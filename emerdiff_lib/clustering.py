"""Coarse masks: k-means of the query vectors of one layer (Sec. 3.1)."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.cluster import KMeans


def cluster_queries(queries: torch.Tensor, num_masks: int, random_state: int = 0) -> torch.Tensor:
    """K coarse masks that partition the feature grid, (K, h, w) bool, largest first.

    Fewer than ``num_masks`` come back only where the features hold fewer distinct vectors.

    Args:
        queries: (h, w, d) float.
        num_masks: K.
        random_state: seed of scikit-learn's k-means (four initialisations).

    Raises:
        ValueError: if K is not between 1 and h·w.
    """
    height, width, _ = queries.shape
    if not 1 <= num_masks <= height * width:
        raise ValueError(
            f"num_masks={num_masks} is not possible on a {height} × {width} feature map; choose 1 to {height * width}."
        )
    points = queries.flatten(0, 1).numpy()
    clusters = KMeans(num_masks, n_init=4, random_state=random_state).fit_predict(points)
    found, sizes = np.unique(clusters, return_counts=True)
    order = found[np.argsort(-sizes, kind="stable")]
    return torch.from_numpy(np.stack([clusters.reshape(height, width) == k for k in order]))


def mask_embeddings(features: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Mean feature over each mask's cells, (K, d) float32; zero for a mask without cells.

    Args:
        features: (h, w, d) float.
        masks: (K, h, w) bool.
    """
    weights = masks.float()
    totals = torch.einsum("khw,hwd->kd", weights, features.float())
    return totals / weights.sum((1, 2)).clamp(min=1)[:, None]
