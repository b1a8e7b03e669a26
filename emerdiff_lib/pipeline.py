"""EmerDiff as a diffusers pipeline: an image in, a segmentation out, from a frozen text-to-image model (arXiv 2401.11739)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import images as image_io
from .assignment import assign_bilinear, assign_pixels
from .clustering import cluster_queries, mask_embeddings, part_masks
from .features import extract_queries, noise_ensemble
from .frozen_model import FrozenModel
from .inversion import Trajectory, draw_latents, invert_ddim, invert_ddpm, replay
from .loading import check_device, check_dtype
from .modulation import difference_maps, signed_responses
from .predictor import Predictor
from .refinement import refine, resize_maps
from .responses import ImageResponses, gather
from .settings import (
    Assignment,
    InversionSettings,
    Perturbation,
    Refinement,
    Settings,
    Shortcuts,
    check_generator,
    check_only,
    whole,
)
from .stages import CoarseMasks, EmerDiffOutput, Responses, check_masks
from .timing import stopwatch


class EmerDiffPipeline(FrozenModel):
    """Pixel-level segmentation with a frozen diffusion model (:data:`~.backbones.BACKBONES`).

    Load it with :meth:`from_pretrained`, then call it on an image, or go stage by stage: :meth:`invert` →
    :meth:`cluster` → :meth:`modulate` → :meth:`assign`; around one that you have, make it with :meth:`from_pipe`.
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
            self.cluster(one, coarse_masks=coarse_masks, generator=generator, **settings) for one in images
        )
        outputs = []
        for together in self.batches(stages, mask_batch_size):
            common = self._common_settings(together, {})
            for responses in self._modulate(together, common, mask_batch_size):
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
        predictor = self._predictor(settings.inversion)
        start = settings.perturbation.modulation_timestep if start_timestep is None else start_timestep
        predictor.check_timestep("start_timestep", start)
        seconds: dict[str, float] = {}
        image, resolution = image_io.load_image(image), settings.inversion.processing_resolution
        with stopwatch(seconds, "encode"):
            latents = self.encode(image, resolution)
            self.warn_of_prediction_type(latents, predictor)
        timesteps = [t for t in predictor.timesteps if t <= start]
        with stopwatch(seconds, "invert"):
            if method == "ddim":
                trajectory = invert_ddim(predictor, latents, timesteps, progress=self._bar)
            elif noise_maps:
                rows = self.affordable_rows(latents)
                trajectory = invert_ddpm(predictor, latents, timesteps, generator, rows, progress=self._bar)
            else:
                drawn = draw_latents(predictor, latents, timesteps, generator)
                trajectory = Trajectory("ddpm", timesteps, drawn, latents, len(predictor.timesteps))
        trajectory.image, trajectory.prompt, trajectory.seconds = image, prompt, seconds
        trajectory.processing_resolution = resolution
        return trajectory

    @torch.no_grad()
    def cluster(
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
        predictor = self._predictor(inversion)
        seconds = dict(trajectory.seconds)
        with stopwatch(seconds, "queries"):
            t_f, layer = features.feature_timestep, features.feature_layer
            noisy = noise_ensemble(predictor, trajectory, t_f, features.noise_ensemble_size, generator)
            queries = extract_queries(predictor, noisy, t_f, [layer])[layer]
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

    @torch.no_grad()
    def modulate(
        self, coarse: CoarseMasks, *, mask_batch_size: int | None = None, **settings: Any
    ) -> Responses:
        """Response of the pixels to each mask (Sec. 3.2).

        Args:
            coarse: :meth:`cluster`'s result.
            mask_batch_size: masks per batch; by default what free memory allows.
            **settings: of :class:`~.settings.Perturbation`, :class:`~.settings.Shortcuts` and
                :class:`~.settings.Assignment`, and ``mode``, over those that ``coarse`` was made with.

        Raises:
            ValueError: a setting that is not possible, or one that asks for probe masks (:meth:`probe`).
        """
        common = self._common_settings([coarse], settings)
        if common.assignment.num_parts is not None:
            raise ValueError(
                f"mode={common.mode!r} modulates probe masks (num_parts={common.assignment.num_parts}); call pipe.probe, "
                "or choose mode='exact'."
            )
        return self._modulate([coarse], common, mask_batch_size)[0]

    @torch.no_grad()
    def probe(
        self, coarse: CoarseMasks, *, mask_batch_size: int | None = None, **settings: Any
    ) -> ImageResponses:
        """Signed responses to ``num_parts`` small probe masks in place of the K coarse ones (``mode="pixel"`` and "fast").

        Arguments are those of :meth:`modulate`.

        Raises:
            ValueError: a setting that is not possible, ``num_parts`` is None, or masks are the caller's own.
        """
        common = self._common_settings([coarse], settings)
        if common.assignment.num_parts is None:
            raise ValueError(
                f'mode={common.mode!r} has no probe masks; choose mode="pixel" or "fast", or pass num_parts.'
            )
        return self._modulate([coarse], common, mask_batch_size)[0]

    @torch.no_grad()
    def respond(self, coarse: CoarseMasks, *, mask_batch_size: int | None = None, **settings: Any) -> Any:
        """:meth:`modulate`, or :meth:`probe` where the settings ask for probe masks, for code that runs in any mode."""
        return self._modulate([coarse], self._common_settings([coarse], settings), mask_batch_size)[0]

    def _common_settings(self, stages: list[CoarseMasks], given: dict[str, Any]) -> Settings:
        check_only("modulate", given, Perturbation, Shortcuts, Assignment)
        resolved = [self.resolve(s.trajectory, **s.settings.changed(given)) for s in stages]
        if len({(stage.shape(), each) for stage, each in zip(stages, resolved, strict=True)}) != 1:
            raise ValueError("Images that are modulated together share their shape and settings.")
        return resolved[0]

    def _modulate(self, stages: list[CoarseMasks], common: Settings, size: int | None) -> list[Any]:
        """:class:`Responses`, or :class:`ImageResponses` of probe masks, of images of one shape in lockstep."""
        whole(1, optional=True)("mask_batch_size", size)
        num_parts = common.assignment.num_parts
        seconds: dict[str, float] = {}
        if num_parts is not None and any(stage.own_masks for stage in stages):
            raise ValueError(
                "Masks of your own are modulated as they are, which num_parts (mode='pixel') does not do; use mode='exact'."
            )
        masks = [s.masks if num_parts is None else part_masks(s.queries, num_parts) for s in stages]
        with stopwatch(seconds, "modulate"):
            chunks = signed_responses(
                self._predictor(common.inversion),
                self.decode,
                [stage.trajectory for stage in stages],
                masks,
                common.perturbation,
                common.shortcuts,
                size or self.default_mask_batch_size(stages[0].trajectory, common.shortcuts),
                self.progress_bar,
            )
            results: list[Any]
            if num_parts is None:
                maps = difference_maps(chunks)
                results = [Responses(s, m, common) for s, m in zip(stages, maps, strict=True)]
            else:
                results = gather(chunks, stages, masks, common, self.vae_scale_factor)
        for stage, result in zip(stages, results, strict=True):
            result.seconds = stage.seconds | {"modulate": round(seconds["modulate"] / len(stages), 4)}
        return results

    def _predictor(self, inversion: InversionSettings) -> Predictor:
        return self.predictor(
            inversion.num_inference_steps, inversion.prompt, inversion.processing_resolution
        )

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
                "model": self.model_name or self.pipe.name_or_path or type(self.pipe).__name__,
                **responses.settings.to_dict(),
                "prompt_read": self.prompt_read(responses.settings.inversion.prompt),
                "own_masks": own_masks,
                "seed": None if generator is None else generator.initial_seed(),
                "image_size": list(labels.shape),
                "processing_size": list(size),
                "dtype": str(self.dtype).removeprefix("torch."),
                "device": str(self.backbone.device),
            },
            timings=responses.seconds,
        )

    @torch.no_grad()
    def replay(self, trajectory: Trajectory, prompt: str | None = None) -> torch.Tensor:
        """Denoise a trajectory back to its latents x₀, (1, C, h, w) float32, under its own prompt or another."""
        prompt = trajectory.prompt if prompt is None else prompt
        predictor = self.predictor(trajectory.num_inference_steps, prompt, trajectory.processing_resolution)
        return replay(predictor, trajectory, progress=self._bar)


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
