"""Numbers from label maps. Confusion matrices are summed over images; IoU is taken per class over the data set."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_cdt


def contingency_table(segments: np.ndarray, labels: np.ndarray, num_segments: int, num_classes: int) -> np.ndarray:
    """(num_segments, num_classes) int64: how many pixels of each segment carry each class."""
    pairs = segments.astype(np.int64).ravel() * num_classes + labels.ravel()
    return np.bincount(pairs, minlength=num_segments * num_classes).reshape(num_segments, num_classes)


def confusion_matrix(table: np.ndarray, segment_classes: np.ndarray) -> np.ndarray:
    """(C, C) int64 [true, predicted], when segment k of a contingency table is given class ``segment_classes[k]``."""
    confusion = np.zeros((table.shape[1],) * 2, np.int64)
    np.add.at(confusion.T, segment_classes, table)
    return confusion


def class_iou(confusion: np.ndarray) -> np.ndarray:
    """(C,) IoU of every class in [0, 1]; NaN for classes that neither occur nor are predicted."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    union = confusion.sum(-1) + confusion.sum(-2) - hits
    return np.where(union > 0, hits / np.maximum(union, 1), np.nan)


def mean_iou(confusion: np.ndarray) -> float:
    """Mean IoU over the classes that occur in the ground truth."""
    occurs = confusion.sum(-1) > 0
    return float(np.nanmean(np.where(occurs, class_iou(confusion), np.nan), axis=-1))


def boundaries(labels: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels that differ from their left or upper neighbour."""
    edges = np.zeros(labels.shape, bool)
    edges[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edges[1:] |= labels[1:] != labels[:-1]
    return edges


def boundary_scores(predicted: np.ndarray, truth: np.ndarray, tolerance: float = 2.0) -> tuple[float, float, float]:
    """Precision, recall and F of boundary pixels, a match being one within ``tolerance`` pixels (chessboard distance).

    Two maps without any boundary agree perfectly; where only one of them has none, all three are 0.
    """
    a, b = boundaries(predicted), boundaries(truth)
    if not a.any() or not b.any():
        same = float(a.any() == b.any())
        return same, same, same
    near = lambda edges: distance_transform_cdt(~edges, metric="chessboard") <= tolerance
    precision, recall = float(near(b)[a].mean()), float(near(a)[b].mean())
    return precision, recall, 2 * precision * recall / max(precision + recall, 1e-12)


def share_inside(response: np.ndarray, mask: np.ndarray) -> float:
    """Share of a non-negative response map's total that falls inside ``mask``, in [0, 1]."""
    total = float(response.sum())
    return float(response[mask].sum()) / total if total > 0 else 0.0
