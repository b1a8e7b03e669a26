"""Tables of sweeps: levels with intervals, paired differences to the default, and whether the paper's finding holds."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..evaluation.intervals import Interval, interval, level_table
from ..evaluation.protocols import Record, concept_embeddings, modified, oracle
from .ablations import Points, Sweep
from .names import BILINEAR, EMERDIFF

MEASURES = ("oracle mIoU", "modified mIoU", "boundary F")
METHODS = (EMERDIFF, BILINEAR)
ALIKE = 3.0  # points; settings that differ by less, measurably, are alike
DRAWS = 500


def scores(results: list[dict], method: str = EMERDIFF) -> dict[str, np.ndarray]:
    """{measure: what is summed or averaged over scenes}: (N, C, 3) class counts for an mIoU, (N,) boundary F in [0, 1].

    The prototypes of "modified mIoU" are those of the same scenes.
    """
    records = [Record(np.array(r[method]["table"]), np.array(r["embeddings"])) for r in results]
    prototypes = concept_embeddings(records)
    return {
        "oracle mIoU": np.stack([oracle(record.table) for record in records]),
        "modified mIoU": np.stack([modified(record, prototypes) for record in records]),
        "boundary F": np.array([result[method]["boundary_f"] for result in results]),
    }


def levels(points: Points) -> pd.DataFrame:
    """A row per setting, method and measure: "value", "low", "high" in points, with 95 % bootstrap intervals over scenes."""
    tables = {
        label: level_table({method: scores(results, method) for method in METHODS}, DRAWS)
        for label, results in points.items()
    }
    return pd.concat(tables, names=["setting", None]).reset_index("setting").reset_index(drop=True)


def overview(levels: pd.DataFrame, sweep: Sweep) -> pd.DataFrame:
    """:func:`levels` to be read: a row per setting, the default marked, a column per measure and method."""
    wide = levels.pivot(index="setting", columns=["measure", "method"], values="value").loc[
        list(sweep.points)
    ]
    wide = wide[[(measure, method) for measure in MEASURES for method in METHODS]].round(1)
    wide.columns = [f"{measure}, {method}" for measure, method in wide.columns]
    return wide.rename(index={sweep.default: f"{sweep.default} (default)"}).rename_axis(sweep.title)


def with_interval(difference: Interval) -> str:
    """ "+1.2 [+0.3, +2.1]" from (value, low, high); without the ends where they are NaN, as from a single scene."""
    value, low, high = difference
    return f"{value:+.1f}" + ("" if np.isnan(low) else f" [{low:+.1f}, {high:+.1f}]")


def paired(points: Points, first: str, second: str, measure: str) -> Interval:
    """(first − second, low, high) in points on the same scenes."""
    value, low, high = interval(scores(points[first])[measure], scores(points[second])[measure], DRAWS)
    return 100 * value, 100 * low, 100 * high


def comparison(points: Points, levels: pd.DataFrame, sweep: Sweep) -> pd.DataFrame:
    """The best setting against the default on the same scenes, by measure.

    Returns:
        a row per measure: the "lowest" and the "highest" level of a setting, in points, and which these are ("worst", "best");
        "against" which the best is compared: the default, or the worst where the default is the best or no point of the sweep;
        "difference": best − against in points with its interval, and whether it is "measurable": the interval is above 0.
    """
    values = levels[levels["method"] == EMERDIFF].pivot(index="setting", columns="measure", values="value")
    rows = {}
    for measure, column in values.loc[list(points), list(MEASURES)].items():
        best, worst = column.idxmax(), column.idxmin()
        against = worst if sweep.default in (None, best) else sweep.default
        difference = paired(points, best, against, measure)
        row = (column[worst], worst, column[best], best, against)
        rows[measure] = (*row, with_interval(difference), difference[1] > 0)
    columns = ["lowest", "worst", "highest", "best", "against", "difference", "measurable"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("measure")


def agreement(points: Points, levels: pd.DataFrame, sweep: Sweep) -> tuple[str, str]:
    """Whether the paper's finding holds here, and the comparison that says so; ("", "") where the paper says nothing.

    A paper's best "holds" where the best of its points beats all others measurably, and "fails" where another one beats it so.
    That all are alike "fails" where the best beats the worst measurably, and "holds" where even the interval's upper end is
    below :data:`ALIKE` points. All else is "open". Picking the best of several by the same scenes favours its winning.
    """
    expected = [label for label in sweep.paper_best if label in points]
    if not expected:
        return "", ""
    rows = levels[(levels["method"] == EMERDIFF) & (levels["measure"] == sweep.measure)]
    values = rows.set_index("setting")["value"].loc[list(points)]
    others, best = values.drop(expected), values.idxmax()
    strongest = (values[expected] if best in others else others).idxmax
    against = values.idxmin() if others.empty else strongest()
    difference = paired(points, best, against, sweep.measure)
    if difference[1] > 0:
        word = "fails" if others.empty or best in others else "holds"
    else:
        word = "holds" if others.empty and difference[2] < ALIKE else "open"
    return word, f"{best} − {against}: {with_interval(difference)}"
