"""Tables of lost objects: by size and stage, criterion by criterion, and beside the rivals."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..evaluation.intervals import bootstrap
from ..evaluation.metrics import AREA_NAMES, area_bin
from ..evaluation.tables import AREA_TYPE

FOUND = "found"
STAGES = ("VAE", "coarse grid", "clustering", "modulation", "argmax")


def in_order(objects: pd.DataFrame) -> pd.DataFrame:
    """The same rows with "size" and "fate" as ordered categories."""
    fate = pd.CategoricalDtype([*STAGES, FOUND], ordered=True)
    return objects.astype({"size": AREA_TYPE, "fate": fate})


def fates(objects: pd.DataFrame) -> pd.DataFrame:
    """Percent of the objects of each size by fate, a row per K and size in order, with the number of "objects"."""
    grouped = objects.groupby(["K", "size"], observed=False)["fate"]
    shares = 100 * grouped.value_counts(normalize=True).unstack("fate").reindex(columns=[*STAGES, FOUND])
    return shares.astype(float).assign(objects=grouped.size())


def criteria(objects: pd.DataFrame) -> pd.DataFrame:
    """Percent of the objects of each size that meet each criterion by itself, a column per stage."""
    return 100 * objects.groupby("size", observed=False)[list(STAGES)].mean().astype(float)


def spared(objects: pd.DataFrame) -> pd.DataFrame:
    """How many objects of each size fail a criterion ("fail"), and how many of those are found nevertheless ("found")."""
    rows = {}
    for stage in STAGES[:-1]:
        failing = objects[~objects[stage].astype(bool)].groupby("size", observed=False)["fate"]
        rows[stage, "fail"] = failing.size()
        rows[stage, FOUND] = failing.agg(lambda fate: int((fate == FOUND).sum()))
    return pd.DataFrame(rows)


def examples(objects: pd.DataFrame) -> pd.DataFrame:
    """The largest object that each stage has lost, a row per stage that has lost any, in order."""
    lost = objects[objects["fate"] != FOUND].sort_values("area", ascending=False, kind="stable")
    return lost.groupby("fate", observed=True).head(1).sort_values("fate")


def beside_rivals(results: list[dict], size: str = AREA_NAMES[0], draws: int = 1000) -> pd.DataFrame:
    """A row per method and measure of the objects of one size class, in percent with 95 % bootstrap intervals over pictures.

    Args:
        results: of :func:`.rivals.evaluate`.

    Returns:
        "method", "measure" ("recall": share of an object's pixels in segments of its class; "IoU": of the best single segment
        with it), "value", "low", "high"; NaN where there is no such object.
    """
    rows = []
    for method in results[0]["methods"]:
        found = [r["methods"][method]["objects"] for r in results]
        chosen = [[o for o in objects if area_bin(o["area"]) == size] for objects in found]
        for name, title in (("recall", "recall"), ("iou", "IoU")):
            sums = np.array([sum(o[name] for o in objects) for objects in chosen])
            counts = np.array([len(objects) for objects in chosen])
            interval = bootstrap(_ratio(sums, counts), len(results), draws)
            values = dict(zip(("value", "low", "high"), (100 * v for v in interval), strict=True))
            rows.append({"method": method, "measure": title} | values)
    return pd.DataFrame(rows)


def _ratio(sums: np.ndarray, counts: np.ndarray):
    """For :func:`bootstrap`: a mean over objects, of which pictures hold different numbers."""

    return lambda rows: sums[rows].sum(-1) / counts[rows].sum(-1)


def describe(objects: pd.DataFrame) -> list[str]:
    """Sentences: what is found of each size, where the smallest are lost, and who is found against a criterion."""
    sentences = []
    for k, part in objects.groupby("K"):
        shares = part.groupby("size", observed=True)["fate"].agg(lambda fate: (fate == FOUND).mean())
        listed = ", ".join(f"{100 * share:.0f} % ({size})" for size, share in shares.items())
        sentences.append(f"With {k} masks, found, by share of the picture: {listed}.")
        small = part[(part["size"] == AREA_NAMES[0]) & (part["fate"] != FOUND)]["fate"]
        if len(small):
            counts = small.value_counts()
            where = ", ".join(f"{stage} ({counts[stage]})" for stage in STAGES if counts.get(stage, 0))
            sentences.append(f"With {k} masks, objects {AREA_NAMES[0]} are lost at: {where}.")
        against = spared(part).sum()
        saved = [
            f"{against[stage, FOUND]} of {against[stage, 'fail']} that fail {stage}"
            for stage in STAGES[:-1]
            if against[stage, FOUND]
        ]
        if saved:
            sentences.append(f"With {k} masks, found nevertheless: {'; '.join(saved)}.")
    return sentences
