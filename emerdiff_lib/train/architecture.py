"""The components of a small model, the bundled checkpoint's with a tokenizer of its own, and its loss.

The U-Net's thin top level (24 channels, one layer) is deliberate: whatever needs context has to be understood at 16 × 16,
where EmerDiff looks (see the model card).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from ..loading import TOYSCAPES_FOLDER
from .config import Config

UNKNOWN, BEGIN, END = "<unknown>", "<begin>", "<end>"
SPECIAL = (UNKNOWN, BEGIN, END)
MAX_TOKENS = 64
Networks = dict[str, torch.nn.Module]


def words_of(captions: Iterable[str]) -> list[str]:
    """All words of some captions, sorted, as :func:`build_tokenizer` takes them: lower case, commas read as "and"."""
    return sorted({word for caption in captions for word in caption.lower().replace(",", " and ").split()})


def build_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """A token per word, after :data:`SPECIAL`; words that are not among ``words`` are unknown."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *words])}
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
    config = AutoencoderKL.load_config(TOYSCAPES_FOLDER, subfolder="vae")
    return AutoencoderKL.from_config(config, sample_size=size)


def build_text_encoder(vocabulary_size: int) -> CLIPTextModel:
    """Two layers."""
    config = CLIPTextConfig.from_json_file(TOYSCAPES_FOLDER / "text_encoder" / "config.json")
    config.vocab_size = vocabulary_size
    return CLIPTextModel(config)


def build_unet(size: int, widths: Sequence[int], dropout: float = 0.0) -> UNet2DConditionModel:
    """Levels at a quarter of the image's side and a half, a quarter, an eighth of that; attention at all but the first.

    32, 16, 8 and 4 cells for 128 pixels.

    Args:
        widths: channels of the four levels, multiples of 8; of the lower three, of 16.
        dropout: in the residual blocks, while training.
    """
    config = UNet2DConditionModel.load_config(TOYSCAPES_FOLDER, subfolder="unet")
    given = {"sample_size": size // 4, "block_out_channels": tuple(widths), "dropout": dropout}
    return UNet2DConditionModel.from_config(config, **given)


class Backbone:
    """ε- or v-prediction by a U-Net conditioned on the last hidden states of one CLIP, as Stable Diffusion 1.x and 2.x.

    Attributes:
        networks: by their component's name, the one that denoises first.
    """

    def __init__(self, config: Config, vocabulary_size: int):
        schedule = PNDMScheduler.load_config(TOYSCAPES_FOLDER, subfolder="scheduler")  # Stable Diffusion's
        self.sampler = PNDMScheduler.from_config(schedule, prediction_type=config.prediction_type)
        self.scheduler = DDPMScheduler.from_config(self.sampler.config)
        unet = build_unet(config.size, config.widths, config.dropout)
        self.networks: Networks = {
            "unet": unet.to(memory_format=torch.channels_last),
            "text_encoder": build_text_encoder(vocabulary_size),
        }

    def loss(
        self, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, tokens: torch.Tensor
    ) -> torch.Tensor:
        """Mean squared error of what is predicted.

        Args:
            clean, noise: latents, and the noise that is mixed into them, (B, C, h, w).
            timesteps: (B,), 0 to 999.
            tokens: (B, 64) of captions.
        """
        self.scheduler.alphas_cumprod = self.scheduler.alphas_cumprod.to(clean.device)
        noisy = self.scheduler.add_noise(clean, noise, timesteps)
        text = self.networks["text_encoder"](tokens).last_hidden_state
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        prediction = self.networks["unet"](noisy, timesteps, text).sample
        epsilon = self.scheduler.config.prediction_type == "epsilon"
        target = noise if epsilon else self.scheduler.get_velocity(clean, noise, timesteps)
        return F.mse_loss(prediction.float(), target)

    def pipeline(
        self, vae: AutoencoderKL, tokenizer: PreTrainedTokenizerFast, networks: Networks
    ) -> StableDiffusionPipeline:
        """What samples with the networks, by the scheduler of Stable Diffusion 1.x, and saves them."""
        return StableDiffusionPipeline(
            vae=vae,
            tokenizer=tokenizer,
            **networks,
            scheduler=self.sampler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
