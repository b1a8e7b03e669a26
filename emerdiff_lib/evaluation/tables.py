"""A whole data set under many methods: what is kept of every picture, and the tables that follow from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from ..files import replacing, write_atomically
from .metrics import (
    AREA_NAMES,
    LabelMap,
    area_bin,
    boundary_iou,
    boundary_scores,
    class_iou,
    contingency_table,
    mean_iou,
    mean_iou_of_counts,
    object_scores,
    paired_test,
    pixel_accuracy,
    table_scores,
)
from .protocols import (
    Record,
    bootstrap,
    concept_embeddings,
    mean_statistic,
    miou_statistic,
    modified,
    oracle,
    per_image_matching,
    traditional,
)
from .regions import Region, sample_labels

AREA_TYPE = pd.CategoricalDtype(AREA_NAMES, ordered=True)  # sizes.astype(AREA_TYPE) sorts and groups by size
SCORES = (
    "seconds",
    "segments",
    "boundary_precision",
    "boundary_recall",
    "boundary_f",
    "boundary_f_diagonal",
    "adjusted_rand",
    "over_segmentation",
    "under_segmentation",
    "variation_of_information",
)
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
    truth: np.ndarray | LabelMap,
    embeddings: np.ndarray,
    seconds: float,
    num_classes: int,
    ignore_index: int | None = None,
    regions: list[Region] | None = None,
) -> dict:
    """Everything that is kept of one picture under one method: plain numbers and lists, for JSON.

    Args:
        labels: (h, w) segment indices, 0 to K − 1; at another size than the truth's they are sampled (nearest).
        truth: (H, W) classes, 0 to C − 1, or ``ignore_index``; ``LabelMap(classes, ignore_index)`` where several methods are
            scored on one picture, so that what they share is found once.
        embeddings: (K, d), one per segment.
        seconds: what the segments took.
        regions: the truth's objects, ``find_regions(truth, 0, 1, ignore_index)``, where they are known already.

    Returns:
        :data:`SCORES` (NaN where nothing is counted); "boundary_iou" (C, 2) and "matched" (C, 3), counts to be summed over
        pictures; "objects", a row each; "table" (K, C) and "embeddings", the picture's :class:`Record`.
    """
    true = LabelMap.of(truth, ignore_index)
    truth, ignore_index = true.labels, true.ignore_index
    if labels.shape != truth.shape:
        labels = sample_labels(labels, truth.shape)
    table = contingency_table(labels, truth, len(embeddings), num_classes, ignore_index)
    named, found = table.argmax(1), LabelMap(labels)
    precision, recall, f = boundary_scores(found, true, 2)
    near = 0.0075 * float(np.hypot(*truth.shape))
    return {
        "seconds": seconds,
        "segments": int((table.sum(1) > 0).sum()),
        "boundary_precision": precision,
        "boundary_recall": recall,
        "boundary_f": f,
        "boundary_f_diagonal": boundary_scores(found, true, near)[2],
        **table_scores(table),
        "boundary_iou": boundary_iou(named[labels], true, num_classes).tolist(),
        "matched": per_image_matching(labels, truth, num_classes, ignore_index).tolist(),
        "objects": object_scores(labels, named, true, regions=regions),
        "table": table.tolist(),
        "embeddings": np.round(embeddings.astype(float), 5).tolist(),
    }


def records(results: list[dict], method: str) -> list[Record]:
    """Contingency tables and embeddings of one method, picture by picture.

    Args:
        results: a dictionary per picture, "name" and "methods": {method: :func:`score`}; so in all functions here.
    """
    entries = (result["methods"][method] for result in results)
    return [Record(np.array(e["table"]), np.array(e["embeddings"], np.float64)) for e in entries]


def per_image_rows(results: list[dict]) -> pd.DataFrame:
    """One row per picture and method: the scalar scores, and accuracy and mIoU of the picture under the oracle."""
    rows = []
    for result in results:
        for method, entry in result["methods"].items():
            confusion = oracle(Record(np.array(entry["table"]), np.zeros((len(entry["table"]), 1))))
            rows.append(
                {"image": result["name"], "method": method}
                | {name: entry[name] for name in SCORES}
                | {"oracle_accuracy": pixel_accuracy(confusion), "oracle_miou": mean_iou(confusion)}
            )
    return pd.DataFrame(rows)


def confusions(results: list[dict], fit: list[dict]) -> dict[str, dict[str, np.ndarray]]:
    """{protocol: {method: (N, C, C) confusion of every picture}}.

    Concepts of "modified" and "modified_cosine" come from the ``fit`` split, those of "modified_self" from the pictures
    themselves. Without a ``fit`` split the first two are left out; so is "traditional" for a method with fewer segments in
    all than classes, or with embeddings of several lengths.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    for method in results[0]["methods"]:
        own = records(results, method)
        found.setdefault("oracle", {})[method] = np.stack([oracle(r) for r in own])
        enough = sum((r.table.sum(1) > 0).sum() for r in own) >= own[0].table.shape[1]
        if enough and len({r.embeddings.shape[1] for r in own}) == 1:
            found.setdefault("traditional", {})[method] = np.stack(traditional(own))
        same = concept_embeddings(own)
        found.setdefault("modified_self", {})[method] = np.stack([modified(r, same) for r in own])
        if not fit:
            continue
        other = concept_embeddings(records(fit, method))
        for protocol, similarity in (("modified", "euclidean"), ("modified_cosine", "cosine")):
            parts = [modified(r, other, similarity) for r in own]
            found.setdefault(protocol, {})[method] = np.stack(parts)
    return found


def summarise(
    results: list[dict], fit: list[dict], reference: str | None = None, draws: int = 1000
) -> dict[str, pd.DataFrame]:
    """All tables of an evaluation.

    Args:
        results, fit: the split that is reported and the one that concepts are fitted on (may be empty), as in :func:`records`.
        reference: the method that others are compared with; the first by default.
        draws: bootstrap samples.

    Returns:
        "scores": a row per method, percent except where the column says otherwise; "intervals": 95 % bootstrap intervals of
        mIoU and boundary F; "paired": differences of the reference to every other method, with intervals and, for scores per
        picture (accuracy for the protocols), the p-value of Wilcoxon's test; "objects": recall and IoU by area, small to
        large; "classes": IoU per class (oracle).

    Raises:
        ValueError: without results, or for a reference that is not among the methods.
    """
    if not results:
        raise ValueError("There are no results to summarise; evaluate at least one picture.")
    methods = list(results[0]["methods"])
    reference = methods[0] if reference is None else reference
    if reference not in methods:
        raise ValueError(f"reference={reference!r} was not evaluated; choose one of {', '.join(methods)}.")
    rows, protocols = per_image_rows(results), confusions(results, fit)
    edges = {m: part["boundary_f"].to_numpy() for m, part in rows.groupby("method", sort=False)}
    measures: dict[str, tuple[Callable, dict]] = {
        name: (miou_statistic, protocols[name]) for name in ("oracle", "modified") if name in protocols
    }
    measures["boundary_f"] = (mean_statistic, edges)
    intervals, paired = [], []
    for method in methods:
        for name, (statistic, values) in measures.items():
            found = bootstrap(statistic(values[method]), len(results), draws)
            intervals.append({"method": method, "measure": name} | _percent(("value", "low", "high"), found))
            if method == reference:
                continue
            both = values[reference], values[method]
            found = bootstrap(statistic(*both), len(results), draws)
            per_image = both if both[0].ndim == 1 else [[pixel_accuracy(c) for c in part] for part in both]
            paired.append(
                {"minus": method, "measure": name}
                | _percent(("points", "low", "high"), found)
                | {"p (Wilcoxon)": paired_test(*per_image)}
            )
    return {
        "scores": _score_table(results, rows, protocols),
        "intervals": pd.DataFrame(intervals),
        "paired": pd.DataFrame(paired, columns=["minus", "measure", "points", "low", "high", "p (Wilcoxon)"]),
        "objects": _object_table(results, methods),
        "classes": 100 * pd.DataFrame({m: class_iou(c.sum(0)) for m, c in protocols["oracle"].items()}).T,
    }


def _percent(names: tuple[str, ...], shares: tuple[float, ...]) -> dict[str, float]:
    return {name: 100 * share for name, share in zip(names, shares, strict=True)}


def _score_table(results: list[dict], rows: pd.DataFrame, protocols: dict) -> pd.DataFrame:
    """A row per method: every protocol over the summed confusions, and the means of the scores per picture."""
    found = {}
    for method, part in rows.groupby("method", sort=False):
        total = {name: values[method].sum(0) for name, values in protocols.items() if method in values}
        counts = lambda key, method=method: np.sum([r["methods"][method][key] for r in results], 0)
        intersection, union = counts("boundary_iou").T
        shares = {name: mean_iou(confusion) for name, confusion in total.items()}
        shares["matched"] = float(mean_iou_of_counts(counts("matched"), "zero"))
        shares["accuracy"] = pixel_accuracy(total["oracle"])
        occurs = union > 0
        shares["boundary_iou"] = (
            (intersection / np.maximum(union, 1))[occurs].mean() if occurs.any() else np.nan
        )
        means = part[[name for name in SCORES if name in TABLE]].mean().to_dict()
        found[method] = {
            name: value if name in _NO_PERCENT else 100 * value for name, value in (shares | means).items()
        }
    frame = pd.DataFrame(found).T.rename_axis("method")
    return frame[[name for name in TABLE if name in frame]].rename(columns=TABLE)


def _object_table(results: list[dict], methods: list[str]) -> pd.DataFrame:
    """A row per method, columns (recall or IoU, size class): means over objects in percent, from small to large."""
    objects = pd.DataFrame(
        [
            (method, area_bin(o["area"]), 100 * o["recall"], 100 * o["iou"])
            for result in results
            for method, entry in result["methods"].items()
            for o in entry["objects"]
        ],
        columns=["method", "area", "recall", "IoU"],
    )
    means = objects.groupby(["method", "area"])[["recall", "IoU"]].mean().unstack("area")
    columns = [(kind, area) for kind in ("recall", "IoU") for area in AREA_NAMES if (kind, area) in means]
    return means.reindex(index=methods, columns=pd.MultiIndex.from_tuples(columns, names=[None, "area"]))


def write_tables(
    tables: dict[str, pd.DataFrame], rows: pd.DataFrame, settings: dict, output_dir: Path | str
) -> None:
    """``results.parquet`` (a row per picture and method) and ``summary.json`` (all settings, every table)."""
    folder = Path(output_dir)
    with replacing(folder / "results.parquet") as file:
        rows.to_parquet(file, index=False)
    plain = {
        name: json.loads(table.reset_index().to_json(orient="split", double_precision=10))
        for name, table in tables.items()
    }
    summary = json.dumps({"settings": settings} | plain, indent=1, ensure_ascii=False) + "\n"
    write_atomically(folder / "summary.json", summary)
