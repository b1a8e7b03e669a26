"""How segments without names are scored against classes (design of the paper's Sec. 4).

Everything follows from one small record per image, its *contingency table* (pixels per segment and class), and the
segments' embeddings; so evaluation streams, and merges, image by image.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import scipy.stats
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans, MiniBatchKMeans

from .metrics import class_counts, confusion_matrix, contingency_table, mean_iou_of_counts
from .regions import sample_labels

SIMILARITIES = ("euclidean", "cosine")


@dataclass
class Record:
    """One image under one method: ``table`` (K, C) pixels, ``embeddings`` (K, d)."""

    table: np.ndarray
    embeddings: np.ndarray


def oracle(record: Record) -> np.ndarray:
    """Confusion matrix when each segment takes the class that most of its pixels have: a ceiling of any labelling."""
    return confusion_matrix(record.table, record.table.argmax(1))


def concept_embeddings(records: list[Record]) -> np.ndarray:
    """(C, d): the mean embedding of all pixels that carry a class (the paper's *modified* protocol); NaN for unseen ones."""
    sums = sum(record.table.T.astype(np.float64) @ record.embeddings for record in records)
    counts = sum(record.table.sum(0) for record in records)
    with np.errstate(invalid="ignore"):
        return sums / counts[:, None]


def nearest_concept(embeddings: np.ndarray, concepts: np.ndarray, similarity: str) -> np.ndarray:
    """(K,) class of the concept most similar to each embedding, by Euclidean distance or cosine.

    Raises:
        ValueError: for another similarity.
    """
    if similarity == "euclidean":
        scores = -np.square(embeddings[:, None] - concepts[None]).sum(-1)
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
    records: list[Record], num_clusters: int, seed: int = 0, mini_batch_from: int = 50_000
) -> list[np.ndarray]:
    """k-means over the embeddings of all pixels of a data set: for every image the (K,) cluster of each segment.

    A pixel has its segment's embedding, so k-means of the segments weighted by their pixels is k-means of the pixels. Beyond
    ``mini_batch_from`` segments, mini-batches keep it fast. Segments without counted pixels, which weigh nothing, are put
    into cluster 0.

    Raises:
        ValueError: if there are fewer segments with counted pixels than clusters.
    """
    embeddings = np.concatenate([record.embeddings for record in records]).astype(np.float64)
    weights = np.concatenate([record.table.sum(1) for record in records]).astype(np.float64)
    counted = weights > 0
    if (found := counted.sum()) < num_clusters:
        raise ValueError(f"{found} segments cannot make {num_clusters} clusters; evaluate more images.")
    kind = KMeans if found < mini_batch_from else MiniBatchKMeans
    clusters = np.zeros(len(weights), int)
    clusters[counted] = kind(num_clusters, n_init=10, random_state=seed).fit_predict(
        embeddings[counted], sample_weight=weights[counted]
    )
    return np.split(clusters, np.cumsum([len(record.table) for record in records])[:-1])


def traditional(records: list[Record], seed: int = 0) -> list[np.ndarray]:
    """The paper's *traditional* protocol: as many data-set clusters as classes, matched one to one (Hungarian).

    Returns:
        A confusion matrix per image, whose sum has the largest trace that any matching of clusters to classes reaches.
    """
    num_classes = records[0].table.shape[1]
    clusters = data_set_clusters(records, num_classes, seed)
    joint = np.zeros((num_classes, num_classes), np.int64)
    for record, found in zip(records, clusters, strict=True):
        np.add.at(joint, found, record.table)
    matched = np.empty(num_classes, int)
    rows, columns = linear_sum_assignment(joint, maximize=True)
    matched[rows] = columns
    return [
        confusion_matrix(record.table, matched[found])
        for record, found in zip(records, clusters, strict=True)
    ]


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
    with warnings.catch_warnings():  # scipy's own interval is NaN where a single draw is, and says so
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
        drawn = scipy.stats.bootstrap(
            (np.arange(count),), statistic, n_resamples=draws, method="percentile", rng=seed
        ).bootstrap_distribution
    drawn = drawn[~np.isnan(drawn)]
    low, high = np.percentile(drawn, (2.5, 97.5)) if drawn.size else (float("nan"),) * 2
    return value, float(low), float(high)


def miou_statistic(confusions: np.ndarray, minus: np.ndarray | None = None):
    """For :func:`bootstrap`: mIoU of summed (N, C, C) confusions, or its difference to another method's."""
    own = class_counts(confusions)
    other = None if minus is None else class_counts(minus)

    def statistic(rows, axis=-1):
        value = mean_iou_of_counts(_summed(own, rows, axis))
        return value if other is None else value - mean_iou_of_counts(_summed(other, rows, axis))

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
