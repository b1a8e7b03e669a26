"""The published architecture of CompVis/stable-diffusion-v1-4 with random weights: what it costs does not depend on them."""

from __future__ import annotations

import pandas as pd
import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from .. import checkpoints
from ..attention import layer_grid
from ..conditioning import Conditioning
from ..denoiser import Denoiser
from ..inversion import Trajectory
from ..modulation import Decode, difference_maps
from ..settings import Settings
from .costs import Cost, Machine, modulation_cost, run_times
from .measure import NAME_OF_MODE
from .peak import PeakMemory

UNET = dict(
    sample_size=64,
    in_channels=4,
    out_channels=4,
    block_out_channels=(320, 640, 1280, 1280),
    layers_per_block=2,
    cross_attention_dim=768,
    attention_head_dim=8,
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
)
VAE = dict(
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    block_out_channels=(128, 256, 512, 512),
    layers_per_block=2,
    latent_channels=4,
    sample_size=512,
    scaling_factor=0.18215,
)
TEXT = dict(
    vocab_size=49408,
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    max_position_embeddings=77,
    hidden_act="quick_gelu",
    projection_dim=768,
    bos_token_id=49406,
    eos_token_id=49407,
)
SCHEDULER = dict(
    num_train_timesteps=1000,
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    set_alpha_to_one=False,
    skip_prk_steps=True,
    steps_offset=1,
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


def text_encoder() -> CLIPTextModel:
    """In the default dtype."""
    return CLIPTextModel(CLIPTextConfig(**TEXT))


def denoiser(unet: UNet2DConditionModel, num_inference_steps: int = 50) -> Denoiser:
    """With a random text embedding of the usual 77 tokens."""
    prompt = torch.randn(1, 77, UNET["cross_attention_dim"], dtype=unet.dtype, device=unet.device)
    return Denoiser(unet, PNDMScheduler(**SCHEDULER).config, Conditioning(prompt), num_inference_steps)


def decoder(vae: AutoencoderKL) -> Decode:
    """Latents (B, 4, h, w) → images, one at a time: at 512 × 512, one fills a CPU's caches many times over."""
    factor = vae.config.scaling_factor
    return lambda rows: torch.cat([vae.decode((row / factor).to(vae.dtype)).sample for row in rows.split(1)])


def published_settings(unet: UNet2DConditionModel, vae: AutoencoderKL) -> Settings:
    """The paper's for this architecture: K = 30, t_m = 281 …"""
    return checkpoints.resolve(unet.config, 2 ** (len(vae.config.block_out_channels) - 1), None)


@torch.no_grad()
def at_full_size(
    machine: Machine,
    num_masks: int = 2,
    timestep: int = 21,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    repeats: int = 1,
) -> pd.DataFrame:
    """Modulated denoising and decoding at 512 × 512: a small run measured, the paper's predicted.

    Args:
        num_masks, timestep: K and t_m of the run that is measured (two masks and two steps: a minute on two CPU cores).
        dtype: one that the machine was measured in.

    Returns:
        A row for the measured run, with its utilisation and peak memory, and one for the paper's K and t_m in every mode,
        whose "seconds" are the prediction scaled by how far off that was on the measured run.
    """
    unet, vae = networks(dtype, "meta")
    published = published_settings(unet, vae)
    small = published.replace(num_masks=num_masks, modulation_timestep=timestep)
    full = {name: published.replace(mode=mode) for mode, name in NAME_OF_MODE.items()}
    expected = predicted(small, unet, vae)
    costs = {name: predicted(each, unet, vae) for name, each in full.items()}
    seconds, steps, peak = _measured(small, dtype, torch.device(device), repeats)
    slack = seconds / expected.seconds(machine, dtype)
    rows = {
        f"measured, exact, K = {num_masks}, {steps} steps": {
            "TFLOP": expected.flops / 1e12,
            "predicted s": expected.seconds(machine, dtype),
            "seconds": seconds,
            "utilisation": expected.flops / seconds / machine.rate(dtype),
            "peak MiB": peak / 2**20,
        }
    }
    for name, cost in costs.items():
        k, t_m = published.features.num_masks, published.perturbation.modulation_timestep
        rows[f"predicted, {name}, K = {k}, t_m = {t_m}"] = {
            "TFLOP": cost.flops / 1e12,
            "predicted s": cost.seconds(machine, dtype),
            "seconds": slack * cost.seconds(machine, dtype),
        }
    return pd.DataFrame(rows).T.rename_axis("run")


def predicted(settings: Settings, unet: UNet2DConditionModel, vae: AutoencoderKL) -> Cost:
    """Modulated denoising of all masks in one batch, counted without computing it."""
    shape, grid = _sizes(settings, unet)
    masks = settings.assignment.num_parts or settings.features.num_masks
    return modulation_cost(
        denoiser(unet), decoder(vae), shape, grid, masks, settings.perturbation, masks, settings.shortcuts
    )


def _sizes(settings: Settings, unet: UNet2DConditionModel) -> tuple[tuple[int, int, int], tuple[int, int]]:
    """Shapes of the latents and of the grid of the masks."""
    side = unet.config.sample_size
    return (unet.config.in_channels, side, side), layer_grid(
        unet, settings.features.feature_layer, side, side
    )


def _measured(
    settings: Settings, dtype: torch.dtype, device: torch.device, repeats: int
) -> tuple[float, int, int]:
    """(seconds, steps, bytes of memory at the peak) of a run on bands of rows as masks."""
    unet, vae = networks(dtype, device)
    shape, grid = _sizes(settings, unet)
    whole, clean = denoiser(unet), torch.randn(1, *shape, device=device)
    steps = [t for t in whole.timesteps if t <= settings.perturbation.modulation_timestep]
    trajectory = Trajectory("ddpm", steps, dict.fromkeys(steps, clean), clean, len(whole.timesteps))
    count = settings.features.num_masks
    bands = torch.arange(grid[0])[:, None].expand(grid) % count
    masks = bands == torch.arange(count)[:, None, None]

    def run():
        difference_maps(
            whole, decoder(vae), [trajectory], [masks], settings.perturbation, settings.shortcuts, count
        )

    with PeakMemory(device) as peak:
        run()
    return min(run_times(run, repeats, device, warm_up=False)), len(steps), peak.bytes
