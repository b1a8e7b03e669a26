"""The components of a small model, the bundled checkpoint's with a tokenizer of its own, and its loss.

The U-Net's thin top level (24 channels, one layer) is deliberate: whatever needs context has to be understood at 16 × 16,
where EmerDiff looks (see the model card).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

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
        model_max_length=64,
    )


class Model:
    """Stable Diffusion 1's components, small, with a tokenizer of its own; ε- or v-prediction.

    Attributes:
        tokenizer: of :func:`build_tokenizer`.
        vae: reduction 4 (a reduction of 8 loses the small objects), 8 latent channels.
        networks: {"unet", "text_encoder"}. The U-Net's levels are at a quarter of the image's side (32 cells for 128 pixels)
            and a half, a quarter, an eighth of that, with attention at all but the first; the text encoder, a CLIP whose last
            hidden states are the condition, has two layers.
    """

    def __init__(self, config: Config, words: Iterable[str]):
        self.tokenizer = build_tokenizer(words)
        autoencoder = AutoencoderKL.load_config(TOYSCAPES_FOLDER, subfolder="vae")
        self.vae = AutoencoderKL.from_config(autoencoder, sample_size=config.size)
        self.vae.to(memory_format=torch.channels_last)
        schedule = PNDMScheduler.load_config(TOYSCAPES_FOLDER, subfolder="scheduler")  # Stable Diffusion's
        self.sampler = PNDMScheduler.from_config(schedule, prediction_type=config.prediction_type)
        self.scheduler = DDPMScheduler.from_config(self.sampler.config)
        levels = {"block_out_channels": tuple(config.widths), "sample_size": config.size // 4}
        unet = UNet2DConditionModel.load_config(TOYSCAPES_FOLDER, subfolder="unet")
        unet = UNet2DConditionModel.from_config(unet, **levels, dropout=config.dropout)
        text = CLIPTextConfig.from_json_file(TOYSCAPES_FOLDER / "text_encoder" / "config.json")
        text.vocab_size = len(self.tokenizer)
        self.networks: dict[str, torch.nn.Module] = {
            "unet": unet.to(memory_format=torch.channels_last),
            "text_encoder": CLIPTextModel(text),
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
        noisy = self.scheduler.add_noise(clean, noise, timesteps)
        text = self.networks["text_encoder"](tokens).last_hidden_state
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        prediction = self.networks["unet"](noisy, timesteps, text).sample
        epsilon = self.scheduler.config.prediction_type == "epsilon"
        target = noise if epsilon else self.scheduler.get_velocity(clean, noise, timesteps)
        return F.mse_loss(prediction.float(), target)

    def pipeline(self, dtype: torch.dtype = torch.float32) -> StableDiffusionPipeline:
        """What samples, by the scheduler of Stable Diffusion 1.x, and saves itself; in another dtype, of copies."""
        parts = {"vae": self.vae, **self.networks}
        if dtype != torch.float32:
            parts = {name: copy.deepcopy(part).to(dtype) for name, part in parts.items()}
        return StableDiffusionPipeline(
            **parts,
            tokenizer=self.tokenizer,
            scheduler=self.sampler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
