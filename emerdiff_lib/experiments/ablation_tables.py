"""Numbers and sentences from the results of sweeps: levels with intervals, paired differences, and what the paper finds."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..evaluation.intervals import interval, level_table
from ..evaluation.metrics import mean_iou
from ..evaluation.protocols import (
    Record,
    concept_embeddings,
    modified,
    oracle,
)
from ..settings import check_known
from .ablation_sweeps import Sweep
from .names import BILINEAR, EMERDIFF

MEASURES = ("oracle mIoU", "modified mIoU", "boundary F")
KINDS = (EMERDIFF, BILINEAR)
ALIKE = 3.0  # points; settings that differ by less, measurably, are alike


def records(results: list[dict], kind: str = EMERDIFF) -> list[Record]:
    """What the protocols take, scene by scene; ``kind`` is one of :data:`KINDS`."""
    return [Record(np.array(r[kind]["table"]), np.array(r["embeddings"])) for r in results]


def scores(results: list[dict], measure: str, kind: str = EMERDIFF) -> np.ndarray:
    """What is summed or averaged over scenes: (N, C, 3) class counts for an mIoU, (N,) scores for boundary F, in [0, 1].

    The concepts of "modified mIoU" are those of the same scenes.

    Raises:
        ValueError: for another measure.
    """
    check_known("measure", measure, MEASURES)
    if measure == "boundary F":
        return np.array([r[kind]["boundary_f"] for r in results])
    own = records(results, kind)
    if measure == "oracle mIoU":
        return np.stack([oracle(record.table) for record in own])
    concepts = concept_embeddings(own)
    return np.stack([modified(record, concepts) for record in own])


def level(results: list[dict], measure: str, kind: str = EMERDIFF) -> float:
    """The score of all scenes together, in points."""
    values = scores(results, measure, kind)
    return 100 * float(values.mean() if values.ndim == 1 else mean_iou(values.sum(0)))


def paired(
    first: list[dict], second: list[dict], measure: str, draws: int = 500, kind: str = EMERDIFF
) -> tuple[float, float, float]:
    """(first − second, low, high) in points on the same scenes, with the 95 % bootstrap interval over scenes."""
    both = [scores(results, measure, kind) for results in (first, second)]
    value, low, high = interval(*both, draws)
    return 100 * value, 100 * low, 100 * high


def table(points: dict[str, list[dict]], draws: int = 500) -> pd.DataFrame:
    """A row per setting, kind and measure: "value", "low", "high" in points, with 95 % bootstrap intervals over scenes."""
    tables = {}
    for label, results in points.items():
        per_image = {kind: {name: scores(results, name, kind) for name in MEASURES} for kind in KINDS}
        tables[label] = level_table(per_image, draws).rename(columns={"method": "kind"})
    return pd.concat(tables, names=["setting", None]).reset_index("setting").reset_index(drop=True)


def overview(table: pd.DataFrame, sweep: Sweep) -> pd.DataFrame:
    """:func:`table` to be read: a row per setting in the sweep's order, the default marked, a column per measure and kind."""
    wide = table.pivot(index="setting", columns=["measure", "kind"], values="value").loc[list(sweep.points)]
    wide = wide[[(measure, kind) for measure in MEASURES for kind in KINDS]].round(1)
    wide.columns = [f"{measure}, {kind}" for measure, kind in wide.columns]
    mark = lambda label: f"{label} (default)" if label == sweep.default else label
    return wide.rename(index=mark).rename_axis(sweep.title)


def with_interval(found: tuple[float, float, float], value="{:+.1f}", end="{:+.1f}", scale: float = 1) -> str:
    """ "+1.2 [+0.3, +2.1]" from (value, low, high); without the ends where they are NaN, as from a single scene."""
    middle, low, high = (scale * number for number in found)
    interval = "" if np.isnan(low) else f" [{end.format(low)}, {end.format(high)}]"
    return value.format(middle) + interval


def best_against_default(
    points: dict[str, list[dict]], sweep: Sweep, measure: str, draws: int = 500
) -> tuple[str, str, tuple[float, float, float]]:
    """(best label, the label it is held against, paired difference in points).

    That is the default, or the worst where the default is the best itself or no point of the sweep.
    """
    levels = {label: level(results, measure) for label, results in points.items()}
    best, worst = max(levels, key=levels.get), min(levels, key=levels.get)
    other = worst if sweep.default in (None, best) or sweep.default not in points else sweep.default
    return best, other, paired(points[best], points[other], measure, draws)


def describe(points: dict[str, list[dict]], sweep: Sweep, draws: int = 500) -> list[str]:
    """Sentences: how far each measure varies, the best setting against the default on the same scenes, and the paper."""
    sentences = []
    for measure in MEASURES:
        best, other, difference = best_against_default(points, sweep, measure, draws)
        levels = {label: level(results, measure) for label, results in points.items()}
        worst = min(levels, key=levels.get)
        sentence = f"{measure}: {levels[worst]:.1f} ({worst}) to {levels[best]:.1f} ({best})"
        if best != other:
            name = "the default" if other == sweep.default else "the worst"
            sentence += f"; best − {name}: {with_interval(difference)}"
            sentence += "" if difference[1] > 0 else ", not told apart"
        sentences.append(sentence + ("; the default is the best." if sweep.default == best else "."))
    word, sentence = agreement(points, sweep, draws)
    return sentences + [sentence] * bool(word)


def agreement(points: dict[str, list[dict]], sweep: Sweep, draws: int = 500) -> tuple[str, str]:
    """What the paper finds and whether it holds here: ("holds" | "open" | "fails", sentence), ("", "") where it says nothing.

    A paper's best holds where the best of its points beats all others measurably, and fails where another one beats it so. That
    all are alike fails where the best beats the worst measurably, and holds where even the interval's upper end is below
    :data:`ALIKE` points. Picking the best of several by the same scenes favours its winning.
    """
    expected = [label for label in sweep.paper_best if label in points]
    if not sweep.paper or not expected:
        return "", ""
    levels = {label: level(results, sweep.measure) for label, results in points.items()}
    others = [label for label in points if label not in expected]
    best = max(levels, key=levels.get)
    if best not in others and others:
        rival = max(others, key=levels.get)
    else:
        rival = max(expected, key=levels.get) if others else min(levels, key=levels.get)
    found = paired(points[best], points[rival], sweep.measure, draws)
    measurable = found[1] > 0
    if not others:
        word = "fails" if measurable else "holds" if found[2] < ALIKE else "open"
    else:
        word = "open" if not measurable else "fails" if best in others else "holds"
    words = {
        "holds": "so it is" if others else f"they differ by less than {ALIKE:g} points",
        "fails": "it is not so",
        "open": "it cannot be told",
    }
    start = f"The paper finds that {sweep.paper} ({sweep.source}); here, by {sweep.measure}, {words[word]}"
    return word, f"{start}: {best} − {rival} is {with_interval(found)}."


def summary(
    found: dict[str, dict[str, list[dict]]], sweeps: dict[str, Sweep], draws: int = 500
) -> pd.DataFrame:
    """A row per sweep: for its own measure and for boundary F the range over its points in points, the best one, and its paired
    difference to the default, or to the worst where it is the default itself; and whether the paper's finding holds."""
    rows = []
    for name, points in found.items():
        sweep = sweeps[name]
        row = {
            "sweep": sweep.title,
            "default": sweep.default or "",
            "mIoU": sweep.measure.removesuffix(" mIoU"),
        }
        for measure, title in ((sweep.measure, "mIoU"), ("boundary F", "boundary F")):
            levels = [level(results, measure) for results in points.values()]
            best, other, difference = best_against_default(points, sweep, measure, draws)
            row[f"{title}: range"] = f"{min(levels):.1f} – {max(levels):.1f}"
            row[f"{title}: best"] = best
            against = "the default" if other == sweep.default else "the worst"
            row[f"{title}: better by"] = f"{with_interval(difference)} than {against}"
        rows.append(row | {"the paper's finding": agreement(points, sweep, draws)[0]})
    return pd.DataFrame(rows).set_index("sweep")


def conclusions(
    found: dict[str, dict[str, list[dict]]], sweeps: dict[str, Sweep], draws: int = 500
) -> list[str]:
    """What the sweeps say together, in sentences: where the paper's findings hold, and what beats the default measurably, by
    the measure of the sweep or by boundary F."""
    words: dict[str, list[str]] = {"holds": [], "fails": [], "open": []}
    better = []
    for name, points in found.items():
        sweep = sweeps[name]
        if word := agreement(points, sweep, draws)[0]:
            words[word].append(f"{sweep.title} ({sweep.paper})")
        for measure in (sweep.measure, "boundary F"):
            best, other, difference = best_against_default(points, sweep, measure, draws)
            if other == sweep.default and best != other and difference[1] > 0:
                better.append(f"{sweep.title}: {best} ({measure} {with_interval(difference)})")
    lead = {
        "holds": "The paper's findings hold for",
        "fails": "They do not hold for",
        "open": "Too close to tell are",
    }
    sentences = [f"{lead[word]}: {'; '.join(names)}." for word, names in words.items() if names]
    sentences.append(
        f"Measurably better than the default: {'; '.join(better)}."
        if better
        else "Nothing is measurably better than the default."
    )
    return sentences
