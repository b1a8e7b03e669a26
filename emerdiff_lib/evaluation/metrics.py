"""Numbers from label maps. Confusion matrices are summed over images; IoU is taken per class over the data set."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_cdt
from scipy.stats import wilcoxon
from skimage.metrics import variation_of_information
from sklearn.metrics import adjusted_rand_score

from .regions import find_regions

AREA_BINS = (0.0, 0.01, 0.05, 0.2, 1.0)  # shares of the picture
AREA_NAMES = ("< 1 %", "1–5 %", "5–20 %", "> 20 %")


def contingency_table(
    segments: np.ndarray, labels: np.ndarray, num_segments: int, num_classes: int, ignore_index: int | None = None
) -> np.ndarray:
    """(num_segments, num_classes) int64: how many pixels of each segment carry each class; ignored pixels count nowhere.

    Raises:
        ValueError: if the two maps differ in size, or a label is neither a class nor ``ignore_index``.
    """
    if segments.shape != labels.shape:
        raise ValueError(f"Segments are {segments.shape}, labels {labels.shape}: they must be of one size.")
    valid = np.ones(labels.shape, bool) if ignore_index is None else labels != ignore_index
    counted = labels[valid].astype(np.int64)
    if counted.size and not 0 <= counted.min() <= counted.max() < num_classes:
        wrong = counted[(counted < 0) | (counted >= num_classes)][0]
        raise ValueError(f"Label {wrong} is no class (0 to {num_classes - 1}) and not the ignored {ignore_index}.")
    pairs = segments[valid].astype(np.int64) * num_classes + counted
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


def pixel_accuracy(confusion: np.ndarray) -> float:
    """Share of the counted pixels whose class is right, in [0, 1]; NaN without any."""
    return float(np.trace(confusion) / confusion.sum()) if confusion.sum() else float("nan")


def boundaries(labels: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels that differ from their left or upper neighbour."""
    edges = np.zeros(labels.shape, bool)
    edges[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edges[1:] |= labels[1:] != labels[:-1]
    return edges


def boundary_scores(
    predicted: np.ndarray, truth: np.ndarray, tolerance: float = 2.0, ignore_index: int | None = None
) -> tuple[float, float, float]:
    """Precision, recall and F of boundary pixels, a match being one within ``tolerance`` pixels (chessboard distance).

    Two maps without any boundary agree perfectly; where only one of them has none, all three are 0. Boundary pixels on or
    next to ignored ones are left out of both maps.
    """
    a, b = boundaries(predicted), boundaries(truth)
    if ignore_index is not None:
        unknown = truth == ignore_index
        near_unknown = distance_transform_cdt(~unknown, metric="chessboard") <= max(1, tolerance)
        if unknown.any():
            a, b = a & ~near_unknown, b & ~near_unknown
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


def boundary_iou(
    predicted: np.ndarray, truth: np.ndarray, num_classes: int, share: float = 0.02, ignore_index: int | None = None
) -> np.ndarray:
    """(C, 2) int64 [intersection, union] per class of the pixels near that class's own contour (Cheng et al., CVPR 2021).

    A class's boundary region is what lies inside it within ``share`` of the image diagonal of its contour; the border of the
    picture is a contour too. Sums over images divide to Boundary IoU.

    Args:
        predicted, truth: (H, W) classes.
    """
    distance = max(1, round(share * float(np.hypot(*truth.shape))))
    known = np.ones(truth.shape, bool) if ignore_index is None else truth != ignore_index
    counts = np.zeros((num_classes, 2), np.int64)
    for c in range(num_classes):
        rims = [_rim((labels == c) & known, distance) for labels in (predicted, truth)]
        counts[c] = (rims[0] & rims[1]).sum(), (rims[0] | rims[1]).sum()
    return counts


def _rim(mask: np.ndarray, distance: int) -> np.ndarray:
    """Pixels of a mask that an erosion by ``distance`` (chessboard) takes away."""
    inside = distance_transform_cdt(np.pad(mask, 1), metric="chessboard")[1:-1, 1:-1]
    return mask & (inside <= distance)


def partition_scores(segments: np.ndarray, truth: np.ndarray, ignore_index: int | None = None) -> dict[str, float]:
    """How two partitions agree whatever their labels are called.

    Returns:
        "adjusted_rand": 1 for equal partitions, 0 by chance (scikit-learn); "over_segmentation" and "under_segmentation":
        H(segments | truth) and H(truth | segments) in bits, whose sum "variation_of_information" is a distance
        (scikit-image; Meilă 2007).
    """
    valid = np.ones(truth.shape, bool) if ignore_index is None else truth != ignore_index
    if not valid.any():
        return dict.fromkeys(
            ("adjusted_rand", "over_segmentation", "under_segmentation", "variation_of_information"), float("nan")
        )
    found, true = segments[valid].astype(np.int64), truth[valid].astype(np.int64)
    over, under = variation_of_information(true, found)
    return {
        "adjusted_rand": float(adjusted_rand_score(true, found)),
        "over_segmentation": float(over),
        "under_segmentation": float(under),
        "variation_of_information": float(over + under),
    }


def object_scores(
    segments: np.ndarray, segment_classes: np.ndarray, truth: np.ndarray, ignore_index: int | None = None
) -> list[dict]:
    """One row per object (connected region of one class) of the ground truth.

    Returns:
        "class_index", "area" (share of the picture), "recall" (share of its pixels in segments of its class) and "iou" (of the
        best single segment with it).

    Args:
        segments: (H, W) segment indices; ``segment_classes`` (K,) the class that each was given.
    """
    predicted = segment_classes[segments]
    sizes = np.bincount(segments.ravel(), minlength=len(segment_classes))
    rows = []
    for region in find_regions(truth, smallest=0.0, largest=1.0):
        if region.class_index == ignore_index:
            continue
        inside = np.bincount(segments[region.mask], minlength=len(segment_classes))
        union = sizes + region.mask.sum() - inside
        rows.append({
            "class_index": region.class_index, "area": region.area,
            "recall": float((predicted[region.mask] == region.class_index).mean()), "iou": float((inside / union).max()),
        })  # fmt: skip
    return rows


def area_bin(area: float) -> str:
    """The name of an object's size class by its share of the picture."""
    return AREA_NAMES[int(np.searchsorted(AREA_BINS[1:-1], area, side="right"))]


def paired_test(first: np.ndarray, second: np.ndarray) -> float:
    """p-value of the Wilcoxon signed-rank test (scipy): do paired scores of two methods differ? 1 if all are equal."""
    difference = np.asarray(first, float) - np.asarray(second, float)
    difference = difference[np.isfinite(difference)]
    return float(wilcoxon(difference).pvalue) if np.any(difference != 0) else 1.0
