"""What a network is told besides noisy latents and a timestep: a prompt, and in some families more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from transformers import CLIPVisionModelWithProjection, PreTrainedModel, PreTrainedTokenizerBase

T5_TOKENS = 77


@dataclass(frozen=True)
class Conditioning:
    """One row's, for every row.

    Attributes:
        prompt_embeds: (1, tokens, d), what cross-attention attends to; None where the U-Net makes that of ``added``.
        added: {name: (1, …)} of the U-Net's ``added_cond_kwargs``: SDXL's pooled "text_embeds", or unCLIP's "image_embeds".
        pixels_per_latent: where given, the U-Net is told the picture's size as well, in pixels: SDXL's "time_ids", those of a
            picture that was neither scaled nor cropped.
        pooled: (1, d), the whole prompt in one vector, of Stable Diffusion 3.
    """

    prompt_embeds: torch.Tensor | None
    added: Mapping[str, torch.Tensor] = field(default_factory=dict)
    pixels_per_latent: int | None = None
    pooled: torch.Tensor | None = None

    def keywords(self, latents: torch.Tensor) -> dict[str, Any]:
        """Of the U-Net's call on (B, C, h, w) latents."""
        rows, embeds = len(latents), self.prompt_embeds
        found = {"encoder_hidden_states": None if embeds is None else embeds.expand(rows, -1, -1)}
        if self.pooled is not None:
            found["pooled_projections"] = self.pooled.expand(rows, -1)
        added = {name: value.expand(rows, *value.shape[1:]) for name, value in self.added.items()}
        if self.pixels_per_latent is not None:
            size = [side * self.pixels_per_latent for side in latents.shape[2:]]
            added["time_ids"] = torch.tensor([[*size, 0, 0, *size]], device=latents.device).expand(rows, -1)
        return found | ({"added_cond_kwargs": added} if added else {})


def encode_prompt(
    prompt: str, tokenizer: PreTrainedTokenizerBase, text_encoder: PreTrainedModel, dtype: torch.dtype
) -> Conditioning:
    """The last hidden states of one text encoder: CLIP's for Stable Diffusion 1.x and 2.x, T5's for DeepFloyd IF."""
    return Conditioning(_encoded(prompt, tokenizer, text_encoder).last_hidden_state.to(dtype))


def encode_prompt_twice(
    prompt: str,
    tokenizers: tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase],
    text_encoders: tuple[PreTrainedModel, PreTrainedModel],
    dtype: torch.dtype,
    zeros_if_empty: bool,
    pixels_per_latent: int,
) -> Conditioning:
    """The last but one hidden states of two CLIP text encoders side by side, and the second one's pooled embedding (SDXL).

    Args:
        zeros_if_empty: the checkpoint's ``force_zeros_for_empty_prompt``: without a prompt it was trained on zeros.
    """
    both = [
        _encoded(prompt, tokenizer, text_encoder, output_hidden_states=True)
        for tokenizer, text_encoder in zip(tokenizers, text_encoders, strict=True)
    ]
    embeds, pooled = torch.cat([one.hidden_states[-2] for one in both], -1), both[1].text_embeds
    if zeros_if_empty and not prompt:
        embeds, pooled = torch.zeros_like(embeds), torch.zeros_like(pooled)
    return Conditioning(embeds.to(dtype), {"text_embeds": pooled.to(dtype)}, pixels_per_latent)


def encode_prompt_thrice(
    prompt: str,
    tokenizers: Sequence[PreTrainedTokenizerBase | None],
    text_encoders: Sequence[PreTrainedModel | None],
    dtype: torch.dtype,
    width: int,
    max_sequence_length: int,
) -> Conditioning:
    """Two CLIPs' last but one hidden states side by side, behind them T5's; and the CLIPs' pooled embeddings (SD 3).

    Args:
        tokenizers, text_encoders: three of each; the last may be None, and stands for zeros then, as that model allows.
        width: of a token, up to which the CLIPs' are filled with zeros.
        max_sequence_length: tokens of the third.
    """
    both = [
        _encoded(prompt, tokenizer, text_encoder, output_hidden_states=True)
        for tokenizer, text_encoder in zip(tokenizers[:2], text_encoders[:2], strict=True)
    ]
    embeds = torch.cat([one.hidden_states[-2] for one in both], -1)
    embeds = F.pad(embeds, (0, width - embeds.shape[-1]))
    third = torch.zeros(1, max_sequence_length, width, device=embeds.device)
    tokenizer, text_encoder = tokenizers[2], text_encoders[2]
    if tokenizer is not None and text_encoder is not None:
        tokens = tokenizer(
            prompt, padding="max_length", max_length=max_sequence_length, truncation=True, return_tensors="pt"
        )
        third = text_encoder(tokens.input_ids.to(text_encoder.device))[0]
    pooled = torch.cat([one.text_embeds for one in both], -1).to(dtype)
    return Conditioning(torch.cat([embeds, third.to(embeds)], 1).to(dtype), pooled=pooled)


def no_image(
    image_encoder: CLIPVisionModelWithProjection | None, width: int, unet: ModelMixin
) -> Conditioning:
    """What unCLIP is told where no picture is to be varied: the embedding of zeros in place of one, as Kandinsky's pipelines have
    it; zeros themselves where its image encoder, which is part of the prior, is not there.

    Args:
        width: of an image's embedding.
    """
    embeds = torch.zeros(1, width, device=unet.device)
    if image_encoder is not None:
        side = image_encoder.config.image_size
        nothing = torch.zeros(1, 3, side, side, device=image_encoder.device, dtype=image_encoder.dtype)
        embeds = image_encoder(nothing).image_embeds
    return Conditioning(None, {"image_embeds": embeds.to(unet.device, unet.dtype)})


def as_read(prompt: str, tokenizer: PreTrainedTokenizerBase) -> tuple[str, int]:
    """The prompt as its text encoder is given it, and how many tokens of it are read: T5's (DeepFloyd IF) are 77 of lower case,
    as it was trained, whatever its tokenizer could hold."""
    if type(tokenizer).__name__.startswith("T5"):
        return prompt.lower().strip(), T5_TOKENS
    return prompt, tokenizer.model_max_length


def _encoded(
    prompt: str, tokenizer: PreTrainedTokenizerBase, text_encoder: PreTrainedModel, **options: Any
) -> Any:
    t5 = text_encoder.config.model_type == "t5"
    prompt, limit = as_read(prompt, tokenizer)
    tokens = tokenizer(prompt, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
    if t5:  # padding means nothing to T5, and stands for the end to CLIP
        options["attention_mask"] = tokens.attention_mask.to(text_encoder.device)
    return text_encoder(tokens.input_ids.to(text_encoder.device), **options)
