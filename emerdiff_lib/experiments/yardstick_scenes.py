"""One Toyscapes scene under every method, and the store that lets a long evaluation go on where it stopped."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

from ..assignment import assign_bilinear
from ..baselines import kmeans_cells, kmeans_pixels
from ..toyscapes import Scene, Toyscapes
from .metrics import boundary_scores, contingency_table
from .store import ResultStore, fingerprint

EMERDIFF, BILINEAR, PIXELS, CELLS, POSITION, CEILING = (
    "EmerDiff",
    "bilinear (SD)",
    "colour + position, pixels",
    "colour + position, cells",
    "position",
    "grid ceiling",
)


def evaluate_scene(pipe, scene: Scene, num_masks: int, **settings) -> dict:
    """Tables, embeddings, boundary scores and seconds of every method, and the replay error; plain lists, for JSON."""
    image, classes = np.asarray(scene.image), len(Toyscapes.coarse_class_names)
    generator = torch.Generator().manual_seed(scene.seed)
    output, seconds = _timed(lambda: pipe(scene.image, num_masks=num_masks, generator=generator, **settings))
    grid = output.coarse_masks.shape[1:]
    start = output.settings["modulation_timestep"]
    trajectory = pipe.invert(
        scene.image,
        start_timestep=start,
        num_inference_steps=output.settings["num_inference_steps"],
        generator=torch.Generator().manual_seed(scene.seed),
    )
    error = (pipe.replay(trajectory) - trajectory.clean_latents).norm() / trajectory.clean_latents.norm()

    segmentations = {
        EMERDIFF: (output.labels, output.mask_embeddings, seconds),
        BILINEAR: (
            output.baseline_labels,
            output.mask_embeddings,
            seconds - output.timings["modulate"] - output.timings["assign"],
        ),
        CEILING: (_grid_of_truth(scene.coarse_labels, grid, classes), np.eye(classes, dtype=np.float32), 0.0),
    }
    for name, run in {
        PIXELS: lambda: kmeans_pixels(image, num_masks),
        CELLS: lambda: kmeans_cells(image, num_masks, grid),
        POSITION: lambda: kmeans_pixels(image, num_masks, colour_weight=0.0),
    }.items():
        result, seconds = _timed(run)
        segmentations[name] = result.labels, result.embeddings, seconds
    diagonal = float(np.hypot(*scene.labels.shape))
    return {
        "seed": scene.seed,
        "replay_error": float(error),
        "methods": {
            name: {
                "table": contingency_table(labels, scene.coarse_labels, len(embeddings), classes).tolist(),
                "embeddings": np.round(embeddings, 5).tolist(),
                "boundary_2px": boundary_scores(labels, scene.labels, 2),
                "boundary_diagonal": boundary_scores(labels, scene.labels, 0.0075 * diagonal),
                "seconds": seconds,
            }
            for name, (labels, embeddings, seconds) in segmentations.items()
        },
    }


def _timed(run):
    start = time.perf_counter()
    return run(), time.perf_counter() - start


def _grid_of_truth(labels: np.ndarray, grid: tuple[int, int], classes: int) -> np.ndarray:
    """The true classes averaged to the feature grid and brought back: what a grid of that size can reach at best."""
    shares = torch.nn.functional.adaptive_avg_pool2d(
        torch.from_numpy(np.eye(classes, dtype=np.float32)[labels]).permute(2, 0, 1), grid
    )
    winners = torch.from_numpy(np.eye(classes, dtype=np.float32)[shares.argmax(0).numpy()]).permute(2, 0, 1)
    return assign_bilinear(winners, labels.shape)


class SceneStore(ResultStore):
    """Results of scenes for one model and one set of settings; see :class:`~emerdiff_lib.evaluation.store.ResultStore`."""

    def __init__(self, folder: Path, pipe, settings: dict):
        self.settings, self.weights = settings, fingerprint(pipe.unet)
        super().__init__(folder, {"settings": settings, "weights": self.weights})

    def recall(self, split: str, index: int) -> dict | None:
        return super().recall(f"{split}-{index:04}")

    def keep(self, split: str, index: int, result: dict) -> dict:
        return super().keep(f"{split}-{index:04}", result)
