"""Tiny random checkpoints of published layouts, FLUX.1, PixArt, Sana, Qwen-Image and AuraFlow, saved by their own pipelines.

Block types, token layouts, encoders and schedulers are the published ones'; widths, depths and numbers of words are small.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import diffusers
import torch
import transformers

from .tiny_stable_diffusion import autoencoder, t5, text_config, tokenizer, vocabulary

SMALL = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
JOINT = dict(num_layers=3, num_attention_heads=2, attention_head_dim=16, joint_attention_dim=32)
JOINT |= dict(axes_dims_rope=(4, 6, 6))
SIDE = 16  # of the latents that they claim to be trained on
SHIFTING = dict(
    use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256, max_image_seq_len=4096
)


def flux(folder: Path, guidance: bool = True) -> diffusers.DiffusionPipeline:
    """dev, or without guidance schnell, whose noise is not shifted."""
    words, tokenizer_2 = t5(folder / "tokenizer_2", 32)
    noise = SHIFTING | {"shift": 3.0} if guidance else {"shift": 1.0}
    return diffusers.FluxPipeline(
        transformer=diffusers.FluxTransformer2DModel(
            **JOINT,
            in_channels=64,
            num_single_layers=2,
            pooled_projection_dim=64,
            guidance_embeds=guidance,
        ),
        vae=autoencoder(SIDE, 16),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**noise),
        text_encoder=transformers.CLIPTextModel(text_config(64)),
        tokenizer=tokenizer(folder / "tokenizer"),
        text_encoder_2=words,
        tokenizer_2=tokenizer_2,
    )


def pixart(folder: Path, alpha: bool = False) -> diffusers.DiffusionPipeline:
    """Σ, or α, which is conditioned on the image's size."""
    words, tokens = t5(folder / "tokenizer", 32)
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=128 if alpha else SIDE,
        in_channels=4,
        out_channels=8,
        num_layers=4,
        num_attention_heads=4,
        attention_head_dim=12,
        cross_attention_dim=48,
        caption_channels=32,
        use_additional_conditions=alpha,
        interpolation_scale=1,
    )
    parts = dict(tokenizer=tokens, text_encoder=words, vae=autoencoder(SIDE, 4), transformer=transformer)
    scheduler = diffusers.DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02)
    kind = diffusers.PixArtAlphaPipeline if alpha else diffusers.PixArtSigmaPipeline
    return kind(scheduler=scheduler, **parts)


def sana(folder: Path) -> diffusers.DiffusionPipeline:
    _, tokens = t5(folder / "tokenizer", 32)
    blocks = dict(block_types=("ResBlock", "EfficientViTBlock"), block_out_channels=(8, 8))
    blocks |= dict(layers_per_block=(1, 1), qkv_multiscales=((), (5,)))
    vae = diffusers.AutoencoderDC(
        **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in blocks.items()},
        in_channels=3,
        latent_channels=8,
        attention_head_dim=4,
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )
    transformer = diffusers.SanaTransformer2DModel(
        sample_size=SIDE,
        patch_size=1,
        in_channels=8,
        out_channels=8,
        num_layers=3,
        num_attention_heads=4,
        attention_head_dim=8,
        num_cross_attention_heads=4,
        cross_attention_head_dim=8,
        cross_attention_dim=32,
        caption_channels=32,
    )
    gemma = transformers.Gemma2Config(**SMALL, vocab_size=len(tokens), num_key_value_heads=1, head_dim=16)
    flow = dict(use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction")
    scheduler = diffusers.DPMSolverMultistepScheduler(**flow)
    return diffusers.SanaPipeline(tokens, transformers.Gemma2Model(gemma), vae, transformer, scheduler)


def qwen_image(folder: Path) -> diffusers.DiffusionPipeline:
    ids, merges = vocabulary()
    text = SMALL | dict(
        vocab_size=len(ids) + 3,
        num_key_value_heads=2,
        rope_parameters={"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6},
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
    )
    vision = dict(depth=1, hidden_size=32, intermediate_size=32, num_heads=2, out_hidden_size=32)
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    return diffusers.QwenImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**SHIFTING, shift=1.0, shift_terminal=0.02),
        vae=diffusers.AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            latents_mean=[0.1, 0.2, 0.0, -0.1],
            latents_std=[1.0, 1.5, 2.0, 0.5],
        ),
        text_encoder=transformers.Qwen2_5_VLForConditionalGeneration(config),
        tokenizer=transformers.Qwen2Tokenizer(vocab=ids, merges=[tuple(merge.split()) for merge in merges]),
        transformer=diffusers.QwenImageTransformer2DModel(**JOINT, in_channels=16, out_channels=4),
    )


def aura_flow(folder: Path) -> diffusers.DiffusionPipeline:
    words, tokens = t5(folder / "tokenizer", 32)
    transformer = diffusers.AuraFlowTransformer2DModel(
        sample_size=SIDE,
        num_mmdit_layers=3,
        num_single_dit_layers=2,
        num_attention_heads=2,
        attention_head_dim=16,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pos_embed_max_size=256,
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.73)
    return diffusers.AuraFlowPipeline(tokens, words, autoencoder(SIDE, 4), transformer, scheduler)


LAYOUTS: dict[str, Callable[..., diffusers.DiffusionPipeline]] = {
    "FLUX.1": flux,
    "FLUX.1 schnell": lambda folder: flux(folder, guidance=False),
    "PixArt": pixart,
    "PixArt-α": lambda folder: pixart(folder, alpha=True),
    "Sana": sana,
    "Qwen-Image": qwen_image,
    "AuraFlow": aura_flow,
}


def save(folder: Path | str, layout: str, seed: int = 0, **default_settings) -> Path:
    """Write a checkpoint into ``folder`` in safetensors, weights from ``seed``, and return the folder.

    ``default_settings`` are EmerDiff's, kept with the checkpoint.
    """
    folder = Path(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = LAYOUTS[layout](folder)
    if default_settings:
        pipeline.register_to_config(default_settings=default_settings)
    pipeline.save_pretrained(folder)
    return folder
