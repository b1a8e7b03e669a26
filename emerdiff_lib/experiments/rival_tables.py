"""What an evaluation of EmerDiff and its rivals says, in sentences that follow from its tables."""

from __future__ import annotations

import pandas as pd

from ..plotting import CHART_COLOURS, NEUTRAL
from .names import EMERDIFF, EMERDIFF_PIXEL, PIXELS_ATTENTION
from .rivals import EMERDIFFS, ON_THE_SAME_FEATURES, ON_THE_SAME_MASKS

MEASURES = {"oracle": "oracle mIoU", "modified": "modified mIoU (other split)", "boundary_f": "boundary F"}
KINDS = (
    "EmerDiff",
    "its coarse masks without modulation",
    "its coarse features without modulation",
    "other methods",
)
COLOURS = dict(
    zip(KINDS, (*(CHART_COLOURS[i] for i in (3, 0, 2)), NEUTRAL), strict=True)
)  # of kinds, in figures
# What a method of EmerDiff's is held against: what it has in common with others, and these others
_WITHOUT = {
    EMERDIFF: ("masks", list(ON_THE_SAME_MASKS)),
    EMERDIFF_PIXEL: ("features", [*ON_THE_SAME_FEATURES, PIXELS_ATTENTION]),
}
_LESS_IS_BETTER = ("VI (bits)", "s / image")
_NO_SCORE = ("segments", "s / image")


def kind(method: str) -> str:
    """One of :data:`KINDS`."""
    groups = (EMERDIFFS, ON_THE_SAME_MASKS, (*ON_THE_SAME_FEATURES, PIXELS_ATTENTION))
    return next((name for name, group in zip(KINDS, groups, strict=False) if method in group), KINDS[-1])


def quoted(methods: list[str]) -> str:
    """Names in a sentence; some have a comma of their own."""
    return ", ".join(f'"{method}"' for method in methods)


def best_of_each(scores: pd.DataFrame) -> pd.DataFrame:
    """The best method of every column of "scores", and its value."""
    rows = []
    for column in (c for c in scores if c not in _NO_SCORE and scores[c].notna().any()):
        method = scores[column].idxmin() if column in _LESS_IS_BETTER else scores[column].idxmax()
        rows.append({"column": column, "best": method, "value": scores.loc[method, column]})
    return pd.DataFrame(rows).set_index("column")


def with_interval(row: pd.Series) -> str:
    """ "+1.2 [+0.3, +2.1]" from "points", "low" and "high"; without the interval where a single picture gives none."""
    ends = "" if pd.isna(row["low"]) else f" [{row['low']:+.1f}, {row['high']:+.1f}]"
    return f"{row['points']:+.1f}{ends}"


def paired_table(paired: pd.DataFrame) -> pd.DataFrame:
    """Differences to be read: a row per method, a column per measure; "(n.s.)": Wilcoxon's p is 0.05 or more."""
    text = [
        with_interval(row) + (" (n.s.)" if row["p (Wilcoxon)"] >= 0.05 else "")
        for _, row in paired.iterrows()
    ]
    wide = paired.assign(difference=text).pivot(index="minus", columns="measure", values="difference")
    order = list(dict.fromkeys(paired["minus"]))
    return (
        wide.loc[order, [m for m in MEASURES if m in wide]].rename(columns=MEASURES).rename_axis(columns=None)
    )


def standing(paired: pd.DataFrame, measure: str) -> dict[str, list[str]]:
    """{"ahead of", "behind", "not told apart from"}: the methods whose interval lies above, below and across 0."""
    part = paired[paired["measure"] == measure]
    ahead, behind = part["low"] > 0, part["high"] < 0
    groups = {"ahead of": ahead, "behind": behind, "not told apart from": ~(ahead | behind)}
    return {name: part[rows]["minus"].tolist() for name, rows in groups.items()}


def describe(tables: dict[str, pd.DataFrame]) -> list[str]:
    """Sentences about all tables of :func:`~emerdiff_lib.evaluation.tables.summarise`; the reference is the first method."""
    scores, paired = tables["scores"], tables["paired"]
    reference = scores.index[0]
    best = best_of_each(scores)
    listed = "; ".join(f"{c}: {quoted([row['best']])} ({row['value']:.1f})" for c, row in best.iterrows())
    sentences = [f"Best in each column: {listed}."]
    for measure in (m for m in MEASURES if m in set(paired["measure"])):
        groups = standing(paired, measure)
        parts = [f"{name} {quoted(methods)}" for name, methods in groups.items() if methods]
        sentences.append(f"{MEASURES[measure]}: {reference} is {'; '.join(parts)}.")
    if reference in _WITHOUT:
        sentences += [_beside_the_best(scores, paired, measure, reference) for measure in MEASURES]
    protocols = [c for c in scores if c.endswith("mIoU") or c.startswith("modified")]
    values = ", ".join(f"{scores.loc[reference, c]:.1f} {c}" for c in protocols)
    sentences.append(f"The same segments of {reference}, under every protocol: {values}.")
    return [sentence for sentence in sentences if sentence]


def _beside_the_best(scores: pd.DataFrame, paired: pd.DataFrame, measure: str, reference: str) -> str:
    """Modulated denoising against the best that the same masks or features reach without it; "" where none was run."""
    column, (what, others) = MEASURES[measure], _WITHOUT[reference]
    part = paired[(paired["measure"] == measure) & paired["minus"].isin(others)]
    if part.empty:
        return ""
    rows = part.set_index("minus")
    best = scores.loc[rows.index, column].idxmax()
    verdict = (
        "adds to"
        if rows.loc[best, "low"] > 0
        else "is behind"
        if rows.loc[best, "high"] < 0
        else "cannot be told from"
    )
    return (
        f"{column}: modulated denoising {verdict} the best that the same {what} reach without it "
        f"({quoted([best])}, {scores.loc[best, column]:.1f}): {with_interval(rows.loc[best])}."
    )
