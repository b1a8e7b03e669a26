"""What denoises, with the text encoders that are trained beside it: a U-Net or a transformer, each with a loss of its own.

A backbone has ``networks`` by their component's name, the one that denoises first; the ``special_tokens`` of its tokenizer;
and ``options`` of its pipeline's call.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
)
from transformers import PreTrainedTokenizerFast

from . import architecture
from .config import Config

Networks = dict[str, torch.nn.Module]


class UNetBackbone:
    """ε- or v-prediction by a U-Net conditioned on the last hidden states of one CLIP, as Stable Diffusion 1.x and 2.x."""

    special_tokens = architecture.UNKNOWN, architecture.BEGIN, architecture.END
    options: dict[str, Any] = {}

    def __init__(self, config: Config, vocabulary_size: int):
        self.schedule = architecture.NOISE_SCHEDULE | {"prediction_type": config.prediction_type}
        self.scheduler = DDPMScheduler(**self.schedule)
        unet = architecture.build_unet(config.size, config.widths, config.dropout)
        self.networks: Networks = {
            "unet": unet.to(memory_format=torch.channels_last),
            "text_encoder": architecture.build_text_encoder(vocabulary_size),
        }

    def loss(
        self, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, tokens: torch.Tensor
    ) -> torch.Tensor:
        """Mean squared error of what is predicted.

        Args:
            clean, noise: latents, and the noise that is mixed into them, (B, C, h, w).
            timesteps: (B,), 0 to 999.
            tokens: (B, 64) of captions.
        """
        self.scheduler.alphas_cumprod = self.scheduler.alphas_cumprod.to(clean.device)
        noisy = self.scheduler.add_noise(clean, noise, timesteps)
        text = self.networks["text_encoder"](tokens).last_hidden_state
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        prediction = self.networks["unet"](noisy, timesteps, text).sample
        epsilon = self.schedule["prediction_type"] == "epsilon"
        target = noise if epsilon else self.scheduler.get_velocity(clean, noise, timesteps)
        return F.mse_loss(prediction.float(), target)

    def pipeline(
        self, vae: AutoencoderKL, tokenizer: PreTrainedTokenizerFast, networks: Networks
    ) -> StableDiffusionPipeline:
        """What samples with the networks, by the scheduler of Stable Diffusion 1.x, and saves them."""
        return StableDiffusionPipeline(
            vae=vae,
            tokenizer=tokenizer,
            **networks,
            scheduler=PNDMScheduler(**self.schedule, skip_prk_steps=True, set_alpha_to_one=False),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


class TransformerBackbone:
    """Rectified flow (ε − x₀ from (1−σ) x₀ + σ ε, σ = t/1000) by a transformer with joint attention, as Stable Diffusion 3
    (arXiv 2403.03206): conditioned on the last but one hidden states of two CLIPs, and on their pooled embeddings."""

    special_tokens = architecture.SPECIAL
    options = {"max_sequence_length": 0}  # of the third text encoder, which it has not: no zeros in its place

    def __init__(self, config: Config, vocabulary_size: int):
        self.networks: Networks = {
            "transformer": architecture.build_transformer(config.size, config.width, config.depth),
            **{
                f"text_encoder{suffix}": architecture.build_text_encoder(vocabulary_size, width, pooled=True)
                for suffix, width in zip(("", "_2"), architecture.TEXT_WIDTHS, strict=True)
            },
        }

    def loss(
        self, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, tokens: torch.Tensor
    ) -> torch.Tensor:
        """As :meth:`UNetBackbone.loss`."""
        level = (timesteps / 1000)[:, None, None, None]
        transformer, *encoders = self.networks.values()
        texts = [encoder(tokens, output_hidden_states=True) for encoder in encoders]
        prediction = transformer(
            clean + level * (noise - clean),
            timestep=timesteps,
            encoder_hidden_states=torch.cat([text.hidden_states[-2] for text in texts], -1),
            pooled_projections=torch.cat([text.text_embeds for text in texts], -1),
        ).sample
        return F.mse_loss(prediction.float(), noise - clean)

    def pipeline(
        self, vae: AutoencoderKL, tokenizer: PreTrainedTokenizerFast, networks: Networks
    ) -> StableDiffusion3Pipeline:
        """What samples with the networks, and saves them."""
        vae.register_to_config(shift_factor=0.0)
        missing = ("text_encoder_3", "tokenizer_3", "image_encoder", "feature_extractor")
        return StableDiffusion3Pipeline(
            vae=vae,
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            **networks,
            **dict.fromkeys(missing),
            scheduler=FlowMatchEulerDiscreteScheduler(),
        )


Backbone = UNetBackbone | TransformerBackbone
BACKBONES = {"unet": UNetBackbone, "transformer": TransformerBackbone}
