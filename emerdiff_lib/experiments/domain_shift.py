"""Which stage breaks first when pictures leave the model's world: its features, or the correspondence of their pixels?

``python -m emerdiff_lib.experiments.domain_shift``. Both stages are measured by themselves, on a scale from 0 (no better than
knowing nothing) to 1 (as in the model's own world):

- *features*: mIoU of the method's coarse masks on their own grid (each takes its majority class), above that of masks from
  k-means of nothing but positions.
- *correspondence*: boundary F of the pixels when the coarse masks are the *true* ones, above that of the same masks upsampled
  bilinearly. What the features would have found plays no part. (In mIoU the true masks leave too little to gain for a ratio.)

The true masks brought to pixels by a guided filter, which sees the picture and no model, tell how much of a loss is the
picture's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..assignment import assign_bilinear
from ..baselines import guided_masks
from ..clustering import cluster_queries, mask_embeddings
from ..evaluation.metrics import boundary_scores, contingency_table
from ..evaluation.regions import cell_labels, true_masks
from ..pipeline import EmerDiffPipeline
from ..runs.harness import Execution, results_of
from ..runs.identity import model_identity, versions
from ..runs.samples import scene_identity
from ..runs.shards import parse_shard, shard_of
from ..runs.store import JsonStore
from ..runs.task import Item, Task
from ..settings import check_known
from ..stages import CoarseMasks
from ..toyscapes import Scene, Toyscapes
from ..toyscapes.shifts import SHIFTS
from .ablations import read_scenes_command, scenes_command
from .shift_tables import REFERENCE, headlines, overview, report, verdicts

_CLASSES = len(Toyscapes.coarse_class_names) + 1  # and the unseen


def position_masks(grid: tuple[int, int], num_masks: int, seed: int) -> np.ndarray:
    """(K, h, w) bool: k-means of cell positions, what a method that sees nothing can do."""
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in grid), indexing="ij")
    return cluster_queries(torch.stack([y, x], -1), num_masks, seed).numpy()


def scene_masks(pipe: EmerDiffPipeline, scene: Scene, settings: dict[str, Any]) -> dict[str, CoarseMasks]:
    """{"own": the method's coarse masks, "true": the true ones}, on one trajectory."""
    own = pipe.coarse(scene.image, generator=torch.Generator().manual_seed(scene.seed), **settings)
    masks = torch.from_numpy(true_masks(scene.coarse_labels, tuple(own.masks.shape[1:]), _CLASSES))
    return {
        "own": own,
        "true": replace(own, masks=masks, embeddings=mask_embeddings(own.queries, masks)),
    }


@torch.no_grad()
def evaluate_scene(pipe: EmerDiffPipeline, scene: Scene, settings: dict[str, Any]) -> dict[str, Any]:
    """Contingency tables (masks × 11 coarse classes) and boundary F of one scene, for JSON.

    Returns:
        "own cells", "position cells": masks on the grid. "own": pixels of the whole method. "true bilinear", "true
        modulated", "true guided": pixels from the true masks. "boundary F": {name: value} of these three, 2 px, against
        the coarse classes.
    """
    coarse, truth = scene_masks(pipe, scene, settings), scene.coarse_labels
    own, given = (coarse[kind].masks for kind in ("own", "true"))
    grid = tuple(own.shape[1:])
    labels = {kind: pipe.assign(pipe.respond(masks)) for kind, masks in coarse.items()}
    from_true = {
        "bilinear": assign_bilinear(given, truth.shape),
        "modulated": labels["true"],
        "guided": guided_masks(given, np.array(scene.image)),
    }
    cells = cell_labels(truth, grid, _CLASSES)
    pixels = lambda found, masks: contingency_table(found, truth, len(masks), _CLASSES).tolist()
    on_grid = lambda masks: contingency_table(masks.argmax(0), cells, len(masks), _CLASSES).tolist()
    return {
        "own cells": on_grid(own.numpy()),
        "position cells": on_grid(position_masks(grid, len(own), scene.seed)),
        "own": pixels(labels["own"], own),
        **{f"true {name}": pixels(found, given) for name, found in from_true.items()},
        "boundary F": {name: boundary_scores(found, truth, 2)[2] for name, found in from_true.items()},
    }


def choose(wanted: Iterable[str]) -> list[str]:
    """The wanted shifts after the world as it was trained on, all without any; unknown names are a ValueError that lists all."""
    names = [check_known("shift", name, SHIFTS) for name in wanted] or list(SHIFTS)
    return [REFERENCE, *(name for name in names if name != REFERENCE)]


class Shifted(Task):
    """Scenes drawn under shifts, each by both of its stages."""

    def __init__(self, pipe: EmerDiffPipeline, output_dir: Path | str, settings: dict[str, Any]):
        self.pipe, self.settings = pipe, settings
        identity = {
            "study": "domain shift",
            "settings": pipe.resolve(**settings).to_dict(),
            "model": model_identity(pipe),
            "versions": versions(),
        }
        self.store: JsonStore = JsonStore(output_dir, identity)

    def picture(self, item: Item) -> dict[str, Any]:
        return scene_identity(*item.what)

    def compute(self, item: Item) -> dict[str, Any]:
        return evaluate_scene(self.pipe, Toyscapes.from_seed(*item.what), self.settings)


def run(
    pipe: EmerDiffPipeline,
    shifts: Iterable[str],
    seeds: Iterable[int],
    output_dir: Path | str,
    settings: dict[str, Any] | None = None,
    how: Execution | None = None,
) -> dict[str, list[dict]]:
    """{shift: results, scene by scene}; what ``output_dir`` has already, of exactly this, is kept.

    Scenes are Toyscapes' by seed, a shard is a share of them; settings are the pipeline's, by flat name.

    Raises:
        ValueError: an unknown shift or setting, or a scene that failed.
    """
    names, how = [check_known("shift", name, SHIFTS) for name in shifts], how or Execution()
    seeds = shard_of(list(seeds), parse_shard(how.shard))
    task = Shifted(pipe, output_dir, settings or {})
    items = [Item(f"{seed:06} {name}", (seed, name)) for seed in seeds for name in names]
    results = results_of(task, items, replace(how, shard=""), label="scenes × shifts")
    if results.report.failures:
        raise ValueError(f"{len(results.report.failures)} scenes failed. {results.report}")
    return {name: [task.store.recall(f"{seed:06} {name}") for seed in seeds] for name in names}


def main(argv: list[str] | None = None) -> None:
    parser = scenes_command(__doc__, "runs/domain-shift", first_scene=400, num_scenes=12)
    parser.add_argument("--shifts", nargs="*", default=[], help="which; all by default")
    args = parser.parse_args(argv)
    names = choose(args.shifts)
    pipe, seeds, settings, how = read_scenes_command(args)
    found = run(pipe, names, seeds, args.output, settings, how)
    told = verdicts(found)
    print(overview(found, told).round(1).to_string())
    print("\n".join(headlines(found, told) + report(found, told)))


if __name__ == "__main__":
    main()
