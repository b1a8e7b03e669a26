"""DiffSeg (Tian et al., "Diffuse, Attend, and Segment", CVPR 2024, arXiv 2308.12469): merging self-attention maps."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ..interventions import capturing_attention, exclusive
from ..pipeline import EmerDiffPipeline
from ..predictor import Predictor
from .segmentation import Segmentation, bisected, with_embeddings

TIMESTEP = 300  # what the network is conditioned on
ANCHORS = 16  # merging starts from a grid of up to as many positions squared
ITERATIONS = 3  # N
THRESHOLD = 1.1  # τ of the paper, for Stable Diffusion and COCO-Stuff (0.9 for Cityscapes)
# Families that it does not suit: at 1.1, all of a Toyscapes scene is one segment. Chosen on validation scenes
# (notebooks/results/rival_settings.json).
FAMILY_THRESHOLDS = {"Toyscapes": 0.25}


@torch.no_grad()
def diffseg(image: np.ndarray, pipe: EmerDiffPipeline, num_segments: int | None = None) -> Segmentation:
    """DiffSeg as its authors run it: one network call with the *clean* latents at t = 300 and the empty prompt; no randomness.

    The k-means that their code offers as a last step is off in their benchmark, and left out here.

    Args:
        image: (H, W, 3) uint8.
        num_segments: search τ of the merging for this many segments; by default it is the family's, as it depends on how
            sharply a model attends, or the paper's.

    Returns:
        Segments, with the mean attention map of each as embedding.
    """
    attention = aggregated_attention(pipe.predictor(), pipe.encode(image))
    distances = anchor_distances(attention)
    if num_segments is None:
        proposals = merge(attention, distances, FAMILY_THRESHOLDS.get(pipe.backbone.name, THRESHOLD))
    else:
        merged = lambda threshold: merge(attention, distances, threshold)
        proposals = bisected(merged, len, num_segments, 0.0, 10.0, steps=16)
    maps = F.interpolate(proposals[None], size=image.shape[:2], mode="bilinear", align_corners=False)[0]
    return with_embeddings(maps.argmax(0).numpy(), attention.flatten(2).numpy())


def aggregated_attention(predictor: Predictor, latents: torch.Tensor) -> torch.Tensor:
    """(h, w, h, w) attention of every position of the finest self-attention grid to every other; each map sums to 1.

    Heads are averaged, and the layers of one resolution; text tokens of joint attention are left out. Maps are brought to the
    finest grid (targets bilinearly, sources by repetition), and resolutions are averaged with weights proportional to their
    side (their Eq. 2–3).
    """
    backbone, network = predictor.backbone, predictor.denoiser
    with exclusive(network), capturing_attention(network, backbone.self_attention()) as attention:
        predictor.network_output(latents, TIMESTEP)
    by_grid: dict[tuple[int, int], list[torch.Tensor]] = {}
    for layer, probabilities in attention.items():
        height, width = backbone.grid(layer, *latents.shape[2:])
        among_image, _ = backbone.split_attention(layer, probabilities, height * width)
        by_grid.setdefault((height, width), []).append(among_image / among_image.sum(1, keepdim=True))
    height, width = max(by_grid)
    total, sides = torch.zeros(height, width, height, width), sum((h * w) ** 0.5 for h, w in by_grid)
    for (h, w), layers in by_grid.items():
        maps = torch.stack(layers).mean(0).reshape(h * w, 1, h, w)
        maps = F.interpolate(maps, size=(height, width), mode="bilinear", align_corners=False)[:, 0]
        maps = (maps / maps.sum((1, 2), keepdim=True)).reshape(h, w, height, width)
        rows, columns = torch.arange(height) * h // height, torch.arange(width) * w // width
        total += (h * w) ** 0.5 / sides * maps[rows][:, columns]
    return total


def kl_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(A, B) symmetric Kullback–Leibler distance, half of the sum of both directions, of rows (A, n) and (B, n) that sum to 1."""
    a, b = a.double().clamp(min=1e-12), b.double().clamp(min=1e-12)
    log_a, log_b = a.log(), b.log()
    entropies = (a * log_a).sum(1)[:, None] + (b * log_b).sum(1)[None]
    return (entropies - a @ log_b.T - log_a @ b.T) / 2


def anchor_positions(size: int, anchors: int = ANCHORS) -> torch.Tensor:
    """Up to ``anchors`` cells of ``size`` in a row, a whole number of cells apart, the leftover shared by both ends."""
    count = min(anchors, size)
    step = (size - 1) // (count - 1) if count > 1 else 0
    return (size - 1 - step * (count - 1)) // 2 + step * torch.arange(count)


def anchor_distances(attention: torch.Tensor) -> torch.Tensor:
    """(A, h·w) KL distance of the maps of an anchor grid to all maps of (h, w, h, w) attention."""
    height, width = attention.shape[:2]
    maps = attention.reshape(height * width, -1)
    index = anchor_positions(height)[:, None] * width + anchor_positions(width)[None]
    return kl_distance(maps[index.ravel()], maps)


def merge(attention: torch.Tensor, distances: torch.Tensor, threshold: float) -> torch.Tensor:
    """Iterative attention merging (their Alg. 1): (h, w, h, w) attention → (K, h, w) proposals.

    The first of N iterations gathers maps around each anchor, the others merge what is alike.

    Args:
        distances: from :func:`anchor_distances`.
        threshold: τ, KL distance below which maps are the same.
    """
    height, width = attention.shape[:2]
    near = (distances < threshold).float()
    proposals = near @ attention.reshape(height * width, -1) / near.sum(1, keepdim=True)
    for _ in range(ITERATIONS - 1):
        near = kl_distance(proposals, proposals) < threshold
        left, merged = torch.ones(len(proposals), dtype=torch.bool), []
        for i in range(len(proposals)):
            if left[i]:
                left &= ~near[i]
                merged.append(proposals[near[i]].mean(0))
        proposals = torch.stack(merged)
    return proposals.reshape(-1, height, width)
