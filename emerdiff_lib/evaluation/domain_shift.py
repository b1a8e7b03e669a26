"""Which stage breaks first when pictures leave the model's world: its features, or the correspondence of their pixels?

Both are measured by themselves, on a scale from 0 (no better than knowing nothing) to 1 (as in the model's own world):

- *features*: mIoU of the method's coarse masks on their own grid (each takes its majority class), above that of masks from
  k-means of nothing but positions.
- *correspondence*: boundary F of the pixels when the coarse masks are the *true* ones, above that of the same masks upsampled
  bilinearly. What the features would have found plays no part. (In mIoU the true masks leave too little to gain for a ratio.)

The true masks brought to pixels by a guided filter, which sees the picture and no model, tell how much of a loss is the
picture's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from ..baselines import guided_masks
from ..clustering import cluster_queries
from ..pipeline import EmerDiffPipeline
from ..toyscapes import Scene, Toyscapes
from .metrics import boundary_scores, confusion_matrix, contingency_table, mean_iou
from .protocols import bootstrap
from .regions import cell_labels
from .store import ResultStore, fingerprint

MEASURES = ("features", "correspondence")
_CLASSES = len(Toyscapes.coarse_class_names) + 1  # and the unseen


def true_masks(labels: np.ndarray, grid: tuple[int, int], num_classes: int) -> np.ndarray:
    """(K, h, w) bool: one mask per class that has the most of some cell."""
    cells = cell_labels(labels, grid, num_classes)
    return np.stack([cells == c for c in np.unique(cells)])


def position_masks(grid: tuple[int, int], num_masks: int, seed: int) -> np.ndarray:
    """(K, h, w) bool: k-means of cell positions, what a method that sees nothing can do."""
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in grid), indexing="ij")
    return cluster_queries(torch.stack([y, x], -1), num_masks, seed).numpy()


def _table(masks: np.ndarray, labels: np.ndarray) -> list:
    return contingency_table(masks.argmax(0), labels, len(masks), _CLASSES).tolist()


def evaluate_scene(pipe: EmerDiffPipeline, scene: Scene, **settings) -> dict:
    """Contingency tables (masks × 11 coarse classes) and boundary F of one scene, for JSON.

    Returns:
        "own cells", "position cells": masks on the grid. "own": pixels of the whole method. "true bilinear", "true
        modulated", "true guided": pixels from the true masks. "boundary F": {name: value} of these three, 2 px, against
        the coarse classes.
    """
    generator = lambda: torch.Generator().manual_seed(scene.seed)
    own = pipe(scene.image, generator=generator(), **settings)
    grid, truth = own.coarse_masks.shape[1:], scene.coarse_labels
    cells = cell_labels(truth, grid, _CLASSES)
    given = pipe(scene.image, generator=generator(), coarse_masks=true_masks(truth, grid, _CLASSES), **settings)
    filtered = guided_masks(torch.from_numpy(given.coarse_masks), np.array(scene.image))
    from_true = {"bilinear": given.baseline_labels, "modulated": given.labels, "guided": filtered}
    pixels = lambda labels, masks: contingency_table(labels, truth, len(masks), _CLASSES).tolist()
    return {
        "own cells": _table(own.coarse_masks, cells),
        "position cells": _table(position_masks(grid, len(own.coarse_masks), scene.seed), cells),
        "own": pixels(own.labels, own.coarse_masks),
        **{f"true {name}": pixels(labels, given.coarse_masks) for name, labels in from_true.items()},
        "boundary F": {name: boundary_scores(labels, truth, 2)[2] for name, labels in from_true.items()},
    }


def run(
    pipe: EmerDiffPipeline, shifts: list[str], seeds: range, output_dir: Path | str, settings: dict | None = None,
    progress=tqdm,
) -> dict[str, list[dict]]:  # fmt: skip
    """{shift: results, scene by scene}; what ``output_dir`` has already is not computed again."""
    settings = settings or {}
    header = {"weights": fingerprint(pipe.unet), "settings": pipe.default_settings() | settings}
    store = ResultStore(output_dir, header)
    worlds, found = {name: Toyscapes("test", shift=name) for name in shifts}, {name: [] for name in shifts}
    for seed in progress(seeds):
        for name, world in worlds.items():
            key = f"{seed:06}-{''.join(c if c.isalnum() else '-' for c in name)}"
            found[name].append(store.recall(key) or store.keep(key, evaluate_scene(pipe, world[seed], **settings)))
    return found


def miou(results: list[dict], kind: str) -> float:
    """Oracle mIoU of summed confusion matrices, in [0, 1]."""
    tables = [np.array(result[kind]) for result in results]
    return mean_iou(sum(confusion_matrix(table, table.argmax(1)) for table in tables))


def gain(results: list[dict], measure: str) -> float:
    """What a stage adds to knowing nothing, in [−1, 1].

    "features": mIoU above positions. "correspondence": mean boundary F above bilinear upsampling of the true masks.

    Raises:
        ValueError: for another measure.
    """
    if measure not in MEASURES:
        raise ValueError(f"measure={measure!r} is unknown; choose one of {', '.join(map(repr, MEASURES))}.")
    if measure == "features":
        return miou(results, "own cells") - miou(results, "position cells")
    return float(np.mean([r["boundary F"]["modulated"] - r["boundary F"]["bilinear"] for r in results]))


def retention(results: list[dict], reference: list[dict], measure: str, draws: int = 500) -> tuple[float, float, float]:
    """(value, low, high): what is left of the reference's gain on the same scenes, with its 95 % bootstrap interval."""
    return bootstrap(lambda rows: _left(results, reference, rows, measure), len(results), draws)


def surplus(results: list[dict], reference: list[dict], draws: int = 500) -> tuple[float, float, float]:
    """(value, low, high): what is left of the features less what is left of the correspondence, resampled together.

    Below 0 the features break first, above 0 the correspondence; across 0 it cannot be told.
    """
    left = lambda rows: [_left(results, reference, rows, measure) for measure in MEASURES]
    return bootstrap(lambda rows: float(np.subtract(*left(rows))), len(results), draws)


def _left(results: list[dict], reference: list[dict], rows: np.ndarray, measure: str) -> float:
    chosen = lambda items: [items[i] for i in rows]
    return gain(chosen(results), measure) / gain(chosen(reference), measure)
