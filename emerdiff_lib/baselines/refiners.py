"""From coarse masks to pixels without any diffusion: what a sceptic would try instead of modulated denoising.

These take masks (K, h, w) and a picture and give (H, W) labels; a segment's embedding stays that of its mask.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from skimage.segmentation import random_walker

from ..refinement import guide_radius_in_pixels, guided_filter, resize_maps


def guided_masks(
    masks: torch.Tensor, image: np.ndarray, radius_in_cells: float = 1.5, eps: float = 1e-4
) -> np.ndarray:
    """Guided filter of the bilinearly upsampled masks, (K, h, w) → (H, W) int32; see :mod:`emerdiff_lib.refinement`."""
    guide = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255.0
    radius = guide_radius_in_pixels(radius_in_cells, image.shape[0] / masks.shape[1])
    maps = guided_filter(resize_maps(masks, image.shape[:2]), guide, radius, eps)
    return maps.argmax(0).numpy().astype(np.int32)


def random_walk(
    masks: torch.Tensor, image: np.ndarray, certain: float = 0.95, beta: float = 130.0
) -> np.ndarray:
    """Random walker (Grady 2006, scikit-image) from where the upsampled masks are certain, (K, h, w) → (H, W) int32.

    Args:
        certain: pixels whose bilinear share of a mask is at least this are seeds.
        beta: how much colour differences hold the walker back.
    """
    shares = resize_maps(masks, image.shape[:2]).numpy()
    winner, seeds = shares.argmax(0), np.zeros(image.shape[:2], int)
    sure = shares.max(0) >= certain
    seeds[sure] = winner[sure] + 1
    for k in np.setdiff1d(np.arange(len(masks)), np.unique(winner[sure])):  # thin masks are certain nowhere
        peak = (shares[k] == shares[k].max()) & (winner == k)
        seeds[peak] = k + 1
    if len(np.unique(seeds[seeds > 0])) < 2:
        return winner.astype(np.int32)
    numbers, compact = np.unique(seeds, return_inverse=True)  # the walker wants seeds without gaps
    offset = 0 if numbers[0] == 0 else 1
    labels = random_walker(
        image, compact.reshape(seeds.shape) + offset, beta=beta, mode="cg_j", prob_tol=1.0, channel_axis=-1
    )
    return (numbers[np.clip(labels - offset, 0, None)] - 1).clip(0).astype(np.int32)


def pixel_adaptive(
    scores: torch.Tensor, image: np.ndarray, iterations: int = 10, dilations: tuple[int, ...] = (1, 2, 4, 8)
) -> torch.Tensor:
    """Pixel-adaptive mask refinement (Araslanov & Roth, CVPR 2020, Eq. 5–6), a few steps of a locally connected CRF.

    Every pixel's scores become the mean of its neighbours' (8 at each dilation), weighted by how alike their colours are in
    units of the local deviation. As in the authors' code, that deviation is over the 9 places of every dilation, so that
    the pixel itself counts once for each of them.

    Args:
        scores: (K, h, w) float, brought to the image's size bilinearly.
        image: (H, W, 3) uint8.

    Returns:
        (K, H, W) float32.
    """
    colours = torch.from_numpy(np.array(image)).permute(2, 0, 1)[:, None].float() / 255.0  # (3, 1, H, W)
    scores = resize_maps(scores, image.shape[:2])[:, None]

    def neighbours(a: torch.Tensor) -> torch.Tensor:
        """(C, 1, H, W) → (C, 8 · dilations, H, W)"""
        height, width = a.shape[2:]
        parts = []
        for d in dilations:
            padded = F.pad(a, (d, d, d, d), mode="replicate")
            for y, x in ((y, x) for y in (0, d, 2 * d) for x in (0, d, 2 * d) if (y, x) != (d, d)):
                parts.append(padded[:, :, y : y + height, x : x + width])
        return torch.cat(parts, 1)

    around = neighbours(colours)
    deviation = torch.cat([around] + len(dilations) * [colours], 1).std(1, keepdim=True)
    likeness = -((around - colours).abs() / (1e-8 + 0.1 * deviation)).mean(0)  # (8 · dilations, H, W)
    weights = torch.softmax(likeness, dim=0)
    for _ in range(iterations):
        scores = torch.cat([(neighbours(one[None]) * weights).sum(1, keepdim=True) for one in scores])
    return scores[:, 0]


def pixel_adaptive_masks(masks: torch.Tensor, image: np.ndarray) -> np.ndarray:
    """:func:`pixel_adaptive` of the upsampled masks, (K, h, w) → (H, W) int32."""
    return pixel_adaptive(masks.float(), image).argmax(0).numpy().astype(np.int32)
