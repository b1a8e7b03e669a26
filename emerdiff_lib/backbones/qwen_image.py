"""Qwen-Image: double-stream blocks like FLUX's throughout, Qwen2.5-VL's text tokens, a video autoencoder of single frames."""

from __future__ import annotations

import torch
from diffusers import QwenImageTransformer2DModel

from .base import Backbone, Condition, TextTokens
from .flux import packed, unpacked


class QwenImage(Backbone):
    """Latents in packs of 2 × 2, as FLUX's."""

    name = "Qwen-Image"
    architecture = QwenImageTransformer2DModel
    patch_size = 2

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        mean, scale = self._statistics(pixels.device)
        mode = self.pipe.vae.encode(pixels[:, :, None].to(self.pipe.vae.dtype)).latent_dist.mode()
        return (mode[:, :, 0].float() - mean) * scale

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        mean, scale = self._statistics(latents.device)
        frames = (latents / scale + mean)[:, :, None].to(self.pipe.vae.dtype)
        return self.pipe.vae.decode(frames).sample[:, :, 0].to(latents.dtype)

    def condition(self, prompt: str) -> Condition:
        embeds, mask = self.pipe.encode_prompt(prompt, device=self.device)
        return {"encoder_hidden_states": embeds.to(self.denoiser.dtype), "encoder_hidden_states_mask": mask}

    def text_tokens(self, prompt: str) -> list[TextTokens]:
        """The prompt stands in a template, whose beginning is cut off after it was encoded."""
        pipe = self.pipe
        start = pipe.prompt_template_encode_start_idx
        text = pipe.prompt_template_encode.format(prompt)
        return [TextTokens(pipe.tokenizer, text, pipe.tokenizer_max_length + start, -start)]

    def call(self, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition) -> torch.Tensor:
        rows, _, height, width = latents.shape
        output = self.denoiser(
            hidden_states=packed(latents),
            timestep=timesteps / 1000,
            img_shapes=[[(1, height // 2, width // 2)]] * rows,
            **self.rows(condition, rows),
        ).sample
        return unpacked(output, height, width)
