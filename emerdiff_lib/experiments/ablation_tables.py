"""Numbers and sentences from the results of sweeps: levels with intervals, paired differences, and what the paper finds."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..evaluation.metrics import mean_iou
from ..evaluation.protocols import (
    Record,
    bootstrap,
    concept_embeddings,
    mean_statistic,
    miou_statistic,
    modified,
    oracle,
)
from ..settings import check_known
from .ablation_sweeps import Sweep
from .names import BILINEAR, EMERDIFF

MEASURES = ("oracle mIoU", "modified mIoU", "boundary F")
KINDS = (EMERDIFF, BILINEAR)


def records(results: list[dict], kind: str = EMERDIFF) -> list[Record]:
    """What the protocols take, scene by scene; ``kind`` is one of :data:`KINDS`."""
    return [Record(np.array(r[kind]["table"]), np.array(r["embeddings"])) for r in results]


def scores(results: list[dict], measure: str, kind: str = EMERDIFF) -> np.ndarray:
    """What is summed or averaged over scenes: (N, C, C) confusions for an mIoU, (N,) scores for boundary F, in [0, 1].

    The concepts of "modified mIoU" are those of the same scenes.

    Raises:
        ValueError: for another measure.
    """
    check_known("measure", measure, MEASURES)
    if measure == "boundary F":
        return np.array([r[kind]["boundary_f"] for r in results])
    own = records(results, kind)
    if measure == "oracle mIoU":
        return np.stack([oracle(record) for record in own])
    concepts = concept_embeddings(own)
    return np.stack([modified(record, concepts) for record in own])


def level(results: list[dict], measure: str, kind: str = EMERDIFF) -> float:
    """The score of all scenes together, in points."""
    values = scores(results, measure, kind)
    return 100 * (float(values.mean()) if values.ndim == 1 else mean_iou(values.sum(0)))


def paired(
    first: list[dict], second: list[dict], measure: str, draws: int = 500, kind: str = EMERDIFF
) -> tuple[float, float, float]:
    """(first − second, low, high) in points on the same scenes, with the 95 % bootstrap interval over scenes."""
    both = [scores(results, measure, kind) for results in (first, second)]
    statistic = mean_statistic if both[0].ndim == 1 else miou_statistic
    value, low, high = bootstrap(statistic(*both), len(first), draws)
    return 100 * value, 100 * low, 100 * high


def table(points: dict[str, list[dict]], draws: int = 500) -> pd.DataFrame:
    """A row per setting, kind and measure: "value", "low", "high" in points, with 95 % bootstrap intervals over scenes."""
    rows = []
    for label, results in points.items():
        for kind in KINDS:
            for measure in MEASURES:
                values = scores(results, measure, kind)
                statistic = (mean_statistic if values.ndim == 1 else miou_statistic)(values)
                interval = [100 * value for value in bootstrap(statistic, len(results), draws)]
                row = {"setting": label, "kind": kind, "measure": measure}
                rows.append(row | dict(zip(("value", "low", "high"), interval, strict=True)))
    return pd.DataFrame(rows)


def overview(table: pd.DataFrame, sweep: Sweep) -> pd.DataFrame:
    """:func:`table` to be read: a row per setting in the sweep's order, the default marked, a column per measure and kind."""
    wide = table.pivot(index="setting", columns=["measure", "kind"], values="value").loc[list(sweep.points)]
    wide = wide[[(measure, kind) for measure in MEASURES for kind in KINDS]].round(1)
    wide.columns = [f"{measure}, {kind}" for measure, kind in wide.columns]
    mark = lambda label: f"{label} (default)" if label == sweep.default else label
    return wide.rename(index=mark).rename_axis(sweep.title)


def describe(points: dict[str, list[dict]], sweep: Sweep, draws: int = 500) -> list[str]:
    """Sentences: how far each measure varies, the best setting against the default on the same scenes, and the paper.

    Where the default is the best, or no point of the sweep, the best is held against the worst.
    """
    sentences = []
    for measure in MEASURES:
        levels = {label: level(results, measure) for label, results in points.items()}
        best, worst = max(levels, key=levels.get), min(levels, key=levels.get)
        sentence = f"{measure}: {levels[worst]:.1f} ({worst}) to {levels[best]:.1f} ({best})"
        if best != worst:
            other = worst if sweep.default in (None, best) else sweep.default
            name = "the default" if other == sweep.default else "the worst"
            value, low, high = paired(points[best], points[other], measure, draws)
            sentence += f"; best − {name}: {value:+.1f} [{low:+.1f}, {high:+.1f}]"
            sentence += "" if low > 0 else ", not told apart"
        sentences.append(sentence + ("; the default is the best." if sweep.default == best else "."))
    if verdict := agreement(points, sweep, draws):
        sentences.append(verdict)
    return sentences


def agreement(points: dict[str, list[dict]], sweep: Sweep, draws: int = 500) -> str:
    """What the paper finds and whether it holds here, in a sentence; "" for a sweep of which it says nothing.

    It does not hold where the best setting beats, measurably, the best (or, where the paper finds them alike, the worst) of
    those that are best according to the paper. Picking the best of several by the same scenes favours that.
    """
    expected = [label for label in sweep.paper_best if label in points]
    if not sweep.paper or not expected:
        return ""
    levels = {label: level(results, sweep.measure) for label, results in points.items()}
    best, alike = max(levels, key=levels.get), len(expected) == len(points)
    rival = min(levels, key=levels.get) if alike else max(expected, key=levels.get)
    start = f"The paper finds that {sweep.paper} ({sweep.source}); here, by {sweep.measure}, "
    if best in expected and not alike:
        return f"{start}so it is: {best} is best."
    if best == rival:
        return f"{start}nothing differs."
    value, low, high = paired(points[best], points[rival], sweep.measure, draws)
    difference = f"{best} − {rival}: {value:+.1f} [{low:+.1f}, {high:+.1f}]"
    if low > 0:
        return f"{start}it is not so: {difference}."
    return f"{start}{'so it is' if alike else 'the contrary cannot be shown'}: {difference}."
