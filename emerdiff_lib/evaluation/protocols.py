"""How segments without names are scored against classes (design of the paper's Sec. 4).

Everything follows from one small record per image: its *contingency table* (pixels per segment and class), and the
embeddings of its segments. Class counts, (C, 3), are what :func:`.metrics.mean_iou` takes, of one image or summed over many.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans

from .metrics import contingency_table, grouped_rows, label_counts
from .regions import sample_labels

SAMPLE = 50_000  # segments that k-means over a data set sees at most


class Record(NamedTuple):
    """One image under one method: ``table`` (K, C) pixels, ``embeddings`` (K, d)."""

    table: np.ndarray
    embeddings: np.ndarray


def oracle(table: ArrayLike) -> np.ndarray:
    """(C, 3) class counts when each segment of a (K, C) contingency table takes the class that most of its pixels have: no
    labelling of whole segments has a higher pixel accuracy."""
    table = np.asarray(table)
    return named_counts(table, table.argmax(1))


def named_counts(table: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """(C, 3) class counts when segment k of a (K, C) contingency table is given class ``classes[k]``."""
    return label_counts(grouped_rows(table, classes, table.shape[1]))


def concept_embeddings(records: Iterable[Record]) -> np.ndarray:
    """(C, d) class prototypes (the paper's concept embeddings, *modified* protocol): the mean embedding of all pixels that
    carry a class; NaN for classes that do not occur."""
    records = list(records)
    sums = sum(record.table.T.astype(np.float64) @ record.embeddings for record in records)
    pixels = sum(record.table.sum(0) for record in records)
    with np.errstate(invalid="ignore"):
        return sums / np.asarray(pixels)[:, None]


def nearest_concept(embeddings: np.ndarray, concepts: np.ndarray, cosine: bool = False) -> np.ndarray:
    """(K,) class of the prototype most similar to each embedding, by Euclidean distance or cosine."""
    similarities = -cdist(embeddings, concepts, "cosine" if cosine else "sqeuclidean")
    return np.where(np.isnan(similarities), -np.inf, similarities).argmax(1)


def modified(record: Record, concepts: np.ndarray, cosine: bool = False) -> np.ndarray:
    """(C, 3) class counts when each pixel takes the prototype nearest to its segment's embedding."""
    return named_counts(record.table, nearest_concept(record.embeddings, concepts, cosine))


def traditional(records: Sequence[Record]) -> np.ndarray | None:
    """The paper's *traditional* protocol: as many data-set clusters as classes, matched one to one (Hungarian).

    k-means runs over the embeddings of all pixels of the data set. A pixel has its segment's embedding, so k-means of the
    segments weighted by their pixels is k-means of the pixels; beyond :data:`SAMPLE` segments it sees so many, drawn evenly.

    Returns:
        (N, C, 3) class counts; no other matching of clusters to classes has more pixels right, summed over images. None if
        segments with counted pixels have fewer distinct embeddings than there are classes.
    """
    table, embeddings = (np.concatenate(parts) for parts in zip(*records, strict=True))
    pixels, num_classes = table.sum(1), table.shape[1]
    counted = np.flatnonzero(pixels)
    if len(counted) > SAMPLE:
        counted = np.random.default_rng(0).choice(counted, SAMPLE, replace=False)
    if len(np.unique(embeddings[counted], axis=0)) < num_classes:
        return None
    means = KMeans(num_classes, n_init=10, random_state=0)
    means.fit(embeddings[counted].astype(np.float64), sample_weight=pixels[counted].astype(np.float64))
    clusters = nearest_concept(embeddings, means.cluster_centers_)
    classes = linear_sum_assignment(grouped_rows(table, clusters, num_classes), maximize=True)[1][clusters]
    ends = np.cumsum([len(record.table) for record in records])[:-1]
    pairs = zip(np.split(table, ends), np.split(classes, ends), strict=True)
    return np.stack([named_counts(*pair) for pair in pairs])


def per_image_matching(
    segments: np.ndarray,
    truth: np.ndarray,
    num_classes: int,
    ignore_index: int | None = None,
    background: int | None = None,
) -> np.ndarray:
    """The protocol of DiffSeg (Tian et al., CVPR 2024) and DiffCut (Couairon et al., NeurIPS 2024): matched image by image.

    Every class takes one segment of its own, so that the most pixels agree (Hungarian). Segments left without a class are
    misses of the classes below them and false alarms of none; a class that does not occur may be given one of them, as the
    solver's ties have it. Their mIoU sums these counts over images and averages all classes that occur or are predicted:
    ``mean_iou(total, skip_absent=False)``. Matching anew in every image, it is no measure of classes known across images: its
    values do not compare with those of the other protocols.

    Args:
        segments: (H, W) segment indices from 0; ``truth``: (H, W) classes. Both are compared at 128 × 128, as in DiffCut's
            tables.
        background: a class that is everything else: as DiffCut has it, segments are matched to the other classes first, and
            those that are left become one.

    Returns:
        (C, 3) int64 pixels of each class that are right, in the truth, and in the segment matched to it.
    """
    segments, truth = sample_labels(segments, (128, 128)), sample_labels(truth, (128, 128))
    table = contingency_table(segments, truth, None, num_classes, ignore_index)
    if background is not None:
        others = np.delete(table, background, axis=1)
        matched, classes = linear_sum_assignment(others, maximize=True)
        kept = matched[others.sum(0)[classes] > 0]  # matched to a class that occurs
        table = np.concatenate([table[kept], np.delete(table, kept, axis=0).sum(0, keepdims=True)])
    spare = max(0, num_classes - len(table))  # empty segments, for classes that get none
    table = np.pad(table.T, ((0, 0), (0, spare)))
    classes, matched = linear_sum_assignment(table, maximize=True)
    return np.stack([table[classes, matched], table.sum(1), table.sum(0)[matched]], axis=1)
