"""The published architecture of CompVis/stable-diffusion-v1-4 with random weights: what it costs does not depend on them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from ..inversion import Trajectory
from ..modulation import image_differences, modulated_latents, shortened, signed_offsets
from ..pipeline import EmerDiffPipeline
from ..predictor import Predictor
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


def pipeline(dtype: torch.dtype, device: str | torch.device = "cpu") -> EmerDiffPipeline:
    """The pipeline without its text encoder; on the "meta" device it takes no memory."""
    with torch.device(device):
        unet, vae = UNet2DConditionModel(**UNET).to(dtype), AutoencoderKL(**VAE).to(dtype)
    parts = dict.fromkeys(("text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
    parts |= {"unet": unet.eval(), "vae": vae.eval(), "scheduler": PNDMScheduler(**SCHEDULER)}
    return EmerDiffPipeline.from_pipe(StableDiffusionPipeline(**parts, requires_safety_checker=False))


@torch.no_grad()
def modulation(settings: Settings, dtype: torch.dtype, device: str | torch.device) -> Callable[[], object]:
    """Modulated denoising and decoding at 512 × 512 of all masks in one batch, to be run; masks are bands of rows.

    Images are decoded one at a time: one alone fills a CPU's caches many times over.
    """
    pipe = pipeline(dtype, device)
    config, device = pipe.denoiser.config, pipe.backbone.device
    side, t_m = config.sample_size, settings.modulation_timestep
    prompt = torch.randn(1, 77, config.cross_attention_dim, dtype=dtype, device=device)
    predictor = Predictor(pipe.backbone, {"encoder_hidden_states": prompt}, 50)
    clean = torch.randn(1, config.in_channels, side, side, device=device)
    steps = [t for t in predictor.timesteps if t <= t_m]
    trajectory = Trajectory("ddpm", steps, dict.fromkeys(steps, clean), clean, len(predictor.timesteps))
    visited = shortened(steps, t_m, settings.denoising_steps)
    count = settings.num_parts or settings.num_masks
    grid = pipe.backbone.grid(settings.feature_layer, side, side)
    bands = torch.arange(grid[0], device=device)[:, None].expand(grid) % count
    masks = bands == torch.arange(count, device=device)[:, None, None]
    offsets = signed_offsets(masks, settings.modulation_strength, settings.one_sided)

    def decode(rows: torch.Tensor) -> torch.Tensor:
        return torch.cat([pipe.backbone.decode(row) for row in rows.split(1)])

    @torch.no_grad()
    def run():
        latents = modulated_latents(predictor, trajectory, offsets, settings, visited)
        return image_differences(latents, decode, settings)

    return run
