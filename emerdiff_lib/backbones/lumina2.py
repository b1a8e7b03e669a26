"""Lumina-Image 2: blocks that project Gemma's text tokens and image tokens alike; latents as FLUX's."""

from __future__ import annotations

import torch
from diffusers import Lumina2Transformer2DModel

from .base import Backbone, Condition, TextTokens


class Lumina2(Backbone):
    """Its time runs from noise to image, and so does the velocity that it predicts."""

    name = "Lumina-Image 2"
    architecture = Lumina2Transformer2DModel
    stack = "layers"
    single_stream = True
    stem = ("time_caption_embed", "x_embedder")

    def condition(self, prompt: str) -> Condition:
        """Without a prompt, nothing at all, as the pipeline has it where guidance leads away from."""
        text, mask, no_text, no_mask = self.pipe.encode_prompt(prompt, device=self.device)
        embeds, mask = (text, mask) if prompt else (no_text, no_mask)
        return {"encoder_hidden_states": embeds.to(self.denoiser.dtype), "encoder_attention_mask": mask}

    def text_tokens(self, prompt: str) -> list[TextTokens]:
        """The pipeline says before a prompt what is wanted."""
        text = f"{self.pipe.system_prompt} <Prompt Start> {prompt}"
        return [TextTokens(self.pipe.tokenizer, text, 256)]

    def call(self, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition) -> torch.Tensor:
        return -super().call(latents, 1 - timesteps / 1000, condition)
