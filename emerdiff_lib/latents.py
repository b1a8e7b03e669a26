"""Between pictures and latents: a KL autoencoder (Stable Diffusion), a VQ one (Kandinsky), or none (pixel-space models)."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, VQModel

Autoencoder = AutoencoderKL | VQModel


def reduction(vae: Autoencoder | None) -> int:
    """Pixels of the picture on a side of a latent's cell."""
    return 1 if vae is None else 2 ** (len(vae.config.block_out_channels) - 1)


def to_latents(vae: Autoencoder | None, pixels: torch.Tensor) -> torch.Tensor:
    """Pictures (B, 3, H, W) in [−1, 1] → (B, C, h, w) float32: the posterior's mode times the scaling factor; a VQ autoencoder's
    before they are quantised, which Kandinsky does not scale; the pictures themselves without an autoencoder."""
    if vae is None:
        return pixels.float()
    pixels = pixels.to(vae.dtype)
    if isinstance(vae, VQModel):
        return vae.encode(pixels).latents.float()
    return vae.encode(pixels).latent_dist.mode().float() * vae.config.scaling_factor


def to_pixels(vae: Autoencoder | None, latents: torch.Tensor) -> torch.Tensor:
    """Latents → pictures (B, 3, H, W) float32 in about [−1, 1]."""
    if vae is None:
        return latents.float()
    if isinstance(vae, VQModel):
        return vae.decode(latents.to(vae.dtype), force_not_quantize=True).sample.float()
    return vae.decode((latents / vae.config.scaling_factor).to(vae.dtype)).sample.float()
