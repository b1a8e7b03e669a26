"""What is done to maps before the argmax: the paper's Gaussian filter, then a guided filter with the image as guide.

The guided filter is He et al.'s (TPAMI 2013). kornia has one too, but reflects the image at its border where theirs cuts
windows off, and its cost grows with the radius (a coarse cell of Stable Diffusion is 32 pixels high).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter


def refine(
    maps: torch.Tensor, guide: torch.Tensor, cell: float, filter_sigma: float, guide_radius: float
) -> torch.Tensor:
    """Maps brought to the guide's size (bilinear), then the Gaussian filter, then the guided filter.

    Args:
        maps: (K, h, w) float: difference maps, or coarse masks.
        guide: (3, H, W) float RGB in [0, 1], the image at its processing size.
        cell: height of a coarse cell in pixels of the guide, the unit of ``guide_radius``, which is at least one pixel.
        filter_sigma, guide_radius: both filters' widths; 0 leaves one out.

    Returns:
        (K, H, W) float32 on the CPU.
    """
    maps = resize_maps(maps.float().cpu(), (guide.shape[1], guide.shape[2]))
    if filter_sigma > 0:
        maps = torch.stack([torch.from_numpy(gaussian_filter(m.numpy(), filter_sigma)) for m in maps])
    if guide_radius > 0:
        maps = guided_filter(maps, guide, max(1, round(guide_radius * cell)))
    return maps


def resize_maps(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(K, H, W) → (K, height, width) float32, bilinear."""
    if tuple(maps.shape[1:]) == tuple(size):
        return maps.float()
    return F.interpolate(maps[:, None].float(), size=size, mode="bilinear", align_corners=False)[:, 0]


def guided_filter(maps: torch.Tensor, guide: torch.Tensor, radius: int, eps: float = 1e-4) -> torch.Tensor:
    """Around every pixel, the map as the best linear function of the guide's colour.

    Args:
        maps: (K, H, W) float.
        guide: (3, H, W) float RGB in [0, 1].
        radius: windows are (2·radius + 1)² pixels, cut off at the border.
        eps: squared colour deviation below which a window counts as flat.

    Returns:
        (K, H, W) float32 on the CPU; the fit may leave the range of the input a little.
    """
    guide, maps = guide.float().cpu(), maps.float().cpu()
    mean = _box(guide, radius)
    products = _box((guide[:, None] * guide[None]).flatten(0, 1), radius).unflatten(0, (3, 3))
    covariance = products - mean[:, None] * mean
    inverse = torch.linalg.inv(covariance.permute(2, 3, 0, 1) + eps * torch.eye(3, dtype=torch.float32))
    result = []
    for one in maps:  # one at a time: at 512 × 512, all the fits of 30 masks would take a gigabyte
        average = _box(one[None], radius)
        cross = _box(guide * one, radius) - mean * average
        slope = torch.einsum("hwij,jhw->ihw", inverse, cross)
        fit = _box(torch.cat([slope, average - (slope * mean).sum(0, keepdim=True)]), radius)
        result.append((fit[:3] * guide).sum(0) + fit[3])
    return torch.stack(result)


def pixel_adaptive(
    maps: torch.Tensor, guide: torch.Tensor, iterations: int = 10, dilations: tuple[int, ...] = (1, 2, 4, 8)
) -> torch.Tensor:
    """Pixel-adaptive mask refinement (Araslanov & Roth, CVPR 2020, Eq. 5–6), a few steps of a locally connected CRF.

    Every pixel's values become the mean of its neighbours' (8 at each dilation), weighted by how alike their colours are in
    units of the local deviation. As in the authors' code, that deviation is over the 9 places of every dilation, so that
    the pixel itself counts once for each of them.

    Args:
        maps: (K, h, w) float, brought to the guide's size bilinearly.
        guide: (3, H, W) float RGB in [0, 1].

    Returns:
        (K, H, W) float32 on the CPU.
    """
    colours = guide.float().cpu()[:, None]  # (3, 1, H, W)
    maps = resize_maps(maps.cpu(), (guide.shape[1], guide.shape[2]))[:, None]

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
        maps = torch.cat([(neighbours(one[None]) * weights).sum(1, keepdim=True) for one in maps])
    return maps[:, 0]


def _box(planes: torch.Tensor, radius: int) -> torch.Tensor:
    """Mean over windows that are cut off at the border, (C, H, W) → (C, H, W); costs the same for every radius."""

    def along(a: torch.Tensor) -> torch.Tensor:
        """Window sums of the last axis, as differences of a running sum."""
        total = F.pad(a, (radius + 1, radius)).cumsum(-1)
        return total[..., 2 * radius + 1 :] - total[..., : -2 * radius - 1]

    both = lambda a: along(along(a.double()).transpose(-1, -2)).transpose(-1, -2)
    return (both(planes) / both(torch.ones_like(planes[:1]))).float()
