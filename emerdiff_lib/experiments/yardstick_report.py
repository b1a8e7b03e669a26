"""Results of many scenes as one table with paired comparisons."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .protocols import (
    Record,
    bootstrap,
    concept_embeddings,
    mean_statistic,
    miou_statistic,
    modified,
    oracle,
)
from .scenes import BILINEAR, CEILING, EMERDIFF, PIXELS, POSITION

COLUMNS = {
    "oracle": "oracle mIoU",
    "modified_self": "modified mIoU (same scenes)",
    "modified": "modified mIoU (other split)",
    "modified_cosine": "modified mIoU (cosine)",
    "boundary_f": "boundary F (2 px)",
    "boundary_precision": "precision",
    "boundary_recall": "recall",
    "boundary_f_diagonal": "boundary F (0.75 %)",
    "seconds": "s / image",
}


def per_image(results: list[dict], fit: list[dict]) -> dict[str, dict[str, np.ndarray]]:
    """For every method: (N, C, C) confusions of each protocol and (N,) scores, image by image."""
    methods = {}
    for name in results[0]["methods"]:
        records, fit_records = (_records(part, name) for part in (results, fit))
        entries = [result["methods"][name] for result in results]
        edges = np.array([entry["boundary_2px"] for entry in entries])
        concepts = {
            "modified_self": concept_embeddings(records),
            "modified": concept_embeddings(fit_records or records),
        }
        methods[name] = {
            "oracle": np.stack([oracle(record) for record in records]),
            "modified_self": np.stack([modified(record, concepts["modified_self"]) for record in records]),
            "modified": np.stack([modified(record, concepts["modified"]) for record in records]),
            "modified_cosine": np.stack(
                [modified(record, concepts["modified"], "cosine") for record in records]
            ),
            "boundary_f": edges[:, 2],
            "boundary_precision": edges[:, 0],
            "boundary_recall": edges[:, 1],
            "boundary_f_diagonal": np.array([entry["boundary_diagonal"][2] for entry in entries]),
            "seconds": np.array([entry["seconds"] for entry in entries]),
        }
    return methods


def _records(results: list[dict], name: str) -> list[Record]:
    entries = (result["methods"][name] for result in results)
    return [Record(np.array(e["table"]), np.array(e["embeddings"], np.float64)) for e in entries]


def summarise(results: list[dict], fit: list[dict]) -> dict:
    """Scores per method (percent), paired differences with 95 % intervals, and the inversion's worst replay error."""
    methods, count = per_image(results, fit), len(results)
    scores = {}
    for name, values in methods.items():
        score = {
            key: miou_statistic(v)(slice(None)) if v.ndim == 3 else v.mean() for key, v in values.items()
        }
        if name == CEILING:  # it knows the classes: only the oracle and the boundaries mean anything
            score = {
                key: v for key, v in score.items() if not key.startswith("modified") and key != "seconds"
            }
        scores[name] = {key: float(v) * (1 if key == "seconds" else 100) for key, v in score.items()}
    differences = []
    for first, second in ((EMERDIFF, BILINEAR), (EMERDIFF, PIXELS), (BILINEAR, POSITION)):
        for key in ("oracle", "modified", "boundary_f"):
            a, b = methods[first][key], methods[second][key]
            statistic = (miou_statistic if a.ndim == 3 else mean_statistic)(a, b)
            value, low, high = (100 * v for v in bootstrap(statistic, count))
            differences.append(
                {"first": first, "second": second, "measure": key, "points": value, "low": low, "high": high}
            )
    return {
        "num_scenes": count,
        "num_fit_scenes": len(fit),
        "scores": scores,
        "differences": differences,
        "worst_replay_error": max(result["replay_error"] for result in results),
    }


def as_text(summary: dict) -> str:
    """The summary as two tables to print."""
    scores = pd.DataFrame(summary["scores"]).T.reindex(columns=list(COLUMNS)).rename(columns=COLUMNS)
    differences = pd.DataFrame(summary["differences"])
    differences["measure"] = differences["measure"].map(COLUMNS)
    lines = [
        f"{summary['num_scenes']} Toyscapes test scenes, coarse classes (boundaries: fine), K = "
        f"{summary['settings']['num_masks']}; concepts from {summary['num_fit_scenes']} validation scenes, Euclidean.",
        scores.to_string(float_format="%.1f", na_rep=""),
        "",
        "Paired differences in points, with bootstrap 95 % intervals over scenes:",
    ]
    for row in differences.itertuples():
        lines.append(
            f"  {row.first} − {row.second}: {row.measure} {row.points:+.1f} [{row.low:+.1f}, {row.high:+.1f}]"
        )
    lines.append(
        f"DDPM inversion, worst relative error of the replayed x₀ (float32): {summary['worst_replay_error']:.1e}"
    )
    return "\n".join(lines)
