"""What denoises, with the text encoder that is trained beside it, and its loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
)
from transformers import PreTrainedTokenizerFast

from . import architecture
from .config import Config

Networks = dict[str, torch.nn.Module]


class Backbone:
    """ε- or v-prediction by a U-Net conditioned on the last hidden states of one CLIP, as Stable Diffusion 1.x and 2.x.

    Attributes:
        networks: by their component's name, the one that denoises first.
    """

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
