"""A whole data set under many methods: what is kept of every image, and the tables that follow from it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from . import metrics, protocols
from .intervals import level_table, paired_table
from .protocols import Record
from .regions import sample_labels

SCORES = (
    "seconds",
    "segments",
    "boundary_precision",
    "boundary_recall",
    "boundary_f",
    "boundary_f_diagonal",
    *metrics.PARTITION_SCORES,
)
RESAMPLED = ("oracle", "modified")  # protocols with bootstrap intervals
TABLE = {
    "oracle": "oracle mIoU",
    "traditional": "traditional mIoU",
    "modified_self": "modified mIoU (same images)",
    "modified": "modified mIoU (other split)",
    "modified_cosine": "… by cosine",
    "matched": "per-image matched mIoU",
    "accuracy": "oracle accuracy",
    "boundary_f": "boundary F",
    "boundary_precision": "precision",
    "boundary_recall": "recall",
    "boundary_f_diagonal": "boundary F (0.75 %)",
    "boundary_iou": "boundary IoU",
    "adjusted_rand": "ARI",
    "variation_of_information": "VI (bits)",
    "segments": "segments",
    "seconds": "s / image",
}
_NO_PERCENT = ("variation_of_information", "segments", "seconds")


def score(
    labels: np.ndarray,
    truth: np.ndarray,
    embeddings: np.ndarray,
    seconds: float,
    num_classes: int,
    ignore_index: int | None = None,
    background: int | None = None,
) -> dict[str, Any]:
    """Everything that is kept of one image under one method: plain numbers and lists, for JSON.

    Args:
        labels: (h, w) segment indices, 0 to K − 1; at another size than the truth's they are sampled (nearest).
        truth: (H, W) classes, 0 to C − 1, or ``ignore_index``; ``background``: the class that is everything else, if any.
        embeddings: (K, d), one per segment.
        seconds: what the segments took.

    Returns:
        :data:`SCORES` (NaN where nothing is counted); "boundary_iou" (C, 2) and "matched" (C, 3), counts to be summed over
        images; "objects", a row each; "table" (K, C) and "embeddings", the image's :class:`~.protocols.Record`.
    """
    if labels.shape != truth.shape:
        labels = sample_labels(labels, truth.shape)
    table = metrics.contingency_table(labels, truth, len(embeddings), num_classes, ignore_index)
    named, near = table.argmax(1), 0.0075 * float(np.hypot(*truth.shape))
    boundary = metrics.boundary_scores(labels, truth, 2, ignore_index)
    return {
        "seconds": seconds,
        "segments": int((table.sum(1) > 0).sum()),
        **dict(zip(("boundary_precision", "boundary_recall", "boundary_f"), boundary, strict=True)),
        "boundary_f_diagonal": metrics.boundary_scores(labels, truth, near, ignore_index)[2],
        **metrics.partition_scores(table),
        "boundary_iou": metrics.boundary_iou(named[labels], truth, num_classes, ignore_index).tolist(),
        "matched": protocols.per_image_matching(
            labels, truth, num_classes, ignore_index, background
        ).tolist(),
        "objects": metrics.object_scores(labels, named, truth, ignore_index),
        "table": table.tolist(),
        "embeddings": np.round(embeddings.astype(float), 5).tolist(),
    }


def per_image_rows(results: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One row per image and method: the scalar scores, and accuracy and mIoU of the image under the oracle."""
    rows = []
    for result in results:
        for method, entry in result["methods"].items():
            counts = protocols.oracle(entry["table"])
            row = {"image": result["name"], "method": method} | {name: entry[name] for name in SCORES}
            row["oracle_accuracy"] = metrics.pixel_accuracy(counts)
            row["oracle_miou"] = metrics.mean_iou(counts)
            rows.append(row)
    return pd.DataFrame(rows)


def summarise(
    results: Iterable[dict[str, Any]], fit: Iterable[dict[str, Any]] = (), draws: int = 1000
) -> dict[str, pd.DataFrame]:
    """All tables of an evaluation. The (K, d) embeddings of every image and method are held in memory.

    Args:
        results, fit: the split that is reported and the one that class prototypes are fitted on (may be empty): a dictionary
            per image, "name" and "methods", {method: :func:`score`}, the same methods for all.
        draws: bootstrap samples.

    Returns:
        "scores": a row per method, percent except where the column says otherwise; "intervals": 95 % bootstrap intervals of
        mIoU and boundary F, which the scores have as ``attrs["intervals"]``, {column: {method: [low, high]}}, too; "paired":
        differences of the first method to every other, with intervals; "objects": recall and IoU by area, small to large;
        "classes": IoU per class (oracle).
        Prototypes of "modified" and "modified_cosine" come from ``fit``, and without it both are left out; those of
        "modified_self" come from the images themselves.

    Raises:
        ValueError: without results.
    """
    entries, fitted = _by_method(results), _by_method(fit)
    if not entries:
        raise ValueError("There are no results to summarise; evaluate at least one image.")
    counts = {method: _class_counts(some, fitted.get(method, [])) for method, some in entries.items()}
    per_image = {
        method: {name: counts[method][name] for name in RESAMPLED if name in counts[method]}
        | {"boundary_f": np.array([entry["boundary_f"] for entry in some])}
        for method, some in entries.items()
    }
    reference = next(iter(entries))
    others = [(reference, method) for method in entries if method != reference]
    classes = {method: metrics.class_iou(values["oracle"].sum(0)) for method, values in counts.items()}
    tables = {
        "scores": _score_table(entries, counts),
        "intervals": level_table(per_image, draws),
        "paired": paired_table(per_image, others, draws).drop(columns="method"),
        "objects": _object_table(entries),
        "classes": 100 * pd.DataFrame(classes).T,
    }
    tables["scores"].attrs["intervals"] = {
        TABLE[measure]: {row.method: [row.low, row.high] for row in rows.itertuples()}
        for measure, rows in tables["intervals"].dropna().groupby("measure", sort=False)
    }
    return tables


def _by_method(results: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """{method: what :func:`score` kept, image after image}, each with its :class:`Record` as "record".

    Images are in the order in which people sort their names, "9" before "10", in whatever order they came.
    """
    kept = []
    for result in results:
        arrays = {}
        for method, entry in result["methods"].items():
            record = Record(np.array(entry["table"]), np.array(entry["embeddings"], np.float64))
            arrays[method] = entry | {"table": None, "embeddings": None, "record": record}
        kept.append((result["name"], arrays))
    kept.sort(key=lambda image: [int(s) if s.isdecimal() else s for s in re.split(r"(\d+)", image[0])])
    return {method: [arrays[method] for _, arrays in kept] for method in (kept[0][1] if kept else ())}


def _class_counts(entries: list[dict[str, Any]], fitted: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """{protocol: (N, C, 3)} of one method.

    What cannot be had is left out: "traditional" of fewer distinct segments than classes, and all but "oracle" where images
    have embeddings of several lengths, which have nothing in common.
    """
    own, other = ([entry["record"] for entry in some] for some in (entries, fitted))
    counts = {"oracle": np.stack([protocols.oracle(record.table) for record in own])}
    if len({record.embeddings.shape[1] for record in own + other}) > 1:
        return counts
    if (matched := protocols.traditional(own)) is not None:
        counts["traditional"] = matched
    fits = {"modified_self": (own, False)}
    if other:
        fits |= {"modified": (other, False), "modified_cosine": (other, True)}
    for name, (records, cosine) in fits.items():
        concepts = protocols.concept_embeddings(records)
        counts[name] = np.stack([protocols.modified(record, concepts, cosine) for record in own])
    return counts


def _score_table(
    entries: dict[str, list[dict[str, Any]]], counts: dict[str, dict[str, np.ndarray]]
) -> pd.DataFrame:
    """A row per method: every protocol over the summed counts, and the means of the scores per image."""
    rows = {}
    for method, some in entries.items():
        row: dict[str, Any] = {
            name: metrics.mean_iou(values.sum(0)) for name, values in counts[method].items()
        }
        row["accuracy"] = metrics.pixel_accuracy(counts[method]["oracle"].sum(0))
        row["matched"] = metrics.mean_iou(np.sum([entry["matched"] for entry in some], 0), skip_absent=False)
        intersection, union = np.sum([entry["boundary_iou"] for entry in some], 0).T
        occurs = union > 0
        row["boundary_iou"] = (intersection[occurs] / union[occurs]).mean() if occurs.any() else np.nan
        row |= pd.DataFrame(some)[list(SCORES)].mean().to_dict()
        rows[method] = {name: value * (1 if name in _NO_PERCENT else 100) for name, value in row.items()}
    frame = pd.DataFrame(rows).T.rename_axis("method")
    return frame[[name for name in TABLE if name in frame]].rename(columns=TABLE)


def _object_table(entries: dict[str, list[dict[str, Any]]]) -> pd.DataFrame:
    """A row per method, columns (recall or IoU, size class): means over objects in percent, from small to large."""
    columns = pd.MultiIndex.from_product([("recall", "IoU"), metrics.AREA_NAMES], names=[None, "area"])
    rows = {}
    for method, some in entries.items():
        objects = pd.DataFrame([o for e in some for o in e["objects"]], columns=["area", "recall", "iou"])
        sizes = pd.cut(objects["area"], metrics.AREA_BINS, right=False, labels=metrics.AREA_NAMES)
        means = objects.rename(columns={"iou": "IoU"}).groupby(sizes, observed=True).mean()
        rows[method] = 100 * means.unstack()
    table = pd.DataFrame(rows).T.reindex(columns=columns).rename_axis("method")
    return table.dropna(axis="columns", how="all")
