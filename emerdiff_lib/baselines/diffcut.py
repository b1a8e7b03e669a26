"""DiffCut (Couairon et al., NeurIPS 2024, arXiv 2406.02842): recursive normalised cut of the encoder's last self-attention."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.utils.torch_utils import randn_tensor
from scipy.linalg import eigh
from scipy.ndimage import median_filter

from ..features import extract_activations
from ..images import to_guide
from ..pipeline import EmerDiffPipeline
from ..refinement import pixel_adaptive, resize_maps
from .segmentation import Segmentation, with_embeddings

TIMESTEP = 50
EXPONENT = 10  # α, of the cosine affinities
LIMIT = 0.5  # τ of the paper, for SSD-1B
# Families that it does not suit: Stable Diffusion 1.x (its authors, issue 5 of their repository), and Toyscapes, where a scene
# would be two segments (chosen on validation scenes, notebooks/results/rival_settings.json).
FAMILY_LIMITS = {"Stable Diffusion 1.x": 0.2, "Toyscapes": 0.8}


@torch.no_grad()
def diffcut(
    image: np.ndarray,
    pipe: EmerDiffPipeline,
    num_segments: int | None = None,
    seed: int = 0,
) -> Segmentation:
    """DiffCut as its authors run it: α = 10, t = 50, one noise draw, the image at twice the model's own size.

    Twice the size doubles the grid of the encoder's last self-attention, to 32 × 32 in Stable Diffusion 1.x; a transformer's
    is four times as fine already, and it works at its own size. Labels go through pixel-adaptive refinement and then a 3 × 3
    median filter. (Theirs work at 128 × 128, the size of their evaluation; these at the image's.)

    Args:
        image: (H, W, 3) uint8.
        num_segments: cut into this many; by default parts stay whole from the family's τ of the normalised cut value on.
        seed: of the noise.

    Returns:
        Segments, with mean (unit) features as embeddings.
    """
    limit = FAMILY_LIMITS.get(pipe.backbone.name, LIMIT)
    predictor, layer = pipe.predictor(), pipe.backbone.encoder_attention()
    enlarged = 2 if layer.startswith("down_blocks") else 1
    clean = pipe.encode(image, enlarged * pipe.default_settings()["processing_resolution"])
    noise = randn_tensor(clean.shape, torch.Generator().manual_seed(seed), clean.device, clean.dtype)
    noisy = predictor.add_noise(clean, noise, TIMESTEP)
    features = F.normalize(extract_activations(predictor, noisy, TIMESTEP, [layer])[layer], dim=-1)
    height, width, _ = features.shape
    flat = features.flatten(0, 1)
    cosine = (flat @ flat.T).double().numpy()
    affinity = ((cosine - cosine.min()) / max(cosine.max() - cosine.min(), 1e-12)) ** EXPONENT
    parts = recursive_cut(affinity + 1e-12, limit, num_segments).reshape(height, width)
    means = torch.stack([features[torch.from_numpy(parts == k)].mean(0) for k in range(parts.max() + 1)])
    likeness = torch.einsum("kd,hwd->khw", means, features)  # linear, so it is enlarged, not features
    labels = resize_maps(likeness, image.shape[:2]).argmax(0)
    scores = F.one_hot(labels, len(means)).permute(2, 0, 1).float()
    labels = pixel_adaptive(scores, to_guide(image)).argmax(0)
    return with_embeddings(median_filter(labels.numpy(), 3), features.numpy())


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

    def best_cut(part: int) -> tuple[np.ndarray, np.ndarray | None, float]:
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
