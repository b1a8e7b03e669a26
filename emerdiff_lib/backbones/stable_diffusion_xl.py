"""Stable Diffusion XL with what was made of it (Turbo, SSD-1B, Kolors): two text encoders, and the image's size."""

from __future__ import annotations

import torch

from .base import Condition, TextTokens
from .stable_diffusion import StableDiffusion

KOLORS_TOKENS = 256  # its pipeline's default


class StableDiffusionXL(StableDiffusion):
    """Its coarsest grid is 32 × 32 for a megapixel."""

    name = "Stable Diffusion XL"
    additions = ("text_time", None)
    vae_overflows = True

    def condition(self, prompt: str) -> Condition:
        """Without a prompt, zeros where the checkpoint was trained on those (``force_zeros_for_empty_prompt``)."""
        embeds, _, pooled, _ = self.pipe.encode_prompt(
            prompt, device=self.device, do_classifier_free_guidance=False
        )
        if not prompt and self.pipe.config.get("force_zeros_for_empty_prompt"):
            embeds, pooled = torch.zeros_like(embeds), torch.zeros_like(pooled)
        dtype = self.denoiser.dtype
        return {
            "encoder_hidden_states": embeds.to(dtype),
            "added_cond_kwargs": {"text_embeds": pooled.to(dtype)} | self._no_images(),
        }

    def call(self, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition) -> torch.Tensor:
        """The U-Net is conditioned on the size of an image that was neither scaled nor cropped."""
        size = [side * self.vae_scale_factor for side in latents.shape[2:]]
        sizes = torch.tensor([[*size, 0, 0, *size]], device=latents.device)
        added = {**condition["added_cond_kwargs"], "time_ids": sizes}
        return super().call(latents, timesteps, {**condition, "added_cond_kwargs": added})


class Kolors(StableDiffusionXL):
    """Called as XL is; text is projected to the width that cross-attention takes."""

    name = "Kolors"
    additions = ("text_time", "text_proj")

    def text_tokens(self, prompt: str) -> list[TextTokens]:
        """They stand at the end: what is empty is filled up before them."""
        tokenizer = self.pipe.tokenizer
        read = tokenizer(prompt, truncation=True, max_length=KOLORS_TOKENS).input_ids
        return [TextTokens(tokenizer, prompt, KOLORS_TOKENS, KOLORS_TOKENS - len(read))]
