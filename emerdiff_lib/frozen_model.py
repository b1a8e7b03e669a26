"""The frozen model: its networks, loaded whole; images to latents and back; its settings; and how much fits into memory."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, SchedulerMixin, SD3Transformer2DModel
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionModelWithProjection,
    PreTrainedTokenizerBase,
    T5EncoderModel,
)

from . import checkpoints, weights
from . import images as image_io
from .attention import Network, attention_layers, coarsest_reduction
from .conditioning import Conditioning, encode_prompt, encode_prompt_thrice, encode_prompt_twice, no_image
from .denoiser import Denoiser, inference_timesteps
from .inversion import Trajectory
from .latents import Autoencoder, reduction, to_latents, to_pixels
from .memory import affordable_rows
from .settings import Settings, Shortcuts, check_known, check_names, whole
from .stages import CoarseMasks


class FrozenModel(DiffusionPipeline):
    """The networks of a diffusion model, none of whose weights ever changes.

    Args:
        vae: None for models of pixels (DeepFloyd IF's first stage); Kandinsky's "movq" is one too.
        text_encoder, tokenizer: None for unCLIP (Kandinsky 2.2), which is told of images.
        text_encoder_2, tokenizer_2: of Stable Diffusion XL and 3.
        image_encoder: of unCLIP, see :func:`~.conditioning.no_image`.
        unet: the network that denoises, a U-Net or, as in Stable Diffusion 3, a transformer.
        text_encoder_3, tokenizer_3: of Stable Diffusion 3, which can do without them.
        max_sequence_length: how many tokens of the third text encoder Stable Diffusion 3 is told.
        force_zeros_for_empty_prompt: of Stable Diffusion XL, see :func:`~.conditioning.encode_prompt_twice`.
        default_settings: this checkpoint's own, by flat name (:data:`emerdiff_lib.settings.NAMES`);
            ``save_pretrained`` keeps them in ``model_index.json``.
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->text_encoder_3->image_encoder->unet->vae"
    _optional_components = [
        "vae",
        "text_encoder",
        "tokenizer",
        "text_encoder_2",
        "tokenizer_2",
        "text_encoder_3",
        "tokenizer_3",
        "image_encoder",
    ]
    model_name = "custom components"  # replaced by what from_pretrained was asked for
    _watch: Callable[..., Any] | None = None

    def __init__(
        self,
        vae: Autoencoder | None,
        text_encoder: CLIPTextModel | CLIPTextModelWithProjection | T5EncoderModel | None,
        tokenizer: PreTrainedTokenizerBase | None,
        unet: Network,
        scheduler: SchedulerMixin,
        text_encoder_2: CLIPTextModelWithProjection | None = None,
        tokenizer_2: PreTrainedTokenizerBase | None = None,
        text_encoder_3: T5EncoderModel | None = None,
        tokenizer_3: PreTrainedTokenizerBase | None = None,
        image_encoder: CLIPVisionModelWithProjection | None = None,
        max_sequence_length: int = 256,
        force_zeros_for_empty_prompt: bool = True,
        default_settings: dict[str, Any] | None = None,
    ):
        super().__init__()
        checkpoints.check_networks(unet, vae, text_encoder, text_encoder_2)
        checkpoints.check_scheduler(scheduler.config, unet)
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
            text_encoder_3=text_encoder_3,
            tokenizer_3=tokenizer_3,
            image_encoder=image_encoder,
        )
        check_names(default_settings or {})
        own_layers = {"feature_layer", "modulation_layer"} <= set(default_settings or {})
        is_known = checkpoints.family_of(unet.config) is not None or own_layers
        if not is_known and (guess := checkpoints.best_guess(unet.config)):
            warnings.warn(checkpoints.describe_guess(guess, unet), stacklevel=2)
        self.register_to_config(
            default_settings=default_settings,
            force_zeros_for_empty_prompt=force_zeros_for_empty_prompt,
            max_sequence_length=max_sequence_length,
        )
        for module in self.components.values():
            if isinstance(module, torch.nn.Module):
                module.requires_grad_(False)
        for module in (vae, unet):
            if module is not None:  # convolutions run about a third faster
                module.to(memory_format=torch.channels_last)
        self.vae_scale_factor = reduction(vae)
        self.size_multiple = self.vae_scale_factor * coarsest_reduction(unet)

    @classmethod
    def from_pretrained(cls, name: str | Path = "toyscapes", **kwargs: Any) -> FrozenModel:
        """Load a checkpoint from safetensors.

        Args:
            name: "toyscapes" (bundled), one of :data:`~.checkpoints.RELATIVES`, a diffusers folder, or a hub id such as
                "CompVis/stable-diffusion-v1-4".
            **kwargs: as for ``DiffusionPipeline.from_pretrained``: ``dtype`` (float32 by default; its name will do),
                ``variant`` …

        Raises:
            FileNotFoundError: nothing is found under that name; the message says how to get a model.
            ValueError: another kind of model, damaged or incomplete weights, an unknown dtype.
        """
        source, dtype = checkpoints.locate(name), checkpoints.check_dtype(kwargs.pop("dtype", torch.float32))
        where = ("variant", "revision", "cache_dir", "local_files_only", "token", "force_download", "proxies")
        options = {key: kwargs[key] for key in where if key in kwargs}
        if str(name) in checkpoints.RELATIVES and "vae" not in kwargs:
            kwargs["vae"] = weights.load_components(checkpoints.locate("toyscapes"), dtype, {})["vae"]
        try:
            with checkpoints.quietly():
                parts = weights.load_components(source, dtype, kwargs, **options)
                pipeline = super().from_pretrained(source, dtype=dtype, **parts, **kwargs)
        except OSError as error:  # huggingface_hub's "not found" and "offline" errors are OSErrors as well
            if Path(source).exists():
                raise
            raise checkpoints.missing_model(name) from error
        pipeline.model_name = str(name)
        return pipeline

    # -- settings ---------------------------------------------------------------------------------------------------

    def default_settings(self) -> dict[str, Any]:
        """What this checkpoint is used with unless told otherwise, by flat name."""
        return self.resolve().to_dict()

    def resolve(self, trajectory: Trajectory | None = None, **given: Any) -> Settings:
        """All settings: those given (None: not given), over the checkpoint's own, over its family's, checked.

        Default timesteps move to the nearest one of the trajectory, or of the schedule, where N or its start ask for it.

        Raises:
            ValueError: a name, type or value that is not possible, or that contradicts the trajectory.
        """
        if trajectory is not None:
            given = trajectory.settings(given)
        own = self.config.default_settings
        settings = checkpoints.resolve(self.unet, self.vae_scale_factor, own, **given)
        visited = inference_timesteps(self.scheduler.config, settings.inversion.num_inference_steps)
        if trajectory is not None:
            visited = trajectory.timesteps
        flat = settings.to_dict()
        moved = {
            name: min(visited, key=lambda t: abs(t - flat[name]))
            for name in ("feature_timestep", "modulation_timestep")
            if given.get(name) is None
        }
        return self.checked(settings.replace(**moved), trajectory)

    def checked(self, settings: Settings, trajectory: Trajectory | None = None) -> Settings:
        """Returns settings that this model, and this trajectory, can be used with, else raises a ValueError."""
        denoiser = self.denoiser(settings.inversion.num_inference_steps, prompt=None)
        layers = attention_layers(self.unet, "attn2")
        check_known("feature_layer", settings.features.feature_layer, layers)
        check_known("modulation_layer", settings.perturbation.modulation_layer, layers)
        wanted = {
            "feature_timestep": settings.features.feature_timestep,
            "modulation_timestep": settings.perturbation.modulation_timestep,
        }
        for name, timestep in wanted.items():
            denoiser.check_timestep(name, timestep)
            if trajectory is not None and timestep not in trajectory.latents:
                raise ValueError(
                    f"The trajectory starts at {trajectory.start} and does not reach {name}={timestep}; invert with "
                    f"start_timestep={max(wanted.values())}."
                )
        steps = settings.shortcuts.denoising_steps
        if steps is not None:  # no more than there are from t_m on
            visited = [t for t in denoiser.timesteps if t <= wanted["modulation_timestep"]]
            settings = settings.replace(denoising_steps=min(steps, len(visited)))
        parts = settings.assignment.num_parts
        if parts is not None:  # fewer than segments would leave nothing to tell some of them apart
            settings = settings.replace(num_parts=max(parts, settings.features.num_masks))
        return settings

    # -- images, latents, predictions -------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, image: image_io.ImageInput, processing_resolution: int | None = None) -> torch.Tensor:
        """Latents x₀ by :func:`~.latents.to_latents`: (1, C, h, w) float32.

        The image is processed at about ``processing_resolution`` squared pixels; by default, at the size the model was made for.
        """
        image = image_io.load_image(image)
        resolution = self.resolve(processing_resolution=processing_resolution).inversion.processing_resolution
        size = image_io.processing_size((image.height, image.width), resolution, self.size_multiple)
        return to_latents(self.vae, image_io.to_tensor(image, size).to(self._execution_device))

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (B, C, h, w) → images (B, 3, H, W) float32 in [0, 1], as many rows at a time as memory allows."""
        rows = len(latents)
        if self.vae is not None:
            pixels = latents.shape[2] * latents.shape[3] * self.vae_scale_factor**2
            # a CPU's caches like small batches of large pictures
            most = 8 if self._execution_device.type == "cpu" else 64
            rows = affordable_rows(self.vae, max(self.vae.config.block_out_channels[:2]), pixels, most=most)
        return torch.cat([(to_pixels(self.vae, p) / 2 + 0.5).clamp(0, 1) for p in latents.split(rows)])

    def denoiser(self, num_inference_steps: int | None = None, prompt: str | None = "") -> Denoiser:
        """The network with this prompt and N inference steps (default: the checkpoint's); without one, only its schedule."""
        if num_inference_steps is None:
            num_inference_steps = self.resolve().inversion.num_inference_steps
        if prompt is None:
            return Denoiser(self.unet, self.scheduler.config, None, num_inference_steps)
        return Denoiser(self.unet, self.scheduler.config, self.conditioning(prompt), num_inference_steps)

    @torch.no_grad()
    def conditioning(self, prompt: str) -> Conditioning:
        """What the network is told of a prompt.

        Raises:
            ValueError: a prompt for a model that is told of images instead.
        """
        dtype = self.unet.dtype
        if self.text_encoder is None:
            if prompt:
                raise ValueError(
                    f"prompt={prompt!r} cannot be used: this model is told of images, not of words (unCLIP); leave it empty."
                )
            return no_image(self.image_encoder, self.unet.config.encoder_hid_dim, self.unet)
        if self.text_encoder_2 is None:
            return encode_prompt(prompt, self.tokenizer, self.text_encoder, dtype)
        if isinstance(self.unet, SD3Transformer2DModel):
            return encode_prompt_thrice(
                prompt,
                (self.tokenizer, self.tokenizer_2, self.tokenizer_3),
                (self.text_encoder, self.text_encoder_2, self.text_encoder_3),
                dtype,
                self.unet.config.joint_attention_dim,
                self.config.max_sequence_length,
            )
        return encode_prompt_twice(
            prompt,
            (self.tokenizer, self.tokenizer_2),
            (self.text_encoder, self.text_encoder_2),
            dtype,
            self.config.force_zeros_for_empty_prompt,
            self.vae_scale_factor,
        )

    # -- memory -----------------------------------------------------------------------------------------------------

    def default_mask_batch_size(self, trajectory: Trajectory, shortcuts: Shortcuts) -> int:
        """Masks whose rows fit into free memory together."""
        rows = affordable_rows(self.unet, *self._unet_row(trajectory.clean_latents))
        return max(1, (rows - 1) // (1 if shortcuts.one_sided else 2))

    def images_per_batch(self, coarse: CoarseMasks) -> int:
        """How many images like this one can be modulated in one batch, with all their masks; at least 1."""
        most = 64 if self._execution_device.type == "cpu" else 256
        rows = affordable_rows(self.unet, *self._unet_row(coarse.trajectory.clean_latents), most=most)
        pushed = coarse.settings.assignment.num_parts or len(coarse.masks)
        return max(1, rows // (1 + pushed * (1 if coarse.settings.shortcuts.one_sided else 2)))

    def batches(
        self, stages: Iterable[CoarseMasks], mask_batch_size: int | None = None
    ) -> Iterator[list[CoarseMasks]]:
        """Neighbours of one shape, as many as can be modulated together; one by one if masks are batched by hand."""
        whole(1, optional=True)("mask_batch_size", mask_batch_size)
        remaining = iter(stages)
        while first := next(remaining, None):
            room = 1 if mask_batch_size is not None else self.images_per_batch(first)
            several = [first, *itertools.islice(remaining, room - 1)]
            for _, alike in itertools.groupby(several, key=CoarseMasks.shape):
                yield list(alike)

    def _unet_row(self, latents: torch.Tensor) -> tuple[int, int]:
        """(channels, pixels) of the network's widest feature maps: a U-Net's with concatenated skips, a transformer's tokens."""
        if isinstance(self.unet, SD3Transformer2DModel):
            tokens = latents.shape[2] * latents.shape[3] // self.unet.config.patch_size**2
            return 4 * self.unet.inner_dim, tokens + self.config.max_sequence_length
        return 4 * self.unet.config.block_out_channels[0], latents.shape[2] * latents.shape[3]

    @contextmanager
    def watched(self, watch: Callable[..., Any]) -> Iterator[None]:
        """Within the context, ``watch`` makes the progress bars, as ``tqdm`` would; what they raise ends the work."""
        self._watch, before = watch, self._watch
        try:
            yield
        finally:
            self._watch = before

    def progress_bar(self, iterable: Any = None, total: int | None = None) -> Any:
        return (
            super().progress_bar(iterable, total)
            if self._watch is None
            else self._watch(iterable, total=total)
        )

    def _bar(self, items: Sequence[Any]) -> Iterable[Any]:
        """A progress bar over more than one item."""
        return self.progress_bar(items) if len(items) > 1 else items
