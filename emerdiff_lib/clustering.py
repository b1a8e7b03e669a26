"""Coarse masks: k-means of the query vectors of one layer (Sec. 3.1)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

POSITION_WEIGHT = 0.5  # of an image's height, against the queries' standard deviation, where parts are made


def cluster_queries(queries: torch.Tensor, num_masks: int, random_state: int = 0) -> torch.Tensor:
    """K coarse masks that partition the feature grid, (K, h, w) bool, largest first.

    Fewer than ``num_masks`` come back only where the features hold fewer distinct vectors.

    Args:
        queries: (h, w, d) float.
        num_masks: K.
        random_state: seed of scikit-learn's k-means (four initialisations).

    Raises:
        ValueError: if K is not between 1 and h·w, or the queries are not finite.
    """
    from sklearn.cluster import KMeans  # here: it takes a second to load

    height, width, _ = queries.shape
    if not 1 <= num_masks <= height * width:
        raise ValueError(
            f"num_masks={num_masks} is not possible on a {height} × {width} feature map; choose 1 to {height * width}."
        )
    points = queries.flatten(0, 1).numpy()
    if not np.isfinite(points).all():
        raise ValueError("The query vectors are not finite; use dtype float32, or check the model's weights.")
    clusters = KMeans(num_masks, n_init=4, random_state=random_state).fit_predict(points)
    found, sizes = np.unique(clusters, return_counts=True)
    order = found[np.argsort(-sizes, kind="stable")]
    return torch.from_numpy(np.stack([clusters.reshape(height, width) == k for k in order]))


def part_masks(queries: torch.Tensor, num_parts: int) -> torch.Tensor:
    """Small compact masks that partition the grid, (P, h, w) bool: k-means of query vectors and positions.

    Args:
        queries: (h, w, d) float.
        num_parts: P; as many as there are cells, at most.
    """
    height, width, _ = queries.shape
    axes = torch.linspace(0, 1, height), torch.linspace(0, 1, width)
    positions = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    spread = torch.linalg.vector_norm(queries.flatten(0, 1).std(0)).clamp(min=1e-12)
    points = torch.cat([queries / spread, POSITION_WEIGHT * positions], -1)
    return cluster_queries(points, min(num_parts, height * width))


def mask_embeddings(features: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Mean feature over each mask's cells, (K, d) float32; zero for a mask without cells.

    Args:
        features: (h, w, d) float.
        masks: (K, h, w) bool, or each cell's share in [0, 1].
    """
    weights = masks.float()
    totals = torch.einsum("khw,hwd->kd", weights, features.float())
    return totals / weights.sum((1, 2)).clamp(min=1e-12)[:, None]


def shares_of_cells(masks: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """(K, height, width) masks at any resolution → (K, h, w) float32: the share of every cell that lies in each."""
    if tuple(masks.shape[1:]) == tuple(grid):
        return masks.float()
    return F.interpolate(masks[:, None].float(), size=grid, mode="area")[:, 0]
