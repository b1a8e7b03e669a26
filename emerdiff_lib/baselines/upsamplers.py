"""From coarse features, or coarse masks, to pixels without modulated denoising: what a sceptic would try instead.

Upsamplers take features (h, w, d) and an image (H, W, 3) uint8 and give (H, W, d) float32; segments are made of them as in
pixel mode (:mod:`emerdiff_lib.pixels`). Refiners take masks (K, h, w) and an image and give (H, W) labels; a segment's
embedding stays that of its mask.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import coo_array, diags_array
from scipy.sparse.linalg import splu
from skimage.segmentation import random_walker, relabel_sequential
from torch import nn

from ..clustering import mask_embeddings
from ..images import to_guide
from ..pipeline import EmerDiffPipeline
from ..pixels import ADAPTIVE, DIMENSIONS, Superpixels, feature_superpixels, label_shares
from ..refinement import pixel_adaptive, refine, resize_maps
from .diffseg import aggregated_attention
from .segmentation import Segmentation

Upsampler = Callable[[torch.Tensor, np.ndarray], torch.Tensor]


def bilinear(features: torch.Tensor, image: np.ndarray) -> torch.Tensor:
    """What all others start from."""
    return resize_maps(features.permute(2, 0, 1), image.shape[:2]).permute(1, 2, 0)


def guided(features: torch.Tensor, image: np.ndarray, radius_in_cells: float = 1.5) -> torch.Tensor:
    """Guided filter (He et al. 2013) of the bilinearly enlarged features, the image as guide."""
    cell = image.shape[0] / features.shape[0]
    return refine(features.permute(2, 0, 1), to_guide(image), cell, 0.0, radius_in_cells).permute(1, 2, 0)


def joint_bilateral(
    features: torch.Tensor, image: np.ndarray, reach: int = 2, space: float = 1.0, colour: float = 0.05
) -> torch.Tensor:
    """Joint bilateral upsampling (Kopf et al. 2007): the mean of near cells, weighted by distance and by how alike colours are.

    Args:
        reach: cells on either side that take part.
        space: standard deviation of distances in cells; ``colour``: of RGB in [0, 1].
    """
    (rows, columns, _), (height, width) = features.shape, image.shape[:2]
    pixels = to_guide(image)
    cells = F.adaptive_avg_pool2d(pixels, (rows, columns))
    y = (torch.arange(height) + 0.5) * rows / height - 0.5  # in cells
    x = (torch.arange(width) + 0.5) * columns / width - 0.5
    near_y, near_x = y.round().long(), x.round().long()
    total, weights = torch.zeros(features.shape[2], height, width), torch.zeros(height, width)
    planes = features.permute(2, 0, 1)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            row, column = near_y + dy, near_x + dx
            inside = ((row >= 0) & (row < rows))[:, None] & ((column >= 0) & (column < columns))[None]
            distance = ((row - y) ** 2)[:, None] + ((column - x) ** 2)[None]
            row, column = row.clamp(0, rows - 1), column.clamp(0, columns - 1)
            unlike = (pixels - cells[:, row][:, :, column]).square().sum(0)
            weight = inside * torch.exp(-distance / (2 * space**2) - unlike / (2 * colour**2))
            total += weight * planes[:, row][:, :, column]
            weights += weight
    return (total / weights.clamp(min=1e-30)).permute(1, 2, 0)


def adaptive(features: torch.Tensor, image: np.ndarray) -> torch.Tensor:
    """Pixel-adaptive refinement (Araslanov & Roth, CVPR 2020) of features instead of scores."""
    return pixel_adaptive(features.permute(2, 0, 1), to_guide(image)).permute(1, 2, 0)


def guided_adaptive(features: torch.Tensor, image: np.ndarray) -> torch.Tensor:
    """The two filters of pixel mode, one behind the other, without its responses: what these add is the difference."""
    planes = guided(features, image).permute(2, 0, 1)
    return pixel_adaptive(planes, to_guide(image), ADAPTIVE).permute(1, 2, 0)


def random_walk_features(
    features: torch.Tensor, image: np.ndarray, beta: float = 500.0, pull: float = 0.02
) -> torch.Tensor:
    """Features that solve the random walker's equation (Grady 2006): alike along like colours, and true to the cells.

    Minimises Σ exp(−β‖ΔI‖²)·‖ΔF‖² over neighbouring pixels plus ``pull``·‖F − bilinear‖² at every pixel.
    """
    height, width = image.shape[:2]
    index, pixels = np.arange(height * width).reshape(height, width), image / 255.0
    ends, weights = [], []
    for a, b in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        ends.append(np.stack([index[a].ravel(), index[b].ravel()]))
        weights.append(np.exp(-beta * np.square(pixels[a] - pixels[b]).sum(-1)).ravel() + 1e-6)
    (i, j), weight = np.concatenate(ends, 1), np.concatenate(weights)
    affinity = coo_array((np.r_[weight, weight], (np.r_[i, j], np.r_[j, i])), shape=(index.size,) * 2)
    degrees = affinity.sum(1)
    solver = splu((diags_array(degrees + pull) - affinity).tocsc())
    wanted = bilinear(features, image).reshape(index.size, -1).double().numpy()
    return torch.from_numpy(solver.solve(pull * wanted)).float().unflatten(0, (height, width))


@torch.no_grad()
def self_attention(features: torch.Tensor, image: np.ndarray, pipe: EmerDiffPipeline) -> torch.Tensor:
    """A step along the model's own self-attention (as DiffSeg aggregates it) on its finest grid, then bilinear: every position
    takes the mean of what it attends to."""
    attention = aggregated_attention(pipe.predictor(), pipe.encode(image))
    grid = attention.shape[:2]
    values = resize_maps(features.permute(2, 0, 1), (grid[0], grid[1])).flatten(1).T
    return bilinear((attention.flatten(2).flatten(0, 1) @ values).unflatten(0, grid), image)


def optimised(
    features: torch.Tensor, image: np.ndarray, steps: int = 60, samples: int = 8, seed: int = 0
) -> torch.Tensor:
    """An upsampler fitted to this one image, without weights from elsewhere (in the spirit of FeatUp's implicit one).

    A small network from colour and position (and their sines) to features, so that the mean over every cell's pixels is the
    cell's feature.

    Args:
        steps: of Adam; ``samples``: pixels of every cell in a step.
    """
    generator = torch.Generator().manual_seed(seed)
    (rows, columns, channels), (height, width) = features.shape, image.shape[:2]
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    plain = torch.cat([2 * to_guide(image) - 1, y[None], x[None]]).permute(1, 2, 0)
    waves = torch.cat([f(2.0**k * torch.pi * plain) for k in range(2) for f in (torch.sin, torch.cos)], -1)
    inputs = torch.cat([plain, waves], -1)
    spread = features.flatten(0, 1).std(0).clamp(min=1e-6)
    centre = features.flatten(0, 1).mean(0)
    target = (features - centre) / spread
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Linear(inputs.shape[-1], 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, channels)
        )
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3, weight_decay=0.1)
    top, left = torch.arange(rows) * height / rows, torch.arange(columns) * width / columns
    with torch.enable_grad():
        for _ in range(steps):
            offsets = torch.rand(2, rows, columns, samples, generator=generator)
            row = (top[:, None, None] + offsets[0] * height / rows).long().clamp(max=height - 1)
            column = (left[None, :, None] + offsets[1] * width / columns).long().clamp(max=width - 1)
            loss = F.mse_loss(net(inputs[row, column]).mean(2), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return torch.stack([net(line) for line in inputs]) * spread + centre


def upsampled_superpixels(features: torch.Tensor, image: np.ndarray, upsample: Upsampler) -> Superpixels:
    """Any upsampler's features made into superpixels as pixel mode makes them, so that only the upsampler differs.

    Args:
        features: (h, w, d) float; ``image``: (H, W, 3) uint8.
    """
    flat = features.flatten(0, 1)
    axes = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)[2][:DIMENSIONS]
    pixels = upsample((features - flat.mean(0)) @ axes.T, image)
    return feature_superpixels(pixels, image.shape[0] / features.shape[0])


def cluster_upsampled(
    features: torch.Tensor, image: np.ndarray, upsample: Upsampler, num_segments: int
) -> Segmentation:
    """Segments of :func:`upsampled_superpixels`, with the mean coarse feature of each as embedding."""
    labels = upsampled_superpixels(features, image, upsample).segments(num_segments)
    shares = label_shares(labels, (features.shape[0], features.shape[1]))
    return Segmentation(labels, mask_embeddings(features, shares).numpy())


# -- refiners of masks --------------------------------------------------------------------------------------------------


def largest_mask(masks: torch.Tensor, image: np.ndarray, upsample: Upsampler) -> np.ndarray:
    """Any upsampler of features on masks, (K, h, w) → (H, W) int32."""
    return upsample(masks.permute(1, 2, 0).float(), image).argmax(-1).numpy().astype(np.int32)


guided_masks = partial(largest_mask, upsample=guided)
pixel_adaptive_masks = partial(largest_mask, upsample=adaptive)


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
    starts, _, numbers = relabel_sequential(seeds)  # the walker wants seeds without gaps
    labels = random_walker(image, starts, mode="cg_j", prob_tol=1.0, channel_axis=-1)
    return (numbers[labels.clip(0)] - 1).clip(0).astype(np.int32)
