"""PixArt-α and -Σ: a transformer with ordinary cross-attention to T5's text tokens, as the paper's U-Net has it."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from diffusers import PixArtSigmaPipeline, PixArtTransformer2DModel

from .base import Backbone, Condition, TextTokens


class PixArt(Backbone):
    """Predicts ε, and variances that are left out."""

    name = "PixArt"
    architecture = PixArtTransformer2DModel
    is_flow = False
    # behind the output projection, an offset that all channels share is lost in the layer norms
    own_defaults: ClassVar = {"offset_placement": "before_projection"}

    @property
    def text_limit(self) -> int:
        """Text tokens that are read."""
        return 300 if isinstance(self.pipe, PixArtSigmaPipeline) else 120

    def condition(self, prompt: str) -> Condition:
        given = {"device": self.device, "max_sequence_length": self.text_limit}
        embeds, mask, _, _ = self.pipe.encode_prompt(prompt, False, **given)
        return {"encoder_hidden_states": embeds.to(self.denoiser.dtype), "encoder_attention_mask": mask}

    def text_tokens(self, prompt: str) -> list[TextTokens]:
        return [TextTokens(self.pipe.tokenizer, prompt.lower().strip(), self.text_limit)]

    def call(self, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition) -> torch.Tensor:
        """PixArt-α of 1024 pixels is conditioned on the image's size and aspect ratio."""
        height, width = (side * self.vae_scale_factor for side in latents.shape[2:])
        added: dict[str, Any] = {"resolution": None, "aspect_ratio": None}
        if self.denoiser.use_additional_conditions:
            added = {"resolution": [[height, width]], "aspect_ratio": [[height / width]]}
            added = self.rows({name: latents.new_tensor(one) for name, one in added.items()}, len(latents))
        condition_rows = self.rows(condition, len(latents)) | {"added_cond_kwargs": added}
        return self.denoiser(latents, timestep=timesteps, **condition_rows).sample[:, : latents.shape[1]]
