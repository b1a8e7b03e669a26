"""Coarse masks: k-means of the query vectors of one layer (Sec. 3.1)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import binary_dilation
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score

POSITION_WEIGHT = 0.5  # of a picture's height, against the queries' standard deviation, where parts are made
RULES = ("silhouette", "eigengap", "bic")


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


def part_masks(queries: torch.Tensor, num_parts: int, random_state: int = 0) -> torch.Tensor:
    """Small compact masks that partition the grid, (P, h, w) bool: k-means of query vectors and positions.

    Args:
        queries: (h, w, d) float.
        num_parts: P; as many as there are cells, at most.
        random_state: seed of k-means.
    """
    height, width, _ = queries.shape
    axes = torch.linspace(0, 1, height), torch.linspace(0, 1, width)
    positions = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    spread = torch.linalg.vector_norm(queries.flatten(0, 1).std(0)).clamp(min=1e-12)
    points = torch.cat([queries / spread, POSITION_WEIGHT * positions], -1)
    return cluster_queries(points, min(num_parts, height * width), random_state)


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


def choose_num_masks(
    queries: torch.Tensor, candidates: list[int], rule: str = "silhouette", random_state: int = 0
) -> tuple[int, dict[int, float]]:
    """K without labels: the candidate with the best score under ``rule``, and all scores (larger is better).

    Args:
        queries: (h, w, d) float.
        candidates: values of K, at least 2.
        rule: "silhouette", mean silhouette of the k-means clusters; "eigengap", λ_{K+1} − λ_K of the normalised Laplacian of a
            Gaussian affinity (scale: median distance to the 7th neighbour); "bic", minus the Bayesian information criterion
            of a mixture of spherical Gaussians of one variance (X-means, Pelleg & Moore 2000).

    Raises:
        ValueError: for candidates out of range.
    """
    points = queries.flatten(0, 1).double().numpy()
    if not candidates or min(candidates) < 2 or max(candidates) >= len(points):
        raise ValueError(
            f"candidates {candidates} are not possible; choose numbers from 2 to {len(points) - 1}."
        )
    if rule == "eigengap":
        values = _laplacian_spectrum(points)
        scores = {k: float(values[k] - values[k - 1]) for k in candidates}
    else:
        score = {"bic": _bic, "silhouette": lambda points, fit: float(silhouette_score(points, fit.labels_))}[
            rule
        ]
        fits = {k: KMeans(k, n_init=4, random_state=random_state).fit(points) for k in candidates}
        scores = {k: score(points, fit) for k, fit in fits.items()}
    return max(scores, key=lambda k: scores[k]), scores


def _laplacian_spectrum(points: np.ndarray) -> np.ndarray:
    squared = np.maximum(
        np.square(points).sum(1)[:, None] + np.square(points).sum(1) - 2 * points @ points.T, 0
    )
    scale = np.sort(squared, 1)[:, min(7, len(points) - 1)] ** 0.5  # self-tuning (Zelnik-Manor & Perona 2004)
    affinity = np.exp(-squared / np.maximum(scale[:, None] * scale[None], 1e-12))
    degrees = affinity.sum(1) ** -0.5
    return np.linalg.eigvalsh(np.eye(len(points)) - degrees[:, None] * affinity * degrees)


def _bic(points: np.ndarray, fit: KMeans) -> float:
    """2 log-likelihood − parameters · log n for hard-assigned spherical Gaussians of one shared variance."""
    count, dimensions = points.shape
    k, sizes = fit.n_clusters, np.bincount(fit.labels_)
    variance = max(fit.inertia_ / (dimensions * max(count - k, 1)), 1e-12)
    likelihood = (sizes * np.log(sizes / count)).sum() - 0.5 * count * dimensions * np.log(
        2 * np.pi * variance
    )
    likelihood -= 0.5 * fit.inertia_ / variance
    return float(2 * likelihood - (k - 1 + k * dimensions + 1) * np.log(count))


def group_masks(
    embeddings: np.ndarray, masks: np.ndarray, num_groups: int, adjacent_only: bool = True
) -> np.ndarray:
    """Masks joined into ``num_groups`` groups without labels: agglomerative (Ward) clustering of their cells' embeddings.

    Args:
        embeddings: (K, d) float; ``masks``: (K, h, w) bool.
        adjacent_only: only groups that touch are joined (where the graph of touching masks has several parts, its parts too).

    Returns:
        (K,) int group of every mask, numbered from the largest group down.
    """
    cells = masks.reshape(len(masks), -1).sum(1)
    joined = np.arange(len(masks))
    centres, weights = embeddings.astype(np.float64), cells.astype(np.float64)
    touching = mask_adjacency(masks) if adjacent_only else np.ones((len(masks),) * 2, bool)
    alive = list(range(len(masks)))
    while len(alive) > num_groups:
        pairs = [(a, b) for i, a in enumerate(alive) for b in alive[i + 1 :]]
        near = [pair for pair in pairs if touching[pair]] or pairs
        ward = lambda a, b: (
            weights[a] * weights[b] / (weights[a] + weights[b]) * np.square(centres[a] - centres[b]).sum()
        )
        a, b = min(near, key=lambda pair: ward(*pair))
        centres[a] = (weights[a] * centres[a] + weights[b] * centres[b]) / (weights[a] + weights[b])
        weights[a] += weights[b]
        touching[a] |= touching[b]
        touching[:, a] |= touching[:, b]
        joined[joined == b] = a
        alive.remove(b)
    order = sorted(alive, key=lambda k: -cells[joined == k].sum())
    return np.array([order.index(k) for k in joined.tolist()])


def mask_adjacency(masks: np.ndarray) -> np.ndarray:
    """(K, K) bool: whether two masks have cells side by side."""
    grown = np.stack([binary_dilation(mask) for mask in masks]).reshape(len(masks), -1)
    touching = grown.astype(int) @ masks.reshape(len(masks), -1).T > 0
    touching |= touching.T
    np.fill_diagonal(touching, False)
    return touching
