"""SLIC and Felzenszwalb's graph segmentation (scikit-image): what a picture gives away without learning anything."""

from __future__ import annotations

import numpy as np
from skimage.segmentation import felzenszwalb as skimage_felzenszwalb
from skimage.segmentation import slic as skimage_slic

from .segmentation import Segmentation, with_embeddings


def slic(image: np.ndarray, num_segments: int = 100, compactness: float = 10.0) -> Segmentation:
    """Superpixels by local k-means of colour and position (Achanta et al. 2012).

    Args:
        image: (H, W, 3) uint8.
        num_segments: about as many come out.
        compactness: weight of position against colour.
    """
    labels = skimage_slic(image, n_segments=num_segments, compactness=compactness, start_label=0)
    return with_embeddings(labels, image / 255.0)


def felzenszwalb(
    image: np.ndarray,
    num_segments: int | None = None,
    *,
    scale: float = 100.0,
    sigma: float = 0.8,
    min_size: int = 20,
) -> Segmentation:
    """Minimum spanning forest of the pixel graph (Felzenszwalb & Huttenlocher 2004).

    Args:
        image: (H, W, 3) uint8.
        num_segments: the result has as close to this many as some ``scale`` allows.
        scale: larger means larger segments, unless ``num_segments`` is given.
        sigma: Gaussian smoothing before; ``min_size``: smaller segments are merged.
    """
    cut = lambda scale, smallest: skimage_felzenszwalb(image, scale=scale, sigma=sigma, min_size=smallest)
    if num_segments is None:
        return with_embeddings(cut(scale, min_size), image / 255.0)
    best, low, high = cut(scale, min_size), 0.0, 6.0  # log10 of the scale
    count = lambda labels: int(labels.max()) + 1
    for _ in range(14):
        middle = (low + high) / 2
        labels = cut(10**middle, min_size)
        if abs(count(labels) - num_segments) < abs(count(best) - num_segments):
            best = labels
        low, high = (middle, high) if count(labels) > num_segments else (low, middle)
    return with_embeddings(best, image / 255.0)
