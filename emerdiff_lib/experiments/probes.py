"""How much a feature knows: linear probes, and the clusters that k-means finds in it."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ..assignment import assign_bilinear
from ..clustering import cluster_queries
from ..evaluation.metrics import contingency_table
from ..evaluation.protocols import Record, oracle


def probe_accuracy(
    train: list[np.ndarray],
    train_labels: list[np.ndarray],
    test: list[np.ndarray],
    test_labels: list[np.ndarray],
) -> float:
    """Accuracy in [0, 1] of a logistic regression from features to cell classes, on pictures that it was not fitted on.

    Args:
        train, test: (h, w, d) features of each picture.
        train_labels, test_labels: (h, w) classes of the same cells.
    """
    flat = lambda parts: np.concatenate([np.asarray(p).reshape(-1, p.shape[-1]) for p in parts])
    classes = lambda parts: np.concatenate([p.ravel() for p in parts])
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, tol=1e-2, max_iter=1000))
    return float(probe.fit(flat(train), classes(train_labels)).score(flat(test), classes(test_labels)))


def cluster_confusion(
    features,
    num_masks: int,
    labels: np.ndarray,
    num_classes: int,
    seed: int = 0,
    ignore_index: int | None = None,
) -> np.ndarray:
    """Oracle confusion (C, C) of the bilinearly upsampled k-means masks of (h, w, d) features."""
    masks = cluster_queries(features, num_masks, seed)
    segments = assign_bilinear(masks, labels.shape)
    table = contingency_table(segments, labels, len(masks), num_classes, ignore_index)
    return oracle(Record(table, np.zeros((len(masks), 1))))
