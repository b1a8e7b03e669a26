"""Which settings suit the rivals on Toyscapes: ``python -m emerdiff_lib.experiments.rival_settings``, a few minutes.

DiffSeg's τ and DiffCut's τ say when two parts are one, in units that depend on how sharply a network attends; their authors
chose them for Stable Diffusion. For Toyscapes they are chosen here, on *validation* scenes, seeds 1700–1747 by default (never
test scenes, seeds 0–999), by the measure of both papers: classes matched to segments image by image, which too many and too
few segments both make worse. Oracle mIoU and boundary F stand beside it. DiffCut is also shown at the model's own size of the
picture, at twice that (its authors' choice, which stays) and at three times, cut into K segments.

The choices are kept in ``baselines/diffseg.py`` and ``baselines/diffcut.py``, by family of checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from ..baselines import Segmentation, diffcut, diffseg
from ..evaluation.metrics import (
    boundary_scores,
    confusion_matrix,
    contingency_table,
    mean_iou,
    mean_iou_of_counts,
)
from ..evaluation.protocols import per_image_matching
from ..loading import load_pipeline
from ..pipeline import EmerDiffPipeline
from ..toyscapes import Toyscapes
from .manifest import write_manifest
from .names import DIFFCUT, DIFFCUT_OWN, DIFFSEG_OWN
from .selection import bar, check_range, command

VALIDATION = range(1000, 2000)
DIFFSEG_THRESHOLDS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 0.9, 1.1)
DIFFCUT_LIMITS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)
DIFFCUT_SCALES = (1, 2, 3)
CHOSEN_BY = "matched mIoU"

Rival = Callable[[np.ndarray], Segmentation]


def candidates(pipe: EmerDiffPipeline, num_masks: int) -> dict[str, dict[str, Rival]]:
    """{question: {candidate: rival}}."""
    own = pipe.default_settings()["processing_resolution"]
    return {
        f"τ of {DIFFSEG_OWN}": {
            f"{t:g}": lambda image, t=t: diffseg(image, pipe, threshold=t) for t in DIFFSEG_THRESHOLDS
        },
        f"τ of {DIFFCUT_OWN}": {
            f"{t:g}": lambda image, t=t: diffcut(image, pipe, limit=t) for t in DIFFCUT_LIMITS
        },
        f"size of the picture for {DIFFCUT}, K = {num_masks}": {
            f"{s} ×": lambda image, s=s: diffcut(image, pipe, num_masks, processing_resolution=s * own)
            for s in DIFFCUT_SCALES
        },
    }


def measure(rivals: dict[str, Rival], seeds: Iterable[int], progress=iter) -> pd.DataFrame:
    """A row per candidate: mean number of segments; matched and oracle mIoU (coarse classes), boundary F (fine), percent."""
    classes = len(Toyscapes.coarse_class_names)
    sums = {name: {"segments": [], "matched": 0, "oracle": 0, "boundary F": []} for name in rivals}
    for seed in progress(seeds):
        scene = Toyscapes.from_seed(seed)
        for name, rival in rivals.items():
            found, entry = rival(np.array(scene.image)), sums[name]
            table = contingency_table(found.labels, scene.coarse_labels, len(found.embeddings), classes)
            entry["segments"].append(len(found.embeddings))
            entry["matched"] = entry["matched"] + per_image_matching(
                found.labels, scene.coarse_labels, classes
            )
            entry["oracle"] = entry["oracle"] + confusion_matrix(table, table.argmax(1))
            entry["boundary F"].append(boundary_scores(found.labels, scene.labels)[2])
    rows = {
        name: {
            "segments": np.mean(entry["segments"]),
            CHOSEN_BY: 100 * mean_iou_of_counts(entry["matched"], "zero"),
            "oracle mIoU": 100 * mean_iou(entry["oracle"]),
            "boundary F": 100 * np.mean(entry["boundary F"]),
        }
        for name, entry in sums.items()
    }
    return pd.DataFrame(rows).T.rename_axis("candidate")


def main(argv: list[str] | None = None) -> dict[str, pd.DataFrame]:
    parser = command(__doc__, "runs/rival-settings")
    parser.add_argument("--first-scene", type=int, default=1700, help="a validation seed, 1000–1999")
    parser.add_argument("--num-scenes", type=int, default=48, help="how many")
    args = parser.parse_args(argv)
    if args.first_scene not in VALIDATION:
        raise ValueError(
            f"first-scene={args.first_scene} is no validation seed; choose one from {VALIDATION[0]} to {VALIDATION[-1]}."
        )
    names = ("first-scene", "num-scenes")
    seeds = list(check_range(args.first_scene, args.num_scenes, VALIDATION.stop, names))
    pipe = load_pipeline(args.model, args.device, args.dtype)
    num_masks = pipe.resolve(num_masks=args.num_masks).features.num_masks
    tables, notes = {}, []
    for question, rivals in candidates(pipe, num_masks).items():
        tables[question] = table = measure(rivals, seeds, bar(question))
        notes.append(f"{question}: {table[CHOSEN_BY].idxmax()} is best by {CHOSEN_BY}.")
        print(f"\n{question}\n{table.round(1).to_string()}\n{notes[-1]}", flush=True)
    write_manifest(
        Path(args.output) / "manifest.json",
        title=f"Settings of the rivals on {args.model}",
        question="Which thresholds suit the rivals on this model's pictures?",
        command=f"python -m emerdiff_lib.experiments.rival_settings --model {args.model} "
        f"--first-scene {args.first_scene} --num-scenes {args.num_scenes}",
        settings={"num_masks": num_masks},
        seeds={"tuning": seeds},
        tables=tables,
        notes=notes,
    )
    return tables


if __name__ == "__main__":
    main()
