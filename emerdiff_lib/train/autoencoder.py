"""The autoencoder: L1 of the picture, of its gradients, and a little KL."""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import AutoencoderKL

from .sources import Source, epoch_of, to_model_range
from .stage import Stage, save_sheet


def gradients(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return images.diff(dim=-1), images.diff(dim=-2)


def train_autoencoder(
    args: argparse.Namespace, accelerator: Accelerator, vae: AutoencoderKL, source: Source
) -> tuple[AutoencoderKL, Stage]:
    """L1 of the picture + 0.5 · L1 of its gradients + 0.001 · KL; returns the averaged model in eval mode, and its stage."""
    stage = Stage(
        "autoencoder", args, accelerator, [vae], args.autoencoder_steps, args.autoencoder_learning_rate, 1e-4
    )
    (model,) = stage.plain()

    known = source.held_out()[0]
    shown = (known if len(known) else source.epoch(0)[0])[:16].copy()

    def loss_of_step(step, generator):
        pictures, _ = source.epoch(epoch_of(step, args.batch_size, source))
        rows = torch.randint(len(pictures), (args.batch_size,), generator=generator, device=generator.device)
        images = to_model_range(pictures[rows.sort().values.cpu().numpy()], accelerator.device)
        images = images.flip(-1) if step % 2 else images
        with accelerator.autocast():
            posterior = model.encode(images).latent_dist
            decoded = model.decode(posterior.sample(generator)).sample.float()
        edges = sum(F.l1_loss(a, b) for a, b in zip(gradients(decoded), gradients(images), strict=True))
        return (
            F.l1_loss(decoded, images)
            + 0.5 * edges
            + 1e-3 * posterior.kl().mean() / posterior.mean[0].numel()
        )

    @torch.inference_mode()
    def picture(step, averaged):
        images = to_model_range(shown, accelerator.device)
        decoded = averaged.decode(averaged.encode(images).latent_dist.mode()).sample.clamp(-1, 1)
        psnr = -10 * torch.log10((decoded - images).square().mean((1, 2, 3)) / 4).mean()
        save_sheet([*images, *decoded], stage.folder / f"reconstructions-{step:06}-{psnr:.1f}dB.png")

    stage.run(loss_of_step, picture)
    stage.ema.copy_to(stage.parameters)
    return model.eval().requires_grad_(False), stage
