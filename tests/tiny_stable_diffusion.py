"""A tiny random checkpoint of the true Stable Diffusion 1.x layout, as a diffusers folder: what a user's own model looks like.

Everything that code can trip over is Stable Diffusion's: the block types and layers per block, 4 latent channels at an
eighth of the picture's side, 16 cross-attention layers of 8 heads over 77 tokens of 768 numbers, a PNDM scheduler, CLIP's
byte-level vocabulary files. Only widths, depths and the number of words are small, so that it is made in a second, takes
less than 60 MB, and segments a picture of 64 × 64 pixels in another.
"""

from __future__ import annotations

import json
from pathlib import Path

import diffusers
import sentencepiece
import torch
import transformers
from diffusers.pipelines.kolors import ChatGLMModel, ChatGLMTokenizer
from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig
from tokenizers.pre_tokenizers import ByteLevel

TEXT = "a picture of the and sky mountain road house roof tree car boat day"
WIDTHS = (32, 64, 64, 64)  # Stable Diffusion: 320, 640, 1280, 1280; its norms want multiples of 32


def vocabulary() -> tuple[dict[str, int], list[str]]:
    """Token ids and merges of a byte-level BPE, as CLIP's: bytes, bytes that end a word, merges, two special tokens."""
    symbols = sorted(ByteLevel.alphabet())  # printable stand-ins for the 256 bytes
    tokens, merges = symbols + [symbol + "</w>" for symbol in symbols], []
    for word in TEXT.split():
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:  # left to right: r o a d</w>, ro a d</w>, roa d</w>, road</w>
            joined = parts[0] + parts[1]
            if joined not in tokens:
                tokens.append(joined)
                merges.append(f"{parts[0]} {parts[1]}")
            parts = [joined, *parts[2:]]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: index for index, token in enumerate(tokens)}, merges


def tokenizer(folder: Path) -> transformers.CLIPTokenizer:
    """From ``vocab.json`` and ``merges.txt``, which are written into ``folder`` (made if missing)."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens, merges = vocabulary()
    (folder / "vocab.json").write_text(json.dumps(tokens))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    return transformers.CLIPTokenizer.from_pretrained(folder, model_max_length=77)


XL = dict(  # no attention on the finest grid, deep attention on the others; told a pooled text and sizes
    block_out_channels=WIDTHS[:3],
    cross_attention_dim=128,
    attention_head_dim=(1, 2, 4),
    transformer_layers_per_block=(1, 2, 3),  # Stable Diffusion XL: 1, 2, 10
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=8,
    projection_class_embeddings_input_dim=64 + 6 * 8,  # 1280 + 6 · 256
    down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
    up_block_types=("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",),
)
JOINT = dict(
    cross_attention_dim=64,
    attention_head_dim=16,
    resnet_time_scale_shift="scale_shift",
    down_block_types=("ResnetDownsampleBlock2D",) + ("SimpleCrossAttnDownBlock2D",) * 3,
    mid_block_type="UNetMidBlock2DSimpleCrossAttn",
    up_block_types=("SimpleCrossAttnUpBlock2D",) * 3 + ("ResnetUpsampleBlock2D",),
)
# What the U-Nets of relatives of Stable Diffusion 1.x, and 3's transformers, have otherwise
LAYOUTS: dict[str, dict] = {
    "1.x": {},
    # linear projections, heads by level; predicts v in the 768-pixel model
    "2.x": dict(use_linear_projection=True, attention_head_dim=(1, 2, 4, 4), cross_attention_dim=1024),
    # distilled: three levels of one layer, and no middle
    "tiny-sd": dict(block_out_channels=WIDTHS[:3], layers_per_block=1, mid_block_type=None)
    | dict(down_block_types=("CrossAttnDownBlock2D",) * 3, up_block_types=("CrossAttnUpBlock2D",) * 3),
    "XL": XL,
    "SSD-1B": XL  # distilled from XL: depths of every attention, up and down alike no more, none in the middle
    | dict(
        transformer_layers_per_block=(1, (2, 2), (3, 3)),
        reverse_transformer_layers_per_block=((3, 3, 4), (2, 1, 1), 1),
        mid_block_type="UNetMidBlock2D",
    ),
    "Kolors": XL  # ChatGLM's words, projected to the width of XL's
    | dict(
        encoder_hid_dim=32, encoder_hid_dim_type="text_proj", projection_class_embeddings_input_dim=32 + 6 * 8
    ),
    "Kandinsky 2.2": JOINT  # unCLIP: joint attention to places and an image's tokens; learns variances besides
    | dict(
        out_channels=8, encoder_hid_dim=48, encoder_hid_dim_type="image_proj", addition_embed_type="image"
    ),
    "IF": JOINT  # of pixels: no autoencoder, T5's words
    | dict(in_channels=3, out_channels=6, cross_attention_norm="group_norm", act_fn="gelu")
    | dict(encoder_hid_dim=32, encoder_hid_dim_type="text_proj")
    | dict(addition_embed_type="text", addition_embed_type_num_heads=4),
    # a transformer with joint attention; without T5, as many run it
    "3": dict(num_layers=4, attention_head_dim=16, num_attention_heads=4),
    # norms of queries and keys, self-attention besides in the first blocks, T5's words
    "3.5": dict(num_layers=5, attention_head_dim=16, num_attention_heads=4)
    | dict(qk_norm="rms_norm", dual_attention_layers=(0, 1)),
    "LCM": dict(time_cond_proj_dim=16),  # knows the strength of guidance, if it is told
}
NOISE = {  # of their schedulers
    "2.x": dict(prediction_type="v_prediction"),
    "Kandinsky 2.2": dict(beta_schedule="linear", variance_type="learned_range"),
    "IF": dict(beta_schedule="squaredcos_cap_v2", variance_type="learned_range"),
}
# Of a token; otherwise 768
TEXT_WIDTHS = {"2.x": 1024, "XL": 64, "SSD-1B": 64, "Kolors": 0, "Kandinsky 2.2": 0, "IF": 0}


def networks(sample_size: int = 32, layout: str = "1.x") -> tuple:
    """U-Net or transformer, VAE and text encoder or None in the default dtype, from torch's present random state."""
    other, width = LAYOUTS[layout], TEXT_WIDTHS.get(layout, 768)
    if layout.startswith("3"):
        return transformer(sample_size, **other), autoencoder(sample_size, 16), None
    sizes = dict(sample_size=sample_size, in_channels=4, out_channels=4, block_out_channels=WIDTHS)
    sizes |= dict(layers_per_block=2, cross_attention_dim=768, attention_head_dim=8)
    sizes |= dict(down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",))
    sizes |= dict(up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3)
    unet = diffusers.UNet2DConditionModel(**sizes | other)
    vae = autoencoder(sample_size, 4)
    text_encoder = transformers.CLIPTextModel(text_config(width)) if width else None
    return unet, vae, text_encoder


def autoencoder(sample_size: int, channels: int) -> diffusers.AutoencoderKL:
    """Stable Diffusion 1's, or 3's with its 16 channels and a shift."""
    statistics = {4: dict(scaling_factor=0.18215), 16: dict(scaling_factor=1.5305, shift_factor=0.0609)}
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 16, 16, 16),
        norm_num_groups=8,
        layers_per_block=1,
        latent_channels=channels,
        sample_size=8 * sample_size,
        **statistics[channels],
    )


def transformer(sample_size: int, **other) -> diffusers.SD3Transformer2DModel:
    """Tokens of 2 × 2 latents, words of two CLIPs of 64 numbers and of T5's 160: Stable Diffusion 3's 768, 1280 and 4096."""
    sizes = dict(
        sample_size=sample_size, patch_size=2, in_channels=16, out_channels=16, pos_embed_max_size=48
    )
    sizes |= dict(joint_attention_dim=160, caption_projection_dim=64, pooled_projection_dim=128)
    return diffusers.SD3Transformer2DModel(**sizes | other)


def movq() -> diffusers.VQModel:
    return diffusers.VQModel(
        block_out_channels=(32, 32, 32, 32),  # its spatial norms want multiples of 32
        down_block_types=("DownEncoderBlock2D",) * 3 + ("AttnDownEncoderBlock2D",),
        up_block_types=("AttnUpDecoderBlock2D",) + ("UpDecoderBlock2D",) * 3,
        num_vq_embeddings=32,
        vq_embed_dim=4,
        latent_channels=4,
        norm_num_groups=8,
        norm_type="spatial",
    )


def pieces(file: Path, **ids: int) -> Path:
    """Writes sentencepiece's model (its folder is made if missing)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    limits = dict(vocab_size=60, hard_vocab_limit=False, minloglevel=2)
    with file.open("wb") as writer:
        train = sentencepiece.SentencePieceTrainer.train
        train(sentence_iterator=iter([TEXT] * 20), model_writer=writer, **limits, **ids)
    return file


def t5(folder: Path, width: int = 32) -> tuple[transformers.T5EncoderModel, transformers.T5Tokenizer]:
    """Text encoder, and a tokenizer from ``spiece.model``, which is written into ``folder`` (made if missing)."""
    pieces(folder / "spiece.model", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    tokenizer = transformers.T5Tokenizer.from_pretrained(folder, extra_ids=0, model_max_length=512)
    sizes = dict(d_model=width, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    return transformers.T5EncoderModel(transformers.T5Config(vocab_size=len(tokenizer), **sizes)), tokenizer


def chat_glm(folder: Path) -> tuple[ChatGLMModel, ChatGLMTokenizer]:
    tokens = ChatGLMTokenizer(str(pieces(folder / "tokenizer.model")))
    sizes = dict(num_layers=2, hidden_size=32, ffn_hidden_size=32, kv_channels=8, num_attention_heads=4)
    config = ChatGLMConfig(**sizes, padded_vocab_size=len(tokens), seq_length=256, original_rope=True)
    model = ChatGLMModel(config)
    for weights in model.parameters():  # it leaves them as memory is
        torch.nn.init.normal_(weights, std=0.2)
    return model, tokens


def text_config(width: int) -> transformers.CLIPTextConfig:
    ids = vocabulary()[0]
    return transformers.CLIPTextConfig(
        vocab_size=len(ids),
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=2,
        num_attention_heads=width // 64,
        max_position_embeddings=77,
        hidden_act="quick_gelu",
        projection_dim=width,
        bos_token_id=ids["<|startoftext|>"],
        eos_token_id=ids["<|endoftext|>"],
    )


def save(folder: Path | str, sample_size: int = 32, seed: int = 0, layout: str = "1.x", **default_settings):
    """Write the checkpoint into ``folder`` in safetensors, weights from ``seed``, and return the folder.

    Args:
        sample_size: side of the latents that the U-Net's config claims to be trained on; pictures are processed at eight
            times that many pixels. 32 is half of Stable Diffusion's: 8 × 8 cells in the paper's block instead of 16 × 16.
        layout: one of :data:`LAYOUTS`.
        **default_settings: EmerDiff's, kept with the checkpoint as a fine-tune would keep its own; published ones have none.
    """
    folder = Path(folder)
    noise = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    noise |= NOISE.get(layout, {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet, vae, text_encoder = networks(sample_size, layout)
        second, vq = transformers.CLIPTextModelWithProjection(text_config(64)), movq()
        torch.manual_seed(seed)
        if layout == "Kandinsky 2.2":
            pipeline = diffusers.KandinskyV22Pipeline(unet, diffusers.DDPMScheduler(**noise), vq)
        elif layout == "IF":
            words, tokens = t5(folder / "tokenizer")
            parts = dict(safety_checker=None, feature_extractor=None, watermarker=None)
            parts |= dict(scheduler=diffusers.DDPMScheduler(**noise), requires_safety_checker=False)
            pipeline = diffusers.IFPipeline(tokens, words, unet, **parts)
        elif layout == "Kolors":
            words = chat_glm(folder / "tokenizer")
            pipeline = diffusers.KolorsPipeline(vae, *words, unet, diffusers.EulerDiscreteScheduler(**noise))
        elif layout.startswith("3"):
            third, tokens = t5(folder / "tokenizer_3", 160) if layout == "3.5" else (None, None)
            words = [transformers.CLIPTextModelWithProjection(text_config(64)) for _ in range(2)]
            pipeline = diffusers.StableDiffusion3Pipeline(
                **dict(transformer=unet, vae=vae, text_encoder_3=third, tokenizer_3=tokens),
                scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
                **dict(text_encoder=words[0], tokenizer=tokenizer(folder / "tokenizer")),
                **dict(text_encoder_2=words[1], tokenizer_2=tokenizer(folder / "tokenizer_2")),
            )
        else:
            steps = dict(set_alpha_to_one=False, skip_prk_steps=True, steps_offset=1)
            parts = dict(
                vae=vae,
                unet=unet,
                text_encoder=text_encoder,
                tokenizer=tokenizer(folder / "tokenizer"),
                scheduler=diffusers.PNDMScheduler(**steps, **noise),
                feature_extractor=None,
            )
            if unet.config.addition_embed_type:
                parts |= dict(text_encoder_2=second, tokenizer_2=tokenizer(folder / "tokenizer_2"))
                pipeline = diffusers.StableDiffusionXLPipeline(**parts)
            else:
                parts |= dict(safety_checker=None, requires_safety_checker=False)
                pipeline = diffusers.StableDiffusionPipeline(**parts)
    if default_settings:
        pipeline.register_to_config(default_settings=default_settings)
    pipeline.save_pretrained(folder)
    for name in ("tokenizer", "tokenizer_2"):  # as published: vocab.json and merges.txt or spiece.model alone
        (folder / name / "tokenizer.json").unlink(missing_ok=True)
    return folder
