"""Between pictures and latents: a KL autoencoder (Stable Diffusion), a VQ one (Kandinsky), or none (pixel-space models)."""

from __future__ import annotations

from typing import TypeAlias

import torch
from diffusers import AutoencoderKL, VQModel

Autoencoder: TypeAlias = AutoencoderKL | VQModel


def reduction(vae: Autoencoder | None) -> int:
    """Pixels of the picture on a side of a latent's cell."""
    return 1 if vae is None else 2 ** (len(vae.config.block_out_channels) - 1)


def to_latents(vae: Autoencoder | None, pixels: torch.Tensor) -> torch.Tensor:
    """Pictures (B, 3, H, W) in [−1, 1] → (B, C, h, w) float32: the posterior's mode, scaled; a VQ autoencoder's
    before they are quantised, which Kandinsky does not scale; the pictures themselves without an autoencoder."""
    if vae is None:
        return pixels.float()
    pixels = pixels.to(vae.dtype)
    if isinstance(vae, VQModel):
        return vae.encode(pixels).latents.float()
    mean, scale = _statistics(vae, pixels.device)
    return (vae.encode(pixels).latent_dist.mode().float() - mean) * scale


def to_pixels(vae: Autoencoder | None, latents: torch.Tensor) -> torch.Tensor:
    """Latents → pictures (B, 3, H, W) in about [−1, 1], in the latents' dtype."""
    if vae is None:
        return latents
    if isinstance(vae, VQModel):
        return vae.decode(latents.to(vae.dtype), force_not_quantize=True).sample.to(latents.dtype)
    mean, scale = _statistics(vae, latents.device)
    return vae.decode((latents / scale + mean).to(vae.dtype)).sample.to(latents.dtype)


def _statistics(
    vae: AutoencoderKL, device: torch.device
) -> tuple[torch.Tensor | float, torch.Tensor | float]:
    """(mean, factor) of latents: one for all channels, or what some relatives of Stable Diffusion XL keep for each."""
    mean, deviation = (getattr(vae.config, name, None) for name in ("latents_mean", "latents_std"))
    if mean is None or deviation is None:
        return vae.config.shift_factor or 0.0, vae.config.scaling_factor
    mean, deviation = (torch.tensor(v, device=device).reshape(1, -1, 1, 1) for v in (mean, deviation))
    return mean, vae.config.scaling_factor / deviation
