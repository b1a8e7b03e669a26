"""Numbers from label maps. Counts are summed over images; IoU is taken per class over the data set."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_cdt, maximum_filter, minimum_filter
from scipy.stats import wilcoxon
from skimage.metrics import variation_of_information
from sklearn.metrics import adjusted_rand_score

from .regions import Region, find_regions

AREA_BINS = (0.0, 0.01, 0.05, 0.2, 1.0)  # shares of the picture
AREA_NAMES = ("< 1 %", "1–5 %", "5–20 %", "> 20 %")
ABSENT = ("skip", "zero")


def contingency_table(
    segments: np.ndarray,
    labels: np.ndarray,
    num_segments: int,
    num_classes: int,
    ignore_index: int | None = None,
) -> np.ndarray:
    """(num_segments, num_classes) int64: how many pixels of each segment carry each class; ignored pixels count nowhere.

    Raises:
        ValueError: if the two maps differ in size, a label is neither a class nor ``ignore_index``, or a counted pixel's
            segment is none of the ``num_segments``.
    """
    if segments.shape != labels.shape:
        raise ValueError(f"Segments are {segments.shape}, labels {labels.shape}: they must be of one size.")
    valid = _known(labels, ignore_index)
    found, counted = segments[valid].astype(np.int64), labels[valid].astype(np.int64)
    label = f"class (0 to {num_classes - 1}) and not the ignored {ignore_index}"
    segment = f"segment (0 to {num_segments - 1})"
    for name, values, count in ((label, counted, num_classes), (segment, found, num_segments)):
        wrong = values[(values < 0) | (values >= count)]
        if wrong.size:
            raise ValueError(f"{'Label' if name is label else 'Segment'} {wrong[0]} is no {name}.")
    pairs = found * num_classes + counted
    return np.bincount(pairs, minlength=num_segments * num_classes).reshape(num_segments, num_classes)


def confusion_matrix(table: np.ndarray, segment_classes: np.ndarray) -> np.ndarray:
    """(C, C) int64 [true, predicted], when segment k of a contingency table is given class ``segment_classes[k]``."""
    confusion = np.zeros((table.shape[1],) * 2, np.int64)
    np.add.at(confusion.T, segment_classes, table)
    return confusion


def class_counts(confusion: np.ndarray) -> np.ndarray:
    """(…, C, C) confusions → (…, C, 3) pixels of every class that are right, in the truth, and predicted: all that IoU needs."""
    return np.stack(
        [np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(-1), confusion.sum(-2)], axis=-1
    )


def iou_of_counts(counts: np.ndarray) -> np.ndarray:
    """(…, C, 3) counts → (…, C) IoU in [0, 1]; NaN for classes that neither occur nor are predicted."""
    right, true, predicted = np.moveaxis(counts, -1, 0)
    union = true + predicted - right
    return np.where(union > 0, right / np.maximum(union, 1), np.nan)


def mean_iou_of_counts(counts: np.ndarray, absent: str = "skip") -> np.ndarray:
    """(…, C, 3) counts → (…) mean IoU under one of the conventions of :func:`mean_iou`; NaN where no class is counted."""
    if absent not in ABSENT:
        raise ValueError(f"absent={absent!r} is unknown; choose one of {', '.join(map(repr, ABSENT))}.")
    iou = iou_of_counts(counts)
    kept = counts[..., 1] > 0 if absent == "skip" else ~np.isnan(iou)
    total = kept.sum(-1)
    return np.where(total > 0, np.where(kept, iou, 0).sum(-1) / np.maximum(total, 1), np.nan)[()]


def class_iou(confusion: np.ndarray) -> np.ndarray:
    """(…, C, C) → (…, C) IoU of every class in [0, 1]; NaN for classes that neither occur nor are predicted."""
    return iou_of_counts(class_counts(confusion))


def mean_iou(confusion: np.ndarray, absent: str = "skip") -> float:
    """Mean IoU of a (C, C) confusion over its classes, in [0, 1]; NaN where nothing is counted.

    Args:
        absent: what becomes of classes that do not occur in the truth: "skip" leaves them out; "zero" counts those that are
            predicted all the same as 0, as the code of PiCIE and STEGO does. The two differ on small data sets.

    Raises:
        ValueError: for another ``absent``.
    """
    return float(mean_iou_of_counts(class_counts(confusion), absent))


def pixel_accuracy(confusion: np.ndarray) -> float:
    """Share of the counted pixels whose class is right, in [0, 1]; NaN without any."""
    return float(np.trace(confusion) / confusion.sum()) if confusion.sum() else float("nan")


def boundaries(labels: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels that differ from their left or upper neighbour.

    Lines one pixel wide, on one side of an edge: none of the modes of ``skimage.segmentation.find_boundaries`` gives them
    ("thick" marks both sides, "inner" and "outer" choose the side by a background, "subpixel" doubles the picture).
    """
    edges = np.zeros(labels.shape, bool)
    edges[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edges[1:] |= labels[1:] != labels[:-1]
    return edges


def boundary_scores(
    predicted: np.ndarray, truth: np.ndarray, tolerance: float = 2.0, ignore_index: int | None = None
) -> tuple[float, float, float]:
    """Precision, recall and F of boundary pixels, a match being one within ``tolerance`` pixels (chessboard distance).

    One pixel may match many: this is kinder than the one-to-one Euclidean matching of the Berkeley benchmark (BSDS; Martin
    et al., TPAMI 2004) by 5–9 points, in the same order of methods, so values of the two do not compare.

    Two maps without any boundary agree perfectly; where only one of them has none, all three are 0. Beside ignored pixels
    nobody knows the truth: boundary pixels within ``tolerance`` (at least 1) of them are not counted, though those of known
    pixels may still match counted ones. Where that leaves no pixel to look at, all three are NaN.
    """
    a, b = boundaries(predicted), boundaries(truth)
    unknown = ~_known(truth, ignore_index)
    counted = np.ones(truth.shape, bool)
    if unknown.any():
        counted = distance_transform_cdt(~unknown, metric="chessboard") > max(1, tolerance)
        b &= ~(unknown | boundaries(unknown))  # the outline of void is no boundary of the truth
        if not counted.any():
            return (float("nan"),) * 3
    counted_a, counted_b = a & counted, b & counted
    if not counted_a.any() or not counted_b.any():
        same = float(counted_a.any() == counted_b.any())
        return same, same, same
    near = lambda edges: distance_transform_cdt(~edges, metric="chessboard") <= tolerance
    precision, recall = float(near(b)[counted_a].mean()), float(near(a)[counted_b].mean())
    return precision, recall, 2 * precision * recall / max(precision + recall, 1e-12)


def share_inside(response: np.ndarray, mask: np.ndarray) -> float:
    """Share of a non-negative response map's total that falls inside ``mask``, in [0, 1]; 0 without any response."""
    total = float(response.sum())
    return float(response[mask].sum()) / total if total > 0 else 0.0


def boundary_iou(
    predicted: np.ndarray,
    truth: np.ndarray,
    num_classes: int,
    share: float = 0.02,
    ignore_index: int | None = None,
) -> np.ndarray:
    """(C, 2) int64 [intersection, union] per class of the pixels near that class's own contour (Cheng et al., CVPR 2021).

    A class's boundary region is what lies inside it within ``share`` of the image diagonal of its contour; the border of the
    picture is a contour too. Sums over images divide to Boundary IoU. Ignored pixels are taken away from the prediction's
    boundary regions, not from the prediction, which would give it contours along void that it does not have.

    Args:
        predicted, truth: (H, W) classes; other values than 0 to C − 1 and ``ignore_index`` count nowhere.
    """
    distance = max(1, round(share * float(np.hypot(*truth.shape))))
    known = _known(truth, ignore_index)
    predicted, truth = predicted.astype(np.int64), truth.astype(np.int64)
    rims = [_rim(labels, distance) & known for labels in (predicted, truth)]

    def of_class(labels, where):
        return np.bincount(labels[where & (labels >= 0)], minlength=num_classes)[:num_classes]

    both = of_class(truth, rims[0] & rims[1] & (predicted == truth))
    return np.stack([both, of_class(predicted, rims[0]) + of_class(truth, rims[1]) - both], axis=1)


def _rim(labels: np.ndarray, distance: int) -> np.ndarray:
    """(H, W) bool: pixels that an erosion of their own label's mask by ``distance`` (chessboard) takes away.

    Those are the pixels with another label, or the picture's outside, in the square around them: the smallest and largest
    label there tell, at one price for any number of classes.
    """
    window = dict(size=2 * distance + 1, mode="constant", cval=int(labels.min()) - 1)
    return (minimum_filter(labels, **window) != labels) | (maximum_filter(labels, **window) != labels)


def partition_scores(
    segments: np.ndarray, truth: np.ndarray, ignore_index: int | None = None
) -> dict[str, float]:
    """How two partitions agree whatever their labels are called; NaN where every pixel is ignored.

    Returns:
        "adjusted_rand": 1 for equal partitions, 0 by chance (scikit-learn); "over_segmentation" and "under_segmentation":
        H(segments | truth) and H(truth | segments) in bits, whose sum "variation_of_information" is a distance
        (scikit-image; Meilă 2007).
    """
    valid = _known(truth, ignore_index)
    if not valid.any():
        return dict.fromkeys(
            ("adjusted_rand", "over_segmentation", "under_segmentation", "variation_of_information"),
            float("nan"),
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
    segments: np.ndarray,
    segment_classes: np.ndarray,
    truth: np.ndarray,
    ignore_index: int | None = None,
    regions: list[Region] | None = None,
) -> list[dict]:
    """One row per object (connected region of one class) of the ground truth, largest first.

    Args:
        segments: (H, W) segment indices; ``segment_classes`` (K,) the class that each was given.
        regions: the objects, ``find_regions(truth, 0, 1, ignore_index)``; give them where one picture is scored many times.

    Returns:
        "class_index", "area" (share of the picture), "recall" (share of its pixels in segments of its class) and "iou" (of the
        best single segment with it; a segment's ignored pixels do not count).
    """
    if regions is None:
        regions = find_regions(truth, 0.0, 1.0, ignore_index)
    sizes = np.bincount(segments[_known(truth, ignore_index)], minlength=len(segment_classes))
    rows = []
    for region in regions:
        inside = np.bincount(segments[region.window][region.inside], minlength=len(segment_classes))
        union = sizes + region.pixels - inside
        rows.append(
            {
                "class_index": region.class_index,
                "area": region.area,
                "recall": float(inside[segment_classes == region.class_index].sum() / region.pixels),
                "iou": float((inside / union).max()),
            }
        )
    return rows


def area_bin(area: float) -> str:
    """The name of an object's size class by its share of the picture. ``tables.AREA_TYPE`` sorts these names by size."""
    return AREA_NAMES[int(np.searchsorted(AREA_BINS[1:-1], area, side="right"))]


def paired_test(first: np.ndarray, second: np.ndarray) -> float:
    """p-value of the Wilcoxon signed-rank test (scipy): do paired scores of two methods differ?

    1 if all are equal; NaN without a pair in which both are finite.
    """
    difference = np.asarray(first, float) - np.asarray(second, float)
    difference = difference[np.isfinite(difference)]
    if not difference.size:
        return float("nan")
    return float(wilcoxon(difference).pvalue) if np.any(difference != 0) else 1.0


def _known(labels: np.ndarray, ignore_index: int | None) -> np.ndarray:
    """(H, W) bool: pixels that are not ignored."""
    return np.ones(labels.shape, bool) if ignore_index is None else labels != ignore_index
