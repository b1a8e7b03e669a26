"""A whole data set under many methods: what is kept of every picture, and the tables that follow from it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..files import replacing, write_atomically
from .fitting import Fitting, places
from .label_maps import LabelMap
from .metrics import (
    AREA_NAMES,
    boundary_iou,
    boundary_scores,
    contingency_table,
    iou_of_counts,
    mean_iou,
    mean_iou_of_counts,
    object_scores,
    paired_test,
    pixel_accuracy,
    table_scores,
)
from .protocols import Record, oracle, per_image_matching
from .regions import sample_labels
from .statistics import PROTOCOLS, RESAMPLED, SCORES, Statistics

AREA_TYPE = pd.CategoricalDtype(AREA_NAMES, ordered=True)  # sizes.astype(AREA_TYPE) sorts and groups by size
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
) -> dict:
    """Everything that is kept of one picture under one method: plain numbers and lists, for JSON.

    Args:
        labels: (h, w) segment indices, 0 to K − 1; at another size than the truth's they are sampled (nearest).
        truth: (H, W) classes, 0 to C − 1, or ``ignore_index``; ``LabelMap(classes, ignore_index)`` where several methods are
            scored on one picture, so that what they share is found once.
        embeddings: (K, d), one per segment.
        seconds: what the segments took.

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
        "objects": object_scores(labels, named, true),
        "table": table.tolist(),
        "embeddings": np.round(embeddings.astype(float), 5).tolist(),
    }


def per_image_rows(results: Iterable[dict]) -> pd.DataFrame:
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


def batches_of_rows(results: Iterable[dict], size: int = 1000) -> Iterator[pd.DataFrame]:
    """:func:`per_image_rows` of ``size`` pictures at a time."""
    remaining = iter(results)
    while len(rows := per_image_rows(itertools.islice(remaining, size))):
        yield rows


def summarise(
    results: Iterable[dict], fit: Iterable[dict] = (), reference: str | None = None, draws: int = 1000
) -> dict[str, pd.DataFrame]:
    """All tables of an evaluation, from one picture at a time.

    Args:
        results, fit: the split that is reported and the one that concepts are fitted on (may be empty): a dictionary per
            picture, "name" and "methods", {method: :func:`score`}. Lists, or whatever else can be read more than once:
            ``results`` are read twice, ``fit`` once.
        reference, draws: as in :func:`tabulate` and :class:`~.statistics.Statistics`.

    Returns:
        The tables of :func:`tabulate`. The concepts of "modified" and "modified_cosine" come from ``fit``, and without it both
        are left out; those of "modified_self" from the pictures themselves.

    Raises:
        ValueError: without results, for results that can be read only once, or for a reference that is not among the methods.
    """
    if iter(results) is results:
        raise ValueError(
            "These results can be read only once; give a list, or an object whose iter() starts anew."
        )
    where = places(Fitting.of(results), Fitting.of(fit, sample=0))
    statistics = Statistics(draws)
    for result in results:
        statistics.update(result, where)
    return tabulate(statistics, reference)


def tabulate(statistics: Statistics, reference: str | None = None) -> dict[str, pd.DataFrame]:
    """All tables of an evaluation.

    Args:
        reference: the method that others are compared with; the first by default.

    Returns:
        "scores": a row per method, percent except where the column says otherwise; "intervals": 95 % bootstrap intervals of
        mIoU and boundary F; "paired": differences of the reference to every other method, with intervals and, for scores per
        picture (accuracy for the protocols), the p-value of Wilcoxon's test; "objects": recall and IoU by area, small to
        large; "classes": IoU per class (oracle). How the intervals were drawn is in ``attrs["bootstrap"]`` of both tables.

    Raises:
        ValueError: without results, or for a reference that is not among the methods.
    """
    methods = statistics.methods
    if not methods:
        raise ValueError("There are no results to summarise; evaluate at least one picture.")
    reference = methods[0] if reference is None else reference
    if reference not in methods:
        raise ValueError(f"reference={reference!r} was not evaluated; choose one of {', '.join(methods)}.")
    intervals, paired = [], []
    for method in methods:
        for measure in (*RESAMPLED, "boundary_f"):
            if not statistics.has(measure, method):
                continue
            found = statistics.interval(measure, method)
            row = {"method": method, "measure": measure}
            intervals.append(row | _percent(("value", "low", "high"), found))
            if method == reference or not statistics.has(measure, reference):
                continue
            found = statistics.interval(measure, reference, minus=method)
            p = paired_test(*(statistics.per_picture(measure, one) for one in (reference, method)))
            row = {"minus": method, "measure": measure}
            paired.append(row | _percent(("points", "low", "high"), found) | {"p (Wilcoxon)": p})
    classes = {method: iou_of_counts(statistics.total("oracle", method)) for method in methods}
    tables = {
        "scores": _score_table(statistics),
        "intervals": pd.DataFrame(intervals),
        "paired": pd.DataFrame(paired, columns=["minus", "measure", "points", "low", "high", "p (Wilcoxon)"]),
        "objects": _object_table(statistics),
        "classes": 100 * pd.DataFrame(classes).T,
    }
    for name in ("intervals", "paired"):
        tables[name].attrs["bootstrap"] = statistics.bootstrap
    return tables


def _percent(names: tuple[str, ...], shares: tuple[float, ...]) -> dict[str, float]:
    return {name: 100 * share for name, share in zip(names, shares, strict=True)}


def _score_table(statistics: Statistics) -> pd.DataFrame:
    """A row per method: every protocol over the summed counts, and the means of the scores per picture."""
    found = {}
    for method in statistics.methods:
        total = {name: statistics.total(name, method) for name in PROTOCOLS if statistics.has(name, method)}
        shares = {name: float(mean_iou_of_counts(counts)) for name, counts in total.items()}
        shares["matched"] = float(mean_iou_of_counts(statistics.total("matched", method), "zero"))
        right, true, _ = total["oracle"].sum(0)
        shares["accuracy"] = right / true if true else np.nan
        intersection, union = statistics.total("boundary_iou", method).T
        occurs = union > 0
        shares["boundary_iou"] = (intersection[occurs] / union[occurs]).mean() if occurs.any() else np.nan
        means = {name: statistics.mean(name, method) for name in SCORES if name in TABLE}
        found[method] = {
            name: value if name in _NO_PERCENT else 100 * value for name, value in (shares | means).items()
        }
    frame = pd.DataFrame(found).T.rename_axis("method")
    return frame[[name for name in TABLE if name in frame]].rename(columns=TABLE)


def _object_table(statistics: Statistics) -> pd.DataFrame:
    """A row per method, columns (recall or IoU, size class): means over objects in percent, from small to large."""
    columns = [(kind, area) for kind in ("recall", "IoU") for area in AREA_NAMES]
    means = pd.DataFrame(
        [
            [100 * statistics.mean(kind.lower(), m, area) for kind, area in columns]
            for m in statistics.methods
        ],
        index=pd.Index(statistics.methods, name="method"),
        columns=pd.MultiIndex.from_tuples(columns, names=[None, "area"]),
    )
    return means.dropna(axis="columns", how="all")


def write_tables(
    tables: dict[str, pd.DataFrame],
    rows: pd.DataFrame | Iterable[pd.DataFrame],
    settings: dict,
    output_dir: Path | str,
) -> None:
    """``results.parquet`` (a row per picture and method) and ``summary.json`` (all settings, every table).

    Args:
        rows: :func:`per_image_rows`, or :func:`batches_of_rows` of pictures too many to be held.
    """
    folder = Path(output_dir)
    with replacing(folder / "results.parquet") as file:
        if isinstance(rows, pd.DataFrame):
            rows.to_parquet(file, index=False)
        else:
            _write_batches(file, rows)
    plain = {
        name: json.loads(table.reset_index().to_json(orient="split", double_precision=10)) | table.attrs
        for name, table in tables.items()
    }
    summary = json.dumps({"settings": settings} | plain, indent=1, ensure_ascii=False) + "\n"
    write_atomically(folder / "summary.json", summary)


def _write_batches(file: Path, batches: Iterable[pd.DataFrame]) -> None:
    """One Parquet file, a row group per batch."""
    writer = None
    for batch in batches:
        table = pa.Table.from_pandas(batch, preserve_index=False)
        writer = writer or pq.ParquetWriter(file, table.schema)
        writer.write_table(table)
    if writer is None:
        raise ValueError("There are no results to write; evaluate at least one picture.")
    writer.close()
