"""What do query vectors know about a picture, at which layer and timestep, and how does k-means cut them up? (Notebook 02.)"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from PIL import Image
from sklearn.cluster import KMeans, kmeans_plusplus

from ..assignment import assign_bilinear
from ..baselines import kmeans_cells, kmeans_pixels
from ..clustering import cluster_queries
from ..evaluation.metrics import boundary_scores, confusion_matrix, contingency_table, mean_iou
from ..evaluation.regions import cell_labels
from ..features import draw_noise, extract_queries
from ..pipeline import EmerDiffPipeline
from ..settings import InversionSettings
from ..toyscapes import Scene, Toyscapes
from .names import CEILING, COLOUR, COLOUR_CELLS, POSITION
from .probes import cluster_confusion, probe_accuracy

Progress = Callable[[Iterable], Iterable]
CLASSES = len(Toyscapes.coarse_class_names)


def short_name(layer: str) -> str:
    """ "up_blocks.2.attentions.0.transformer_blocks.0.attn2" → "up_blocks.2.0", for axes and titles."""
    return layer.replace(".transformer_blocks.0.attn2", "").replace(".attentions", "")


@torch.no_grad()
def image_queries(
    pipe: EmerDiffPipeline,
    image: Image.Image,
    timestep: int,
    layers: Sequence[str],
    draws: int = 1,
    seed: int = 0,
    inversion: InversionSettings | None = None,
) -> dict[str, torch.Tensor]:
    """Queries of an image at one timestep, averaged over ``draws`` noises, {layer: (h, w, d) float32}.

    ``inversion`` has the prompt and the size of the picture; by default the checkpoint's.
    """
    used = inversion or pipe.resolve().inversion
    denoiser = pipe.denoiser(used.num_inference_steps, used.prompt)
    clean = pipe.encode(image, used.processing_resolution)
    noise = draw_noise(clean, draws, torch.Generator().manual_seed(seed))
    noisy = denoiser.add_noise(clean, noise, timestep)
    return extract_queries(denoiser, noisy, timestep, list(layers))


@dataclass(frozen=True)
class KMeansStep:
    """k-means after some iterations: labels (h, w), centres (K, d), and the objective Σᵢ minₖ ‖qᵢ − cₖ‖²."""

    iteration: int
    labels: np.ndarray
    centres: np.ndarray
    objective: float


def kmeans_steps(
    queries: torch.Tensor, num_masks: int, iterations: Sequence[int] = (0, 1, 2, 4, 8), seed: int = 0
) -> list[KMeansStep]:
    """k-means of (h, w, d) queries, stopped after each of ``iterations`` (ascending), always from the same start.

    Iteration 0 is k-means++'s choice of centres. Fewer steps come back where the centres have stopped moving.
    """
    points = queries.flatten(0, 1).double().numpy()
    start, _ = kmeans_plusplus(points, num_masks, random_state=seed)
    steps: list[KMeansStep] = []
    for count in iterations:
        centres = start
        if count > 0:
            fit = KMeans(num_masks, init=start, n_init=1, max_iter=count, tol=0).fit(points)
            centres = fit.cluster_centers_
        distances = np.square(points[:, None] - centres[None]).sum(-1)
        labels = distances.argmin(1).reshape(queries.shape[:2])
        steps.append(KMeansStep(count, labels, centres, float(distances.min(1).sum())))
        if len(steps) > 1 and np.array_equal(steps[-2].centres, centres):
            return steps[:-1]
    return steps


def layer_quality(
    pipe: EmerDiffPipeline,
    test: Sequence[Scene],
    fit: Sequence[Scene],
    timesteps: Sequence[int],
    layers: Sequence[str],
    num_masks: int,
    seed: int = 0,
    progress: Progress = iter,
) -> pd.DataFrame:
    """How semantic single draws of queries are, by layer and timestep, on coarse classes.

    Returns:
        a row per layer with at least ``num_masks`` cells and timestep: ``layer``, ``timestep``, ``oracle mIoU`` (percent) of
        the bilinearly upsampled k-means masks, and ``probe accuracy`` (percent of cells) of a linear classifier that was
        fitted on the scenes of ``fit``.
    """
    records = []
    for timestep in progress(timesteps):
        tested = [image_queries(pipe, scene.image, timestep, layers, seed=seed) for scene in test]
        fitted = [image_queries(pipe, scene.image, timestep, layers, seed=seed) for scene in fit]
        for layer in layers:
            grid = tuple(tested[0][layer].shape[:2])
            if grid[0] * grid[1] < num_masks:
                continue
            confusion = sum(
                cluster_confusion(queries[layer], num_masks, scene.coarse_labels, CLASSES, seed)
                for queries, scene in zip(tested, test, strict=True)
            )
            accuracy = probe_accuracy(
                [queries[layer] for queries in fitted],
                [cell_labels(scene.coarse_labels, grid, CLASSES) for scene in fit],
                [queries[layer] for queries in tested],
                [cell_labels(scene.coarse_labels, grid, CLASSES) for scene in test],
            )
            scores = {"oracle mIoU": 100 * mean_iou(confusion), "probe accuracy": 100 * accuracy}
            records.append({"layer": layer, "timestep": timestep, **scores})
    return pd.DataFrame(records, columns=["layer", "timestep", "oracle mIoU", "probe accuracy"])


def label_scores(segment: Callable[[Scene], np.ndarray], scenes: Iterable[Scene]) -> dict[str, float]:
    """Oracle mIoU of the coarse classes and boundary F (fine labels, 2 px) of label maps over scenes, in percent."""
    confusion, edges = 0, []
    for scene in scenes:
        labels = segment(scene)
        table = contingency_table(labels, scene.coarse_labels, int(labels.max()) + 1, CLASSES)
        confusion = confusion + confusion_matrix(table, table.argmax(1))
        edges.append(boundary_scores(labels, scene.labels)[2])
    return {"oracle mIoU": 100 * mean_iou(confusion), "boundary F": 100 * float(np.mean(edges))}


def mask_yardsticks(
    pipe: EmerDiffPipeline,
    scenes: Sequence[Scene],
    num_masks: int,
    layer: str,
    readings: Sequence[tuple[int, int]],
    seed: int = 0,
    progress: Progress = iter,
) -> pd.DataFrame:
    """Upsampled clusters of queries beside clusters that need no model, and beside the truth on the same grid.

    Args:
        readings: (timestep, noise draws) at which queries are read.

    Returns:
        ``oracle mIoU`` and ``boundary F`` (:func:`label_scores`), a row per method.
    """
    grid = tuple(image_queries(pipe, scenes[0].image, readings[0][0], [layer])[layer].shape[:2])
    pixels = lambda scene: np.asarray(scene.image)

    def of_queries(timestep: int, draws: int) -> Callable[[Scene], np.ndarray]:
        def segment(scene: Scene) -> np.ndarray:
            queries = image_queries(pipe, scene.image, timestep, [layer], draws, seed)[layer]
            return assign_bilinear(cluster_queries(queries, num_masks, seed), scene.labels.shape)

        return segment

    def ceiling(scene: Scene) -> np.ndarray:
        classes = np.eye(CLASSES, dtype=bool)[cell_labels(scene.coarse_labels, grid, CLASSES)]
        return assign_bilinear(torch.from_numpy(classes).permute(2, 0, 1), scene.labels.shape)

    methods = {
        POSITION: lambda scene: kmeans_pixels(pixels(scene), num_masks, colour_weight=0).labels,
        COLOUR_CELLS: lambda scene: kmeans_cells(pixels(scene), num_masks, grid).labels,
        COLOUR: lambda scene: kmeans_pixels(pixels(scene), num_masks).labels,
    }
    for timestep, draws in dict.fromkeys(readings):
        methods[reading_name(timestep, draws)] = of_queries(timestep, draws)
    methods[CEILING] = ceiling
    return pd.DataFrame({name: label_scores(methods[name], scenes) for name in progress(list(methods))}).T


def reading_name(timestep: int, draws: int) -> str:
    """The row of :func:`mask_yardsticks` for queries read at ``timestep``."""
    return f"queries, t_f = {timestep}" + (f", mean of {draws} draws" if draws > 1 else "")
