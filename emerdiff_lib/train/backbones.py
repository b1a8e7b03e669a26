"""What denoises, with the text encoders that are trained beside it: a U-Net or a transformer, told and asked in its own way."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
)
from transformers import PreTrainedTokenizerFast

from . import architecture

Networks = dict[str, torch.nn.Module]


class Backbone(Protocol):
    """Networks by their component's name, the one that denoises first.

    Attributes:
        special_tokens: of its tokenizer.
        options: of its pipeline's call.
    """

    networks: Networks
    special_tokens: tuple[str, ...]
    options: dict[str, Any]

    def loss(
        self,
        networks: Networks,
        latents: tuple[torch.Tensor, torch.Tensor],
        timesteps: torch.Tensor,
        tokens: torch.Tensor,
        precision: AbstractContextManager,
    ) -> torch.Tensor:
        """Of some rows.

        Args:
            networks: as ``self.networks``, spread over devices or averaged.
            latents: clean ones, and the noise that is mixed into them, (B, C, h, w).
            timesteps: (B,), 0 to 999.
            tokens: (B, 64) of captions.
            precision: context that the networks are called in.
        """

    def pipeline(
        self, vae: AutoencoderKL, tokenizer: PreTrainedTokenizerFast, networks: Networks
    ) -> DiffusionPipeline:
        """What samples with them, and saves them."""


class UNetBackbone:
    """ε- or v-prediction by a U-Net that is told the last hidden states of one CLIP, as Stable Diffusion 1.x and 2.x."""

    special_tokens = architecture.UNKNOWN, architecture.BEGIN, architecture.END
    options: dict[str, Any] = {}

    def __init__(self, args: argparse.Namespace, words: int):
        self.prediction_type = args.prediction_type
        self.scheduler = architecture.training_scheduler(self.prediction_type)
        unet = architecture.build_unet(args.size, args.widths, args.dropout)
        self.networks: Networks = {
            "unet": unet.to(memory_format=torch.channels_last),
            "text_encoder": architecture.build_text_encoder(words),
        }

    def loss(self, networks, latents, timesteps, tokens, precision):
        clean, noise = latents
        self.scheduler.alphas_cumprod = self.scheduler.alphas_cumprod.to(clean.device)
        noisy = self.scheduler.add_noise(clean, noise, timesteps).contiguous(
            memory_format=torch.channels_last
        )
        with precision:
            text = networks["text_encoder"](tokens).last_hidden_state
            prediction = networks["unet"](noisy, timesteps, text).sample
        velocity = self.scheduler.get_velocity
        wanted = noise if self.prediction_type == "epsilon" else velocity(clean, noise, timesteps)
        return F.mse_loss(prediction.float(), wanted)

    def pipeline(self, vae, tokenizer, networks):
        return StableDiffusionPipeline(
            vae=vae,
            tokenizer=tokenizer,
            **networks,
            scheduler=architecture.sampling_scheduler(self.prediction_type),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


class TransformerBackbone:
    """Rectified flow (ε − x₀ from (1−σ) x₀ + σ ε, σ = t/1000) by a transformer with joint attention, as Stable Diffusion 3
    (arXiv 2403.03206): told the last but one hidden states of two CLIPs, and their pooled embeddings."""

    special_tokens = architecture.SPECIAL
    options = {"max_sequence_length": 0}  # of the third text encoder, which it has not: no zeros in its place

    def __init__(self, args: argparse.Namespace, words: int):
        self.networks: Networks = {
            "transformer": architecture.build_transformer(args.size, args.width, args.depth),
            **{
                f"text_encoder{suffix}": architecture.build_text_encoder(words, width, pooled=True)
                for suffix, width in zip(("", "_2"), architecture.TEXT_WIDTHS, strict=True)
            },
        }

    def loss(self, networks, latents, timesteps, tokens, precision):
        clean, noise = latents
        level = (timesteps / 1000)[:, None, None, None]
        transformer, *encoders = networks.values()
        with precision:
            told = [encoder(tokens, output_hidden_states=True) for encoder in encoders]
            prediction = transformer(
                clean + level * (noise - clean),
                timestep=timesteps,
                encoder_hidden_states=torch.cat([one.hidden_states[-2] for one in told], -1),
                pooled_projections=torch.cat([one.text_embeds for one in told], -1),
            ).sample
        return F.mse_loss(prediction.float(), noise - clean)

    def pipeline(self, vae, tokenizer, networks):
        vae.register_to_config(shift_factor=0.0)
        nothing = dict(text_encoder_3=None, tokenizer_3=None, image_encoder=None, feature_extractor=None)
        return StableDiffusion3Pipeline(
            vae=vae,
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            **networks,
            **nothing,
            scheduler=FlowMatchEulerDiscreteScheduler(),
        )


BACKBONES = {"unet": UNetBackbone, "transformer": TransformerBackbone}
