"""From coarse maps to pixels with the picture as guide: the guided filter (He et al., "Guided Image Filtering", TPAMI 2013)."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def guided_upsample(maps: torch.Tensor, guide: torch.Tensor, radius: int, eps: float = 1e-4) -> torch.Tensor:
    """Bilinear upsampling, then a guided filter: around every pixel, the map as the best linear function of the colour.

    Args:
        maps: (K, h, w) float.
        guide: (3, H, W) float RGB in [0, 1].
        radius: windows are (2·radius + 1)² pixels, cut off at the border.
        eps: squared colour deviation below which a window counts as flat.

    Returns:
        (K, H, W) float32 on the CPU; the fit may leave the range of the input a little.
    """
    guide = guide.float().cpu()
    maps = F.interpolate(maps[:, None].float().cpu(), size=guide.shape[1:], mode="bilinear", align_corners=False)[:, 0]
    mean = _box(guide, radius)
    covariance = _box((guide[:, None] * guide[None]).flatten(0, 1), radius).unflatten(0, (3, 3)) - mean[:, None] * mean
    inverse = torch.linalg.inv(covariance.permute(2, 3, 0, 1) + eps * torch.eye(3))  # (H, W, 3, 3)
    result = []
    for one in maps:  # one at a time: at 512 × 512, all the fits of 30 masks would take a gigabyte
        average = _box(one[None], radius)
        cross = _box(guide * one, radius) - mean * average
        slope = torch.einsum("hwij,jhw->ihw", inverse, cross)
        fit = _box(torch.cat([slope, average - (slope * mean).sum(0, keepdim=True)]), radius)
        result.append((fit[:3] * guide).sum(0) + fit[3])
    return torch.stack(result)


def _box(planes: torch.Tensor, radius: int) -> torch.Tensor:
    """Mean over windows that are cut off at the border, (C, H, W) → (C, H, W); costs the same for every radius."""

    def along(a: torch.Tensor) -> torch.Tensor:  # window sums of the last axis, as differences of a running sum
        total = F.pad(a, (radius + 1, radius)).cumsum(-1)
        return total[..., 2 * radius + 1 :] - total[..., : -2 * radius - 1]

    both = lambda a: along(along(a.double()).transpose(-1, -2)).transpose(-1, -2)
    return (both(planes) / both(torch.ones_like(planes[:1]))).float()
