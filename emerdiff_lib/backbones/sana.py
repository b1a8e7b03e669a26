"""Sana: linear self-attention, ordinary cross-attention to Gemma's text tokens, an autoencoder that reduces 32 times."""

from __future__ import annotations

import torch
from diffusers import SanaTransformer2DModel

from .base import Backbone, Condition
from .pixart import PixArt


class Sana(PixArt):
    """Text as PixArt's. Injection holds for linear attention, too: its weights are a function of queries and keys."""

    name = "Sana"
    architecture = SanaTransformer2DModel
    is_flow = True
    text_limit = 300

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        vae = self.pipe.vae
        return vae.encode(pixels.to(vae.dtype)).latent.float() * vae.config.scaling_factor

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        vae = self.pipe.vae
        return vae.decode((latents / vae.config.scaling_factor).to(vae.dtype)).sample.to(latents.dtype)

    def call(self, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition) -> torch.Tensor:
        return Backbone.call(self, latents, timesteps * self.denoiser.config.timestep_scale, condition)
