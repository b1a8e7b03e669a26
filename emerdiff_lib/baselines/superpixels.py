"""SLIC and Felzenszwalb's graph segmentation (scikit-image): what an image gives away without learning anything."""

from __future__ import annotations

import numpy as np
from skimage.segmentation import felzenszwalb as skimage_felzenszwalb
from skimage.segmentation import slic as skimage_slic

from .segmentation import Segmentation, bisected, with_embeddings


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
    tried = [cut(2.0), *bisected(cut, count, num_segments, 0.0, 6.0, steps=14)]
    return with_embeddings(min(tried, key=lambda labels: abs(count(labels) - num_segments)), image / 255.0)
