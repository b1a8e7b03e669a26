"""DeepFloyd IF's first stage: 64 × 64 pixels without an autoencoder, and T5's text tokens."""

from __future__ import annotations

import torch

from .base import Condition, TextTokens
from .stable_diffusion import StableDiffusion


class DeepFloydIF(StableDiffusion):
    """Joint attention to image and text tokens."""

    name = "DeepFloyd IF"
    additions = ("text", "text_proj")
    vae_scale_factor = 1

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.float()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents

    def condition(self, prompt: str) -> Condition:
        embeds, _ = self.pipe.encode_prompt(prompt, do_classifier_free_guidance=False, device=self.device)
        return {"encoder_hidden_states": embeds.to(self.denoiser.dtype)}

    def text_tokens(self, prompt: str) -> list[TextTokens]:
        return [TextTokens(self.pipe.tokenizer, prompt.lower().strip(), 77)]
