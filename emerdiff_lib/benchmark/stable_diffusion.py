"""The published architecture of CompVis/stable-diffusion-v1-4 with random weights: what it costs does not depend on them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel

from .. import checkpoints
from ..attention import layer_grid
from ..conditioning import Conditioning
from ..denoiser import Denoiser
from ..inversion import Trajectory
from ..modulation import image_differences, modulated_latents, shortened, signed_offsets
from ..settings import Settings

# Where they are not diffusers' defaults, which are those of this model otherwise
UNET = dict(sample_size=64, cross_attention_dim=768)
VAE = dict(
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    block_out_channels=(128, 256, 512, 512),
    layers_per_block=2,
    sample_size=512,
)
SCHEDULER = dict(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
)


def networks(
    dtype: torch.dtype, device: str | torch.device = "cpu"
) -> tuple[UNet2DConditionModel, AutoencoderKL]:
    """U-Net and VAE, in channels-last order as the pipeline keeps them; on the "meta" device they take no memory."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            parts = UNet2DConditionModel(**UNET), AutoencoderKL(**VAE)
    finally:
        torch.set_default_dtype(default)
    return tuple(part.requires_grad_(False).eval().to(memory_format=torch.channels_last) for part in parts)


def published_settings() -> Settings:
    """The paper's for this architecture: K = 30, t_m = 281 …"""
    unet, vae = networks(torch.bfloat16, "meta")
    return checkpoints.resolve(unet, 2 ** (len(vae.config.block_out_channels) - 1))


def modulation(settings: Settings, dtype: torch.dtype, device: str | torch.device) -> Callable[[], object]:
    """Modulated denoising and decoding at 512 × 512 of all masks in one batch, to be run; masks are bands of rows.

    Images are decoded one at a time: one alone fills a CPU's caches many times over.
    """
    unet, vae = networks(dtype, device)
    side, perturbation = unet.config.sample_size, settings.perturbation
    prompt = torch.randn(1, 77, unet.config.cross_attention_dim, dtype=dtype, device=device)
    denoiser = Denoiser(unet, PNDMScheduler(**SCHEDULER).config, Conditioning(prompt), 50)
    clean = torch.randn(1, unet.config.in_channels, side, side, device=device)
    steps = [t for t in denoiser.timesteps if t <= perturbation.modulation_timestep]
    trajectory = Trajectory("ddpm", steps, dict.fromkeys(steps, clean), clean, len(denoiser.timesteps))
    visited = shortened(steps, perturbation.modulation_timestep, settings.shortcuts.denoising_steps)
    masks = settings.assignment.num_parts or settings.features.num_masks
    grid = layer_grid(unet, settings.features.feature_layer, side, side)
    bands = torch.arange(grid[0], device=device)[:, None].expand(grid) % masks
    offsets = signed_offsets(
        bands == torch.arange(masks, device=device)[:, None, None],
        perturbation.modulation_strength,
        settings.shortcuts.one_sided,
    )

    def decode(rows: torch.Tensor) -> torch.Tensor:
        return torch.cat(
            [vae.decode((row / vae.config.scaling_factor).to(dtype)).sample for row in rows.split(1)]
        )

    @torch.no_grad()
    def run():
        rows = modulated_latents(denoiser, [trajectory], offsets, perturbation, visited)
        return image_differences(rows, decode, settings.shortcuts)

    return run
