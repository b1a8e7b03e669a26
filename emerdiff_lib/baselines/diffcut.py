"""DiffCut (Couairon et al., NeurIPS 2024, arXiv 2406.02842): recursive normalised cut of the encoder's last self-attention."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.linalg import eigh

from ..attention import attention_layers
from ..features import extract_activations
from .refiners import pixel_adaptive
from .segmentation import Segmentation, with_embeddings


def normalised_cut(affinity: np.ndarray, thresholds: int = 100) -> tuple[np.ndarray, float]:
    """The best split of a graph along its second generalised eigenvector (Shi & Malik 2000).

    Args:
        affinity: (n, n) symmetric, positive.

    Returns:
        (n,) bool, one side; and its normalised cut value in [0, 2].
    """
    degrees = affinity.sum(1)
    scale = 1 / np.sqrt(degrees)
    laplacian = np.eye(len(affinity)) - scale[:, None] * affinity * scale
    vector = scale * eigh(laplacian, subset_by_index=[1, 1])[1][:, 0]
    vector = vector * np.sign(vector[np.abs(vector).argmax()])
    sides = vector[None] > np.linspace(vector.min(), vector.max(), thresholds + 2)[1:-1, None]
    sides = sides[sides.any(1) & ~sides.all(1)]
    if not len(sides):
        return np.zeros(len(vector), bool), 2.0
    weights = sides.astype(float)
    across = np.einsum("sn,nm,sm->s", weights, affinity, 1 - weights, optimize=True)
    volume = weights @ degrees
    cuts = across / volume + across / (degrees.sum() - volume)
    return sides[cuts.argmin()], float(cuts.min())


def recursive_cut(affinity: np.ndarray, limit: float, most: int | None = None) -> np.ndarray:
    """Splits parts as long as the best of their cuts is below ``limit``; (n,) part of every node.

    With ``most``, the cheapest cut of all parts comes first, until there are that many, whatever ``limit``.
    """
    labels = np.zeros(len(affinity), int)

    def best_cut(part: int):
        nodes = np.flatnonzero(labels == part)
        if len(nodes) < 2:
            return nodes, None, np.inf
        side, value = normalised_cut(affinity[np.ix_(nodes, nodes)])
        return nodes, side, value if side.any() else np.inf

    cuts = {0: best_cut(0)}
    while True:
        part = min(cuts, key=lambda k: cuts[k][2])
        nodes, side, value = cuts[part]
        enough = len(cuts) >= most if most is not None else value >= limit
        if enough or not np.isfinite(value):
            return labels
        new = len(cuts)
        labels[nodes[side]] = new
        cuts[part], cuts[new] = best_cut(part), best_cut(new)


@torch.no_grad()
def diffcut(
    image: np.ndarray, pipe, limit: float = 0.5, exponent: float = 10.0, timestep: int = 50, layer: str | None = None,
    refine: bool = True, num_segments: int | None = None, seed: int = 0,
) -> Segmentation:  # fmt: skip
    """DiffCut with its paper's settings (τ = 0.5, α = 10, t = 50, pixel-adaptive refinement).

    Args:
        image: (H, W, 3) uint8; ``pipe`` an :class:`~emerdiff_lib.EmerDiffPipeline`.
        limit: τ; ``exponent``: α, of the cosine affinities, which are first brought to [0, 1].
        layer: a self-attention layer; by default the encoder's last.
        refine: pixel-adaptive refinement of the upsampled segments.
        num_segments: cut into this many instead of by ``limit``.

    Returns:
        Segments, with mean (unit) features as embeddings.
    """
    denoiser = pipe.denoiser()
    layer = layer or [name for name in attention_layers(pipe.unet, "attn1") if name.startswith("down_blocks")][-1]
    timestep = min(denoiser.timesteps, key=lambda t: abs(t - timestep))
    generator = torch.Generator().manual_seed(seed)
    trajectory = pipe.invert(image, start_timestep=timestep, generator=generator)
    features = extract_activations(denoiser, trajectory.latents[timestep], timestep, [layer])[layer]
    features = F.normalize(features, dim=-1)
    height, width, _ = features.shape
    flat = features.flatten(0, 1)
    cosine = (flat @ flat.T).double().numpy()
    affinity = ((cosine - cosine.min()) / max(cosine.max() - cosine.min(), 1e-12)) ** exponent
    parts = recursive_cut(affinity + 1e-12, limit, num_segments).reshape(height, width)
    concepts = torch.stack([features[torch.from_numpy(parts == k)].mean(0) for k in range(parts.max() + 1)])
    size = image.shape[:2]
    upsampled = F.interpolate(features.permute(2, 0, 1)[None], size=size, mode="bilinear", align_corners=False)[0]
    labels = torch.einsum("kd,dhw->khw", concepts, upsampled).argmax(0)
    if refine:
        labels = pixel_adaptive(F.one_hot(labels, len(concepts)).permute(2, 0, 1).float(), image).argmax(0)
    return with_embeddings(labels.numpy(), features.numpy())
