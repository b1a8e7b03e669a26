"""The U-Net, together with the text encoder: ε- or v-prediction in the latents of a finished autoencoder."""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, PreTrainedTokenizerFast

from . import architecture
from .packaging import export
from .sources import Latents, epoch_of
from .stage import Stage, save_sheet


def train_denoiser(
    args: argparse.Namespace,
    accelerator: Accelerator,
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: PreTrainedTokenizerFast,
    latents: Latents,
) -> tuple[UNet2DConditionModel, CLIPTextModel, Stage]:
    """Most timesteps from [0, 1000), some from [0, 400); returns the averages and their stage."""
    stage = Stage("denoiser", args, accelerator, [unet, text_encoder], args.steps, args.learning_rate, 1e-2)
    model, encoder = stage.modules
    empty = architecture.tokenize(tokenizer, [""])
    scheduler, scale, device = (
        architecture.training_scheduler(args.prediction_type),
        vae.config.scaling_factor,
        accelerator.device,
    )

    def loss_of_step(step, generator):
        batch = args.batch_size
        known, captions = latents.epoch(epoch_of(step, batch, latents.source))
        rows = torch.randint(len(known), (batch,), generator=generator)
        tokens = architecture.tokenize(tokenizer, [captions[row] for row in rows])
        mean, std = known[rows].float().unbind(1)
        clean = (mean + std * torch.randn(mean.shape, generator=generator)) * scale
        noise = torch.randn(mean.shape, generator=generator)
        uniform, low = (torch.randint(limit, (batch,), generator=generator) for limit in (1000, 400))
        timesteps = torch.where(torch.rand(batch, generator=generator) < args.low_timesteps, low, uniform)
        dropped = torch.rand(batch, generator=generator) < args.empty_captions
        text = torch.where(dropped[:, None], empty, tokens).to(device)
        noisy = scheduler.add_noise(clean, noise, timesteps).to(device, memory_format=torch.channels_last)
        with accelerator.autocast():
            prediction = model(noisy, timesteps.to(device), encoder(text).last_hidden_state).sample
        wanted = (
            noise if args.prediction_type == "epsilon" else scheduler.get_velocity(clean, noise, timesteps)
        )
        return F.mse_loss(prediction.float(), wanted.to(device))

    def picture(step, averaged_unet, averaged_encoder):
        pipeline = StableDiffusionPipeline(
            vae=vae,
            text_encoder=averaged_encoder,
            tokenizer=tokenizer,
            unet=averaged_unet,
            scheduler=architecture.sampling_scheduler(args.prediction_type),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        with accelerator.autocast():
            images = pipeline(
                latents.source.captions(8),
                num_inference_steps=20,
                guidance_scale=3.0,
                generator=generator,
                output_type="pt",
            ).images
        save_sheet([*(images.float() * 2 - 1)], stage.folder / f"samples-{step:06}.png")
        parts = vae, averaged_unet, averaged_encoder, tokenizer
        export(args.output / "model", *parts, args.prediction_type)

    stage.run(loss_of_step, picture)
    stage.ema.copy_to(stage.parameters)
    unet, text_encoder = (accelerator.unwrap_model(module).eval() for module in stage.modules)
    return unet, text_encoder, stage
