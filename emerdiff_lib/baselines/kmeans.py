"""k-means of colour and position: what a picture gives away without any model."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans

from ..assignment import assign_bilinear
from .segmentation import Segmentation, with_embeddings


def kmeans_pixels(
    image: np.ndarray,
    num_segments: int,
    colour_weight: float = 1.0,
    position_weight: float = 0.5,
    seed: int = 0,
) -> Segmentation:
    """k-means of every pixel's (colour, position); embeddings are mean colours (mean positions if colour weighs nothing).

    Args:
        image: (H, W, 3) uint8.
        colour_weight, position_weight: factors on RGB in [0, 1] and on positions in units of the longer side.

    Raises:
        ValueError: if there are fewer pixels than segments.
    """
    return with_embeddings(*_clustered(image / 255.0, num_segments, colour_weight, position_weight, seed))


def kmeans_cells(
    image: np.ndarray,
    num_segments: int,
    cells: tuple[int, int],
    colour_weight: float = 1.0,
    position_weight: float = 0.7,
    seed: int = 0,
) -> Segmentation:
    """The same on a (h, w) grid of mean colours, the resolution of the diffusion features, upsampled bilinearly."""
    pixels = torch.from_numpy(image / 255.0).permute(2, 0, 1)[None]
    means = F.adaptive_avg_pool2d(pixels, cells)[0].permute(1, 2, 0).numpy()
    labels, embedded = _clustered(means, num_segments, colour_weight, position_weight, seed)
    masks = torch.from_numpy(labels[None] == np.arange(num_segments)[:, None, None])
    return with_embeddings(assign_bilinear(masks, image.shape[:2]), embedded)


def _clustered(
    colours: np.ndarray, num_segments: int, colour_weight: float, position_weight: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(h, w) labels of (h, w, 3) colours, and what the segments' embeddings are means of, (h, w, 3) or (h, w, 2)."""
    height, width, _ = colours.shape
    if not 1 <= num_segments <= height * width:
        raise ValueError(
            f"num_segments={num_segments} is not possible for {height} × {width} places; choose 1 to {height * width}."
        )
    positions = np.stack(np.mgrid[:height, :width], -1) / max(height, width)
    features = np.concatenate([colour_weight * colours, position_weight * positions], -1)
    clusters = KMeans(num_segments, n_init=2, random_state=seed).fit_predict(features.reshape(-1, 5))
    return clusters.reshape(height, width), colours if colour_weight > 0 else positions
