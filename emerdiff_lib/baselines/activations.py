"""Rivals inside the same network: k-means of the activations of any U-Net module, and which modules others read."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import SD3Transformer2DModel

from ..attention import Network, attention_layers
from ..features import extract_activations, noise_ensemble
from ..pipeline import EmerDiffPipeline
from ..settings import whole
from .segmentation import Segmentation, cluster_features


def encoder_attention(unet: Network) -> str:
    """The encoder's last self-attention layer, which DiffCut reads: 16 × 16 at 512 × 512 in Stable Diffusion 1.x.

    A transformer has no encoder and is read half-way.

    Raises:
        ValueError: if no block of the encoder attends.
    """
    if isinstance(unet, SD3Transformer2DModel):
        return f"transformer_blocks.{len(unet.transformer_blocks) // 2}.attn"
    layers = [name for name in attention_layers(unet, "attn1") if name.startswith("down_blocks")]
    if not layers:
        raise ValueError(
            "This U-Net has no self-attention in its encoder (down_blocks); name a module yourself."
        )
    return layers[-1]


def encoder_module(unet: Network) -> str:
    """The first residual block at the encoder's deepest resolution that attends (:func:`encoder_attention`'s block); a
    transformer's whole block."""
    block, index = encoder_attention(unet).split(".")[:2]
    return f"{block}.{index}" + ("" if isinstance(unet, SD3Transformer2DModel) else ".resnets.0")


def check_training_timestep(pipe: EmerDiffPipeline, timestep: int) -> int:
    """Returns a timestep of the training schedule, inference timestep or not; raises ValueError for any other number."""
    return whole(0, pipe.scheduler.config.num_train_timesteps - 1)("timestep", timestep)


@torch.no_grad()
def kmeans_activations(
    image: np.ndarray,
    pipe: EmerDiffPipeline,
    num_segments: int = 12,
    module: str | None = None,
    *,
    timestep: int | None = None,
    ensemble_size: int | None = None,
    seed: int = 0,
) -> Segmentation:
    """k-means of a U-Net module's output, upsampled bilinearly: EmerDiff's baseline with other features.

    Args:
        image: (H, W, 3) uint8.
        module: any module of the U-Net; by default :func:`encoder_module`.
        timestep, ensemble_size: inference timestep and number of noise draws; by default those of the checkpoint's queries.

    Raises:
        ValueError: for a module or timestep that there is none of.
    """
    defaults = pipe.default_settings()
    timestep = defaults["feature_timestep"] if timestep is None else timestep
    size = defaults["noise_ensemble_size"] if ensemble_size is None else ensemble_size
    module = module or encoder_module(pipe.unet)
    generator, denoiser = torch.Generator().manual_seed(seed), pipe.denoiser()
    trajectory = pipe.invert(image, start_timestep=timestep, generator=generator, noise_maps=False)
    noisy = noise_ensemble(denoiser, trajectory, timestep, size, generator)
    features = extract_activations(denoiser, noisy, timestep, [module])[module]
    return cluster_features(features, image.shape[:2], num_segments, seed)
