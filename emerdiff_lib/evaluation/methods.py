"""EmerDiff and its rivals by name, one picture at a time, sharing what they have in common."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from .. import baselines
from ..datasets import Sample
from ..pipeline import MODES
from ..upsampling import guided_upsample

EMERDIFF, FAST, BILINEAR = "EmerDiff", "EmerDiff fast", "bilinear (SD)"
# What shares EmerDiff's coarse masks (and so their embeddings): the labels differ, the masks do not.
ON_THE_SAME_MASKS: dict[str, Callable[[torch.Tensor, np.ndarray], np.ndarray]] = {
    "guided filter": baselines.guided_masks,
    "random walker": baselines.random_walk,
    "pixel-adaptive": baselines.pixel_adaptive_masks,
}
ALL_METHODS = (
    EMERDIFF, "EmerDiff, guided filter", FAST, BILINEAR, *ON_THE_SAME_MASKS, "colour k-means", "position k-means", "SLIC",
    "Felzenszwalb", "encoder k-means", "DiffSeg", "DiffSeg, its own number", "DiffCut", "DiffCut, its own number",
    "backbone k-means",
)  # fmt: skip


@dataclass
class Result:
    """labels (H, W) int32 in 0 … K−1; embeddings (K, d) float32; seconds for this picture from start to end."""

    labels: np.ndarray
    embeddings: np.ndarray
    seconds: float
    settings: dict = field(default_factory=dict)


def check_methods(methods: list[str], has_backbone: bool) -> list[str]:
    """Returns the methods if all are known and possible, else raises ValueError listing them."""
    if unknown := [name for name in methods if name not in ALL_METHODS]:
        raise ValueError(f"Method {unknown[0]!r} is unknown; choose from {', '.join(map(repr, ALL_METHODS))}.")
    if "backbone k-means" in methods and not has_backbone:
        raise ValueError(
            '"backbone k-means" needs a backbone: a transformers vision model such as "facebook/dinov2-base".'
        )
    return list(methods)


def segment(
    pipe, sample: Sample, methods: list[str], settings: dict, backbone: baselines.Backbone | None = None
) -> dict[str, Result]:
    """One picture by every method, in the order of ``methods``.

    All of them are given as many segments as there are coarse masks, except those "with its own number". Seeds come from the
    sample, so the result does not depend on what was evaluated before.

    Args:
        settings: of the pipeline (``num_masks`` …).
    """
    image, found = np.array(sample.image), {}
    generator = lambda: torch.Generator().manual_seed(sample.seed)
    start = time.perf_counter()
    exact = EMERDIFF in methods or "EmerDiff, guided filter" in methods
    output = pipe(
        sample.image, generator=generator(), mode="exact" if exact else "fast", output_difference_maps=exact, **settings
    )  # fmt: skip
    total = time.perf_counter() - start
    masks, embeddings = torch.from_numpy(output.coarse_masks), output.mask_embeddings
    before = total - output.timings["modulate"] - output.timings["assign"]  # up to the coarse masks
    count = len(masks)

    def timed(run, name: str, extra: float = 0.0):
        start = time.perf_counter()
        result = run()
        seconds = extra + time.perf_counter() - start
        if isinstance(result, np.ndarray):
            found[name] = Result(result, embeddings, seconds)
        else:
            found[name] = Result(result.labels, result.embeddings, seconds)

    if exact:
        found[EMERDIFF] = Result(output.labels, embeddings, total, output.settings)
        guide = torch.from_numpy(image).permute(2, 0, 1) / 255.0
        radius = max(1, round(MODES["fast"].guide_radius * image.shape[0] / masks.shape[1]))
        maps = torch.from_numpy(output.difference_maps)
        timed(
            lambda: guided_upsample(maps, guide, radius).argmax(0).numpy().astype(np.int32),
            "EmerDiff, guided filter",
            total,
        )
        if FAST in methods:
            options = settings | {"mode": "fast", "coarse_masks": output.coarse_masks}
            fast = pipe(sample.image, generator=generator(), **options)
            seconds = before + fast.timings["modulate"] + fast.timings["assign"]
            found[FAST] = Result(fast.labels, embeddings, seconds, fast.settings)
    else:
        found[FAST] = Result(output.labels, embeddings, total, output.settings)
    found[BILINEAR] = Result(output.baseline_labels, embeddings, before)
    seed = sample.seed % 2**31
    runs = {name: lambda refine=refine: refine(masks, image) for name, refine in ON_THE_SAME_MASKS.items()}
    runs |= {
        "colour k-means": lambda: baselines.kmeans_pixels(image, count),
        "position k-means": lambda: baselines.kmeans_pixels(image, count, colour_weight=0.0),
        "SLIC": lambda: baselines.slic(image, count),
        "Felzenszwalb": lambda: baselines.felzenszwalb(image, num_segments=count),
        "encoder k-means": lambda: baselines.kmeans_activations(image, pipe, _encoder_module(pipe), count, seed=seed),
        "DiffSeg": lambda: baselines.diffseg(image, pipe, num_segments=count, seed=seed),
        "DiffSeg, its own number": lambda: baselines.diffseg(image, pipe, seed=seed),
        "DiffCut": lambda: baselines.diffcut(image, pipe, num_segments=count, seed=seed),
        "DiffCut, its own number": lambda: baselines.diffcut(image, pipe, seed=seed),
        "backbone k-means": lambda: baselines.kmeans_backbone(image, backbone, count, seed=seed),
    }
    for name, run in runs.items():
        if name in methods:
            timed(run, name, before if name in ON_THE_SAME_MASKS else 0.0)
    return {name: found[name] for name in methods}


def _encoder_module(pipe) -> str:
    """The encoder's first residual block on the grid of the coarse masks' layer, or the last that is as fine."""
    blocks = len(pipe.unet.config.down_block_types)
    return f"down_blocks.{blocks - 2}.resnets.0"
