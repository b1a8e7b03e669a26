"""EmerDiff as a diffusers pipeline: an image in, a segmentation out, from a frozen text-to-image model (arXiv 2401.11739)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Unpack, overload

import numpy as np
import torch

from . import images as image_io
from .assignment import assign_bilinear, assign_pixels
from .clustering import cluster_queries, mask_embeddings, part_masks, shares_of_cells
from .features import extract_queries, noise_ensemble
from .frozen_model import FrozenModel
from .inversion import Trajectory, draw_latents, invert_ddim, invert_ddpm, replay
from .loading import check_device, check_dtype
from .modulation import difference_maps, signed_responses
from .refinement import refine, resize_maps
from .responses import ImageResponses, quantise
from .settings import ASSIGNED, MODULATED, Options, Settings, check_generator, check_made, check_only, whole
from .stages import CoarseMasks, EmerDiffOutput, Responses, check_masks
from .timing import stopwatch


class CallOptions(Options, total=False):
    """Keywords of a call, as :meth:`EmerDiffPipeline.__call__` describes them."""

    trajectory: Trajectory | None
    coarse_masks: np.ndarray | torch.Tensor | None
    output_difference_maps: bool
    mask_batch_size: int | None
    generator: torch.Generator | None


class EmerDiffPipeline(FrozenModel):
    """Pixel-level segmentation with a frozen diffusion model (:data:`~.backbones.BACKBONES`).

    Load it with :meth:`from_pretrained`, then call it on an image, or go stage by stage: :meth:`invert` →
    :meth:`cluster` → :meth:`modulate` → :meth:`assign`; around one that you have, make it with :meth:`from_pipe`.
    """

    @overload
    def __call__(
        self, image: list[Any] | tuple[Any, ...], num_masks: int | None = None, **options: Unpack[CallOptions]
    ) -> list[EmerDiffOutput]: ...

    @overload
    def __call__(
        self, image: image_io.ImageInput, num_masks: int | None = None, **options: Unpack[CallOptions]
    ) -> EmerDiffOutput: ...

    @torch.no_grad()
    def __call__(
        self,
        image: image_io.ImageInput | list[Any] | tuple[Any, ...],
        num_masks: int | None = None,
        *,
        trajectory: Trajectory | None = None,
        coarse_masks: np.ndarray | torch.Tensor | None = None,
        output_difference_maps: bool = False,
        mask_batch_size: int | None = None,
        generator: torch.Generator | None = None,
        **settings: Unpack[Options],
    ) -> EmerDiffOutput | list[EmerDiffOutput]:
        """Segment an image, or each image of a list.

        Args:
            image: a path, PIL image, array or tensor of any size (:func:`~emerdiff_lib.images.load_image`), or a list.
            num_masks: K, the number of coarse masks.
            trajectory: reuse :meth:`invert`'s result on the same image; default timesteps beyond its start move there.
            coarse_masks: (K, h, w) masks of your own, at any resolution, instead of clustering.
            output_difference_maps: also return dᵏ at the size of the input.
            mask_batch_size: masks per batch of modulated denoising; by default what free memory allows.
            generator: source of all randomness (inversion noise, then the k-means seed).
            **settings: anything of :mod:`emerdiff_lib.settings` by name: ``modulation_strength``, ``feature_layer``,
                ``mode`` …; what is not given, or None, takes the checkpoint's default.

        Autocast is PyTorch's: ``with torch.autocast("cpu", torch.bfloat16): pipe(image)``.

        Returns:
            :class:`EmerDiffOutput`, or a list of them for a list of images.

        Raises:
            ValueError, FileNotFoundError: one sentence that names the faulty value and the possible ones.
        """
        images: list[Any] = list(image) if isinstance(image, list | tuple) else [image]
        if isinstance(image, list | tuple) and (trajectory is not None or coarse_masks is not None):
            raise ValueError("trajectory and coarse_masks belong to one image; call with one at a time.")
        check_generator(generator)
        self.resolve(trajectory, num_masks=num_masks, **settings)  # refuses before any work is done
        if trajectory is not None:
            images = [trajectory.check_image(images[0])]
        whole(1, optional=True)("mask_batch_size", mask_batch_size)

        outputs: list[EmerDiffOutput] = []
        for one in images:
            seeded = generator if is_fresh(generator) else None  # its seed alone does not give this one again
            coarse = self.cluster(one, num_masks, coarse_masks=coarse_masks, generator=generator, **settings)
            responses = self.respond(coarse, mask_batch_size=mask_batch_size)
            outputs.append(self.output(responses, seeded, output_difference_maps))
        self.maybe_free_model_hooks()
        return outputs if isinstance(image, list | tuple) else outputs[0]

    @torch.no_grad()
    def invert(
        self,
        image: image_io.ImageInput,
        method: str | None = None,
        start_timestep: int | None = None,
        num_inference_steps: int | None = None,
        prompt: str | None = None,
        processing_resolution: int | None = None,
        generator: torch.Generator | None = None,
        noise_maps: bool = True,
    ) -> Trajectory:
        """Invert an image from ``start_timestep`` (default: t_m of the checkpoint) down to the last one.

        ``method`` is "ddpm" or "ddim"; it and what else is None is the checkpoint's.
        ``noise_maps=False`` leaves out zₜ and with them every network call of the DDPM inversion: all that the
        segmentation needs, since modulated denoising reads the noise off its unmodulated row.

        Raises:
            ValueError: unknown ``method``, or ``start_timestep`` is no inference timestep.
        """
        check_generator(generator)
        given: dict[str, Any] = {"prompt": prompt, "processing_resolution": processing_resolution}
        settings = self.resolve(inversion=method, num_inference_steps=num_inference_steps, **given)
        predictor = self._predictor(settings, settings.prompt)
        start = settings.modulation_timestep if start_timestep is None else start_timestep
        predictor.check_timestep("start_timestep", start)
        seconds: dict[str, float] = {}
        image = image_io.load_image(image)
        resolution, method = settings.processing_resolution, settings.inversion
        with stopwatch(seconds, "encode"):
            latents = self.encode(image, resolution)
            self.warn_of_prediction_type(latents, predictor)
        timesteps = [t for t in predictor.timesteps if t <= start]
        with stopwatch(seconds, "invert"):
            if method == "ddim":
                trajectory = invert_ddim(predictor, latents, timesteps, progress=self.progress_bar)
            elif noise_maps:
                rows = self.affordable_rows(latents)
                trajectory = invert_ddpm(
                    predictor, latents, timesteps, generator, rows, progress=self.progress_bar
                )
            else:
                drawn = draw_latents(predictor, latents, timesteps, generator)
                trajectory = Trajectory("ddpm", timesteps, drawn, latents, len(predictor.timesteps))
        trajectory.image, trajectory.prompt, trajectory.seconds = image, settings.prompt, seconds
        trajectory.processing_resolution = resolution
        trajectory.latent_space = self.latent_space(method == "ddim" or noise_maps)
        return trajectory

    @torch.no_grad()
    def cluster(
        self,
        image: image_io.ImageInput | Trajectory,
        num_masks: int | None = None,
        *,
        coarse_masks: np.ndarray | torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        **settings: Unpack[Options],
    ) -> CoarseMasks:
        """Everything up to the coarse masks (Sec. 3.1): query vectors at t_f, clustered into K masks.

        Args:
            image: an image, which is inverted as far as the settings need, or its trajectory.
            num_masks, coarse_masks, generator, settings: as for the pipeline itself.
        """
        check_generator(generator)
        given = image if isinstance(image, Trajectory) else None
        resolved = self.resolve(given, num_masks=num_masks, **settings)
        own_masks = None
        if coarse_masks is not None:  # which are refused before anything is computed
            shown = image.image if isinstance(image, Trajectory) else image_io.load_image(image)
            own_masks = check_masks(coarse_masks, shown)
        if isinstance(image, Trajectory):
            trajectory = image
        else:
            start = max(resolved.feature_timestep, resolved.modulation_timestep)
            way = resolved.num_inference_steps, resolved.prompt, resolved.processing_resolution
            trajectory = self.invert(image, resolved.inversion, start, *way, generator, noise_maps=False)
        predictor = self._predictor(resolved, resolved.prompt)
        seconds = dict(trajectory.seconds)
        with stopwatch(seconds, "queries"):
            t_f, layer = resolved.feature_timestep, resolved.feature_layer
            noisy = noise_ensemble(predictor, trajectory, t_f, resolved.noise_ensemble_size, generator)
            queries = extract_queries(predictor, noisy, t_f, [layer])[layer]
        with stopwatch(seconds, "cluster"):
            device = generator.device if generator is not None else torch.device("cpu")
            seed = int(torch.randint(2**31 - 1, (), generator=generator, device=device))
            masks = cluster_queries(queries, resolved.num_masks, seed) if own_masks is None else own_masks
            shares = shares_of_cells(masks, (queries.shape[0], queries.shape[1]))
            embeddings = mask_embeddings(queries, shares)
        resolved = resolved.replace(num_masks=len(masks))
        height, width = (side * self.vae_scale_factor for side in trajectory.clean_latents.shape[2:])
        clustered = masks.numpy().tobytes() if own_masks is None else b""
        found = trajectory, queries, masks, embeddings, resolved
        return CoarseMasks(*found, (height, width), clustered, seconds)

    @torch.no_grad()
    def modulate(
        self, coarse: CoarseMasks, *, mask_batch_size: int | None = None, **settings: Unpack[Options]
    ) -> Responses:
        """Response of the pixels to each mask (Sec. 3.2).

        Args:
            coarse: :meth:`cluster`'s result.
            mask_batch_size: masks per batch; by default what free memory allows.
            **settings: of :data:`~.settings.MODULATED`, over those that ``coarse`` was made with.

        Raises:
            ValueError: a setting that is not possible, or one that asks for probe masks (:meth:`probe`).
        """
        resolved = self._later_settings(coarse, settings)
        if resolved.num_parts is not None:
            raise ValueError(
                f"mode={resolved.mode!r} modulates probe masks (num_parts={resolved.num_parts}); call pipe.probe, "
                "or choose mode='exact'."
            )
        made = self._made(coarse, resolved)
        with stopwatch(made["seconds"], "modulate"):
            maps = difference_maps(self._signed_responses(coarse, coarse.masks, resolved, mask_batch_size))
        return Responses(**made, difference_maps=maps)

    @torch.no_grad()
    def probe(
        self,
        coarse: CoarseMasks,
        *,
        mask_batch_size: int | None = None,
        progress: Callable[..., Any] | None = None,
        **settings: Unpack[Options],
    ) -> ImageResponses:
        """Signed responses to ``num_parts`` small probe masks in place of the K coarse ones (``mode="pixel"`` and "fast").

        Arguments are those of :meth:`modulate`, and ``progress`` in place of ``tqdm``; what it raises ends the work.

        Raises:
            ValueError: a setting that is not possible, or ``num_parts`` is None.
        """
        resolved = self._later_settings(coarse, settings)
        if resolved.num_parts is None:
            raise ValueError(
                f'mode={resolved.mode!r} has no probe masks; choose mode="pixel" or "fast", or pass num_parts.'
            )
        parts, made = part_masks(coarse.queries, resolved.num_parts), self._made(coarse, resolved)
        with stopwatch(made["seconds"], "modulate"):
            chunks = self._signed_responses(coarse, parts, resolved, mask_batch_size, progress)
            codes, scales = map(torch.cat, zip(*map(quantise, chunks), strict=True))
        return ImageResponses(**made, parts=parts, codes=codes, scales=scales)

    def respond(
        self, coarse: CoarseMasks, *, mask_batch_size: int | None = None, **settings: Unpack[Options]
    ) -> Responses | ImageResponses:
        """:meth:`modulate`, or :meth:`probe` where the settings ask for probe masks, for code that runs in any mode."""
        probes = self._later_settings(coarse, settings).num_parts is not None
        return (self.probe if probes else self.modulate)(coarse, mask_batch_size=mask_batch_size, **settings)

    def _later_settings(self, coarse: CoarseMasks, given: Mapping[str, Any]) -> Settings:
        check_only("modulate", given, MODULATED)
        check_made("coarse", coarse, CoarseMasks, "pipe.cluster")
        there = {"num_masks": len(coarse.masks)}  # they may have been changed
        return self.resolve(coarse.trajectory, **coarse.settings.changed({**given, **there}))

    def _signed_responses(
        self,
        coarse: CoarseMasks,
        masks: torch.Tensor,
        settings: Settings,
        size: int | None,
        progress: Callable[..., Any] | None = None,
    ) -> Iterator[torch.Tensor]:
        whole(1, optional=True)("mask_batch_size", size)
        size = size or self.default_mask_batch_size(coarse.trajectory.clean_latents, settings.one_sided)
        predictor, bar = self._predictor(settings, settings.prompt), progress or self.progress_bar
        return signed_responses(predictor, self.decode, coarse.trajectory, masks, settings, size, bar)

    def _made(self, coarse: CoarseMasks, settings: Settings) -> dict[str, Any]:
        """What responses have of coarse masks, or of other responses, which are those as well."""
        kept = {each.name: getattr(coarse, each.name) for each in fields(CoarseMasks)}
        if coarse.own_masks:  # which may have been changed
            kept["embeddings"] = mask_embeddings(coarse.queries, shares_of_cells(coarse.masks, coarse.grid))
        name = self.model_name or self.pipe.name_or_path or type(self.pipe).__name__
        dtype, device = str(self.dtype).removeprefix("torch."), str(self.backbone.device)
        made_by = {"model": name, "dtype": dtype, "autocast": self.autocast, "device": device}
        seconds = coarse.seconds | {"modulate": 0.0}
        return kept | {"settings": settings, "seconds": seconds, "made_by": made_by}

    @torch.no_grad()
    def assign(self, responses: Responses | ImageResponses, **settings: Unpack[Options]) -> np.ndarray:
        """Labels (H, W) int32: for each pixel the mask with the largest response, in refined difference maps (Eq. 5).

        Of :class:`ImageResponses`, K segments of pixels' own features instead, unless masks are the caller's. ``settings``
        of :data:`~.settings.ASSIGNED` over those that ``responses`` were made with.
        """
        check_only("assign", settings, ASSIGNED)
        check_made("responses", responses, Responses | ImageResponses, "pipe.modulate or pipe.probe")
        resolved = _assigned(responses.settings, settings)
        responses.seconds.pop("assign", None)  # of another assignment of the same responses
        # autocast is of networks
        with stopwatch(responses.seconds, "assign"), torch.autocast("cpu", enabled=False):
            if isinstance(responses, Responses):
                maps = responses.difference_maps
            elif responses.own_masks:
                maps = responses.difference_maps(responses.masks)
            else:
                return responses.segments(resolved.num_masks, resolved.guide_radius)
            filters = resolved.filter_sigma, resolved.guide_radius
            return assign_pixels(refine(maps, responses.guide, responses.cell, *filters), responses.size)

    def output(
        self,
        responses: Responses | ImageResponses,
        generator: torch.Generator | None = None,
        difference_maps: bool = False,
        **settings: Unpack[Options],
    ) -> EmerDiffOutput:
        """Everything about one image, :meth:`assign` under ``settings`` included, with all settings that led there.

        Args:
            generator: which the image was begun with and nothing before it, for the "seed" of the output's settings.
        """
        labels = self.assign(responses, **settings)
        masks, embeddings = responses.masks, responses.embeddings
        if isinstance(responses, ImageResponses):
            if not responses.own_masks:
                masks, embeddings = responses.cells_of(labels)
            maps = responses.difference_maps(masks if difference_maps else masks[:0])
        else:
            maps = responses.difference_maps
        return EmerDiffOutput(
            labels=labels,
            baseline_labels=assign_bilinear(masks, labels.shape),
            coarse_masks=masks.numpy().copy(),
            mask_embeddings=embeddings.numpy().copy(),
            difference_maps=resize_maps(maps, labels.shape).numpy() if difference_maps else None,
            settings={
                **responses.made_by,
                **_assigned(responses.settings, settings).to_dict(),
                "prompt_read": self.prompt_read(responses.settings.prompt),
                "own_masks": responses.own_masks,
                "seed": None if generator is None else generator.initial_seed(),
                "image_size": list(labels.shape),
                "processing_size": list(responses.processing_size),
            },
            timings=dict(responses.seconds),
        )

    @torch.no_grad()
    def replay(self, trajectory: Trajectory, prompt: str | None = None) -> torch.Tensor:
        """Denoise a trajectory back to its latents x₀, (1, C, h, w) float32, under its own prompt or another."""
        self.resolve(trajectory)  # which is refused where it is another model's
        prompt = trajectory.prompt if prompt is None else prompt
        predictor = self.predictor(trajectory.num_inference_steps, prompt, trajectory.processing_resolution)
        return replay(predictor, trajectory, progress=self.progress_bar)


def _assigned(made: Settings, given: Mapping[str, Any]) -> Settings:
    """The settings that responses were made with, and the filters of an assignment: a mode has its filters only."""
    of_mode = made.replace(**given)
    return made.replace(filter_sigma=of_mode.filter_sigma, guide_radius=of_mode.guide_radius)


def is_fresh(generator: torch.Generator | None) -> bool:
    """Whether nothing has been drawn since the generator was seeded."""
    if generator is None:
        return False
    again = torch.Generator(generator.device).manual_seed(generator.initial_seed())
    return torch.equal(generator.get_state(), again.get_state())


def load_pipeline(
    model: str | Path = "toyscapes",
    device: str = "",
    dtype: str = "float32",
    progress: bool = False,
    variant: str = "",
) -> EmerDiffPipeline:
    """A pipeline on a device.

    Args:
        model: as for :meth:`EmerDiffPipeline.from_pretrained`.
        device: "cpu", "cuda", "cuda:1", "mps" …; empty: a GPU if there is one.
        dtype: "float32", "bfloat16" or "float16".
        progress: bars over masks and inversion steps.
        variant: of the weights' files, "fp16" for one; empty: the only one that there is, or none.

    Raises:
        FileNotFoundError, ValueError: one sentence that names the faulty value and the possible ones; device and dtype
            are looked at before anything is loaded.
    """
    where, kind = check_device(device), check_dtype(dtype)
    options = {"variant": variant} if variant else {}
    pipe = EmerDiffPipeline.from_pretrained(model, dtype=kind, **options).to(where)
    pipe.set_progress_bar_config(disable=not progress, leave=False)
    return pipe
