"""From maps to labels: every pixel takes the mask with the largest response (Sec. 3.2, Eq. 5), and the bilinear baseline."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from .refinement import resize_maps


def assign_pixels(maps: Iterable[torch.Tensor], size: tuple[int, int]) -> np.ndarray:
    """The index of the largest map at every pixel.

    Args:
        maps: (K, H, W) float, refined (:func:`~emerdiff_lib.refinement.refine`) difference maps.
        size: (height, width) of the result; maps are resized to it (bilinear) one at a time.

    Returns:
        (height, width) int32 labels in 0 … K−1; ties go to the first.
    """
    best = torch.full(size, -torch.inf)
    labels = torch.zeros(size, dtype=torch.int32)
    for k, m in enumerate(maps):
        resized = resize_maps(m[None], size)[0]
        labels.masked_fill_(resized > best, k)
        torch.maximum(best, resized, out=best)
    return labels.numpy()


def assign_bilinear(coarse_masks: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """The baseline that the paper calls "SD": coarse masks (K, h, w) upsampled bilinearly to (height, width), argmax."""
    return assign_pixels(coarse_masks, size)
