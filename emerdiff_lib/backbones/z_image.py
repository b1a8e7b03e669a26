"""Z-Image: blocks that project image tokens and Qwen3's text tokens alike; latents as FLUX's."""

from __future__ import annotations

import torch
from diffusers import ZImageTransformer2DModel
from diffusers.models.transformers.transformer_z_image import SEQ_MULTI_OF

from .base import Backbone, Condition, TextTokens


class ZImage(Backbone):
    """Its time runs from noise to image, and so does the velocity that it predicts."""

    name = "Z-Image"
    architecture = ZImageTransformer2DModel
    stack = "layers"
    patch_size = 2
    text_first = False
    single_stream = True
    image_multiple = SEQ_MULTI_OF
    own_defaults = {"processing_resolution": 1024}
    stem = ("t_embedder",)

    def condition(self, prompt: str) -> Condition:
        (embeds,), _ = self.pipe.encode_prompt(prompt, self.device, do_classifier_free_guidance=False)
        return {"cap_feats": embeds[None].to(self.denoiser.dtype)}

    def text_tokens(self, prompt: str) -> list[TextTokens]:
        """The prompt stands in a template; the pipeline reads 512 tokens of it."""
        template = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": True}
        text = self.pipe.tokenizer.apply_chat_template([{"role": "user", "content": prompt}], **template)
        return [TextTokens(self.pipe.tokenizer, text, 512)]

    def call(self, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition) -> torch.Tensor:
        texts = self.rows(condition, len(latents))["cap_feats"]
        output = self.denoiser(list(latents[:, :, None]), 1 - timesteps / 1000, list(texts)).sample
        return -torch.stack(output)[:, :, 0]
