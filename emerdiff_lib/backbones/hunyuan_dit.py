"""HunyuanDiT: a transformer with ordinary cross-attention to two encoders' text tokens, and skips as a U-Net has."""

from __future__ import annotations

import torch
from diffusers import HunyuanDiT2DModel
from diffusers.pipelines.hunyuandit import pipeline_hunyuandit as theirs

from .base import Condition, TextTokens
from .pixart import PixArt


class HunyuanDiT(PixArt):
    """Modulated as PixArt, whose layer norms it has."""

    name = "HunyuanDiT"
    architecture = HunyuanDiT2DModel
    stack = "blocks"
    stem = ("pos_embed", "time_extra_emb")

    def condition(self, prompt: str) -> Condition:
        given = prompt, self.device, self.denoiser.dtype, 1, False
        clip, _, clip_mask, _ = self.pipe.encode_prompt(*given, text_encoder_index=0)
        t5, _, t5_mask, _ = self.pipe.encode_prompt(*given, text_encoder_index=1)
        first = {"encoder_hidden_states": clip, "text_embedding_mask": clip_mask}
        return first | {"encoder_hidden_states_t5": t5, "text_embedding_mask_t5": t5_mask}

    def text_tokens(self, prompt: str) -> list[TextTokens]:
        first = TextTokens(self.pipe.tokenizer, prompt, 77)
        return [first, TextTokens(self.pipe.tokenizer_2, prompt, 256, 77)]

    def call(self, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition) -> torch.Tensor:
        grid, head = self.grid("", *latents.shape[2:]), self.denoiser.config.attention_head_dim
        region = theirs.get_resize_crop_region_for_grid(grid, 64 // self.patch_size)
        rotary = theirs.get_2d_rotary_pos_embed(head, region, grid, device=latents.device, output_type="pt")
        size = [1024, 1024, *(side * self.vae_scale_factor for side in latents.shape[2:]), 0, 0]
        added = {"image_meta_size": latents.new_tensor([size]), "style": timesteps.new_zeros(1).long()}
        rows = self.rows({**condition, **added}, len(latents)).items()
        rows = {name: value.contiguous() for name, value in rows} | {"image_rotary_emb": rotary}
        return self.denoiser(latents, timesteps.to(latents), **rows).sample[:, : latents.shape[1]]
