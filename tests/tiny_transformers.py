"""Tiny random checkpoints of published layouts, from FLUX.1 to Z-Image, saved by their own pipelines.

Block types, token layouts, encoders and schedulers are the published ones'; widths, depths and numbers of words are small.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import diffusers
import torch
import transformers

from .tiny_stable_diffusion import autoencoder, t5, text_config, tokenizer, vocabulary

SIDE = 16  # of the latents that they claim to be trained on
SMALL = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
HEADS, ROPE = dict(num_attention_heads=2, attention_head_dim=16), (4, 6, 6)
JOINT = HEADS | dict(num_layers=3, joint_attention_dim=32, axes_dims_rope=ROPE)
SHIFTING = dict(base_shift=0.5, max_shift=1.15, base_image_seq_len=256, max_image_seq_len=4096)
SHIFTING |= dict(use_dynamic_shifting=True)
flow = diffusers.FlowMatchEulerDiscreteScheduler


def qwen_tokenizer() -> transformers.Qwen2Tokenizer:
    ids, merges = vocabulary()
    said = "{% for message in messages %}{{ message.role }} {{ message.content }} {% endfor %}"
    said += "{% if add_generation_prompt %}assistant{% endif %}{% if enable_thinking %}:{% endif %}"
    merges = [tuple(merge.split()) for merge in merges]
    return transformers.Qwen2Tokenizer(vocab=ids, merges=merges, chat_template=said)


def gemma(tokens: transformers.T5Tokenizer) -> transformers.Gemma2Model:
    config = SMALL | dict(vocab_size=len(tokens), num_key_value_heads=1, head_dim=16)
    return transformers.Gemma2Model(transformers.Gemma2Config(**config))


def flux(folder: Path, guidance: bool = True) -> diffusers.DiffusionPipeline:
    """dev, or without guidance schnell, whose noise is not shifted."""
    words, tokens = t5(folder / "tokenizer_2", 32)
    sizes = JOINT | dict(in_channels=64, num_single_layers=2, pooled_projection_dim=64)
    return diffusers.FluxPipeline(
        transformer=diffusers.FluxTransformer2DModel(**sizes, guidance_embeds=guidance),
        vae=autoencoder(SIDE, 16),
        scheduler=flow(**(SHIFTING | {"shift": 3.0} if guidance else {"shift": 1.0})),
        text_encoder=transformers.CLIPTextModel(text_config(64)),
        tokenizer=tokenizer(folder / "tokenizer"),
        text_encoder_2=words,
        tokenizer_2=tokens,
    )


def pixart(folder: Path, alpha: bool = False) -> diffusers.DiffusionPipeline:
    """Σ, or α, which is conditioned on the image's size."""
    words, tokens = t5(folder / "tokenizer", 32)
    sizes = dict(num_layers=4, num_attention_heads=4, attention_head_dim=12, cross_attention_dim=48)
    sizes |= dict(in_channels=4, out_channels=8, caption_channels=32, sample_size=128 if alpha else SIDE)
    other = dict(use_additional_conditions=alpha, interpolation_scale=1)
    parts = dict(tokenizer=tokens, text_encoder=words, vae=autoencoder(SIDE, 4))
    parts |= dict(transformer=diffusers.PixArtTransformer2DModel(**sizes, **other))
    parts |= dict(scheduler=diffusers.DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02))
    return (diffusers.PixArtAlphaPipeline if alpha else diffusers.PixArtSigmaPipeline)(**parts)


def sana(folder: Path) -> diffusers.DiffusionPipeline:
    _, tokens = t5(folder / "tokenizer", 32)
    blocks = dict(block_types=("ResBlock", "EfficientViTBlock"), block_out_channels=(8, 8))
    blocks |= dict(layers_per_block=(1, 1), qkv_multiscales=((), (5,)))
    vae = diffusers.AutoencoderDC(
        **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in blocks.items()},
        **dict(in_channels=3, latent_channels=8, attention_head_dim=4, scaling_factor=0.41407),
        **dict(downsample_block_type="conv", upsample_block_type="interpolate"),
        **dict(decoder_norm_types="rms_norm", decoder_act_fns="silu"),
    )
    sizes = dict(num_layers=3, num_attention_heads=4, attention_head_dim=8, sample_size=SIDE, patch_size=1)
    sizes |= dict(num_cross_attention_heads=4, cross_attention_head_dim=8, cross_attention_dim=32)
    transformer = diffusers.SanaTransformer2DModel(
        **sizes, in_channels=8, out_channels=8, caption_channels=32
    )
    noise = dict(use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction")
    scheduler = diffusers.DPMSolverMultistepScheduler(**noise)
    return diffusers.SanaPipeline(tokens, gemma(tokens), vae, transformer, scheduler)


def qwen_image(folder: Path) -> diffusers.DiffusionPipeline:
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6}
    text = SMALL | dict(num_key_value_heads=2, rope_parameters=rope, vocab_size=len(vocabulary()[0]) + 3)
    text |= dict(pad_token_id=0, bos_token_id=0, eos_token_id=0)
    vision = dict(depth=1, hidden_size=32, intermediate_size=32, num_heads=2, out_hidden_size=32)
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    sizes = dict(base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    sizes |= dict(latents_mean=[0.1, 0.2, 0.0, -0.1], latents_std=[1.0, 1.5, 2.0, 0.5])
    return diffusers.QwenImagePipeline(
        scheduler=flow(**SHIFTING, shift=1.0, shift_terminal=0.02),
        vae=diffusers.AutoencoderKLQwenImage(**sizes, temperal_downsample=[False, True, True]),
        text_encoder=transformers.Qwen2_5_VLForConditionalGeneration(config),
        tokenizer=qwen_tokenizer(),
        transformer=diffusers.QwenImageTransformer2DModel(**JOINT, in_channels=16, out_channels=4),
    )


def aura_flow(folder: Path) -> diffusers.DiffusionPipeline:
    words, tokens = t5(folder / "tokenizer", 32)
    sizes = HEADS | dict(num_mmdit_layers=3, num_single_dit_layers=2, sample_size=SIDE)
    sizes |= dict(joint_attention_dim=32, caption_projection_dim=32, pos_embed_max_size=256)
    transformer = diffusers.AuraFlowTransformer2DModel(**sizes)
    return diffusers.AuraFlowPipeline(tokens, words, autoencoder(SIDE, 4), transformer, flow(shift=1.73))


def hunyuan_dit(folder: Path) -> diffusers.DiffusionPipeline:
    """1.1, which is conditioned on sizes and a style, as 1.2 no longer is."""
    words, tokens = t5(folder / "tokenizer_2", 32)
    ids = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "tree"])}
    sizes = HEADS | dict(num_layers=6, hidden_size=32, sample_size=SIDE, patch_size=2, in_channels=4)
    sizes |= dict(cross_attention_dim=32, cross_attention_dim_t5=32, pooled_projection_dim=32)
    noise = dict(beta_start=0.00085, beta_end=0.03, beta_schedule="scaled_linear")
    return diffusers.HunyuanDiTPipeline(
        vae=autoencoder(SIDE, 4),
        transformer=diffusers.HunyuanDiT2DModel(**sizes),
        scheduler=diffusers.DDPMScheduler(**noise, prediction_type="v_prediction"),
        text_encoder=transformers.BertModel(transformers.BertConfig(**SMALL, vocab_size=len(ids))),
        tokenizer=transformers.BertTokenizer(vocab=ids, model_max_length=77),
        text_encoder_2=words,
        tokenizer_2=tokens,
        **dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False),
    )


def z_image(folder: Path) -> diffusers.DiffusionPipeline:
    sizes = dict(dim=32, n_layers=3, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=32)
    transformer = diffusers.ZImageTransformer2DModel(**sizes, axes_dims=ROPE, axes_lens=(1024, 64, 64))
    text = transformers.Qwen3Config(
        **SMALL, num_key_value_heads=1, head_dim=16, vocab_size=len(vocabulary()[0]) + 3
    )
    parts = autoencoder(SIDE, 16), transformers.Qwen3Model(text), qwen_tokenizer(), transformer
    return diffusers.ZImagePipeline(flow(shift=3.0), *parts)


def lumina2(folder: Path) -> diffusers.DiffusionPipeline:
    _, tokens = t5(folder / "tokenizer", 32)
    sizes = dict(num_layers=3, num_refiner_layers=1, num_attention_heads=2, num_kv_heads=1, sample_size=SIDE)
    sizes |= dict(hidden_size=32, cap_feat_dim=32, multiple_of=32, axes_dim_rope=ROPE)
    parts = flow(shift=6.0), autoencoder(SIDE, 16), gemma(tokens), tokens
    return diffusers.Lumina2Pipeline(diffusers.Lumina2Transformer2DModel(**sizes), *parts)


LAYOUTS: dict[str, Callable[..., diffusers.DiffusionPipeline]] = {
    "FLUX.1": flux,
    "FLUX.1 schnell": lambda folder: flux(folder, guidance=False),
    "PixArt": pixart,
    "PixArt-α": lambda folder: pixart(folder, alpha=True),
    "Sana": sana,
    "Qwen-Image": qwen_image,
    "AuraFlow": aura_flow,
    "HunyuanDiT": hunyuan_dit,
    "Z-Image": z_image,
    "Lumina-Image 2": lumina2,
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
