"""Baselines inside the same network: k-means of its encoder's activations, and which modules those are."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import SD3Transformer2DModel

from ..attention import Network, attention_layers
from ..features import extract_activations, noise_ensemble
from ..pipeline import EmerDiffPipeline
from .segmentation import Segmentation, cluster_features


def encoder_attention(unet: Network) -> str:
    """The encoder's last self-attention layer, of DiffCut: 16 × 16 at 512 × 512 in Stable Diffusion 1.x.

    A transformer has no encoder; it is the one half-way.

    Raises:
        ValueError: if no block of the encoder attends.
    """
    if isinstance(unet, SD3Transformer2DModel):
        return f"transformer_blocks.{len(unet.transformer_blocks) // 2}.attn"
    layers = [name for name in attention_layers(unet, "attn1") if name.startswith("down_blocks")]
    if not layers:
        raise ValueError(
            "This U-Net has no self-attention in its encoder (down_blocks), of which this baseline is made."
        )
    return layers[-1]


def encoder_module(unet: Network) -> str:
    """The first residual block at the encoder's deepest resolution that attends (:func:`encoder_attention`'s block); a
    transformer's whole block."""
    block, index = encoder_attention(unet).split(".")[:2]
    return f"{block}.{index}" + ("" if isinstance(unet, SD3Transformer2DModel) else ".resnets.0")


@torch.no_grad()
def kmeans_activations(
    image: np.ndarray, pipe: EmerDiffPipeline, num_segments: int, seed: int = 0
) -> Segmentation:
    """k-means of :func:`encoder_module`'s output, upsampled bilinearly: EmerDiff's coarse masks with other features.

    The image is (H, W, 3) uint8; timestep and number of noise draws are those of the checkpoint's queries.
    """
    defaults, module = pipe.default_settings(), encoder_module(pipe.unet)
    timestep, size = defaults["feature_timestep"], defaults["noise_ensemble_size"]
    generator, denoiser = torch.Generator().manual_seed(seed), pipe.denoiser()
    trajectory = pipe.invert(image, start_timestep=timestep, generator=generator, noise_maps=False)
    noisy = noise_ensemble(denoiser, trajectory, timestep, size, generator)
    features = extract_activations(denoiser, noisy, timestep, [module])[module]
    return cluster_features(features, image.shape[:2], num_segments, seed)
