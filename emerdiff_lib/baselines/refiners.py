"""From coarse masks to pixels without any diffusion: what a sceptic would try instead of modulated denoising.

These take masks (K, h, w) and an image (H, W, 3) uint8 and give (H, W) labels; a segment's embedding stays that of its mask.
"""

from __future__ import annotations

import numpy as np
import torch
from skimage.segmentation import random_walker

from ..images import to_guide
from ..refinement import guide_radius_in_pixels, guided_filter, pixel_adaptive, resize_maps


def guided_masks(masks: torch.Tensor, image: np.ndarray, radius_in_cells: float = 1.5) -> np.ndarray:
    """Guided filter of the bilinearly upsampled masks, (K, h, w) → (H, W) int32; see :mod:`emerdiff_lib.refinement`."""
    guide = to_guide(image)
    radius = guide_radius_in_pixels(radius_in_cells, image.shape[0] / masks.shape[1])
    maps = guided_filter(resize_maps(masks, image.shape[:2]), guide, radius)
    return maps.argmax(0).numpy().astype(np.int32)


def random_walk(masks: torch.Tensor, image: np.ndarray) -> np.ndarray:
    """Random walker (Grady 2006, scikit-image) from where the upsampled masks are certain, (K, h, w) → (H, W) int32.

    Seeds are the pixels whose bilinear share of a mask is at least 0.95.
    """
    shares = resize_maps(masks, image.shape[:2]).numpy()
    winner, seeds = shares.argmax(0), np.zeros(image.shape[:2], int)
    sure = shares.max(0) >= 0.95
    seeds[sure] = winner[sure] + 1
    for k in np.setdiff1d(np.arange(len(masks)), np.unique(winner[sure])):  # thin masks are certain nowhere
        peak = (shares[k] == shares[k].max()) & (winner == k)
        seeds[peak] = k + 1
    if len(np.unique(seeds[seeds > 0])) < 2:
        return winner.astype(np.int32)
    numbers, compact = np.unique(seeds, return_inverse=True)  # the walker wants seeds without gaps
    offset = 0 if numbers[0] == 0 else 1
    starts = compact.reshape(seeds.shape) + offset
    labels = random_walker(image, starts, mode="cg_j", prob_tol=1.0, channel_axis=-1)
    return (numbers[np.clip(labels - offset, 0, None)] - 1).clip(0).astype(np.int32)


def pixel_adaptive_masks(masks: torch.Tensor, image: np.ndarray) -> np.ndarray:
    """:func:`~emerdiff_lib.refinement.pixel_adaptive` of the upsampled masks, (K, h, w) → (H, W) int32."""
    return pixel_adaptive(masks, to_guide(image)).argmax(0).numpy().astype(np.int32)
