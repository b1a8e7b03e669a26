"""What a run of :mod:`.open_vocabulary` found, as tables: the paper's Table 3, classes, confusions, thresholds, sentences."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..evaluation.intervals import interval
from ..evaluation.metrics import class_iou, label_counts, mean_iou
from ..runs.store import Results
from ..words import NOTHING

ALONE, COARSE, EMERDIFF, SEGMENTS, PIXELS = WAYS = (
    "alone",
    "in coarse masks",
    "in EmerDiff's masks",
    "in pixel mode's segments",
    "pixel by pixel",
)
CLASSES = "class names"  # of a data set, with their synonyms


@dataclass(frozen=True)
class Named:
    """What a run of :class:`Naming` found with one vocabulary.

    Attributes:
        results: of the run; ``vocabulary``: which of its vocabularies.
        classes: the data set's; ``called``: the vocabulary's.
    """

    results: Results
    classes: tuple[str, ...]
    called: tuple[str, ...]
    vocabulary: str = CLASSES

    @property
    def kinds(self) -> list[str]:
        return list(self.results[0]["pairs"][self.vocabulary])

    @property
    def ways(self) -> list[str]:
        return list(self.results[0]["pairs"][self.vocabulary][self.kinds[0]])

    def confusions(self, kind: str, way: str) -> np.ndarray:
        """(N, true classes, classes found + 1) pixels; the last column is "none of these"."""
        found = np.zeros((len(self.results), len(self.classes), len(self.called) + 1), np.int64)
        for matrix, result in zip(found, self.results, strict=True):
            true, called, pixels = np.array(result["pairs"][self.vocabulary][kind][way]).T
            matrix[true, called] = pixels
        return found

    def counts(self, kind: str, way: str) -> np.ndarray:
        """(N, C, 3) right, true and predicted pixels of each class; "none of these" is right nowhere.

        Raises:
            ValueError: the vocabulary's classes are not the data set's.
        """
        if self.called != self.classes:
            raise ValueError("IoU needs a vocabulary of the data set's own classes, in their order.")
        return label_counts(self.confusions(kind, way).swapaxes(1, 2))


def table(named: Named, draws: int = 1000) -> pd.DataFrame:
    """The paper's Table 3: a row per kind of features, and way; mIoU, and its gain over the same features alone, in points."""
    rows = []
    for kind in named.kinds:
        alone = named.counts(kind, ALONE)
        for way in named.ways:
            counts = named.counts(kind, way)
            gain = interval(counts, alone, draws)
            row = {"features": kind, "way": way, "mIoU": 100 * float(mean_iou(counts.sum(0)))}
            rows.append(row | dict(zip(("gain", "low", "high"), (100 * g for g in gain), strict=True)))
    return pd.DataFrame(rows).set_index(["features", "way"])


def by_class(named: Named) -> pd.DataFrame:
    """IoU of every class in percent, a row per kind of features and way."""
    rows = {
        (kind, way): 100 * class_iou(named.counts(kind, way).sum(0))
        for kind in named.kinds
        for way in named.ways
    }
    return pd.DataFrame(rows, index=list(named.classes)).T.rename_axis(["features", "way"])


def called(named: Named, kind: str, way: str) -> pd.DataFrame:
    """What the pixels of each true class (rows) are called (columns), in percent; rows sum to 100, those of classes that no
    picture has are NaN."""
    matrix = named.confusions(kind, way).sum(0).astype(float)
    total = matrix.sum(1, keepdims=True)
    shares = 100 * matrix / np.where(total > 0, total, np.nan)
    return pd.DataFrame(shares, index=list(named.classes), columns=[*named.called, NOTHING])


def by_vocabulary(named: Iterable[Named], way: str = ALONE) -> pd.DataFrame:
    """mIoU in percent: a row per vocabulary, a column per kind of features."""
    rows = {
        one.vocabulary: {kind: 100 * mean_iou(one.counts(kind, way).sum(0)) for kind in one.kinds}
        for one in named
    }
    return pd.DataFrame(rows).T.rename_axis("vocabulary")


def nothing_curve(
    named: Mapping[float, Named], left_out: Collection[str], kind: str, way: str
) -> pd.DataFrame:
    """What a threshold does when some classes have no word: in percent, "named" of the pixels of known classes, "right" of
    those named, and "refused" of the pixels of classes ``left_out``.

    Args:
        named: {threshold: what was found with it}.
    """
    rows = []
    for threshold, one in named.items():
        matrix = one.confusions(kind, way).sum(0)
        known = np.array([name not in left_out for name in one.classes])
        right = sum(matrix[one.classes.index(name), i] for i, name in enumerate(one.called))
        said = matrix[known, :-1].sum()
        row = {
            "threshold": threshold,
            "named": said / matrix[known].sum(),
            "right": right / said if said else np.nan,
            "refused": matrix[~known, -1].sum() / max(1, matrix[~known].sum()),
        }
        rows.append({name: value if name == "threshold" else 100 * value for name, value in row.items()})
    return pd.DataFrame(rows)


def reached(
    shares: pd.DataFrame, own: Mapping[str, Collection[str]], least: float = 50.0
) -> dict[str, float]:
    """{class: percent of its pixels that get one of its own words} of :func:`called`, where that is at least ``least``.

    Args:
        own: {class: words that are right for it}.
    """
    found = {name: float(shares.loc[name, list(words)].sum(skipna=False)) for name, words in own.items()}
    return {name: share for name, share in found.items() if share >= least}


def describe(table: pd.DataFrame) -> list[str]:
    """A sentence for each kind of features on what masks add to it, and one on the best of all."""
    sentences = []
    for kind in dict.fromkeys(table.index.get_level_values("features")):
        rows = table.loc[kind]
        gains = [
            f"{way} {row['gain']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]"
            for way, row in rows.iterrows()
            if way != ALONE
        ]
        sentences.append(
            f"{kind}: {rows.loc[ALONE, 'mIoU']:.1f} % mIoU alone; points more {', '.join(gains)}."
        )
    kind, way = table["mIoU"].idxmax()
    sentences.append(f"The most, {table['mIoU'].max():.1f} % mIoU: {kind}, {way}.")
    return sentences
