"""A whole data set under many methods: resumable picture by picture, one row per picture and method at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from ..baselines import Backbone
from ..datasets import LabelledDataset, Sample
from .methods import EMERDIFF, check_methods, segment
from .metrics import (
    AREA_NAMES,
    area_bin,
    boundary_iou,
    boundary_scores,
    class_iou,
    contingency_table,
    mean_iou,
    object_scores,
    paired_test,
    partition_scores,
    pixel_accuracy,
)
from .protocols import (
    Record,
    bootstrap,
    concept_embeddings,
    mean_statistic,
    miou_statistic,
    modified,
    oracle,
    traditional,
)
from .store import ResultStore, fingerprint

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
    sample: Sample, labels: np.ndarray, embeddings: np.ndarray, seconds: float, data: LabelledDataset
) -> dict:
    """Everything that is kept of one picture under one method: plain numbers and lists, for JSON."""
    ignore, classes = data.ignore_index, len(data.class_names)
    if labels.shape != sample.labels.shape:
        labels = np.asarray(Image.fromarray(labels).resize(sample.labels.shape[::-1], Image.NEAREST))
    table = contingency_table(labels, sample.labels, len(embeddings), classes, ignore)
    named = table.argmax(1)
    diagonal = float(np.hypot(*sample.labels.shape))
    precision, recall, f = boundary_scores(labels, sample.labels, 2, ignore)
    return {
        "seconds": seconds,
        "segments": int((table.sum(1) > 0).sum()),
        "boundary_precision": precision,
        "boundary_recall": recall,
        "boundary_f": f,
        "boundary_f_diagonal": boundary_scores(labels, sample.labels, 0.0075 * diagonal, ignore)[2],
        **partition_scores(labels, sample.labels, ignore),
        "boundary_iou": boundary_iou(named[labels], sample.labels, classes, ignore_index=ignore).tolist(),
        "objects": object_scores(labels, named, sample.labels, ignore),
        "table": table.tolist(),
        "embeddings": np.round(embeddings.astype(float), 5).tolist(),
    }


def evaluate(
    pipe,
    data: LabelledDataset,
    methods: list[str],
    output_dir: Path | str,
    settings: dict,
    limit: int | None = None,
    backbone: Backbone | None = None,
    backbone_name: str = "",
    progress: Callable[[Iterable], Iterable] = iter,
) -> list[dict]:
    """Every picture (the first ``limit``) under every method; what is in ``output_dir`` already is not computed again.

    Returns:
        A dictionary per picture: "name" and "methods", {method: :func:`score`}.

    Raises:
        ValueError: for an unknown method, or a folder with results of another model, data set or settings.
    """
    check_methods(methods, backbone is not None)
    header = {
        "data": repr(data),
        "methods": list(methods),
        "settings": settings,
        "weights": fingerprint(pipe.unet),
        "dtype": str(pipe.unet.dtype),
        "backbone": backbone_name,
    }
    store, results = ResultStore(output_dir, header), []
    for index in progress(range(len(data) if limit is None else min(limit, len(data)))):
        key = f"image-{index:06}"
        if (result := store.recall(key)) is None:
            sample = data[index]
            found = segment(pipe, sample, methods, settings, backbone)
            result = store.keep(
                key,
                {
                    "name": sample.name,
                    "methods": {
                        m: score(sample, r.labels, r.embeddings, r.seconds, data) for m, r in found.items()
                    },
                },
            )
        results.append(result)
    if not results:
        raise ValueError(f"{data} gave no picture to evaluate.")
    return results


def records(results: list[dict], method: str) -> list[Record]:
    """Contingency tables and embeddings of one method, picture by picture."""
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
    """{protocol: {method: (N, C, C) confusion of every picture}}; concepts of "modified" come from the ``fit`` split."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for method in results[0]["methods"]:
        own = records(results, method)
        others = records(fit, method) if fit else own
        same, other = concept_embeddings(own), concept_embeddings(others)
        found.setdefault("oracle", {})[method] = np.stack([oracle(r) for r in own])
        enough = sum(len(r.table) for r in own) >= own[0].table.shape[1]
        if enough and len({r.embeddings.shape[1] for r in own}) == 1:
            found.setdefault("traditional", {})[method] = np.stack(traditional(own))
        found.setdefault("modified_self", {})[method] = np.stack([modified(r, same) for r in own])
        found.setdefault("modified", {})[method] = np.stack([modified(r, other) for r in own])
        found.setdefault("modified_cosine", {})[method] = np.stack(
            [modified(r, other, "cosine") for r in own]
        )
    return found


def summarise(
    results: list[dict], fit: list[dict], reference: str | None = None, draws: int = 1000
) -> dict[str, pd.DataFrame]:
    """All tables of an evaluation.

    Args:
        results, fit: from :func:`evaluate` on the split that is reported and on the one that concepts are fitted on.
        reference: the method that others are compared with; EmerDiff, or its fast mode, by default.
        draws: bootstrap samples.

    Returns:
        "scores": a row per method, percent except where the column says otherwise; "intervals": 95 % bootstrap intervals of
        mIoU and boundary F; "paired": differences of the reference to every other method, with intervals and, for scores per
        picture, the p-value of Wilcoxon's test; "objects": recall and IoU by area; "classes": IoU per class (oracle).
    """
    rows, protocol, count = per_image_rows(results), confusions(results, fit), len(results)
    methods = list(results[0]["methods"])
    reference = reference or next((m for m in (EMERDIFF, "EmerDiff fast") if m in methods), methods[0])
    by_method = {m: part for m, part in rows.groupby("method", sort=False)}
    scores, intervals, paired, classes = [], [], [], {}
    for m in methods:
        row = {"method": m}
        for name, values in protocol.items():
            if m in values:
                row[name] = 100 * mean_iou(values[m].sum(0))
        row["accuracy"] = 100 * pixel_accuracy(protocol["oracle"][m].sum(0))
        counts = np.sum([result["methods"][m]["boundary_iou"] for result in results], 0)
        row["boundary_iou"] = 100 * float(np.mean([i / u for i, u in counts if u > 0]))
        row |= {n: by_method[m][n].mean() * (1 if n in _NO_PERCENT else 100) for n in SCORES if n in TABLE}
        scores.append(row)
        classes[m] = class_iou(protocol["oracle"][m].sum(0))
        for name in ("oracle", "modified"):
            value, low, high = bootstrap(miou_statistic(protocol[name][m]), count, draws)
            intervals.append(
                {"method": m, "measure": name, "value": 100 * value, "low": 100 * low, "high": 100 * high}
            )
        value, low, high = bootstrap(mean_statistic(by_method[m]["boundary_f"].to_numpy()), count, draws)
        intervals.append(
            {"method": m, "measure": "boundary_f", "value": 100 * value, "low": 100 * low, "high": 100 * high}
        )
        if m == reference:
            continue
        for name in ("oracle", "modified", "boundary_f"):
            if name == "boundary_f":
                a, b = (by_method[x][name].to_numpy() for x in (reference, m))
                statistic, per_image = mean_statistic(a, b), (a, b)
            else:
                a, b = protocol[name][reference], protocol[name][m]
                statistic = miou_statistic(a, b)
                per_image = tuple(np.array([pixel_accuracy(c) for c in x]) for x in (a, b))
            value, low, high = bootstrap(statistic, count, draws)
            paired.append(
                {
                    "minus": m,
                    "measure": name,
                    "points": 100 * value,
                    "low": 100 * low,
                    "high": 100 * high,
                    "p (Wilcoxon)": paired_test(*per_image),
                }
            )
    objects = pd.DataFrame(
        {"method": m, "area": area_bin(o["area"]), "recall": 100 * o["recall"], "IoU": 100 * o["iou"]}
        for result in results
        for m, entry in result["methods"].items()
        for o in entry["objects"]
    )
    sizes = objects.groupby(["method", "area"], sort=False)[["recall", "IoU"]].mean().unstack("area")
    sizes = sizes.reindex(
        index=methods, columns=[(k, a) for k in ("recall", "IoU") for a in AREA_NAMES if (k, a) in sizes]
    )
    frame = pd.DataFrame(scores).set_index("method")
    return {
        "scores": frame[[c for c in TABLE if c in frame]].rename(columns=TABLE),
        "intervals": pd.DataFrame(intervals),
        "paired": pd.DataFrame(paired),
        "objects": sizes,
        "classes": pd.DataFrame(classes).T * 100,
    }


def write_tables(
    tables: dict[str, pd.DataFrame], rows: pd.DataFrame, settings: dict, output_dir: Path | str
) -> None:
    """``results.parquet`` (a row per picture and method) and ``summary.json`` (all settings, every table)."""
    folder = Path(output_dir)
    rows.to_parquet(folder / "results.parquet", index=False)
    plain = {
        name: json.loads(table.reset_index().to_json(orient="split", double_precision=10))
        for name, table in tables.items()
    }
    (folder / "summary.json").write_text(
        json.dumps({"settings": settings} | plain, indent=1, ensure_ascii=False) + "\n"
    )
