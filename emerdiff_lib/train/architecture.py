"""The components of a small model: those of Stable Diffusion, with a word-level tokenizer.

The U-Net's thin top level (24 channels, one layer) is deliberate: whatever needs context has to be understood at 16 × 16,
where EmerDiff looks (see the model card).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, PreTrainedTokenizerFast

UNKNOWN, BEGIN, END = "<unknown>", "<begin>", "<end>"
# Of models whose texts are read at their end: transformers takes an end of number 2 for an old config's, and reads such texts at
# their highest token
SPECIAL = (UNKNOWN, BEGIN, "<unused>", END)
MAX_TOKENS = 64
TEXT_WIDTHS = (64, 32)  # of a transformer's two text encoders
NOISE_SCHEDULE = dict(
    num_train_timesteps=1000,
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    steps_offset=1,
)  # Stable Diffusion's


def words_of(captions: Iterable[str]) -> list[str]:
    """All words of some captions, sorted, as :func:`build_tokenizer` takes them: lower case, commas read as "and"."""
    return sorted({word for caption in captions for word in caption.lower().replace(",", " and ").split()})


def build_tokenizer(
    words: Iterable[str], special: Sequence[str] = (UNKNOWN, BEGIN, END)
) -> PreTrainedTokenizerFast:
    """A token per word, after the ``special`` ones; words that are not among ``words`` are unknown."""
    vocabulary = {word: i for i, word in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(",", " and ")])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = [(token, vocabulary[token]) for token in (BEGIN, END)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A {END}", special_tokens=special
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNKNOWN,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=END,
        model_max_length=MAX_TOKENS,
    )


def tokenize(tokenizer: PreTrainedTokenizerFast, captions: list[str]) -> torch.Tensor:
    """Token ids, (len(captions), 64) int64."""
    return tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids


def build_autoencoder(size: int) -> AutoencoderKL:
    """Reduction 4 (a reduction of 8 loses the small objects), 8 latent channels."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        sample_size=size,
        mid_block_add_attention=False,
    )


def build_text_encoder(
    vocabulary_size: int, width: int = 64, pooled: bool = False
) -> CLIPTextModel | CLIPTextModelWithProjection:
    """Two layers; ``pooled``: with an embedding of the whole text, read at its end (tokens of :data:`SPECIAL`)."""
    ends = SPECIAL if pooled else (UNKNOWN, BEGIN, END)
    kind = CLIPTextModelWithProjection if pooled else CLIPTextModel
    return kind(
        CLIPTextConfig(
            vocab_size=vocabulary_size,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=width,
            bos_token_id=ends.index(BEGIN),
            eos_token_id=ends.index(END),
            pad_token_id=ends.index(END),
        )
    )


def build_unet(size: int, widths: Sequence[int], dropout: float = 0.0) -> UNet2DConditionModel:
    """Levels at a quarter of the image's side and a half, a quarter, an eighth of that; attention at all but the first.

    32, 16, 8 and 4 cells for 128 pixels.

    Args:
        widths: channels of the four levels, multiples of 8; of the lower three, of 16.
        dropout: in the residual blocks, while training.
    """
    return UNet2DConditionModel(
        sample_size=size // 4,
        in_channels=8,
        out_channels=8,
        block_out_channels=tuple(widths),
        layers_per_block=1,
        cross_attention_dim=64,
        attention_head_dim=(1, 2, 2, 2),
        norm_num_groups=8,
        dropout=dropout,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    )


def build_transformer(size: int, width: int, depth: int) -> SD3Transformer2DModel:
    """Tokens of 2 × 2 latents: 16 × 16 for 128 pixels, as many as Stable Diffusion's 16 × 16 level has.

    Gates and the last projection begin at zero, so that every block begins as the identity (DiT, arXiv 2212.09748).

    Args:
        width: of a token, a multiple of 32 (a head's).
        depth: blocks.
    """
    model = SD3Transformer2DModel(
        sample_size=size // 4,
        patch_size=2,
        in_channels=8,
        out_channels=8,
        num_layers=depth,
        attention_head_dim=32,
        num_attention_heads=width // 32,
        joint_attention_dim=sum(TEXT_WIDTHS),
        caption_projection_dim=width,
        pooled_projection_dim=sum(TEXT_WIDTHS),
        pos_embed_max_size=size // 2,
        qk_norm="rms_norm",
    )
    for name, module in model.named_modules():
        if name == "proj_out" or (name.endswith(".linear") and ("norm1" in name or "norm_out" in name)):
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
    return model
