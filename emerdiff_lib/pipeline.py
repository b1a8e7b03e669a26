"""EmerDiff as a diffusers pipeline: an image in, a segmentation out, from a frozen text-to-image model (arXiv 2401.11739)."""

from __future__ import annotations

import itertools
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DiffusionPipeline, UNet2DConditionModel
from diffusers.utils import BaseOutput
from PIL.Image import Image
from transformers import CLIPTextModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from . import images as image_io
from . import models
from .assignment import assign_bilinear, assign_pixels, resize_maps
from .attention import PLACEMENTS, check_layer
from .clustering import cluster_queries, mask_embeddings
from .denoiser import Denoiser
from .features import extract_queries, noise_ensemble
from .inversion import METHODS, Trajectory, draw_latents, invert_ddim, invert_ddpm, replay
from .memory import affordable_rows
from .modulation import EXACT, READOUTS, Shortcuts, difference_maps

MODES = {
    "exact": EXACT,
    "fast": Shortcuts(
        denoising_steps=2, one_sided=True, readout="latents", coded_passes=8, guide_radius=1.5
    ),  # notebook 09 says why
}


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
    _optional_components = ["tiny_decoder"]
    model_name = "custom components"  # replaced by what from_pretrained was asked for

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: PreTrainedTokenizerBase,
        unet: UNet2DConditionModel,
        scheduler,
        tiny_decoder: AutoencoderTiny | None = None,
    ):
        super().__init__()
        self.register_modules(
            vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler, tiny_decoder=tiny_decoder
        )  # fmt: skip
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
        denoising_steps: int | None = None,
        one_sided: bool | None = None,
        readout: str | None = None,
        coded_passes: int | None = None,
        guide_radius: float | None = None,
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
            mode: "exact", or "fast", a set of the five options below (see :class:`~emerdiff_lib.modulation.Shortcuts`).
            denoising_steps: network evaluations from t_m on; as many as inference steps unless given.
            one_sided: compare −λ with the unmodulated image, not with +λ.
            readout: "image", "latents" (no decoding) or "tiny_decoder".
            coded_passes: this many passes (a power of two) carry all masks at once.
            guide_radius: bring difference maps to pixels by a guided filter of this radius, in coarse cells; 0 for none.
            trajectory: reuse :meth:`invert`'s result on the same image; default timesteps beyond its start move there.
            coarse_masks: (K, h, w) bool masks of your own, at any resolution, instead of clustering.
            output_difference_maps: also return dᵏ at the size of the input.
            mask_batch_size: masks per batch of modulated denoising; by default what free memory allows. Images of a list
                share batches where there is room for all their masks.
            generator: source of all randomness (inversion noise, then the k-means seed).

        Autocast is PyTorch's: ``with torch.autocast("cpu", torch.bfloat16): pipe(image)``.

        Returns:
            :class:`EmerDiffOutput`, or a list of them for a list of images.

        Raises:
            ValueError, FileNotFoundError: one sentence that names the faulty value and the possible ones.
        """
        several = isinstance(image, list | tuple)
        if several and (trajectory is not None or coarse_masks is not None):
            raise ValueError("trajectory and coarse_masks belong to one image; call the pipeline once per image.")
        images = list(image) if several else [image]
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
        given = dict(denoising_steps=denoising_steps, one_sided=one_sided, readout=readout, coded_passes=coded_passes,
                     guide_radius=guide_radius)  # fmt: skip
        shortcuts = replace(MODES[mode], **{name: value for name, value in given.items() if value is not None})
        self.check_shortcuts(shortcuts, inversion)
        denoiser = self.denoiser(settings["num_inference_steps"], prompt)
        t_f = denoiser.check_timestep("feature_timestep", settings["feature_timestep"])
        t_m = denoiser.check_timestep("modulation_timestep", settings["modulation_timestep"])
        decode = self.decode_tiny if shortcuts.readout == "tiny_decoder" else self.decode

        def coarse(image) -> _Work:
            """Everything up to the coarse masks (Sec. 3.1)."""
            work = _Work(image_io.load_image(image), trajectory)
            if trajectory is None:
                with _stopwatch(work.timings, "encode"):
                    latents = self.encode(work.image, settings["resolution"])
                with _stopwatch(work.timings, "invert"):
                    if inversion == "ddpm":  # its network calls are left to the unmodulated row of the denoising
                        timesteps = [t for t in denoiser.timesteps if t <= max(t_f, t_m)]
                        drawn = draw_latents(denoiser, latents, timesteps, generator)
                        work.trajectory = Trajectory("ddpm", timesteps, drawn, latents, len(denoiser.timesteps))
                    else:
                        work.trajectory = self._invert(denoiser, latents, inversion, max(t_f, t_m), generator)
            elif missing := [t for t in (t_f, t_m) if t not in trajectory.latents]:
                raise ValueError(
                    f"The trajectory starts at {trajectory.timesteps[0]} and does not reach timestep {missing[0]}; invert "
                    f"with start_timestep={max(t_f, t_m)}."
                )
            with _stopwatch(work.timings, "queries"):
                noisy = noise_ensemble(denoiser, work.trajectory, t_f, settings["noise_ensemble_size"], generator)
                queries = extract_queries(denoiser, noisy, t_f, [settings["feature_layer"]])[settings["feature_layer"]]
            with _stopwatch(work.timings, "cluster"):
                random_state = int(torch.randint(2**31 - 1, (), generator=generator, device=_device_of(generator)))
                if coarse_masks is None:
                    work.masks = cluster_queries(queries, settings["num_masks"], random_state)
                else:
                    work.masks = check_masks(coarse_masks)
                    queries = resize_maps(queries.permute(2, 0, 1), work.masks.shape[1:]).permute(1, 2, 0)
            work.queries = queries
            return work

        def maps_of(works: list[_Work]) -> list[torch.Tensor]:
            """Difference maps of images that are modulated together (Sec. 3.2)."""
            start = time.perf_counter()
            maps = difference_maps(
                denoiser, decode, [work.trajectory for work in works], [work.masks for work in works],
                settings["modulation_layer"], t_m, settings["modulation_strength"], attention_injection, offset_placement,
                chunk_size=mask_batch_size or self.default_mask_batch_size(works[0].trajectory, shortcuts),
                progress=lambda total: self.progress_bar(total=total), shortcuts=shortcuts,
                guide=[work.guide(self.vae_scale_factor) for work in works],
            )  # fmt: skip
            for work in works:
                work.timings["modulate"] = round((time.perf_counter() - start) / len(works), 4)
            return maps

        def assign(work: _Work, maps: torch.Tensor) -> EmerDiffOutput:
            size = work.image.height, work.image.width
            with _stopwatch(work.timings, "assign"):
                labels = assign_pixels(maps, size, settings["filter_sigma"])
                baseline = assign_bilinear(work.masks, size)
            used = {"model": self.model_name, "mode": mode} | settings | asdict(shortcuts) | {
                "num_masks": len(work.masks), "attention_injection": attention_injection,
                "offset_placement": offset_placement, "inversion": inversion, "prompt": prompt,
                "own_masks": coarse_masks is not None, "seed": None if generator is None else generator.initial_seed(),
                "image_size": list(size),
                "processing_size": [s * self.vae_scale_factor for s in work.trajectory.clean_latents.shape[2:]],
                "dtype": str(self.unet.dtype).removeprefix("torch."), "device": str(self._execution_device),
            }  # fmt: skip
            used["processing_resolution"] = used.pop("resolution")
            return EmerDiffOutput(
                labels=labels, baseline_labels=baseline, coarse_masks=work.masks.numpy(),
                mask_embeddings=mask_embeddings(work.queries, work.masks).numpy(),
                difference_maps=resize_maps(maps, size).numpy() if output_difference_maps else None,
                settings=used, timings=work.timings,
            )  # fmt: skip

        outputs, remaining = [], iter(images)
        while first := [coarse(image) for image in itertools.islice(remaining, 1)]:
            room = self.images_per_batch(first[0], shortcuts) if mask_batch_size is None else 1
            works = first + [coarse(image) for image in itertools.islice(remaining, room - 1)]
            for _, alike in itertools.groupby(works, key=_Work.shape):
                alike = list(alike)
                outputs += [assign(work, maps) for work, maps in zip(alike, maps_of(alike), strict=True)]
        return outputs if several else outputs[0]

    def default_settings(self) -> dict:
        """What this checkpoint is used with unless told otherwise; see :class:`~emerdiff_lib.models.Defaults`."""
        return models.resolve_settings(self.unet.config)

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
        return self._decode(self.vae, latents)

    @torch.no_grad()
    def decode_tiny(self, latents: torch.Tensor) -> torch.Tensor:
        """As :meth:`decode`, with the ``AutoencoderTiny`` that the pipeline was given."""
        return self._decode(self.tiny_decoder, latents)

    def _decode(self, vae, latents: torch.Tensor) -> torch.Tensor:
        pixels = latents.shape[2] * latents.shape[3] * self.vae_scale_factor**2
        most = 8 if self._execution_device.type == "cpu" else 64  # a CPU's caches like small batches of large pictures
        rows = affordable_rows(vae, max(self.vae.config.block_out_channels[:2]), pixels, most=most)
        scaled = (latents / vae.config.scaling_factor).to(vae.dtype)
        return torch.cat([(vae.decode(part).sample.float() / 2 + 0.5).clamp(0, 1) for part in scaled.split(rows)])

    def denoiser(self, num_inference_steps: int | None = None, prompt: str = "") -> Denoiser:
        """The U-Net with this prompt and N inference steps (default: the checkpoint's)."""
        if num_inference_steps is None:
            num_inference_steps = self.default_settings()["num_inference_steps"]
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

    def default_mask_batch_size(self, trajectory: Trajectory, shortcuts: Shortcuts = EXACT) -> int:
        """Masks (or coded passes) whose rows fit into free memory together."""
        rows = affordable_rows(self.unet, *self._unet_row(trajectory.clean_latents))
        return max(1, (rows - 1) // (1 if shortcuts.one_sided else 2))

    def images_per_batch(self, work: _Work, shortcuts: Shortcuts = EXACT) -> int:
        """How many images like this one can be modulated in one batch, with all their masks; at least 1."""
        most = 64 if self._execution_device.type == "cpu" else 256
        rows = affordable_rows(self.unet, *self._unet_row(work.trajectory.clean_latents), most=most)
        passes = min(shortcuts.coded_passes or len(work.masks), len(work.masks))
        return max(1, rows // (1 + passes * (1 if shortcuts.one_sided else 2)))

    def check_inputs(self, settings, offset_placement, inversion, mode, mask_batch_size):
        """One clear ValueError for each value that cannot be used."""
        for name in ("feature_layer", "modulation_layer"):
            check_layer(self.unet, name, settings[name])
        for name, value, valid in (("offset_placement", offset_placement, PLACEMENTS), ("mode", mode, tuple(MODES)),
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

    def check_shortcuts(self, shortcuts: Shortcuts, inversion: str):
        """As :meth:`check_inputs`, for what modulated denoising leaves out."""
        if shortcuts.readout not in READOUTS:
            raise ValueError(
                f"readout={shortcuts.readout!r} is unknown; choose one of {', '.join(map(repr, READOUTS))}."
            )
        if shortcuts.readout == "tiny_decoder" and self.tiny_decoder is None:
            raise ValueError(
                'readout="tiny_decoder" needs one; pass tiny_decoder=AutoencoderTiny.from_pretrained("madebyollin/taesd") to '
                "from_pretrained (that one is for Stable Diffusion 1.x)."
            )
        passes = shortcuts.coded_passes
        if passes is not None and (passes < 1 or passes & (passes - 1)):
            raise ValueError(f"coded_passes={passes} is not possible; choose a power of two: 4, 8, 16 …")
        if shortcuts.guide_radius < 0:
            raise ValueError(
                f"guide_radius={shortcuts.guide_radius} is not possible; it is at least 0 (no guided filter)."
            )
        if shortcuts.denoising_steps is not None and inversion != "ddpm":
            raise ValueError("denoising_steps needs inversion='ddpm': larger steps are exact only with recorded noise.")
        if shortcuts.denoising_steps is not None and shortcuts.denoising_steps < 1:
            raise ValueError(f"denoising_steps={shortcuts.denoising_steps} is not possible; it is at least 1.")


@dataclass
class _Work:
    """An image on its way through the pipeline."""

    image: Image
    trajectory: Trajectory | None
    masks: torch.Tensor | None = None
    queries: torch.Tensor | None = None
    timings: dict[str, float] = field(default_factory=dict)

    def shape(self) -> tuple:
        """What images must share to be modulated together."""
        return tuple(self.trajectory.clean_latents.shape), tuple(self.masks.shape)

    def guide(self, vae_scale_factor: int) -> torch.Tensor:
        """(3, H, W) the image in [0, 1] at its processing size."""
        size = tuple(side * vae_scale_factor for side in self.trajectory.clean_latents.shape[2:])
        return image_io.to_tensor(self.image, size)[0] / 2 + 0.5


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
