"""Where objects get lost on their way through the method: VAE, coarse grid, clustering, modulation, argmax."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import binary_dilation

from .metrics import area_bin
from .regions import Region, cell_shares, find_regions

STAGES = ("VAE", "coarse grid", "clustering", "modulation", "argmax")


def ring(mask: np.ndarray, width: int = 4) -> np.ndarray:
    """(H, W) bool: the pixels within ``width`` around a mask."""
    return binary_dilation(mask, iterations=width) & ~mask


def contrast(image: np.ndarray, region: Region, width: int = 4) -> float:
    """Distance of a region's mean colour to that of its surroundings; 0 without surroundings."""
    around = ring(region.mask, width)
    if not around.any():
        return 0.0
    return float(np.linalg.norm(image[region.mask].mean(0) - image[around].mean(0)))


def object_stages(
    image: np.ndarray, reconstruction: np.ndarray, masks: np.ndarray, maps: np.ndarray, labels: np.ndarray, truth: np.ndarray,
    smallest: float = 0.0005,
) -> list[dict]:  # fmt: skip
    """One row per object of the ground truth: which stage it survives.

    - *VAE*: its contrast to its surroundings is at least half of the original's after encoding and decoding.
    - *coarse grid*: it covers at least half of some cell.
    - *clustering*: the mask of the cell that it covers best is mostly of its class.
    - *modulation*: that mask's difference map is stronger inside the object than around it.
    - *argmax*: masks of its class, the same or others, win at least half of its pixels.

    Each is judged by itself; an object is lost at the first that it fails.

    Args:
        image, reconstruction: (H, W, 3) float in [0, 1].
        masks: (K, h, w) bool; ``maps``: (K, H, W) float difference maps; ``labels``: (H, W) segments.
        truth: (H, W) classes; ``smallest``: share of the picture below which regions are left out as fragments.

    Returns:
        {"class_index", "area", "size" (its bin), one bool per stage, "lost_at" (a stage or "found")}.
    """
    grid = masks.shape[1:]
    classes = np.unique(truth)
    shares = np.stack([cell_shares(truth == c, grid) for c in classes])  # (C, h, w)
    mask_classes = classes[np.einsum("khw,chw->kc", masks.astype(float), shares).argmax(1)]
    rows = []
    for region in find_regions(truth, smallest, 1.0):
        covered = cell_shares(region.mask, grid)
        best = np.unravel_index(covered.argmax(), grid)
        mask = int(masks[:, best[0], best[1]].argmax())
        before, around = contrast(image, region), ring(region.mask)
        passed = {
            "VAE": before > 0 and contrast(reconstruction, region) >= 0.5 * before,
            "coarse grid": bool(covered.max() >= 0.5),
            "clustering": bool(mask_classes[mask] == region.class_index),
            "modulation": bool(around.any() and maps[mask][region.mask].mean() > maps[mask][around].mean()),
            "argmax": bool((mask_classes[labels[region.mask]] == region.class_index).mean() >= 0.5),
        }
        lost = next((stage for stage in STAGES if not passed[stage]), "found")
        rows.append(
            {"class_index": region.class_index, "area": region.area, "size": area_bin(region.area)}
            | passed
            | {"lost_at": lost}
        )
    return rows


@torch.no_grad()
def reconstruct(pipe, image, size: tuple[int, int]) -> np.ndarray:
    """The image after the VAE alone, (H, W, 3) float in [0, 1] at ``size``."""
    settings = pipe.default_settings()
    pixels = pipe.decode(pipe.encode(image, settings["resolution"]))
    pixels = torch.nn.functional.interpolate(pixels, size=size, mode="bilinear", antialias=True)
    return pixels[0].permute(1, 2, 0).cpu().numpy()
