"""Scores of a data set and differences between methods, with 95 % bootstrap intervals over images."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pandas as pd

from .metrics import mean_iou

Interval = tuple[float, float, float]  # value, low, high
MIN_IMAGES = 8  # fewer resample to intervals that are much too narrow, so that they get none, and no verdict
TOO_FEW = "too few images for a verdict"
PerImage = Mapping[str, Mapping[str, np.ndarray]]  # {method: {measure: what interval() takes}}


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray], count: int, draws: int = 1000, block: int = 1
) -> Interval:
    """(value, low, high): ``statistic`` of all ``count`` images and its 95 % percentile interval over resampled images.

    Fewer than :data:`MIN_IMAGES` have no interval, (NaN, NaN); draws whose statistic is NaN are left out of it. For a
    mean or mIoU there is :func:`interval`.

    Args:
        statistic: takes (…, n) image indices and reduces the last axis; methods compared inside it are paired by image.
        block: so many consecutive images are resampled together, as neighbours in a video are nearly one image (the circular
            block bootstrap of Politis & Romano 1992).
    """
    low = high = float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of draws that are NaN
        value = float(statistic(np.arange(count)))
        if count >= MIN_IMAGES:
            rng = np.random.default_rng(0)
            sizes = [min(100, draws - start) for start in range(0, draws, 100)]  # which bound the memory
            starts = (rng.integers(0, count, (size, -(-count // block), 1)) for size in sizes)
            rows = ((first + np.arange(block)) % count for first in starts)  # (draws, blocks, images of one)
            drawn = np.concatenate([statistic(each.reshape(len(each), -1)[:, :count]) for each in rows])
            if (known := drawn[~np.isnan(drawn)]).size:
                low, high = map(float, np.percentile(known, (2.5, 97.5)))
    return value, low, high


def interval(
    scores: np.ndarray, minus: np.ndarray | None = None, draws: int = 1000, block: int = 1
) -> Interval:
    """(value, low, high) of a method's score, or of its difference to another method's on the same images.

    Args:
        scores, minus: of each image: (N,) scores, whose mean is taken where they are not NaN; or (N, C, 3) class counts, of
            whose sum mIoU is taken.
    """
    scores = np.asarray(scores)
    if scores.ndim == 1:
        difference = scores if minus is None else scores - minus
        statistic = lambda rows: np.nanmean(difference[rows], axis=-1)
    elif minus is None:
        statistic = lambda rows: mean_iou(_summed(scores, rows))
    else:
        statistic = lambda rows: mean_iou(_summed(scores, rows)) - mean_iou(_summed(minus, rows))
    return bootstrap(statistic, len(scores), draws, block)


def level_table(scores: PerImage, draws: int = 1000) -> pd.DataFrame:
    """A row per method and measure, in percent: "method", "measure", "value", "low", "high"."""
    rows = [
        (method, measure, *(100 * end for end in interval(values, draws=draws)))
        for method, measures in scores.items()
        for measure, values in measures.items()
    ]
    return pd.DataFrame(rows, columns=["method", "measure", "value", "low", "high"])


def paired_table(
    scores: PerImage, pairs: Iterable[tuple[str, str]], draws: int = 1000, block: int = 1
) -> pd.DataFrame:
    """A row per pair and measure, in points: "method", "minus", "measure", and the difference "points", "low", "high".

    Args:
        pairs: (method, minus which); those of which a method is not among ``scores``, and measures that only one of the two
            has, are left out.
    """
    rows = [
        (
            first,
            second,
            measure,
            *(100 * end for end in interval(values, scores[second][measure], draws, block)),
        )
        for first, second in pairs
        if first in scores and second in scores
        for measure, values in scores[first].items()
        if measure in scores[second]
    ]
    return pd.DataFrame(rows, columns=["method", "minus", "measure", "points", "low", "high"])


def with_interval(value: float, low: float, high: float) -> str:
    """ "+1.2 [+0.3, +2.1]"; without the ends where they are NaN, as from too few images."""
    return f"{value:+.1f}" + ("" if np.isnan(low) else f" [{low:+.1f}, {high:+.1f}]")


def verdict(low: float, high: float) -> str:
    """What the interval of a difference allows to say: "ahead", "behind", "not significant" (it includes 0), or
    :data:`TOO_FEW` where there is none."""
    if np.isnan(low):
        return TOO_FEW
    return "ahead" if low > 0 else "behind" if high < 0 else "not significant"


def in_words(method: str, other: str, rows: pd.DataFrame) -> str:
    """A sentence of one pair's rows of :func:`paired_table`, leads first: "A is ahead of B by 1.2 [0.3, 2.1] points of boundary
    F; not significant: +0.2 [−0.3, +0.8] points of oracle mIoU."
    """
    said: dict[str, list[str]] = {"ahead": [], "behind": [], "not significant": [], TOO_FEW: []}
    for row in rows.itertuples():
        word, ends = verdict(row.low, row.high), (row.points, row.low, row.high)
        text = with_interval(*(ends if word != "behind" else (-row.points, -row.high, -row.low)))
        text = text.replace("+", "") if word in ("ahead", "behind") else text.replace("-", "−")
        said[word].append(f"{text} points of {row.measure}")
    first = {
        "ahead": f"{method} is ahead of {other} by",
        "behind": f"{method} is behind {other} by",
        "not significant": f"{method} minus {other} is not significant:",
        TOO_FEW: f"{method} minus {other}, {TOO_FEW}:",
    }
    later = {"behind": "behind it by", "not significant": "not significant:", TOO_FEW: f"{TOO_FEW}:"}
    clauses: list[str] = []
    for word, texts in said.items():
        if texts:
            clauses.append(f"{later[word] if clauses else first[word]} {' and '.join(texts)}")
    return "; ".join(clauses) + "."


def _summed(counts: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(N, C, 3) counts of images, summed over the images along the last axis of ``rows``: (…, C, 3)."""
    # how often each draw has each image, times its counts: a product of matrices instead of a copy of all counts per draw
    often = np.apply_along_axis(np.bincount, -1, rows, minlength=len(counts))
    return np.tensordot(often.astype(np.float64), np.asarray(counts, np.float64), axes=1)
