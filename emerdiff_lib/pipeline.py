"""EmerDiff as a diffusers pipeline: an image in, a segmentation out, from a frozen text-to-image model (arXiv 2401.11739)."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, UNet2DConditionModel
from diffusers.utils import BaseOutput
from transformers import CLIPTextModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from . import images as image_io
from . import models
from .assignment import assign_bilinear, assign_pixels, resize_maps
from .attention import PLACEMENTS, check_layer
from .clustering import cluster_queries, mask_embeddings
from .denoiser import Denoiser
from .features import extract_queries, noise_ensemble
from .inversion import METHODS, Trajectory, invert_ddim, invert_ddpm, replay
from .memory import affordable_rows
from .modulation import difference_maps

MODES = ("exact",)


@dataclass
class EmerDiffOutput(BaseOutput):
    """The segmentation of one image of size (H, W).

    Attributes:
        labels: (H, W) int32, the index of the coarse mask that moves each pixel most.
        baseline_labels: (H, W) int32, the same masks upsampled bilinearly.
        coarse_masks: (K, h, w) bool, a partition of the feature grid.
        mask_embeddings: (K, d) float32, mean query vector of each mask.
        difference_maps: (K, H, W) float32 in [0, √3], unfiltered; None unless asked for.
        settings: every setting that led here, JSON-serialisable.
        timings: seconds spent in each stage.
    """

    labels: np.ndarray
    baseline_labels: np.ndarray
    coarse_masks: np.ndarray
    mask_embeddings: np.ndarray
    difference_maps: np.ndarray | None
    settings: dict
    timings: dict


class EmerDiffPipeline(DiffusionPipeline):
    """Pixel-level segmentation with a frozen latent diffusion model of the Stable Diffusion 1.x kind.

    Load it with :meth:`from_pretrained`, then call it on an image. Components are those of ``StableDiffusionPipeline``.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"
    model_name = "custom components"  # replaced by what from_pretrained was asked for

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: PreTrainedTokenizerBase,
        unet: UNet2DConditionModel,
        scheduler,
    ):
        super().__init__()
        self.register_modules(vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler)
        for module in (vae, text_encoder, unet):
            module.requires_grad_(False)
        for module in (vae, unet):  # convolutions run about a third faster
            module.to(memory_format=torch.channels_last)
        self.vae_scale_factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.size_multiple = self.vae_scale_factor * 2 ** (len(unet.config.block_out_channels) - 1)

    @classmethod
    def from_pretrained(cls, name: str | Path = "toyscapes", **kwargs) -> EmerDiffPipeline:
        """Load a checkpoint from safetensors.

        Args:
            name: "toyscapes" (bundled), a diffusers folder, or a hub id such as "CompVis/stable-diffusion-v1-4".
            **kwargs: as for ``DiffusionPipeline.from_pretrained``: ``dtype`` (float32 by default), ``variant`` …

        Raises:
            FileNotFoundError: nothing is found under that name; the message says how to get a model.
        """
        source = models.locate(name)
        # what EmerDiff does not need: no safety checker runs on images that are never generated
        options = {"dtype": torch.float32, "use_safetensors": True} | kwargs
        try:
            with _quiet_transformers():
                pipeline = super().from_pretrained(source, **options)
        except OSError as error:  # huggingface_hub's "not found" and "offline" errors are OSErrors as well
            if Path(source).exists():
                raise
            raise models.missing_model(name) from error
        pipeline.model_name = str(name)
        return pipeline

    # -- the method -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def __call__(
        self,
        image: image_io.ImageInput | list[image_io.ImageInput],
        num_masks: int | None = None,
        *,
        modulation_strength: float | None = None,
        modulation_timestep: int | None = None,
        feature_timestep: int | None = None,
        feature_layer: str | None = None,
        modulation_layer: str | None = None,
        num_inference_steps: int | None = None,
        attention_injection: bool = True,
        offset_placement: str = "after_projection",
        inversion: str = "ddpm",
        noise_ensemble_size: int | None = None,
        filter_sigma: float | None = None,
        processing_resolution: int | None = None,
        prompt: str = "",
        mode: str = "exact",
        trajectory: Trajectory | None = None,
        coarse_masks: np.ndarray | torch.Tensor | None = None,
        output_difference_maps: bool = False,
        mask_batch_size: int | None = None,
        generator: torch.Generator | None = None,
    ) -> EmerDiffOutput | list[EmerDiffOutput]:
        """Segment an image, or each image of a list. Settings left at None take the checkpoint's defaults (models.py).

        Args:
            image: a path, PIL image, array or tensor of any size (see :func:`emerdiff_lib.images.load_image`), or a list.
            num_masks: K, the number of coarse masks.
            modulation_strength: λ, added to and subtracted from every channel of the layer's output inside a mask.
            modulation_timestep: t_m, the only timestep at which that is done; denoising starts there.
            feature_timestep: t_f, at which the query vectors are read.
            feature_layer: cross-attention layer whose queries are clustered.
            modulation_layer: cross-attention layer whose output is modulated.
            num_inference_steps: N, on the full noise schedule.
            attention_injection: hold all attention maps at their unmodulated values while denoising.
            offset_placement: "after_projection" of the layer's output (paper) or "before_projection" (its Fig. 14).
            inversion: "ddpm" (edit-friendly) or "ddim".
            noise_ensemble_size: number of noise draws over which queries are averaged.
            filter_sigma: Gaussian filter of the difference maps, in pixels at the processing resolution; 0 for none.
            processing_resolution: images are processed at about this number squared of pixels, at their aspect ratio.
            prompt: text condition of every network call; empty in the paper.
            mode: "exact".
            trajectory: reuse :meth:`invert`'s result on the same image; default timesteps beyond its start move there.
            coarse_masks: (K, h, w) bool masks of your own, at any resolution, instead of clustering.
            output_difference_maps: also return dᵏ at the size of the input.
            mask_batch_size: masks per batch of modulated denoising; by default what free memory allows.
            generator: source of all randomness (inversion noise, then the k-means seed).

        Returns:
            :class:`EmerDiffOutput`, or a list of them for a list of images.

        Raises:
            ValueError, FileNotFoundError: one sentence that names the faulty value and the possible ones.
        """
        if isinstance(image, list | tuple):
            if trajectory is not None or coarse_masks is not None:
                raise ValueError("trajectory and coarse_masks belong to one image; call the pipeline once per image.")
            options = {k: v for k, v in locals().items() if k not in ("self", "image", "__class__")}
            return [self(one, **options) for one in image]

        settings = models.resolve_settings(
            self.unet.config, num_masks=num_masks, modulation_strength=modulation_strength,
            modulation_timestep=modulation_timestep, feature_timestep=feature_timestep, feature_layer=feature_layer,
            modulation_layer=modulation_layer, num_inference_steps=num_inference_steps,
            noise_ensemble_size=noise_ensemble_size, filter_sigma=filter_sigma, resolution=processing_resolution,
        )  # fmt: skip
        if trajectory is not None:
            settings["num_inference_steps"], inversion = trajectory.num_inference_steps, trajectory.method
            for name, given in (("modulation_timestep", modulation_timestep), ("feature_timestep", feature_timestep)):
                if given is None:  # as far as this trajectory goes
                    settings[name] = min(settings[name], trajectory.timesteps[0])
        self.check_inputs(settings, offset_placement, inversion, mode, mask_batch_size)
        timings: dict[str, float] = {}
        image = image_io.load_image(image)
        height, width = image.height, image.width
        denoiser = self.denoiser(settings["num_inference_steps"], prompt)
        t_f = denoiser.check_timestep("feature_timestep", settings["feature_timestep"])
        t_m = denoiser.check_timestep("modulation_timestep", settings["modulation_timestep"])

        if trajectory is None:
            with _stopwatch(timings, "encode"):
                latents = self.encode(image, settings["resolution"])
            with _stopwatch(timings, "invert"):
                trajectory = self._invert(denoiser, latents, inversion, max(t_f, t_m), generator)
        elif missing := [t for t in (t_f, t_m) if t not in trajectory.latents]:
            raise ValueError(
                f"The trajectory starts at {trajectory.timesteps[0]} and does not reach timestep {missing[0]}; invert with "
                f"start_timestep={max(t_f, t_m)}."
            )
        with _stopwatch(timings, "queries"):
            noisy = noise_ensemble(denoiser, trajectory, t_f, settings["noise_ensemble_size"], generator)
            queries = extract_queries(denoiser, noisy, t_f, [settings["feature_layer"]])[settings["feature_layer"]]
        with _stopwatch(timings, "cluster"):
            random_state = int(torch.randint(2**31 - 1, (), generator=generator, device=_device_of(generator)))
            if coarse_masks is None:
                masks = cluster_queries(queries, settings["num_masks"], random_state)
            else:
                masks = check_masks(coarse_masks)
                queries = resize_maps(queries.permute(2, 0, 1), masks.shape[1:]).permute(1, 2, 0)
            settings["num_masks"] = len(masks)
        with _stopwatch(timings, "modulate"):
            maps = difference_maps(
                denoiser, self.decode, trajectory, masks, settings["modulation_layer"], t_m,
                settings["modulation_strength"], attention_injection, offset_placement,
                chunk_size=mask_batch_size or self.default_mask_batch_size(trajectory),
                progress=lambda total: self.progress_bar(total=total),
            )  # fmt: skip
        with _stopwatch(timings, "assign"):
            labels = assign_pixels(maps, (height, width), settings["filter_sigma"])
            baseline = assign_bilinear(masks, (height, width))

        settings = {"model": self.model_name, "mode": mode} | settings | {
            "attention_injection": attention_injection, "offset_placement": offset_placement, "inversion": inversion,
            "prompt": prompt, "own_masks": coarse_masks is not None,
            "seed": None if generator is None else generator.initial_seed(), "image_size": [height, width],
            "processing_size": [side * self.vae_scale_factor for side in trajectory.clean_latents.shape[2:]],
            "dtype": str(self.unet.dtype).removeprefix("torch."), "device": str(self._execution_device),
        }  # fmt: skip
        settings["processing_resolution"] = settings.pop("resolution")
        return EmerDiffOutput(
            labels=labels, baseline_labels=baseline, coarse_masks=masks.numpy(),
            mask_embeddings=mask_embeddings(queries, masks).numpy(),
            difference_maps=resize_maps(maps, (height, width)).numpy() if output_difference_maps else None,
            settings=settings, timings=timings,
        )  # fmt: skip

    # -- its stages, usable one by one ------------------------------------------------------------------------------

    @torch.no_grad()
    def invert(
        self,
        image: image_io.ImageInput,
        method: str = "ddpm",
        start_timestep: int | None = None,
        num_inference_steps: int | None = None,
        prompt: str = "",
        processing_resolution: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Trajectory:
        """Invert an image from ``start_timestep`` (default: t_m of the checkpoint) down to 1.

        Raises:
            ValueError: unknown ``method``, or ``start_timestep`` is no inference timestep.
        """
        settings = models.resolve_settings(
            self.unet.config, modulation_timestep=start_timestep, num_inference_steps=num_inference_steps,
            resolution=processing_resolution,
        )  # fmt: skip
        denoiser = self.denoiser(settings["num_inference_steps"], prompt)
        start = denoiser.check_timestep("start_timestep", settings["modulation_timestep"])
        latents = self.encode(image_io.load_image(image), settings["resolution"])
        return self._invert(denoiser, latents, method, start, generator)

    @torch.no_grad()
    def replay(self, trajectory: Trajectory, prompt: str = "") -> torch.Tensor:
        """Denoise a trajectory back to its latents x₀, (1, C, h, w) float32."""
        return replay(self.denoiser(trajectory.num_inference_steps, prompt), trajectory, progress=self.progress_bar)

    @torch.no_grad()
    def encode(self, image: image_io.ImageInput, processing_resolution: int) -> torch.Tensor:
        """Latents x₀ = mode of the VAE's posterior × scaling factor, (1, C, h, w) float32."""
        image = image_io.load_image(image)
        size = image_io.processing_size((image.height, image.width), processing_resolution, self.size_multiple)
        pixels = image_io.to_tensor(image, size).to(self._execution_device, self.vae.dtype)
        return self.vae.encode(pixels).latent_dist.mode().float() * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (B, C, h, w) → images (B, 3, H, W) float32 in [0, 1], as many rows at a time as memory allows."""
        pixels = latents.shape[2] * latents.shape[3] * self.vae_scale_factor**2
        rows = affordable_rows(self.vae, max(self.vae.config.block_out_channels[:2]), pixels)
        scaled = (latents / self.vae.config.scaling_factor).to(self.vae.dtype)
        return torch.cat([(self.vae.decode(part).sample.float() / 2 + 0.5).clamp(0, 1) for part in scaled.split(rows)])

    def denoiser(self, num_inference_steps: int | None = None, prompt: str = "") -> Denoiser:
        """The U-Net with this prompt and N inference steps (default: the checkpoint's)."""
        if num_inference_steps is None:
            num_inference_steps = models.resolve_settings(self.unet.config)["num_inference_steps"]
        tokens = self.tokenizer(
            prompt,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        embeds = self.text_encoder(tokens.input_ids.to(self._execution_device))[0].to(self.unet.dtype)
        return Denoiser(self.unet, self.scheduler.config, embeds, num_inference_steps)

    def _invert(self, denoiser, latents, method: str, start: int, generator) -> Trajectory:
        if method not in METHODS:
            raise ValueError(f"inversion method {method!r} is unknown; choose one of {', '.join(map(repr, METHODS))}.")
        timesteps = [t for t in denoiser.timesteps if t <= start]
        if method == "ddim":
            return invert_ddim(denoiser, latents, timesteps, progress=self.progress_bar)
        rows = affordable_rows(self.unet, *self._unet_row(latents))
        return invert_ddpm(denoiser, latents, timesteps, generator, batch_size=rows, progress=self.progress_bar)

    def _unet_row(self, latents: torch.Tensor) -> tuple[int, int]:
        """(channels, pixels) of the U-Net's widest feature maps, concatenated skips included."""
        return 4 * self.unet.config.block_out_channels[0], latents.shape[2] * latents.shape[3]

    def default_mask_batch_size(self, trajectory: Trajectory) -> int:
        """Masks whose ± pairs fit into free memory together."""
        return max(1, (affordable_rows(self.unet, *self._unet_row(trajectory.clean_latents)) - 1) // 2)

    def check_inputs(self, settings, offset_placement, inversion, mode, mask_batch_size):
        """One clear ValueError for each value that cannot be used."""
        for name in ("feature_layer", "modulation_layer"):
            check_layer(self.unet, name, settings[name])
        for name, value, valid in (("offset_placement", offset_placement, PLACEMENTS), ("mode", mode, MODES),
                                   ("inversion", inversion, METHODS)):  # fmt: skip
            if value not in valid:
                raise ValueError(f"{name}={value!r} is unknown; choose one of {', '.join(map(repr, valid))}.")
        numbers = {"num_masks": settings["num_masks"], "noise_ensemble_size": settings["noise_ensemble_size"],
                   "processing_resolution": settings["resolution"], "mask_batch_size": mask_batch_size or 1}  # fmt: skip
        for name, value in numbers.items():
            if value < 1 or value != int(value):
                raise ValueError(f"{name}={value} is not possible; it is a whole number of at least 1.")
        if settings["filter_sigma"] < 0:
            raise ValueError(f"filter_sigma={settings['filter_sigma']} is not possible; it is at least 0 (no filter).")


def check_masks(masks: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Masks of the caller's as (K, h, w) bool; raises ValueError for any other shape or an empty mask."""
    masks = torch.as_tensor(masks)
    if masks.ndim != 3 or len(masks) == 0:
        raise ValueError(f"coarse_masks have shape (K, h, w) with K ≥ 1, not {tuple(masks.shape)}.")
    masks = masks.bool()
    if not bool(masks.flatten(1).any(1).all()):
        raise ValueError("coarse_masks hold a mask without any cell; leave it out.")
    return masks


def _device_of(generator: torch.Generator | None) -> torch.device:
    return generator.device if generator is not None else torch.device("cpu")


@contextmanager
def _quiet_transformers():
    """While loading: no advice about image processors that EmerDiff does not use, no bar for half a second's work."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        transformers_logging.enable_progress_bar()


@contextmanager
def _stopwatch(timings: dict[str, float], stage: str):
    start = time.perf_counter()
    yield
    timings[stage] = round(time.perf_counter() - start, 4)
