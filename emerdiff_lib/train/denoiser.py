"""The network that denoises, together with its text encoders, in the latents of a finished autoencoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from diffusers.utils import make_image_grid
from transformers import PreTrainedTokenizerFast

from . import architecture
from .autoencoder import encode
from .backbones import Backbone
from .config import Config
from .loop import Progress, train
from .packaging import export
from .sources import Source


def train_denoiser(
    config: Config,
    accelerator: Accelerator,
    vae: AutoencoderKL,
    backbone: Backbone,
    tokenizer: PreTrainedTokenizerFast,
    source: Source,
    latents: Callable[[int], torch.Tensor],
) -> Progress:
    """Most timesteps from [0, 1000), some from [0, 400); the networks end averaged.

    Args:
        latents: of an epoch's images, as :func:`~.autoencoder.latents_of` gives them.
    """
    device = accelerator.device
    tokens_of = lambda captions: architecture.tokenize(tokenizer, captions).to(device)
    tokens, empty = tokens_of(source.captions), tokens_of([""])

    def loss_on(encoded, tokens, generator):
        """Of as many latents as there are rows of tokens; they, the noise, timesteps and captions left out are drawn."""
        count, here = len(tokens), dict(generator=generator, device=device)
        mean, std = encoded.to(device).float().unbind(1)
        clean = (mean + std * torch.randn(mean.shape, **here)) * vae.config.scaling_factor
        noise = torch.randn(mean.shape, **here)
        uniform, low = (torch.randint(limit, (count,), **here) for limit in (1000, 400))
        timesteps = torch.where(torch.rand(count, **here) < config.low_timesteps, low, uniform)
        dropped = torch.rand(count, **here) < config.empty_captions
        with accelerator.autocast():
            return backbone.loss(clean, noise, timesteps, torch.where(dropped[:, None], empty, tokens))

    def loss_of_step(step, generator):
        encoded = latents(source.epoch_at(step, config.batch_size))
        rows = torch.randint(len(encoded), (config.batch_size,), generator=generator, device=device)
        return loss_on(encoded[rows.to(encoded.device)], tokens[rows], generator)

    @torch.no_grad()
    def held_out_losses(step):
        """Of the held-out images (their central squares) and of as many of an epoch's (crops, as they are trained on)."""
        held_out, captions = source.held_out
        encoded = latents(source.epoch_at(step - 1, config.batch_size))
        rows = torch.linspace(0, len(encoded) - 1, len(held_out)).long()
        parts = {
            "loss of held-out images": (encode(vae, held_out, accelerator), tokens_of(captions)),
            "of as many others": (encoded[rows.to(encoded.device)], tokens[rows.to(device)]),
        }
        losses = {}
        for name, part in parts.items():
            generator, total = torch.Generator(device).manual_seed(config.seed), 0.0
            for batch in zip(*(data.split(config.batch_size) for data in part), strict=True):
                repeated = (data.repeat_interleave(4, 0) for data in batch)
                total += loss_on(*repeated, generator).item() * len(batch[1])
            losses[name] = round(total / len(held_out), 5)
        return losses

    captioned = [caption for caption in source.captions if caption] or [""]
    prompts = [captioned[i * len(captioned) // 8] for i in range(8)]

    def report(step):
        measures = held_out_losses(step) if source.held_out[1] else {}
        pipeline = backbone.pipeline(vae, tokenizer, backbone.networks)
        pipeline.set_progress_bar_config(disable=True)
        options = {"guidance_scale": 3.0, "generator": torch.Generator().manual_seed(0), **backbone.options}
        with accelerator.autocast():
            samples = pipeline(prompts, num_inference_steps=20, **options).images
        make_image_grid(samples, 1, len(samples)).save(config.output / "denoiser" / f"samples-{step:06}.png")
        export(config.output / "model", backbone, vae, tokenizer)
        return measures

    modules = list(backbone.networks.values())
    rate = config.learning_rate
    return train("denoiser", config, accelerator, modules, config.steps, rate, 1e-2, loss_of_step, report)
