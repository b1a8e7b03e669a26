"""How segments without names are scored against classes (design of the paper's Sec. 4).

Everything follows from one small record per image, its *contingency table* (pixels per segment and class), and the
segments' embeddings; so evaluation streams, and merges, image by image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans, MiniBatchKMeans

from .metrics import confusion_matrix, mean_iou

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
    ``mini_batch_from`` segments, mini-batches keep it fast.

    Raises:
        ValueError: if there are fewer segments than clusters.
    """
    embeddings = np.concatenate([record.embeddings for record in records]).astype(np.float64)
    weights = np.concatenate([record.table.sum(1) for record in records]).astype(np.float64)
    if len(embeddings) < num_clusters:
        raise ValueError(
            f"{len(embeddings)} segments cannot make {num_clusters} clusters; evaluate more images."
        )
    kind = KMeans if len(embeddings) < mini_batch_from else MiniBatchKMeans
    clusters = kind(num_clusters, n_init=10, random_state=seed).fit_predict(embeddings, sample_weight=weights)
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


def bootstrap(statistic, count: int, draws: int = 1000, seed: int = 0) -> tuple[float, float, float]:
    """(value, low, high): ``statistic`` of all ``count`` images and its 95 % percentile interval over resampled images.

    ``statistic`` takes an array of image indices; two methods compared inside it are paired by image.
    """
    rng = np.random.default_rng(seed)
    samples = [statistic(rng.integers(0, count, count)) for _ in range(draws)]
    low, high = np.nanpercentile(samples, (2.5, 97.5))
    return statistic(np.arange(count)), float(low), float(high)


def miou_statistic(confusions: np.ndarray, minus: np.ndarray | None = None):
    """For :func:`bootstrap`: mIoU of summed (N, C, C) confusions, or its difference to another method's."""
    if minus is None:
        return lambda rows: mean_iou(confusions[rows].sum(0))
    return lambda rows: mean_iou(confusions[rows].sum(0)) - mean_iou(minus[rows].sum(0))


def mean_statistic(values: np.ndarray, minus: np.ndarray | None = None):
    """For :func:`bootstrap`: the mean of a score per image, or of its difference to another method's."""
    difference = values if minus is None else values - minus
    return lambda rows: float(difference[rows].mean())
