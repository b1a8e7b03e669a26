"""EmerDiff as a diffusers pipeline: an image in, a segmentation out, from a frozen text-to-image model (arXiv 2401.11739)."""

from __future__ import annotations

from typing import Any, overload

import numpy as np
import torch

from . import images as image_io
from .assignment import assign_bilinear, assign_pixels
from .clustering import cluster_queries, mask_embeddings, part_masks
from .features import extract_queries, noise_ensemble
from .frozen_model import FrozenModel
from .inversion import Trajectory, draw_latents, invert_ddim, invert_ddpm, replay
from .memory import affordable_rows
from .modulation import difference_maps, signed_responses
from .refinement import refine, resize_maps
from .responses import ImageResponses, gather
from .settings import Assignment, Perturbation, Refinement, Shortcuts, check_generator, check_only, whole
from .stages import CoarseMasks, EmerDiffOutput, Responses, check_masks
from .timing import stopwatch


class EmerDiffPipeline(FrozenModel):
    """Pixel-level segmentation with a frozen diffusion model (:data:`~.checkpoints.FAMILIES`).

    Load it with :meth:`from_pretrained`, then call it on an image, or go stage by stage: :meth:`invert` →
    :meth:`coarse` → :meth:`respond` → :meth:`assign`. Components are named as in ``StableDiffusionPipeline``.
    """

    @torch.no_grad()
    def __call__(
        self,
        image: image_io.ImageInput | list[image_io.ImageInput],
        num_masks: int | None = None,
        *,
        trajectory: Trajectory | None = None,
        coarse_masks: np.ndarray | torch.Tensor | None = None,
        output_difference_maps: bool = False,
        mask_batch_size: int | None = None,
        generator: torch.Generator | None = None,
        **settings: Any,
    ) -> EmerDiffOutput | list[EmerDiffOutput]:
        """Segment an image, or each image of a list.

        Args:
            image: a path, PIL image, array or tensor of any size (:func:`~emerdiff_lib.images.load_image`), or a list.
            num_masks: K, the number of coarse masks.
            trajectory: reuse :meth:`invert`'s result on the same image; default timesteps beyond its start move there.
            coarse_masks: (K, h, w) masks of your own, at any resolution, instead of clustering.
            output_difference_maps: also return dᵏ at the size of the input.
            mask_batch_size: masks per batch of modulated denoising; by default what free memory allows. Images of a
                list share batches where there is room for all their masks.
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
            raise ValueError(
                "trajectory and coarse_masks belong to one image; call the pipeline once per image."
            )
        if trajectory is not None:
            images = [trajectory.check_image(images[0])]
        settings["num_masks"] = num_masks
        self.resolve(trajectory, **settings)  # refuses what cannot be used before any work is done

        stages = (
            self.coarse(one, coarse_masks=coarse_masks, generator=generator, **settings) for one in images
        )
        outputs = []
        for together in self.batches(stages, mask_batch_size):
            for responses in self.respond(together, mask_batch_size=mask_batch_size):
                labels = self.assign(responses)
                outputs.append(self.output(responses, labels, generator, output_difference_maps))
        self.maybe_free_model_hooks()
        return outputs if isinstance(image, list | tuple) else outputs[0]

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
        noise_maps: bool = True,
    ) -> Trajectory:
        """Invert an image from ``start_timestep`` (default: t_m of the checkpoint) down to the last one.

        ``noise_maps=False`` leaves out zₜ and with them every network call of the DDPM inversion: all that the
        segmentation needs, since modulated denoising reads the noise off its unmodulated row.

        Raises:
            ValueError: unknown ``method``, or ``start_timestep`` is no inference timestep.
        """
        check_generator(generator)
        settings = self.resolve(
            inversion=method,
            num_inference_steps=num_inference_steps,
            prompt=prompt,
            processing_resolution=processing_resolution,
        )
        denoiser = self.denoiser(settings.inversion.num_inference_steps, prompt)
        start = settings.perturbation.modulation_timestep if start_timestep is None else start_timestep
        denoiser.check_timestep("start_timestep", start)
        seconds: dict[str, float] = {}
        image, resolution = image_io.load_image(image), settings.inversion.processing_resolution
        with stopwatch(seconds, "encode"):
            latents = self.encode(image, resolution)
        timesteps = [t for t in denoiser.timesteps if t <= start]
        with stopwatch(seconds, "invert"):
            if method == "ddim":
                trajectory = invert_ddim(denoiser, latents, timesteps, progress=self._bar)
            elif noise_maps:
                rows = affordable_rows(self.unet, *self._unet_row(latents))
                trajectory = invert_ddpm(denoiser, latents, timesteps, generator, rows, progress=self._bar)
            else:
                drawn = draw_latents(denoiser, latents, timesteps, generator)
                trajectory = Trajectory("ddpm", timesteps, drawn, latents, len(denoiser.timesteps))
        trajectory.image, trajectory.prompt, trajectory.seconds = image, prompt, seconds
        trajectory.processing_resolution = resolution
        return trajectory

    @torch.no_grad()
    def coarse(
        self,
        image: image_io.ImageInput | Trajectory,
        num_masks: int | None = None,
        *,
        coarse_masks: np.ndarray | torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        **settings: Any,
    ) -> CoarseMasks:
        """Everything up to the coarse masks (Sec. 3.1): query vectors at t_f, clustered into K masks.

        Args:
            image: an image, which is inverted as far as the settings need, or its trajectory.
            num_masks, coarse_masks, generator, settings: as for the pipeline itself.
        """
        check_generator(generator)
        given = image if isinstance(image, Trajectory) else None
        resolved = self.resolve(given, num_masks=num_masks, **settings)
        own_masks = None if coarse_masks is None else check_masks(coarse_masks)
        inversion, features = resolved.inversion, resolved.features
        if isinstance(image, Trajectory):
            trajectory = image
        else:
            trajectory = self.invert(
                image,
                inversion.inversion,
                max(features.feature_timestep, resolved.perturbation.modulation_timestep),
                inversion.num_inference_steps,
                inversion.prompt,
                inversion.processing_resolution,
                generator,
                noise_maps=False,
            )
        denoiser = self.denoiser(inversion.num_inference_steps, inversion.prompt)
        seconds = dict(trajectory.seconds)
        with stopwatch(seconds, "queries"):
            t_f, layer = features.feature_timestep, features.feature_layer
            noisy = noise_ensemble(denoiser, trajectory, t_f, features.noise_ensemble_size, generator)
            queries = extract_queries(denoiser, noisy, t_f, [layer])[layer]
        with stopwatch(seconds, "cluster"):
            device = generator.device if generator is not None else torch.device("cpu")
            random_state = int(torch.randint(2**31 - 1, (), generator=generator, device=device))
            masks = own_masks
            if masks is None:
                masks = cluster_queries(queries, features.num_masks, random_state)
            if queries.shape[:2] != masks.shape[1:]:
                queries = resize_maps(queries.permute(2, 0, 1), (masks.shape[1], masks.shape[2])).permute(
                    1, 2, 0
                )
            embeddings = mask_embeddings(queries, masks)
        resolved = resolved.replace(num_masks=len(masks))
        return CoarseMasks(trajectory, queries, masks, embeddings, resolved, own_masks is not None, seconds)

    @overload
    def respond(self, coarse: CoarseMasks, **settings: Any) -> Responses | ImageResponses: ...
    @overload
    def respond(
        self, coarse: list[CoarseMasks], **settings: Any
    ) -> list[Responses] | list[ImageResponses]: ...

    @torch.no_grad()
    def respond(
        self, coarse: CoarseMasks | list[CoarseMasks], *, mask_batch_size: int | None = None, **settings: Any
    ) -> Responses | ImageResponses | list[Responses] | list[ImageResponses]:
        """Response of the pixels to each mask (Sec. 3.2), for an image or for images of one shape that are modulated together.

        With ``num_parts`` (``mode="pixel"``) probe masks are modulated instead of the K coarse ones, and their signed responses
        kept.

        Args:
            coarse: :meth:`coarse`'s result, or a list of such with equal :meth:`~CoarseMasks.shape` and settings.
            mask_batch_size: masks per batch; by default what free memory allows.
            **settings: of :class:`~.settings.Perturbation`, :class:`~.settings.Shortcuts` and
                :class:`~.settings.Assignment`, and ``mode``, over those that ``coarse`` was made with.

        Raises:
            ValueError: a setting that is not possible, and ``num_parts`` where the masks are the caller's own.
        """
        stages = coarse if isinstance(coarse, list) else [coarse]
        check_only("respond", settings, Perturbation, Shortcuts, Assignment)
        whole(1, optional=True)("mask_batch_size", mask_batch_size)
        resolved = [self.resolve(s.trajectory, **s.settings.changed(settings)) for s in stages]
        if len({(stage.shape(), each) for stage, each in zip(stages, resolved, strict=True)}) != 1:
            raise ValueError(
                "Images that are modulated together share their shape and settings; respond to them one by one."
            )
        common, num_parts = resolved[0], resolved[0].assignment.num_parts
        if num_parts is not None and any(stage.own_masks for stage in stages):
            raise ValueError(
                "Masks of your own are modulated as they are, which num_parts (mode='pixel') does not do; use mode='exact'."
            )
        masks = [s.masks if num_parts is None else part_masks(s.queries, num_parts) for s in stages]
        seconds: dict[str, float] = {}
        with stopwatch(seconds, "modulate"):
            chunks = signed_responses(
                self.denoiser(common.inversion.num_inference_steps, common.inversion.prompt),
                self.decode,
                [stage.trajectory for stage in stages],
                masks,
                common.perturbation,
                common.shortcuts,
                mask_batch_size or self.default_mask_batch_size(stages[0].trajectory, common.shortcuts),
                self.progress_bar,
            )
            results: list[Any]
            if num_parts is None:
                maps = difference_maps(chunks)
                results = [Responses(s, m, common) for s, m in zip(stages, maps, strict=True)]
            else:
                results = gather(chunks, stages, masks, common, self.vae_scale_factor)
        each_seconds = {"modulate": round(seconds["modulate"] / len(stages), 4)}
        for stage, result in zip(stages, results, strict=True):
            result.seconds = stage.seconds | each_seconds
        return results if isinstance(coarse, list) else results[0]

    @torch.no_grad()
    def assign(self, responses: Responses | ImageResponses, **settings: Any) -> np.ndarray:
        """Labels (H, W) int32: for each pixel the mask with the largest response, in refined difference maps (Eq. 5).

        Of :class:`ImageResponses`, K segments of pixels' own features instead. ``settings`` of :class:`~.settings.Refinement`
        over those that ``responses`` were made with.
        """
        check_only("assign", settings, Refinement)
        resolved = responses.settings.replace(**settings)
        responses.seconds.pop("assign", None)  # of another assignment of the same responses
        with stopwatch(responses.seconds, "assign"):
            if isinstance(responses, ImageResponses):
                return responses.segments(resolved.features.num_masks, resolved.refinement.guide_radius)
            coarse = responses.coarse
            guide = coarse.guide(self.vae_scale_factor)
            cell = guide.shape[1] / coarse.masks.shape[1]
            return assign_pixels(
                refine(responses.difference_maps, resolved.refinement, guide, cell), coarse.size
            )

    def output(
        self,
        responses: Responses | ImageResponses,
        labels: np.ndarray,
        generator: torch.Generator | None = None,
        difference_maps: bool = False,
    ) -> EmerDiffOutput:
        """Everything about one image, with the settings that led there."""
        if isinstance(responses, ImageResponses):
            masks, embeddings = responses.cells_of(labels)
            own_masks, size = False, responses.processing_size
            maps = responses.difference_maps(masks if difference_maps else masks[:0])
        else:
            coarse = responses.coarse
            masks, embeddings, maps = coarse.masks, coarse.embeddings, responses.difference_maps
            own_masks, size = coarse.own_masks, coarse.processing_size(self.vae_scale_factor)
        return EmerDiffOutput(
            labels=labels,
            baseline_labels=assign_bilinear(masks, labels.shape),
            coarse_masks=masks.numpy(),
            mask_embeddings=embeddings.numpy(),
            difference_maps=resize_maps(maps, labels.shape).numpy() if difference_maps else None,
            settings={
                "model": self.model_name,
                **responses.settings.to_dict(),
                "own_masks": own_masks,
                "seed": None if generator is None else generator.initial_seed(),
                "image_size": list(labels.shape),
                "processing_size": list(size),
                "dtype": str(self.unet.dtype).removeprefix("torch."),
                "device": str(self._execution_device),
            },
            timings=responses.seconds,
        )

    @torch.no_grad()
    def replay(self, trajectory: Trajectory, prompt: str | None = None) -> torch.Tensor:
        """Denoise a trajectory back to its latents x₀, (1, C, h, w) float32, under its own prompt or another."""
        prompt = trajectory.prompt if prompt is None else prompt
        return replay(self.denoiser(trajectory.num_inference_steps, prompt), trajectory, progress=self._bar)
