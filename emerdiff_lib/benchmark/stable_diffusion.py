"""The published architecture of CompVis/stable-diffusion-v1-4 with random weights: what it costs does not depend on them."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from ..denoiser import Denoiser

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
    return Denoiser(unet, PNDMScheduler(**SCHEDULER).config, prompt, num_inference_steps)
