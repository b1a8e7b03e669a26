"""k-means of colour and position: what a picture gives away without any model."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.cluster import KMeans

from ..assignment import assign_bilinear
from .segmentation import Segmentation


def _clustered(colours: np.ndarray, num_segments: int, colour_weight: float, position_weight: float, seed: int):
    height, width, _ = colours.shape
    y, x = np.mgrid[:height, :width] / max(height, width)
    positions = np.stack([y, x], -1)
    features = np.concatenate([colour_weight * colours, position_weight * positions], -1).reshape(height * width, -1)
    labels = KMeans(num_segments, n_init=2, random_state=seed).fit_predict(features).reshape(height, width)
    embedded = colours if colour_weight > 0 else positions
    flat = embedded.reshape(height * width, -1)
    embeddings = np.stack([flat[labels.ravel() == k].mean(0) for k in range(num_segments)])
    return labels.astype(np.int32), embeddings.astype(np.float32)


def kmeans_pixels(
    image: np.ndarray, num_segments: int, colour_weight: float = 1.0, position_weight: float = 0.5, seed: int = 0
) -> Segmentation:
    """k-means of every pixel's (colour, position); embeddings are mean colours (mean positions if colour weighs nothing).

    Args:
        image: (H, W, 3) uint8.
        colour_weight, position_weight: factors on RGB in [0, 1] and on positions in units of the longer side.
    """
    return Segmentation(*_clustered(image / 255.0, num_segments, colour_weight, position_weight, seed))


def kmeans_cells(
    image: np.ndarray, num_segments: int, cells: tuple[int, int], colour_weight: float = 1.0,
    position_weight: float = 0.7, seed: int = 0,
) -> Segmentation:  # fmt: skip
    """The same on a grid of mean colours, the resolution of the diffusion features, upsampled bilinearly."""
    height, width = image.shape[:2]
    pixels = torch.from_numpy(image / 255.0).permute(2, 0, 1)[None]
    means = torch.nn.functional.adaptive_avg_pool2d(pixels, cells)[0].permute(1, 2, 0).numpy()
    labels, embeddings = _clustered(means, num_segments, colour_weight, position_weight, seed)
    masks = torch.from_numpy(labels[None] == np.arange(num_segments)[:, None, None])
    return Segmentation(assign_bilinear(masks, (height, width)), embeddings)
