"""DiffSeg (Tian et al., "Diffuse, Attend, and Segment", CVPR 2024, arXiv 2308.12469): merging self-attention maps."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans

from ..attention import (
    Network,
    attention_layers,
    attention_processors,
    given_back,
    keys,
    layer_grid,
    places_of,
    queries,
    split_streams,
    values,
)
from ..checkpoints import family_of
from ..denoiser import Denoiser
from ..pipeline import EmerDiffPipeline
from ..settings import real
from .activations import check_training_timestep
from .segmentation import Segmentation, with_embeddings

THRESHOLD = 1.1  # τ of the paper, for Stable Diffusion and COCO-Stuff (0.9 for Cityscapes)
# Families that it does not suit: at 1.1, all of a Toyscapes scene is one segment. Chosen on validation scenes
# (notebooks/results/rival_settings.json).
FAMILY_THRESHOLDS = {"Toyscapes": 0.25}


def default_threshold(unet: Network) -> float:
    """τ that suits a checkpoint's family, which its layout tells; the paper's for a family without a choice of its own."""
    family = family_of(unet.config)
    return FAMILY_THRESHOLDS.get(family.name, THRESHOLD) if family else THRESHOLD


@torch.no_grad()
def diffseg(
    image: np.ndarray,
    pipe: EmerDiffPipeline,
    num_segments: int | None = None,
    *,
    threshold: float | None = None,
    timestep: int = 300,
    anchors: int = 16,
    iterations: int = 3,
    refine: bool = False,
) -> Segmentation:
    """DiffSeg as its authors run it: one network call with the *clean* latents at t = 300 and the empty prompt; no randomness.

    Args:
        image: (H, W, 3) uint8.
        num_segments: search τ for this many segments instead of using ``threshold``.
        threshold: τ of the merging; by default :func:`default_threshold`, as it depends on how sharp a model attends.
        timestep: what the network is told, any training timestep.
        anchors: merging starts from a grid of up to anchors² places; ``iterations``: N.
        refine: k-means from the proposals, which their code offers and their benchmark leaves off.

    Returns:
        Segments, with the mean attention map of each as embedding.
    """
    timestep = check_training_timestep(pipe, timestep)
    attention = aggregated_attention(pipe.denoiser(), pipe.encode(image), timestep)
    distances = anchor_distances(attention, anchors)
    if num_segments is None:
        threshold = default_threshold(pipe.unet) if threshold is None else threshold
        proposals = merge(attention, distances, real(0, above=True)("threshold", threshold), iterations)
    else:
        proposals = _merge_to(num_segments, attention, distances, iterations)
    if refine:
        proposals = _refined(attention, proposals)
    maps = F.interpolate(proposals[None], size=image.shape[:2], mode="bilinear", align_corners=False)[0]
    return with_embeddings(maps.argmax(0).numpy(), attention.flatten(2).numpy())


def aggregated_attention(denoiser: Denoiser, latents: torch.Tensor, timestep: int) -> torch.Tensor:
    """(h, w, h, w) attention of every place of the finest self-attention grid to every other; each map sums to 1.

    The layers of one resolution are averaged; maps are brought to the finest grid (targets bilinearly, sources by
    repetition), and resolutions are averaged with weights proportional to their side (their Eq. 2–3).
    """
    keepers = {layer: _KeepProbabilities() for layer in attention_layers(denoiser.unet, "attn1")}
    with attention_processors(denoiser.unet, keepers):
        denoiser.unet_output(latents, timestep)
    by_grid: dict[tuple[int, int], list[torch.Tensor]] = {}
    for layer, keeper in keepers.items():
        grid = layer_grid(denoiser.unet, layer, *latents.shape[2:])
        by_grid.setdefault(grid, []).append(keeper.probabilities.cpu())
    height, width = max(by_grid)
    total, sides = torch.zeros(height, width, height, width), sum((h * w) ** 0.5 for h, w in by_grid)
    for (h, w), layers in by_grid.items():
        maps = torch.stack(layers).mean(0).reshape(h * w, 1, h, w)
        maps = F.interpolate(maps, size=(height, width), mode="bilinear", align_corners=False)[:, 0]
        maps = (maps / maps.sum((1, 2), keepdim=True)).reshape(h, w, height, width)
        rows, columns = torch.arange(height) * h // height, torch.arange(width) * w // width
        total += (h * w) ** 0.5 / sides * maps[rows][:, columns]
    return total


class _KeepProbabilities:
    """Self-attention that keeps its probabilities, averaged over heads: (places, places); of joint attention, those of places."""

    def __init__(self):
        self.probabilities: torch.Tensor | None = None

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **kwargs):
        places, words = places_of(attn, hidden_states), encoder_hidden_states
        count, key = places.shape[1], keys(attn, places, words).transpose(-2, -1)
        query = queries(attn, places, words)
        if attn.upcast_attention:
            query, key = query.float(), key.float()
        probabilities = torch.softmax(query * attn.scale @ key, -1).to(places.dtype)
        own = probabilities[..., -count:, -count:].float()
        self.probabilities = (own / own.sum(-1, keepdim=True)).mean((0, 1))
        output = (probabilities @ values(attn, places, words)).transpose(1, 2).flatten(2)
        output, told = split_streams(attn, output, words)
        return given_back(attn, hidden_states, attn.to_out[1](attn.to_out[0](output)), told)


def kl_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(A, B) symmetric Kullback–Leibler distance, half of the sum of both directions, of rows (A, n) and (B, n) that sum to 1."""
    a, b = a.double().clamp(min=1e-12), b.double().clamp(min=1e-12)
    log_a, log_b = a.log(), b.log()
    own = (a * log_a).sum(1)[:, None] + (b * log_b).sum(1)[None]
    return (own - a @ log_b.T - log_a @ b.T) / 2


def anchor_places(size: int, anchors: int) -> torch.Tensor:
    """Up to ``anchors`` cells of ``size`` in a row, a whole number of cells apart, the leftover shared by both ends."""
    count = min(anchors, size)
    step = (size - 1) // (count - 1) if count > 1 else 0
    return (size - 1 - step * (count - 1)) // 2 + step * torch.arange(count)


def anchor_distances(attention: torch.Tensor, anchors: int = 16) -> torch.Tensor:
    """(A, h·w) KL distance of the maps of an anchor grid to all maps of (h, w, h, w) attention."""
    height, width = attention.shape[:2]
    maps = attention.reshape(height * width, -1)
    index = anchor_places(height, anchors)[:, None] * width + anchor_places(width, anchors)[None]
    return kl_distance(maps[index.ravel()], maps)


def merge(
    attention: torch.Tensor, distances: torch.Tensor, threshold: float, iterations: int = 3
) -> torch.Tensor:
    """Iterative attention merging (their Alg. 1): (h, w, h, w) attention → (K, h, w) proposals.

    Args:
        distances: from :func:`anchor_distances`.
        threshold: τ, KL distance below which maps are the same.
        iterations: N; the first gathers maps around each anchor, the others merge what is alike.
    """
    height, width = attention.shape[:2]
    near = (distances < threshold).float()
    proposals = near @ attention.reshape(height * width, -1) / near.sum(1, keepdim=True)
    for _ in range(iterations - 1):
        near = kl_distance(proposals, proposals) < threshold
        left, merged = torch.ones(len(proposals), dtype=torch.bool), []
        for i in range(len(proposals)):
            if left[i]:
                left &= ~near[i]
                merged.append(proposals[near[i]].mean(0))
        proposals = torch.stack(merged)
    return proposals.reshape(-1, height, width)


def _merge_to(num_segments: int, attention: torch.Tensor, distances: torch.Tensor, iterations: int):
    """The proposals of the τ that comes nearest to ``num_segments`` of them, by bisection."""
    low, high, best = 0.0, 10.0, None
    for _ in range(16):
        middle = (low + high) / 2
        found = merge(attention, distances, middle, iterations)
        if best is None or abs(len(found) - num_segments) < abs(len(best) - num_segments):
            best = found
        low, high = (middle, high) if len(found) > num_segments else (low, middle)
    return best


def _refined(attention: torch.Tensor, proposals: torch.Tensor) -> torch.Tensor:
    """Mean maps of the clusters that k-means over all maps reaches from the proposals."""
    starts = proposals.flatten(1).numpy()
    maps = attention.flatten(0, 1).flatten(1)
    clusters = torch.from_numpy(KMeans(len(starts), init=starts, n_init=1).fit_predict(maps.numpy()))
    means = [maps[clusters == k].mean(0) for k in range(len(starts)) if (clusters == k).any()]
    return torch.stack(means).unflatten(1, attention.shape[:2])
