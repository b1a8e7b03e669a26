"""The bundled model beside its yardsticks: ``python -m emerdiff_lib.experiments.yardsticks``.

Segments held-out Toyscapes scenes with EmerDiff, with bilinear upsampling of the same coarse masks, and with k-means of
colour and position at the same number of clusters; prints mIoU over the coarse classes, boundary F against the fine ones
with bootstrap intervals, and the exactness of the inversion. Results are kept scene by scene: run again to go on.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..assignment import assign_bilinear
from ..attention import layer_grid
from ..datasets import Sample
from ..evaluation.metrics import boundary_scores
from ..evaluation.regions import cell_labels
from ..evaluation.tables import summarise
from ..loading import load_pipeline
from ..pipeline import EmerDiffPipeline
from ..runs.harness import Execution, results_of
from ..runs.identity import model_identity, versions
from ..runs.samples import scene_identity
from ..runs.store import JsonStore, Results
from ..runs.task import Item, Task
from ..toyscapes import Scene, Toyscapes
from .manifest import write_manifest
from .names import BILINEAR, CEILING, COLOUR, COLOUR_CELLS, EMERDIFF, POSITION
from .rivals import Result, check_settings, score_all, segment
from .selection import command, execution, finish, first_pictures

METHODS = (EMERDIFF, BILINEAR, COLOUR, COLOUR_CELLS, POSITION)
COLUMNS = (
    "oracle mIoU",
    "modified mIoU (same images)",
    "modified mIoU (other split)",
    "… by cosine",
    "boundary F",
    "precision",
    "recall",
    "boundary F (0.75 %)",
    "s / image",
)
MEASURES = {"oracle": "oracle mIoU", "modified": "modified mIoU (other split)", "boundary_f": "boundary F"}
_CLASSES = len(Toyscapes.coarse_class_names)


def evaluate_scene(pipe: EmerDiffPipeline, scene: Scene, settings: dict[str, Any]) -> dict[str, Any]:
    """Scores of every method (:func:`~emerdiff_lib.evaluation.tables.score`), and the relative error of the replayed x₀.

    Classes are the coarse ones, boundaries those of the fine ones.
    """
    sample = Sample(f"{scene.seed:06}", scene.image, scene.coarse_labels, scene.seed)
    found = segment(pipe, sample, list(METHODS), settings)
    used = pipe.resolve(**settings)
    trajectory = pipe.invert(
        scene.image,
        start_timestep=used.perturbation.modulation_timestep,
        num_inference_steps=used.inversion.num_inference_steps,
        processing_resolution=used.inversion.processing_resolution,
        generator=torch.Generator().manual_seed(scene.seed),
    )
    error = (pipe.replay(trajectory) - trajectory.clean_latents).norm() / trajectory.clean_latents.norm()
    grid = layer_grid(pipe.unet, used.features.feature_layer, *trajectory.clean_latents.shape[2:])
    ceiling = grid_of_truth(scene.coarse_labels, grid, _CLASSES)
    found[CEILING] = Result(ceiling, np.eye(_CLASSES, dtype=np.float32), 0.0)
    scores = score_all(found, scene.coarse_labels, _CLASSES)
    for name, result in found.items():
        edges = boundary_scores(result.labels, scene.labels, 2)
        scores[name] |= dict(zip(("boundary_precision", "boundary_recall", "boundary_f"), edges, strict=True))
        diagonal = float(np.hypot(*scene.labels.shape))
        scores[name]["boundary_f_diagonal"] = boundary_scores(result.labels, scene.labels, 0.0075 * diagonal)[
            2
        ]
    return {"name": sample.name, "replay_error": float(error), "methods": scores}


def grid_of_truth(labels: np.ndarray, grid: tuple[int, int], num_classes: int) -> np.ndarray:
    """(H, W) labels brought to the feature grid and back: what a grid of that size can reach at best."""
    cells = torch.from_numpy(cell_labels(labels, grid, num_classes))
    masks = torch.nn.functional.one_hot(cells, num_classes).permute(2, 0, 1)
    return assign_bilinear(masks, labels.shape)


class Yardsticks(Task):
    """Toyscapes scenes under every method of :data:`METHODS`."""

    def __init__(self, pipe: EmerDiffPipeline, settings: dict[str, Any], output_dir: Path | str):
        self.pipe, self.settings = pipe, settings
        identity = {
            "study": "yardsticks",
            "settings": pipe.resolve(**settings).to_dict(),
            "model": model_identity(pipe),
            "versions": versions(),
        }
        self.store: JsonStore = JsonStore(output_dir, identity)

    def picture(self, item: Item) -> dict[str, str]:
        return scene_identity(item.what)

    def compute(self, item: Item) -> dict[str, Any]:
        return evaluate_scene(self.pipe, Toyscapes.from_seed(item.what), self.settings)


def evaluate(
    pipe: EmerDiffPipeline,
    seeds: Iterable[int],
    settings: dict[str, Any],
    output_dir: Path | str,
    how: Execution | None = None,
    label: str = "scenes",
) -> Results:
    """Scenes one by one; what is in ``output_dir`` already, of exactly this, is kept.

    Raises:
        ValueError: if every scene failed.
    """
    items = [Item(f"{seed:06}", seed) for seed in seeds]
    return results_of(Yardsticks(pipe, settings, output_dir), items, how, label=label)


def tables(results: list[dict], fit: list[dict]) -> dict[str, pd.DataFrame]:
    """ "scores", a row per method in percent, and "differences" in points with 95 % bootstrap intervals, paired by scene."""
    found = summarise(results, fit, EMERDIFF)
    scores = found["scores"].reindex(columns=list(COLUMNS))
    knows_classes = [
        column for column in COLUMNS if "modified" in column or column in ("… by cosine", "s / image")
    ]
    scores.loc[CEILING, knows_classes] = np.nan
    pairs = {(EMERDIFF, other): found["paired"] for other in METHODS[1:]}
    pairs[BILINEAR, POSITION] = summarise(results, fit, BILINEAR)["paired"]
    rows = []
    for (first, second), paired in pairs.items():
        for row in paired[paired["minus"] == second].itertuples():
            values = {"points": row.points, "low": row.low, "high": row.high}
            rows.append({"difference": f"{first} − {second}", "measure": MEASURES[row.measure], **values})
    return {"scores": scores, "differences": pd.DataFrame(rows)}


def as_text(found: dict[str, pd.DataFrame], notes: list[str]) -> str:
    """Both tables to print, and what has to be known about them."""
    lines = [notes[0], found["scores"].to_string(float_format="%.1f", na_rep=""), ""]
    lines.append("Paired differences in points, with bootstrap 95 % intervals over scenes:")
    for row in found["differences"].itertuples():
        lines.append(f"  {row.difference}: {row.measure} {row.points:+.1f} [{row.low:+.1f}, {row.high:+.1f}]")
    return "\n".join([*lines, *notes[1:]])


def main(argv: list[str] | None = None) -> dict[str, pd.DataFrame] | None:
    parser = command(__doc__, "runs/yardsticks")
    parser.add_argument("--num-scenes", type=int, default=100, help="test scenes")
    parser.add_argument(
        "--fit-scenes", type=int, default=20, help="validation scenes that concepts are fitted on"
    )
    args = parser.parse_args(argv)
    wanted = {
        "test": first_pictures(args.num_scenes, len(Toyscapes("test")), "num_scenes"),
        "validation": first_pictures(args.fit_scenes, len(Toyscapes("validation")), "fit_scenes"),
    }
    how, pipe = execution(args), load_pipeline(args.model, args.device, args.dtype)
    settings, found = check_settings(pipe, args.num_masks, args.settings), {}
    for split, positions in wanted.items():
        seeds = [Toyscapes(split).seeds[position] for position in positions]
        found[split] = evaluate(pipe, seeds, settings, args.output, how, f"{split} scenes")
    if how.shard:
        print(f"Shard {how.shard} is in {args.output}; run the same command without --shard for the tables.")
        finish(*found.values())
        return None
    used, summary = pipe.resolve(**settings).to_dict(), tables(found["test"], found["validation"])
    worst = max(result["replay_error"] for result in found["test"])
    notes = [
        f"{args.num_scenes} Toyscapes test scenes, coarse classes (boundaries: fine ones, 2 px), K = {used['num_masks']}; "
        f"concepts from {args.fit_scenes} validation scenes, Euclidean.",
        f"DDPM inversion, worst relative error of the replayed x₀ ({args.dtype}): {worst:.1e}",
    ]
    write_manifest(
        args.output / "manifest.json",
        title="The bundled model beside its yardsticks",
        question="What does modulated denoising add to the coarse masks, and what would colour and position do alone?",
        command="python -m emerdiff_lib.experiments.yardsticks",
        settings={"model": args.model, "dtype": args.dtype} | used,
        seeds={split: [int(result["name"]) for result in results] for split, results in found.items()},
        tables={name: table.round(2) for name, table in summary.items()},
        notes=notes,
    )
    print(as_text(summary, notes))
    finish(*found.values())
    return summary


if __name__ == "__main__":
    main()
