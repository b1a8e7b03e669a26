"""The two stages of training: the autoencoder, by L1 of the image, of its gradients, and a little KL; then, in its latents, the
network that denoises together with its text encoders.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import AutoencoderKL
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import make_image_grid
from tqdm.auto import tqdm

from .architecture import Model
from .config import Config
from .loop import Progress, train
from .packaging import export
from .sources import Source


def train_autoencoder(
    config: Config, accelerator: Accelerator, vae: AutoencoderKL, source: Source
) -> Progress:
    """L1 of the image + 0.5 · L1 of its gradients + 0.001 · KL; the autoencoder ends averaged and frozen."""
    samples = source.held_out[0] if len(source.held_out[0]) else source.epoch(0)
    samples, device = samples[:16].copy(), accelerator.device

    def loss_of_step(step, generator):
        images = source.epoch(source.epoch_at(step, config.batch_size))
        rows = torch.randint(len(images), (config.batch_size,), generator=generator, device=device)
        batch = to_model_range(images[rows.sort().values.cpu().numpy()], device)
        batch = batch.flip(-1) if step % 2 else batch
        with accelerator.autocast():
            posterior = vae.encode(batch).latent_dist
            decoded = vae.decode(posterior.sample(generator)).sample.float()
        edges = sum(F.l1_loss(decoded.diff(dim=axis), batch.diff(dim=axis)) for axis in (-1, -2))
        divergence = posterior.kl().mean() / posterior.mean[0].numel()
        return F.l1_loss(decoded, batch) + 0.5 * edges + 1e-3 * divergence

    @torch.inference_mode()
    def report(step):
        images = to_model_range(samples, device)
        decoded = vae.decode(vae.encode(images).latent_dist.mode()).sample.clamp(-1, 1)
        psnr = -10 * torch.log10((decoded - images).square().mean((1, 2, 3)) / 4).mean()
        sheet = VaeImageProcessor().postprocess(torch.cat([images, decoded]))
        path = config.output / "autoencoder" / f"reconstructions-{step:06}.png"
        make_image_grid(sheet, 2, len(images)).save(path)
        return {"reconstruction in dB": round(psnr.item(), 1)}

    steps, rate = config.autoencoder_steps, config.autoencoder_learning_rate
    progress = train("autoencoder", config, accelerator, [vae], steps, rate, 1e-4, loss_of_step, report)
    vae.requires_grad_(False)
    return progress


@torch.inference_mode()
def encode(vae: AutoencoderKL, images: np.ndarray, accelerator: Accelerator) -> torch.Tensor:
    """(N, 2, C, h, w) float16 means and standard deviations of images' latents, on the CPU."""
    parts = []
    for start in tqdm(range(0, len(images), 64), desc="latents", leave=False):
        with accelerator.autocast():
            batched = to_model_range(images[start : start + 64], accelerator.device)
            posterior = vae.encode(batched).latent_dist
        parts.append(torch.stack([posterior.mean, posterior.std], 1).half().cpu())
    return torch.cat(parts)


def to_model_range(images: np.ndarray, device: torch.device) -> torch.Tensor:
    """(B, H, W, 3) uint8 → (B, 3, H, W) float in [-1, 1], channels last in memory."""
    floats = torch.from_numpy(np.array(images)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    return floats.contiguous(memory_format=torch.channels_last)


def train_denoiser(config: Config, accelerator: Accelerator, model: Model, source: Source) -> Progress:
    """In latents of deviation 1; most timesteps from [0, 1000), some from [0, 400). The networks end averaged."""
    vae, device = model.vae, accelerator.device
    options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    tokens_of = lambda captions: model.tokenizer(captions, **options).input_ids.to(device)  # (N, 64)
    tokens, empty = tokens_of(source.captions), tokens_of([""])

    @lru_cache(maxsize=1)
    def latents(number):
        """Means and deviations of an epoch's latents, (N, 2, C, h, w) float16 on the device."""
        return encode(vae, source.epoch(number), accelerator).to(device)

    deviation = latents(0)[:2000, 0].float().std().item()
    vae.register_to_config(scaling_factor=1 / deviation)  # as Stable Diffusion's autoencoder has it

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
            return model.loss(clean, noise, timesteps, torch.where(dropped[:, None], empty, tokens))

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
        pipeline = model.pipeline()
        pipeline.set_progress_bar_config(disable=True)
        options = {"guidance_scale": 3.0, "generator": torch.Generator().manual_seed(0)}
        with accelerator.autocast():
            samples = pipeline(prompts, num_inference_steps=20, **options).images
        make_image_grid(samples, 1, len(samples)).save(config.output / "denoiser" / f"samples-{step:06}.png")
        export(config.output / "model", model)
        return measures

    modules = list(model.networks.values())
    rate = config.learning_rate
    return train("denoiser", config, accelerator, modules, config.steps, rate, 1e-2, loss_of_step, report)
