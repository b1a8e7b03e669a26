"""True objects and regions of a scene as masks on the modulated layer's grid, and the responses to them (notebook 03)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..evaluation.regions import Region, cell_shares, find_regions
from ..inversion import Trajectory
from ..pipeline import EmerDiffPipeline
from ..refinement import resize_maps
from ..toyscapes import Scene, Toyscapes

BACKGROUND = ("sky", "grass")


def trajectory_of(pipe: EmerDiffPipeline, scene: Scene, timesteps: Iterable[int], seed: int) -> Trajectory:
    """A scene's trajectory, long enough for every one of ``timesteps`` and the default t_f; modulation needs no noise maps."""
    start = max(pipe.resolve().features.feature_timestep, *timesteps)
    generator = torch.Generator().manual_seed(seed)
    return pipe.invert(scene.image, start_timestep=start, generator=generator, noise_maps=False)


def modulation_grid(pipe: EmerDiffPipeline, trajectory: Trajectory) -> tuple[int, int]:
    """(h, w) cells of the modulated layer for this image."""
    layer = pipe.resolve().perturbation.modulation_layer
    return pipe.backbone.grid(layer, *trajectory.clean_latents.shape[2:])


def enlarge(cells: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(K, h, w) bool cells as (K, H, W) bool pixels, nearest neighbour."""
    pixels = F.interpolate(torch.from_numpy(cells)[None].float(), size=size, mode="nearest-exact")
    return pixels[0].numpy() > 0.5


def true_objects(scene: Scene, smallest: float = 0.015, largest: float = 0.2, most: int = 3) -> list[Region]:
    """The largest coarse-class regions of a scene that are neither sky nor grass, of these shares of the image."""
    regions = find_regions(scene.coarse_labels, smallest, largest)
    names = Toyscapes.coarse_class_names
    return [region for region in regions if names[region.class_index] not in BACKGROUND][:most]


def competing_regions(labels: np.ndarray, grid: tuple[int, int]) -> list[Region]:
    """Every region that covers most of at least one cell of ``grid``: together they hold all cells, so they compete."""
    regions = find_regions(labels, 0.0, 1.0)
    largest = np.stack([cell_shares(region.mask, grid) for region in regions]).argmax(0)
    return [region for number, region in enumerate(regions) if (largest == number).any()]


def responses_to(
    pipe: EmerDiffPipeline, trajectory: Trajectory, cells: np.ndarray, **settings: Any
) -> np.ndarray:
    """Difference maps (K, H, W) at the image's own size for K sets of cells (K, h, w), unfiltered.

    ``settings`` are the pipeline's: ``modulation_timestep``, ``modulation_strength``, ``attention_injection`` …
    """
    coarse = pipe.cluster(trajectory, coarse_masks=cells)
    return resize_maps(pipe.modulate(coarse, **settings).difference_maps, coarse.size).numpy()
