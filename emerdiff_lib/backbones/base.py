"""What the method needs to know of a diffusers pipeline; a family of models overrides what is different in it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..interventions import attention_modules, is_cross, is_joint, nested

PAPER = {"num_masks": 30, "feature_timestep": 1, "modulation_timestep": 281}  # Sec. 4 and App. A
# σ/(1 − σ) = √(1 − ᾱ)/√ᾱ of Stable Diffusion 1 at these two timesteps: the noise of a flow that the paper's settings ask for
PAPER_SIGMAS = {"feature_timestep": 0.0397, "modulation_timestep": 0.4379}
Condition = Mapping[str, Any]  # of one row: tensors (1, …) by the network's keywords


@dataclass(frozen=True)
class TextTokens:
    """A part of the text tokens that attention sees: which tokenizer makes them, of what text, and where they stand.

    Attributes:
        text: the prompt as the tokenizer is given it.
        limit: tokens that are read.
        first: position of the first of them among all text tokens.
    """

    tokenizer: PreTrainedTokenizerBase
    text: str
    limit: int
    first: int = 0


def as_written(network: Any) -> Any:
    """A network without what ``torch.compile`` wraps around it."""
    return getattr(network, "_orig_mod", network)


class Backbone:
    """A diffusers pipeline as the method sees it: latents, conditioning, the network's call, layers, defaults.

    As it stands, the class fits a transformer of square patches whose text and image tokens attend to each other, with a KL
    autoencoder. Nothing of the pipeline is changed.

    Attributes:
        pipe: the pipeline.
        name: of the family, as people call it.
        architecture, network: class of the network that predicts noise, and its name in the pipeline.
        is_flow: whether images and noise are mixed as (1 − σ) x₀ + σ ε.
        stem: names of the network's modules before its blocks, each of a batch of rows.
        stack: name of the list of its blocks.
        vae_overflows: whether the published autoencoder does in float16.
        text_first: whether text tokens stand before image tokens where both attend.
        single_stream: whether blocks project image and text tokens alike, side by side.
        image_multiple: image tokens are padded to a multiple of this where they stand before text tokens.
        own_defaults: settings that suit the family, over the paper's.
    """

    name: str
    architecture: ClassVar[type[nn.Module]]
    network: ClassVar[str] = "transformer"
    is_flow: ClassVar[bool] = True
    vae_overflows: ClassVar[bool] = False
    text_first: ClassVar[bool] = True
    single_stream: ClassVar[bool] = False
    image_multiple: ClassVar[int] = 1
    own_defaults: Mapping[str, Any] = {}
    stack: ClassVar[str] = "transformer_blocks"
    stem: ClassVar[tuple[str, ...]] = (
        *("conv_in", "patch_embed", "x_embedder", "img_in"),  # of latents
        *("context_embedder", "caption_projection", "txt_in", "encoder_hid_proj"),  # of text
        *("time_embedding", "time_text_embed", "add_embedding"),
    )

    def __init__(self, pipe: DiffusionPipeline):
        self.pipe: Any = pipe

    @classmethod
    def matches(cls, pipe: DiffusionPipeline) -> bool:
        """Whether a pipeline is of this family."""
        return isinstance(as_written(getattr(pipe, cls.network, None)), cls.architecture)

    @property
    def denoiser(self) -> Any:
        """The network that predicts noise, as written where it is compiled."""
        return as_written(getattr(self.pipe, self.network))

    @property
    def device(self) -> torch.device:
        """Where the pipeline computes, wherever its weights wait."""
        return self.pipe._execution_device

    # -- latents ------------------------------------------------------------------------------------------------------

    @property
    def vae_scale_factor(self) -> int:
        """Pixels on a side of a latent's cell."""
        return self.pipe.vae_scale_factor

    @property
    def patch_size(self) -> int:
        """Latents on a side of what is one of the network's coarsest tokens."""
        return self.denoiser.config.patch_size

    @property
    def size_multiple(self) -> int:
        """Height and width of a processed image are multiples of this."""
        return self.vae_scale_factor * self.patch_size

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) in [−1, 1] → (B, C, h, w) float32: the posterior's mode, scaled as the network expects it."""
        mean, scale = self._statistics(pixels.device)
        with self.vae_in_range() as vae:
            mode = vae.encode(pixels.to(vae.dtype)).latent_dist.mode()
        return (mode.float() - mean) * scale

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents → images (B, 3, H, W) in about [−1, 1], in the latents' dtype."""
        mean, scale = self._statistics(latents.device)
        with self.vae_in_range() as vae:
            return vae.decode((latents / scale + mean).to(vae.dtype)).sample.to(latents.dtype)

    @contextmanager
    def vae_in_range(self) -> Iterator[Any]:
        """The autoencoder, in float32 where its config says so (``force_upcast``: XL's overflows in float16)."""
        vae = self.pipe.vae
        upcast = self.vae_overflows and vae.dtype == torch.float16 and vae.config.force_upcast
        try:
            yield vae.to(torch.float32) if upcast else vae
        finally:
            if upcast:
                vae.to(torch.float16)

    def _statistics(self, device: torch.device) -> tuple[torch.Tensor | float, torch.Tensor | float]:
        """(mean, factor) of latents: one for all channels, or what some models keep for each."""
        config = self.pipe.vae.config
        mean, deviation = (getattr(config, name, None) for name in ("latents_mean", "latents_std"))
        if mean is None or deviation is None:
            return config.shift_factor or 0.0, config.scaling_factor
        mean, deviation = (torch.tensor(v, device=device).reshape(1, -1, 1, 1) for v in (mean, deviation))
        return mean, getattr(config, "scaling_factor", 1.0) / deviation

    # -- the network's call ---------------------------------------------------------------------------------------------

    def condition(self, prompt: str) -> Condition:
        """What the network is conditioned on, by the pipeline's own ``encode_prompt``.

        Raises:
            ValueError: a prompt for a model that reads none.
        """
        raise NotImplementedError

    def text_tokens(self, prompt: str) -> list[TextTokens]:
        """Which tokens of a prompt cross-attention or joint attention sees; [] for a model that reads none."""
        tokenizer = self.pipe.tokenizer
        return [TextTokens(tokenizer, prompt, tokenizer.model_max_length)]

    def call(self, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition) -> torch.Tensor:
        """The network's output (B, C, h, w).

        Args:
            latents: (B, C, h, w) in the network's dtype and, of a flow, scale.
            timesteps: (B,); of a flow, σ times the number of training timesteps.
            condition: of all rows.
        """
        return self.denoiser(latents, timestep=timesteps, **self.rows(condition, len(latents))).sample

    def rows(self, condition: Condition, count: int) -> dict[str, Any]:
        """A row's condition for ``count`` rows."""
        return nested(lambda tensor: tensor.expand(count, *tensor.shape[1:]), condition)

    def noise_shift(self, processing_resolution: int) -> float:
        """s of a flow's σ = s·τ/(1 + (s−1)·τ); dynamic shifting makes it grow with the image (arXiv 2403.03206, Sec. 5.3.2)."""
        config = self.pipe.scheduler.config
        if not config.get("use_dynamic_shifting"):
            return config.get("flow_shift") or config.get("shift") or 1.0
        tokens = (processing_resolution / self.size_multiple) ** 2
        names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        shift = calculate_shift(tokens, *(config[name] for name in names))
        return shift if config.get("time_shift_type") == "linear" else math.exp(shift)

    # -- layers ---------------------------------------------------------------------------------------------------------

    def blocks(self) -> dict[str, nn.Module]:
        """The network's blocks by name in the order of its forward pass, among them all with layers that can be modulated."""
        return {f"{self.stack}.{i}": block for i, block in enumerate(getattr(self.denoiser, self.stack))}

    def layers(self) -> list[str]:
        """Attention to text, which can be read and modulated, in the order of the forward pass."""
        to_text = lambda module: self.single_stream or is_joint(module) or is_cross(module)
        return [name for name, module in self._attention().items() if to_text(module)]

    def self_attention(self) -> list[str]:
        """Attention among image tokens, alone or with text, in the order of the forward pass."""
        return [name for name, module in self._attention().items() if not is_cross(module)]

    def _attention(self) -> dict[str, nn.Module]:
        modules = attention_modules(self.denoiser)
        names = [name for block in self.blocks() for name in modules if name.startswith(f"{block}.")]
        return {name: modules[name] for name in names}

    def grid(self, layer: str, height: int, width: int) -> tuple[int, int]:
        """(h, w) of a layer's image tokens for (height, width) latents."""
        return height // self.patch_size, width // self.patch_size

    def split_attention(
        self, layer: str, probabilities: torch.Tensor, count: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A layer's probabilities (queries, keys) as those of ``count`` image tokens to image tokens, and to text tokens."""
        if is_cross(self.denoiser.get_submodule(layer)):
            return probabilities[:, :0], probabilities
        text = probabilities.shape[1] - count
        if self.text_first:
            return probabilities[-count:, text:], probabilities[-count:, :text]
        padded = -(-count // self.image_multiple) * self.image_multiple
        return probabilities[:count, :count], probabilities[:count, padded:]

    def image_tokens(self, module: str, tokens: torch.Tensor, count: int) -> torch.Tensor:
        """The ``count`` image tokens among (B, tokens, d) that a module gives or takes, as a view."""
        if not self.single_stream or not module.startswith(f"{self.stack}."):
            return tokens
        return tokens[:, -count:] if self.text_first else tokens[:, :count]

    def modules_before(self, layer: str) -> list[nn.Module]:
        """Modules with the same output for every row when rows part at ``layer``: embeddings, and the blocks before its own."""
        blocks = self.blocks()
        names = list(blocks)
        own = next(i for i, name in enumerate(names) if layer.startswith(f"{name}."))
        stem = [getattr(self.denoiser, name, None) for name in self.stem]
        return [module for module in stem if module is not None] + [blocks[name] for name in names[:own]]

    def feature_map(self, module: str, output: Any) -> torch.Tensor:
        """Image tokens (B, tokens, d), or maps (B, d, h, w), out of what a module returns."""
        if isinstance(output, tuple):  # blocks return text tokens first, attention returns them last
            output = output[-1 if module in self.blocks() else 0]
        return output

    def encoder_attention(self) -> str:
        """Self-attention where image content is most abstract: half-way through a transformer."""
        names = self.self_attention()
        return names[len(names) // 2]

    def encoder_module(self) -> str:
        """The module whose activations stand for the network's encoder: the block of :meth:`encoder_attention`."""
        return ".".join(self.encoder_attention().split(".")[:2])

    # -- defaults -------------------------------------------------------------------------------------------------------

    def default_layers(self) -> tuple[str, str]:
        """The layer whose queries are clustered, and the one that is modulated.

        Half-way and the last block, the best of all for the only transformer that was measured, a small one (notebook 13).
        """
        names = self.layers()
        return names[len(names) // 2], names[-1]

    def defaults(self) -> dict[str, Any]:
        """Flat settings for one checkpoint; images are processed at the size that it was trained at."""
        feature, modulation = self.default_layers()
        settings: dict[str, Any] = PAPER | {"feature_layer": feature, "modulation_layer": modulation}
        if (resolution := self.native_resolution()) is not None:
            settings["processing_resolution"] = resolution
        if self.is_flow:  # timesteps of the same noise
            shift, count = self.noise_shift(resolution or 512), self.pipe.scheduler.config.num_train_timesteps
            for name, sigma in PAPER_SIGMAS.items():
                settings[name] = round(count * sigma / (shift - (shift - 1) * sigma))
        return settings | self.own_defaults

    def native_resolution(self) -> int | None:
        """Side in pixels of the square images that it was trained on; None where the config does not say."""
        size = getattr(self.denoiser.config, "sample_size", None)
        size = size or getattr(self.pipe, "default_sample_size", None)
        if size is None:
            return None
        side = size if isinstance(size, int) else round((size[0] * size[1]) ** 0.5)
        return side * self.vae_scale_factor

    def widest_maps(self, height: int, width: int) -> tuple[int, int]:
        """(channels, positions) of the network's widest feature maps for (height, width) latents, which decide on memory."""
        config = self.denoiser.config
        channels = config.get("dim") or config.get("hidden_size")  # of single-stream transformers
        channels = channels or config.num_attention_heads * config.attention_head_dim
        return 4 * channels, height * width // self.patch_size**2 + 256  # text tokens, about
