"""k-means of colour and position, SLIC and Felzenszwalb's graph: what an image gives away without any model."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from skimage.segmentation import felzenszwalb as skimage_felzenszwalb
from skimage.segmentation import slic as skimage_slic
from sklearn.cluster import KMeans

from ..assignment import assign_bilinear
from .segmentation import Segmentation, bisected, with_embeddings


def kmeans_pixels(image: np.ndarray, num_segments: int, colour_weight: float = 1.0) -> Segmentation:
    """k-means of every pixel's (colour, position); embeddings are mean colours (mean positions if colour weighs nothing).

    Args:
        image: (H, W, 3) uint8.
        colour_weight: factor on RGB in [0, 1]; positions, in units of the longer side, have 0.5.

    Raises:
        ValueError: if there are fewer pixels than segments.
    """
    return with_embeddings(*_clustered(image / 255.0, num_segments, colour_weight, 0.5))


def kmeans_cells(image: np.ndarray, num_segments: int, cells: tuple[int, int]) -> Segmentation:
    """The same on a (h, w) grid of mean colours, the resolution of the diffusion features, upsampled bilinearly; positions
    have a factor of 0.7."""
    pixels = torch.from_numpy(image / 255.0).permute(2, 0, 1)[None]
    means = F.adaptive_avg_pool2d(pixels, cells)[0].permute(1, 2, 0).numpy()
    labels, embedded = _clustered(means, num_segments, 1.0, 0.7)
    masks = torch.from_numpy(labels[None] == np.arange(num_segments)[:, None, None])
    return with_embeddings(assign_bilinear(masks, image.shape[:2]), embedded)


def _clustered(
    colours: np.ndarray, num_segments: int, colour_weight: float, position_weight: float
) -> tuple[np.ndarray, np.ndarray]:
    """(h, w) labels of (h, w, 3) colours, and what the segments' embeddings are means of, (h, w, 3) or (h, w, 2)."""
    height, width, _ = colours.shape
    positions = np.stack(np.mgrid[:height, :width], -1) / max(height, width)
    features = np.concatenate([colour_weight * colours, position_weight * positions], -1)
    clusters = KMeans(num_segments, n_init=2, random_state=0).fit_predict(features.reshape(-1, 5))
    return clusters.reshape(height, width), colours if colour_weight > 0 else positions


def slic(image: np.ndarray, num_segments: int) -> Segmentation:
    """Superpixels by local k-means of colour and position (Achanta et al. 2012); about ``num_segments`` of (H, W, 3) uint8."""
    return with_embeddings(skimage_slic(image, n_segments=num_segments, start_label=0), image / 255.0)


def felzenszwalb(image: np.ndarray, num_segments: int) -> Segmentation:
    """Minimum spanning forest of the pixel graph (Felzenszwalb & Huttenlocher 2004), after a Gaussian of 0.8 pixels.

    Args:
        image: (H, W, 3) uint8.
        num_segments: the result has as close to this many as some scale allows.
    """
    cut = lambda exponent: skimage_felzenszwalb(image, scale=10**exponent, sigma=0.8, min_size=20)
    count = lambda labels: int(labels.max()) + 1
    tried = cut(2.0), bisected(cut, count, num_segments, 0.0, 6.0, steps=14)
    return with_embeddings(min(tried, key=lambda labels: abs(count(labels) - num_segments)), image / 255.0)
