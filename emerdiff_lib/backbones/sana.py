"""Sana: linear self-attention, ordinary cross-attention to Gemma's text tokens, an autoencoder that reduces 32 times."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import SanaTransformer2DModel

from .base import Backbone, Condition, TextTokens

TOKENS = 300


class Sana(Backbone):
    """Injection holds for linear attention, too: its weights are a function of queries and keys."""

    name = "Sana"
    architecture = SanaTransformer2DModel

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        vae = self.pipe.vae
        return vae.encode(pixels.to(vae.dtype)).latent.float() * vae.config.scaling_factor

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        vae = self.pipe.vae
        return vae.decode((latents / vae.config.scaling_factor).to(vae.dtype)).sample.to(latents.dtype)

    def condition(self, prompt: str) -> Condition:
        embeds, mask, _, _ = self.pipe.encode_prompt(
            prompt, do_classifier_free_guidance=False, device=self.device, max_sequence_length=TOKENS
        )
        return {"encoder_hidden_states": embeds.to(self.denoiser.dtype), "encoder_attention_mask": mask}

    def text_tokens(self, prompt: str) -> list[TextTokens]:
        return [TextTokens(self.pipe.tokenizer, prompt.lower().strip(), TOKENS)]

    def call(self, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition) -> torch.Tensor:
        return super().call(latents, timesteps * self.denoiser.config.timestep_scale, condition)

    def defaults(self) -> dict[str, Any]:
        """Modulation before the output projection: behind it, an offset that all channels share is lost in the layer norms."""
        return super().defaults() | {"offset_placement": "before_projection"}
