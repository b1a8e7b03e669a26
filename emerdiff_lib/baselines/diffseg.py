"""DiffSeg (Tian et al., "Diffuse, Attend, and Segment", CVPR 2024, arXiv 2308.12469): merging self-attention maps."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans

from ..attention import attention_layers, attention_processors, layer_grid
from ..denoiser import Denoiser
from .segmentation import Segmentation, with_embeddings


class _KeepProbabilities:
    """Self-attention that keeps its probabilities, averaged over heads: (tokens, tokens)."""

    def __init__(self):
        self.probabilities = None

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **kwargs):
        query, key, value = (attn.head_to_batch_dim(f(hidden_states)) for f in (attn.to_q, attn.to_k, attn.to_v))
        probabilities = attn.get_attention_scores(query, key)
        self.probabilities = probabilities.float().mean(0)
        return attn.to_out[1](attn.to_out[0](attn.batch_to_head_dim(probabilities @ value)))


@torch.no_grad()
def aggregated_attention(denoiser: Denoiser, noisy_latents: torch.Tensor, timestep: int) -> torch.Tensor:
    """(h, w, h, w) attention of every place of the finest self-attention grid to every other; each map sums to 1.

    Maps of all layers are brought to that grid (targets bilinearly, sources by repetition) and averaged with weights
    proportional to their own resolution (their Eq. 2–3).
    """
    layers = attention_layers(denoiser.unet, "attn1")
    keepers = {layer: _KeepProbabilities() for layer in layers}
    with attention_processors(denoiser.unet, keepers):
        denoiser.unet_output(noisy_latents, timestep)
    grids = {layer: layer_grid(denoiser.unet, layer, *noisy_latents.shape[2:]) for layer in layers}
    height, width = max(grids.values())
    weights = {layer: (h * w) ** 0.5 for layer, (h, w) in grids.items()}
    total = torch.zeros(height, width, height, width)
    for layer in layers:
        h, w = grids[layer]
        maps = keepers[layer].probabilities.reshape(h * w, 1, h, w).cpu()
        maps = F.interpolate(maps, size=(height, width), mode="bilinear", align_corners=False)[:, 0]
        maps = (maps / maps.sum((1, 2), keepdim=True)).reshape(h, w, height, width)
        rows, columns = torch.arange(height) * h // height, torch.arange(width) * w // width
        total += weights[layer] / sum(weights.values()) * maps[rows][:, columns]
    return total


def kl_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(A, B) symmetric Kullback–Leibler distance, half of the sum of both directions, of rows (A, n) and (B, n) that sum to 1."""
    a, b = a.double().clamp(min=1e-12), b.double().clamp(min=1e-12)
    log_a, log_b = a.log(), b.log()
    own = (a * log_a).sum(1)[:, None] + (b * log_b).sum(1)[None]
    return (own - a @ log_b.T - log_a @ b.T) / 2


def merge(attention: torch.Tensor, threshold: float, anchors: int = 16, iterations: int = 3) -> torch.Tensor:
    """Iterative attention merging (their Alg. 1): (h, w, h, w) attention → (K, h, w) proposals.

    Args:
        threshold: τ, KL distance below which maps are the same.
        anchors: a grid of up to anchors² places starts the merging.
        iterations: N; the first gathers maps around each anchor, the others merge what is alike.
    """
    height, width = attention.shape[:2]
    maps = attention.reshape(height * width, -1)
    places = lambda size: torch.linspace(0, size - 1, min(anchors, size)).round().long()
    index = (places(height)[:, None] * width + places(width)[None]).ravel()
    near = (kl_distance(maps[index], maps) < threshold).float()
    proposals = near @ maps / near.sum(1, keepdim=True)
    for _ in range(iterations - 1):
        near = kl_distance(proposals, proposals) < threshold
        left, merged = torch.ones(len(proposals), dtype=torch.bool), []
        for i in range(len(proposals)):
            if left[i]:
                left &= ~near[i]
                merged.append(proposals[near[i]].mean(0))
        proposals = torch.stack(merged)
    return proposals.reshape(-1, height, width)


def diffseg(
    image: np.ndarray, pipe, threshold: float = 1.1, timestep: int = 300, anchors: int = 16, iterations: int = 3,
    refine: bool = True, num_segments: int | None = None, seed: int = 0,
) -> Segmentation:  # fmt: skip
    """DiffSeg with its paper's settings (τ = 1.1 for COCO, 0.9 for Cityscapes; 16 × 16 anchors, three iterations, t = 300).

    Args:
        image: (H, W, 3) uint8; ``pipe`` an :class:`~emerdiff_lib.EmerDiffPipeline`.
        timestep: rounded to the nearest inference timestep; one noise draw, one network call, empty prompt.
        refine: k-means from the proposals, as their code offers.
        num_segments: search τ for this many segments instead.

    Returns:
        Segments, with the mean attention map of each as embedding.
    """
    denoiser = pipe.denoiser()
    timestep = min(denoiser.timesteps, key=lambda t: abs(t - timestep))
    generator = torch.Generator().manual_seed(seed)
    latents = pipe.invert(image, start_timestep=timestep, generator=generator).latents[timestep]
    attention = aggregated_attention(denoiser, latents, timestep)
    proposals = merge(attention, threshold, anchors, iterations)
    if num_segments is not None:
        low, high = 0.0, 10.0
        for _ in range(16):
            middle = (low + high) / 2
            found = merge(attention, middle, anchors, iterations)
            if abs(len(found) - num_segments) < abs(len(proposals) - num_segments):
                proposals = found
            low, high = (middle, high) if len(found) > num_segments else (low, middle)
    height, width = attention.shape[:2]
    maps = attention.reshape(height * width, -1).numpy()
    if refine:
        starts = proposals.flatten(1).numpy()
        clusters = KMeans(len(starts), init=starts, n_init=1).fit_predict(maps).reshape(height, width)
        proposals = torch.stack(
            [attention[torch.from_numpy(clusters == k)].mean(0) for k in range(len(starts)) if (clusters == k).any()]
        )
    size = image.shape[:2]
    labels = F.interpolate(proposals[None], size=size, mode="bilinear", align_corners=False)[0].argmax(0).numpy()
    return with_embeddings(labels, maps.reshape(height, width, -1))
