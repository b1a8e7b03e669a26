"""Both stages by themselves, features and the correspondence of pixels: under shifts (notebook 09), and by model (13).

*Features* are measured by the method's coarse masks on their own grid, beside masks from k-means of nothing but positions. The
*correspondence* of pixels is measured with the *true* coarse masks, in which clustering has no part: by modulated denoising,
beside bilinear upsampling, which knows nothing, and beside a guided filter, which sees the image and no model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..assignment import assign_bilinear
from ..baselines import guided_masks
from ..clustering import cluster_queries
from ..evaluation.metrics import boundary_scores, contingency_table, mean_iou
from ..evaluation.protocols import oracle
from ..evaluation.regions import cell_labels, true_masks
from ..loading import quietly
from ..pipeline import EmerDiffPipeline
from ..runs.keys import scene_key
from ..stages import CoarseMasks
from ..toyscapes import Scene, Toyscapes
from .mapping import map_scenes

REFERENCE = "as trained"
UNTRAINED = "untrained"  # a model's name that stands for the first one's architecture with random weights
CLASSES = len(Toyscapes.coarse_class_names) + 1  # and the unseen


def own_and_true_masks(
    pipe: EmerDiffPipeline, scene: Scene, settings: dict[str, Any]
) -> tuple[CoarseMasks, CoarseMasks]:
    """The method's coarse masks and the true ones, on one trajectory."""
    own = pipe.cluster(scene.image, generator=torch.Generator().manual_seed(scene.seed), **settings)
    masks = torch.from_numpy(true_masks(scene.coarse_labels, tuple(own.masks.shape[1:]), CLASSES))
    return own, replace(own, masks=masks)


def position_masks(grid: tuple[int, int], num_masks: int, seed: int) -> torch.Tensor:
    """(K, h, w) bool: k-means of cell positions, what a method that sees nothing can do."""
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in grid), indexing="ij")
    return cluster_queries(torch.stack([y, x], -1), num_masks, seed)


@torch.no_grad()
def evaluate_scene(pipe: EmerDiffPipeline, scene: Scene, settings: dict[str, Any]) -> dict[str, Any]:
    """Contingency tables (masks × 11 coarse classes) and boundary F of one scene, for JSON.

    Returns:
        "own cells", "position cells": masks on the grid. "own": pixels of the whole method. "true bilinear", "true
        modulated", "true guided": pixels from the true masks. "boundary F": {way: value} of these three, 2 px, against
        the coarse classes.
    """
    own, true = own_and_true_masks(pipe, scene, settings)
    truth, grid = scene.coarse_labels, tuple(own.masks.shape[1:])
    from_true = {
        "bilinear": assign_bilinear(true.masks, truth.shape),
        "modulated": pipe.assign(pipe.modulate(true)),
        "guided": guided_masks(true.masks, np.array(scene.image)),
    }
    cells = cell_labels(truth, grid, CLASSES)
    positions = position_masks(grid, len(own.masks), scene.seed)
    table = lambda labels, masks, truth=truth: contingency_table(labels, truth, len(masks), CLASSES).tolist()
    return {
        "own cells": table(own.masks.numpy().argmax(0), own.masks, cells),
        "position cells": table(positions.numpy().argmax(0), positions, cells),
        "own": table(pipe.assign(pipe.respond(own)), own.masks),
        **{f"true {way}": table(labels, true.masks) for way, labels in from_true.items()},
        "boundary F": {way: boundary_scores(labels, truth, 2)[2] for way, labels in from_true.items()},
    }


def run_shifts(
    pipe: EmerDiffPipeline,
    shifts: Iterable[str],
    seeds: Iterable[int],
    output_dir: Path | str,
    settings: dict[str, Any],
    **execution: Any,
) -> dict[str, list[dict[str, Any]]]:
    """{shift: :func:`evaluate_scene`, scene by scene}, by :func:`~.mapping.map_scenes`.

    Args:
        shifts: of :data:`~emerdiff_lib.toyscapes.shifts.SHIFTS`; ``seeds`` of the Toyscapes scenes.
        settings: of the pipeline, by flat name.
    """
    return map_scenes(
        lambda seed, shift: evaluate_scene(pipe, Toyscapes.from_seed(seed, shift), settings),
        seeds,
        {shift: shift for shift in shifts},
        output_dir,
        pipe,
        key={"study": "domain shift", "settings": pipe.resolve(**settings).to_dict()},
        sample_key=scene_key,
        **execution,
    )


def class_counts(results: list[dict], kind: str) -> np.ndarray:
    """(N, C, 3) class counts, scene by scene, each mask given the class that most of its pixels have."""
    return np.stack([oracle(result[kind]) for result in results])


def gain(results: list[dict], stage: str) -> Callable[[np.ndarray], np.ndarray]:
    """What a stage adds to knowing nothing, in [0, 1], as a function of (…, n) indices of scenes, for
    :func:`~emerdiff_lib.evaluation.intervals.bootstrap`.

    Args:
        stage: "features": mIoU of the coarse masks on their grid above that of masks of positions; "modulated" or "guided":
            boundary F of the true masks above bilinear upsampling.
    """
    if stage == "features":
        own, nothing = (class_counts(results, f"{kind} cells") for kind in ("own", "position"))
        return lambda rows: mean_iou(own[rows].sum(-3)) - mean_iou(nothing[rows].sum(-3))
    edges = np.array([result["boundary F"][stage] - result["boundary F"]["bilinear"] for result in results])
    return lambda rows: edges[rows].mean(-1)


# -- models ---------------------------------------------------------------------------------------------------------------


def untrained(pipe: EmerDiffPipeline, seed: int = 0) -> EmerDiffPipeline:
    """The same model with a network of random weights, from ``seed``: what architecture and image give by themselves."""
    with torch.random.fork_rng(devices=[]), quietly():
        torch.manual_seed(seed)
        network = type(pipe.denoiser).from_config(pipe.denoiser.config)
        network = network.to(pipe.backbone.device, pipe.dtype).eval()
    other = copy.copy(pipe.pipe)
    setattr(other, pipe.backbone.network, network)
    other = EmerDiffPipeline(other, pipe.own_settings)
    other.looked_at_prediction_type = True  # it predicts nothing
    other.set_progress_bar_config(disable=True)
    return other
