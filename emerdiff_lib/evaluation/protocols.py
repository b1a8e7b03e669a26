"""How segments without names are scored against classes (design of the paper's Sec. 4).

Everything follows from one small record per image, its *contingency table* (pixels per segment and class), and the
segments' embeddings; so evaluation streams, and merges, image by image.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from .metrics import class_counts, confusion_matrix, contingency_table, mean_iou_of_counts
from .regions import sample_labels
from .sampling import SAMPLE, SegmentSample

SIMILARITIES = ("euclidean", "cosine")


@dataclass
class Record:
    """One image under one method: ``table`` (K, C) pixels, ``embeddings`` (K, d)."""

    table: np.ndarray
    embeddings: np.ndarray


def oracle(record: Record) -> np.ndarray:
    """Confusion matrix when each segment takes the class that most of its pixels have: a ceiling of any labelling."""
    return confusion_matrix(record.table, record.table.argmax(1))


def concept_embeddings(records: Iterable[Record]) -> np.ndarray:
    """(C, d): the mean embedding of all pixels that carry a class (the paper's *modified* protocol); NaN for unseen ones."""
    sums = ConceptSums()
    for record in records:
        sums.update(record)
    return sums.embeddings()


class ConceptSums:
    """Embeddings and pixels summed per class, image by image: :func:`concept_embeddings` follow from them."""

    def __init__(self) -> None:
        self._sums: Any = 0.0
        self._counts: Any = 0

    def update(self, record: Record) -> None:
        self._sums = self._sums + record.table.T.astype(np.float64) @ record.embeddings
        self._counts = self._counts + record.table.sum(0)

    def merge(self, other: ConceptSums) -> None:
        """As if it had been given the images of ``other`` (to rounding)."""
        self._sums, self._counts = self._sums + other._sums, self._counts + other._counts

    def embeddings(self) -> np.ndarray:
        """(C, d), NaN for classes that did not occur."""
        with np.errstate(invalid="ignore"):
            return self._sums / self._counts[:, None]


def nearest_concept(embeddings: np.ndarray, concepts: np.ndarray, similarity: str) -> np.ndarray:
    """(K,) class of the concept most similar to each embedding, by Euclidean distance or cosine.

    Raises:
        ValueError: for another similarity.
    """
    if similarity == "euclidean":
        scores = -cdist(embeddings, concepts, "sqeuclidean")
    elif similarity == "cosine":
        unit = lambda a: a / np.maximum(np.linalg.norm(a, axis=-1, keepdims=True), 1e-12)
        scores = unit(embeddings) @ unit(concepts).T
    else:
        raise ValueError(
            f"similarity={similarity!r} is unknown; choose one of {', '.join(map(repr, SIMILARITIES))}."
        )
    return np.where(np.isnan(scores), -np.inf, scores).argmax(1)


def modified(record: Record, concepts: np.ndarray, similarity: str = "euclidean") -> np.ndarray:
    """Confusion matrix when each pixel takes the concept nearest to its segment's embedding."""
    return confusion_matrix(record.table, nearest_concept(record.embeddings, concepts, similarity))


def data_set_clusters(
    records: Iterable[Record], num_clusters: int, seed: int = 0, sample: int = SAMPLE
) -> list[np.ndarray]:
    """k-means over the embeddings of all pixels of a data set: for every image the (K,) cluster of each segment.

    A pixel has its segment's embedding, so k-means of the segments weighted by their pixels is k-means of the pixels. Beyond
    ``sample`` segments, k-means sees a :class:`~.sampling.SegmentSample` of so many.

    Args:
        records: read twice.

    Raises:
        ValueError: if there are fewer segments with counted pixels, or fewer distinct embeddings, than clusters.
    """
    shown = SegmentSample(sample)
    for number, record in enumerate(records):
        shown.update(str(number), record.table.sum(1), record.embeddings)
    centres = shown.centres(num_clusters, seed)
    return [nearest_concept(record.embeddings, centres, "euclidean") for record in records]


def traditional(records: Iterable[Record], seed: int = 0) -> list[np.ndarray]:
    """The paper's *traditional* protocol: as many data-set clusters as classes, matched one to one (Hungarian).

    Returns:
        A confusion matrix per image, whose sum has the largest trace that any matching of clusters to classes reaches.
    """
    num_classes = next(iter(records)).table.shape[1]
    clusters = data_set_clusters(records, num_classes, seed)
    joint = sum(
        cluster_table(record, found, num_classes) for record, found in zip(records, clusters, strict=True)
    )
    matched = matched_classes(np.asarray(joint))
    return [
        confusion_matrix(record.table, matched[found])
        for record, found in zip(records, clusters, strict=True)
    ]


def cluster_table(record: Record, clusters: np.ndarray, num_clusters: int) -> np.ndarray:
    """(num_clusters, C) int64: how many pixels of each data-set cluster carry each class, in one image."""
    joint = np.zeros((num_clusters, record.table.shape[1]), np.int64)
    np.add.at(joint, clusters, record.table)
    return joint


def matched_classes(joint: np.ndarray) -> np.ndarray:
    """(C,) class of each cluster, one to one, so that the most pixels of the (C, C) ``joint`` table agree (Hungarian)."""
    return linear_sum_assignment(joint, maximize=True)[1]


def per_image_matching(
    segments: np.ndarray,
    truth: np.ndarray,
    num_classes: int,
    ignore_index: int | None = None,
    size: tuple[int, int] | None = (128, 128),
) -> np.ndarray:
    """The protocol of DiffSeg (Tian et al., CVPR 2024) and DiffCut (Couairon et al., NeurIPS 2024): matched image by image.

    Every class takes one segment of its own, so that the most pixels agree (Hungarian). Segments left without a class are
    misses of the classes below them and false alarms of none; a class that does not occur may be given one of them, as the
    solver's ties have it. Their mIoU sums these counts over images and averages all classes that occur or are predicted:
    ``mean_iou_of_counts(total, "zero")``. Matching anew in every image, it is no measure of classes known across images: its
    values do not compare with those of the other protocols. (For data with a background, DiffCut joins all unmatched
    segments to one first; that is left to the caller.)

    Args:
        segments: (H, W) segment indices from 0; ``truth``: (H, W) classes.
        size: (height, width) at which both maps are compared, 128 × 128 in DiffCut's tables; None for the maps' own, as
            DiffSeg's code does.

    Returns:
        (C, 3) int64 pixels of each class that are right, in the truth, and in the segment matched to it.
    """
    if size is not None:
        segments, truth = sample_labels(segments, size), sample_labels(truth, size)
    table = contingency_table(segments, truth, int(segments.max()) + 1, num_classes, ignore_index)
    spare = max(0, num_classes - len(table))  # empty segments, for classes that get none
    table = np.pad(table.T, ((0, 0), (0, spare)))
    classes, matched = linear_sum_assignment(table, maximize=True)
    return np.stack([table[classes, matched], table.sum(1), table.sum(0)[matched]], axis=1)


def bootstrap(statistic, count: int, draws: int = 1000, seed: int = 0) -> tuple[float, float, float]:
    """(value, low, high): ``statistic`` of all ``count`` images and its 95 % percentile interval over resampled images.

    One image has no interval, (NaN, NaN); draws whose statistic is NaN are left out of it.

    Args:
        statistic: takes a (count,) array of image indices; two methods compared inside it are paired by image. One with an
            ``axis`` argument is given all draws at once, (draws, count), and reduces that axis.
    """
    value = float(statistic(np.arange(count)))
    if count < 2:
        return value, float("nan"), float("nan")
    rng, at_once = np.random.default_rng(seed), "axis" in inspect.signature(statistic).parameters
    drawn = []
    for start in range(0, draws, 100):  # so many at a time bound the memory
        rows = rng.integers(0, count, (min(100, draws - start), count))
        drawn.append(statistic(rows, axis=-1) if at_once else np.array([statistic(row) for row in rows]))
    return value, *percentile_interval(np.concatenate(drawn))


def percentile_interval(drawn: np.ndarray) -> tuple[float, float]:
    """(low, high): the middle 95 % of a statistic's draws; draws that are NaN are left out."""
    drawn = drawn[~np.isnan(drawn)]
    low, high = np.percentile(drawn, (2.5, 97.5)) if drawn.size else (float("nan"),) * 2
    return float(low), float(high)


def miou_statistic(confusions: np.ndarray, minus: np.ndarray | None = None):
    """For :func:`bootstrap`: mIoU of summed (N, C, C) confusions, or its difference to another method's."""
    return counts_statistic(class_counts(confusions), None if minus is None else class_counts(minus))


def counts_statistic(counts: np.ndarray, minus: np.ndarray | None = None):
    """For :func:`bootstrap`: mIoU of summed (N, C, 3) class counts, or its difference to another method's."""

    def statistic(rows, axis=-1):
        value = mean_iou_of_counts(_summed(counts, rows, axis))
        return value if minus is None else value - mean_iou_of_counts(_summed(minus, rows, axis))

    return statistic


def mean_statistic(values: np.ndarray, minus: np.ndarray | None = None):
    """For :func:`bootstrap`: the mean of a score per image, or of its difference to another method's, where it is finite."""
    difference = np.asarray(values if minus is None else np.subtract(values, minus), float)
    known = np.isfinite(difference)
    known_or_zero = np.where(known, difference, 0)

    def statistic(rows, axis=-1):
        total = known[rows].sum(axis)
        return np.where(total > 0, known_or_zero[rows].sum(axis) / np.maximum(total, 1), np.nan)[()]

    return statistic


def _summed(counts: np.ndarray, rows: np.ndarray | slice, axis: int) -> np.ndarray:
    """(N, C, 3) counts of images, summed over the images named along ``axis`` of ``rows``: (…, C, 3)."""
    images = np.moveaxis(np.arange(len(counts))[rows], axis, -1)
    # how often each image was drawn, times its counts: a product of matrices instead of a copy of all counts per draw
    often = np.apply_along_axis(np.bincount, -1, images, minlength=len(counts))
    return np.tensordot(often.astype(np.float64), counts.astype(np.float64), axes=1)
