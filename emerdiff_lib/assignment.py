"""From maps to labels: every pixel takes the mask that moved it most (Sec. 3.2, Eq. 5), and the bilinear baseline."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter


def assign_pixels(difference_maps: torch.Tensor, size: tuple[int, int], filter_sigma: float = 1.0) -> np.ndarray:
    """Gaussian filter, then the index of the largest map at every pixel.

    Args:
        difference_maps: (K, H, W) float.
        size: (height, width) of the result; filtered maps are resized to it (bilinear) one at a time.
        filter_sigma: standard deviation of the filter in pixels of the difference maps; 0 for none.

    Returns:
        (height, width) int32 labels in 0 … K−1.
    """
    smooth = (gaussian_filter(d.numpy(), filter_sigma) if filter_sigma > 0 else d.numpy() for d in difference_maps)
    return _largest((torch.from_numpy(d) for d in smooth), size)


def assign_bilinear(coarse_masks: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """The baseline that the paper calls "SD": coarse masks (K, h, w) upsampled bilinearly to (height, width), argmax."""
    return _largest(coarse_masks.float(), size)


def resize_maps(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(K, H, W) → (K, height, width) float32, bilinear."""
    if tuple(maps.shape[1:]) == tuple(size):
        return maps.float()
    return F.interpolate(maps[:, None].float(), size=size, mode="bilinear", align_corners=False)[:, 0]


def _largest(maps: Iterable[torch.Tensor], size: tuple[int, int]) -> np.ndarray:
    """argmax over maps that never lie in memory together at full size; ties go to the first."""
    best = torch.full(size, -torch.inf)
    labels = torch.zeros(size, dtype=torch.int32)
    for k, m in enumerate(maps):
        resized = resize_maps(m[None], size)[0]
        labels.masked_fill_(resized > best, k)
        torch.maximum(best, resized, out=best)
    return labels.numpy()
