"""Which λ suits which picture, and whether it can be told without labels (the paper's open question)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from scipy.ndimage import binary_dilation, uniform_filter

from ..toyscapes import Scene, Toyscapes
from .ablations import records
from .metrics import boundaries, mean_iou
from .protocols import oracle
from .regions import find_regions

HINTS = ("response", "margin", "agreement", "edge contrast")
_STANDING = [Toyscapes.coarse_class_names.index(name) for name in ("building", "tree", "car", "boat", "person")]


def kind_of_picture(scene: Scene) -> dict:
    """"time of day" (as the caption ends), "object size" (median share of the picture of a standing object, 0 without any)
    and "texture contrast" (RMS of brightness less its 5 × 5 mean, away from boundaries, in [0, 1])."""  # fmt: skip
    areas = [r.area for r in find_regions(scene.coarse_labels, 0.0005, 1.0) if r.class_index in _STANDING]
    grey = np.asarray(scene.image.convert("L")) / 255.0
    inside = ~binary_dilation(boundaries(scene.labels), iterations=3)
    words = next(w for w in ("at day", "at sunset", "at night", "on a grey day") if scene.caption.endswith(w))
    texture = (grey - uniform_filter(grey, 5))[inside]
    return {
        "time of day": words,
        "object size": float(np.median(areas)) if areas else 0.0,
        "texture contrast": float(np.sqrt(np.square(texture).mean())) if inside.any() else 0.0,
    }


def by_picture(strengths: dict[float, list[dict]], seeds: Iterable[int]) -> pd.DataFrame:
    """A row per scene and λ: "mIoU" (oracle, of the one picture) and "boundary F" in points, "layer RMS", the label-free
    hints of :func:`.ablations.label_free_hints`, and the kind of picture."""  # fmt: skip
    rows = []
    for index, seed in enumerate(seeds):
        kind = kind_of_picture(Toyscapes.from_seed(seed))
        for value, results in strengths.items():
            (record,) = records([results[index]], "EmerDiff")
            scores = {
                "mIoU": 100 * mean_iou(oracle(record)),
                "boundary F": 100 * results[index]["EmerDiff"]["boundary_f"],
            }
            rms = {"layer RMS": results[index]["layer_rms"]}
            rows.append({"seed": seed, "λ": value} | scores | rms | results[index]["hints"] | kind)
    return pd.DataFrame(rows)


def rules(pictures: pd.DataFrame, usual: float = 10.0) -> pd.DataFrame:
    """Mean scores of rules for λ, a row each: one λ for all, λ in proportion to the layer's RMS, the λ with the largest
    (or smallest) hint, and the best in hindsight. ``pictures`` is :func:`by_picture`'s table."""  # fmt: skip
    grid = np.sort(pictures["λ"].unique())
    wanted = usual * pictures["layer RMS"] / pictures.drop_duplicates("seed")["layer RMS"].median()
    nearest = grid[np.abs(np.log(grid)[None] - np.log(wanted.to_numpy())[:, None]).argmin(1)]
    chosen = {f"λ = {value:g}": pictures[pictures["λ"] == value] for value in grid}
    chosen["relative norm"] = pictures[pictures["λ"] == nearest]
    for hint in HINTS:
        chosen[f"largest {hint}"] = pictures.loc[pictures.groupby("seed")[hint].idxmax()]
        chosen[f"smallest {hint}"] = pictures.loc[pictures.groupby("seed")[hint].idxmin()]
    chosen["best in hindsight"] = pictures.loc[pictures.groupby("seed")["mIoU"].idxmax()]
    table = {name: rows[["mIoU", "boundary F"]].mean() for name, rows in chosen.items()}
    return pd.DataFrame(table).T.assign(**{"median λ": {name: rows["λ"].median() for name, rows in chosen.items()}})
