"""FLUX.1 dev and schnell: double-stream blocks with joint attention, then single-stream ones; latents in packs of 2 × 2."""

from __future__ import annotations

import torch
from diffusers import DiffusionPipeline, FluxPipeline, FluxTransformer2DModel

from .base import Backbone, Condition, TextTokens

NO_GUIDANCE = 1.0  # what a distilled model is conditioned on in place of a second call


def packed(latents: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w) → (B, h/2 · w/2, 4·C): a token for each 2 × 2 latents."""
    return FluxPipeline._pack_latents(latents.contiguous(), *latents.shape)


def unpacked(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The inverse of :func:`packed`."""
    return FluxPipeline._unpack_latents(tokens, height, width, vae_scale_factor=1)


class Flux(Backbone):
    """Queries and modulation in double-stream blocks, the only ones whose image tokens have projections of their own."""

    name = "FLUX.1"
    architecture = FluxTransformer2DModel
    patch_size = 2

    def __init__(self, pipe: DiffusionPipeline):
        super().__init__(pipe)
        channels = 4 * self.pipe.vae.config.latent_channels
        if self.denoiser.config.in_channels != channels:
            raise ValueError(
                f"This FLUX transformer takes {self.denoiser.config.in_channels} channels and not {channels} (a Fill, "
                "Canny or Depth model?); use FLUX.1 dev or schnell."
            )

    def condition(self, prompt: str) -> Condition:
        given = {"device": self.device, "max_sequence_length": self._limit}
        embeds, pooled, _ = self.pipe.encode_prompt(prompt, **given)
        dtype = self.denoiser.dtype
        return {"encoder_hidden_states": embeds.to(dtype), "pooled_projections": pooled.to(dtype)}

    def text_tokens(self, prompt: str) -> list[TextTokens]:
        return [TextTokens(self.pipe.tokenizer_2, prompt, self._limit)]

    @property
    def _limit(self) -> int:
        """Text tokens: 512, or 256 of the distilled schnell, which has no guidance."""
        return 512 if self.denoiser.config.guidance_embeds else 256

    def call(self, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition) -> torch.Tensor:
        rows, _, height, width = latents.shape
        where = latents.device, latents.dtype
        ids = FluxPipeline._prepare_latent_image_ids(rows, height // 2, width // 2, *where)
        guidance = latents.new_full((rows,), NO_GUIDANCE, dtype=torch.float32)
        output = self.denoiser(
            hidden_states=packed(latents),
            timestep=timesteps / 1000,
            guidance=guidance if self.denoiser.config.guidance_embeds else None,
            txt_ids=latents.new_zeros(condition["encoder_hidden_states"].shape[1], 3),
            img_ids=ids,
            **self.rows(condition, rows),
        ).sample
        return unpacked(output, height, width)

    def default_layers(self) -> tuple[str, str]:
        """The last double-stream blocks, 15 and 18 of the published model's 19 (ConceptAttention, arXiv 2502.04320)."""
        names = self.layers()
        return names[max(0, len(names) - 4)], names[-1]
