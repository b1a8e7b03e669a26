"""Photographs with labels, for notebook 15: which are looked at, what stands beside the methods, and what a run says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..assignment import assign_bilinear
from ..attention import layer_grid
from ..datasets import LabelledDataset, open_dataset
from ..datasets.resized import Resized
from ..evaluation.intervals import paired_table
from ..evaluation.metrics import class_iou, contingency_table
from ..evaluation.protocols import oracle
from ..evaluation.regions import cell_labels
from ..evaluation.tables import per_image_rows, score
from ..pipeline import EmerDiffPipeline
from ..settings import whole
from ..words import Vocabulary
from .names import (
    BILINEAR,
    BILINEAR_GUIDED,
    CEILING,
    COLOUR,
    EMERDIFF,
    EMERDIFF_FAST,
    EMERDIFF_GUIDED,
    EMERDIFF_PIXEL,
    POSITION,
)
from .open_vocabulary import vocabulary_of

WIDTH = 192  # of the pictures that are scored
DRAWN = "toyscapes"  # what stands in where there are no photographs
CONTROL = "{}, untrained U-Net"
# What each stage has to be better than
PAIRS = (
    (BILINEAR, POSITION),
    (BILINEAR, COLOUR),
    (BILINEAR, CONTROL.format(BILINEAR)),
    (EMERDIFF, BILINEAR),
    (EMERDIFF_PIXEL, BILINEAR),
    (EMERDIFF_GUIDED, BILINEAR_GUIDED),
    (EMERDIFF_PIXEL, BILINEAR_GUIDED),
    (EMERDIFF_PIXEL, COLOUR),
    (EMERDIFF_FAST, CONTROL.format(EMERDIFF_FAST)),
)


# -- what is looked at ----------------------------------------------------------------------------------------------


def open_splits(
    dataset: str, root: str, split: str, fit_split: str, width: int = WIDTH
) -> tuple[str, LabelledDataset, LabelledDataset]:
    """(name of the data set, the split that is reported, the one that concepts are fitted on), at one width.

    Without ``dataset`` it is CamVid where there is a ``root``; without either, drawn scenes stand in.
    """
    name = dataset or ("camvid" if root else DRAWN)
    if not dataset and name == DRAWN:
        split, fit_split = "validation", "train"
    return name, *(Resized(open_dataset(name, root, part), width) for part in (split, fit_split))


def vocabulary(data: LabelledDataset, model: str) -> Vocabulary:
    """The classes' names, said as the captions of ``model`` had them: the streets model's list names, without a sentence."""
    usual = vocabulary_of(data)
    return replace(usual, templates=("{}",)) if model == "streets" else usual


def scenes_of(data: LabelledDataset, positions: Iterable[int]) -> list[int]:
    """Seeds of drawn scenes, for a manifest; none of photographs."""
    return [data[position].seed for position in positions] if data.root == "" else []


def held_out(data: LabelledDataset, every: int = 20) -> range:
    """Positions of what the trainer held out of a split that comes first among its folders."""
    return range(0, len(data), whole(1)("fit_every", every))


def told(labels: np.ndarray, truth: np.ndarray, data: LabelledDataset) -> np.ndarray:
    """(H, W) segments → classes: each has the one that most of its known pixels have (the oracle)."""
    table = contingency_table(labels, truth, None, len(data.class_names), data.ignore_index)
    return table.argmax(1)[labels]


# -- what a run says ------------------------------------------------------------------------------------------------


def class_counts(results: Iterable[dict], method: str) -> np.ndarray:
    """(N, C, 3): class counts of every image under the oracle."""
    return np.stack([oracle(result["methods"][method]["table"]) for result in results])


def differences(
    results: Sequence[dict], pairs: Iterable[tuple[str, str]] = PAIRS, draws: int = 1000
) -> pd.DataFrame:
    """Paired, in points, with 95 % bootstrap intervals over pictures.

    Returns:
        a row per pair of methods that both took part and measure: "method", "minus", "measure", "points", "low", "high".
    """
    scores = {
        method: {
            "oracle mIoU": class_counts(results, method),
            "boundary F": np.array([result["methods"][method]["boundary_f"] for result in results]),
        }
        for method in results[0]["methods"]
    }
    return paired_table(scores, pairs, draws)


def with_control(results: Iterable[dict], control: Iterable[dict]) -> list[dict]:
    """The same pictures with another model's methods beside the first one's, under :data:`CONTROL`'s names.

    Raises:
        ValueError: they have no picture in common; pictures that only one of them has are left out.
    """
    others, both = {result["name"]: result["methods"] for result in control}, []
    for result in results:
        if result["name"] in others:
            more = {CONTROL.format(name): entry for name, entry in others[result["name"]].items()}
            both.append({"name": result["name"], "methods": result["methods"] | more})
    if not both:
        raise ValueError("The two runs have no picture in common; run both on the same ones.")
    return both


def with_ceiling(
    pipe: EmerDiffPipeline,
    data: LabelledDataset,
    results: Iterable[dict],
    positions: Iterable[int],
    **settings: Any,
) -> list[dict]:
    """The same results with what the true labels would score if they were coarse masks, at the grid of the features;
    and each one's "position"."""
    used, count, found = pipe.resolve(**settings), len(data.class_names), []
    remaining = iter(positions)
    for result in results:  # those that failed, or are another shard's, are not among them
        position, sample = next((p, s) for p in remaining if (s := data[p]).name == result["name"])
        size = pipe.encode(sample.image, used.inversion.processing_resolution).shape[2:]
        grid = layer_grid(pipe.unet, used.features.feature_layer, *size)
        truth = np.where(sample.labels == data.ignore_index, count, sample.labels)
        labels, names = grid_of_truth(truth, grid, count + 1), np.eye(count + 1, dtype=np.float32)
        entry = score(labels, sample.labels, names, 0.0, count, data.ignore_index)
        methods = result["methods"] | {CEILING: entry}
        found.append({"name": result["name"], "position": position, "methods": methods})
    return found


def grid_of_truth(labels: np.ndarray, grid: tuple[int, int], num_classes: int) -> np.ndarray:
    """(H, W) labels brought to the feature grid and back: what a grid of that size can reach at best."""
    cells = torch.from_numpy(cell_labels(labels, grid, num_classes))
    masks = torch.nn.functional.one_hot(cells, num_classes).permute(2, 0, 1)
    return assign_bilinear(masks, labels.shape)


def by_class(results: Sequence[dict], methods: Iterable[str], names: Sequence[str]) -> pd.DataFrame:
    """IoU of each class under the oracle, percent, and its share of the known pixels; a column per class."""
    rows = {}
    for method in methods:
        counts = class_counts(results, method).sum(0)
        rows["% of pixels"] = 100 * counts[:, 1] / counts[:, 1].sum()
        rows[method] = 100 * class_iou(counts)
    return pd.DataFrame(rows, index=list(names)).T


def by_rule(results: Iterable[dict], method: str, count: int = 2) -> dict[str, list[int]]:
    """{"best", "median", "worst": positions in ``results``} by a picture's own oracle mIoU; ties go to the first."""
    rows = per_image_rows(results)
    order = (
        rows[rows["method"] == method]["oracle_miou"].reset_index(drop=True).sort_values(kind="stable").index
    )
    middle = max(0, (len(order) - count) // 2)
    found = {"best": order[::-1][:count], "median": order[middle : middle + count], "worst": order[:count]}
    return {rule: [int(i) for i in places] for rule, places in found.items()}


def describe(table: pd.DataFrame) -> list[str]:
    """A sentence per pair of :func:`differences`."""
    sentences = []
    for (method, minus), part in table.groupby(["method", "minus"], sort=False):
        ends = {
            row["measure"]: f"{row['points']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]"
            for _, row in part.iterrows()
        }
        listed = ", ".join(f"{value} {measure}" for measure, value in ends.items())
        sentences.append(f"{method} minus {minus}: {listed}.")
    return sentences
