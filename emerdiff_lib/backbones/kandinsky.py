"""Kandinsky 2.2: unCLIP, conditioned on an image's embedding in place of text, with a VQ autoencoder."""

from __future__ import annotations

import torch

from .base import Condition, TextTokens
from .stable_diffusion import StableDiffusion


class Kandinsky(StableDiffusion):
    """The decoder; joint attention to image tokens and to those of an image's embedding."""

    name = "Kandinsky 2.2"
    additions = ("image", "image_proj")

    @property
    def vae_scale_factor(self) -> int:
        return 2 ** (len(self.pipe.movq.config.block_out_channels) - 1)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Latents before they are quantised, which Kandinsky does not scale."""
        return self.pipe.movq.encode(pixels.to(self.pipe.movq.dtype)).latents.float()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        decoded = self.pipe.movq.decode(latents.to(self.pipe.movq.dtype), force_not_quantize=True)
        return decoded.sample.to(latents.dtype)

    def condition(self, prompt: str) -> Condition:
        """Zeros stand for no image, which would be the prior's to make of a prompt."""
        if prompt:
            raise ValueError(
                f"prompt={prompt!r} cannot be used: this model is conditioned on images, not on text (unCLIP); leave it empty."
            )
        unet = self.denoiser
        embeds = torch.zeros(1, unet.config.encoder_hid_dim, device=self.device, dtype=unet.dtype)
        return {"encoder_hidden_states": None, "added_cond_kwargs": {"image_embeds": embeds}}

    def text_tokens(self, prompt: str) -> list[TextTokens]:
        return []
