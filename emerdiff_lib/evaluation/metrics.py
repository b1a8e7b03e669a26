"""Numbers from label maps. Counts are summed over images; IoU is taken per class over the data set."""

from __future__ import annotations

import numpy as np
from scipy.stats import entropy, wilcoxon

from .label_maps import LabelMap, known_pixels
from .regions import Region

AREA_BINS = (0.0, 0.01, 0.05, 0.2, 1.0)  # shares of the picture
AREA_NAMES = ("< 1 %", "1–5 %", "5–20 %", "> 20 %")
ABSENT = ("skip", "zero")
PARTITION_SCORES = ("adjusted_rand", "over_segmentation", "under_segmentation", "variation_of_information")


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
    valid = known_pixels(labels, ignore_index)
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


def boundary_scores(
    predicted: np.ndarray | LabelMap,
    truth: np.ndarray | LabelMap,
    tolerance: float = 2.0,
    ignore_index: int | None = None,
) -> tuple[float, float, float]:
    """Precision, recall and F of boundary pixels, a match being one within ``tolerance`` pixels (chessboard distance).

    One pixel may match many: this is kinder than the one-to-one Euclidean matching of the Berkeley benchmark (BSDS; Martin
    et al., TPAMI 2004) by 5–9 points, in the same order of methods, so values of the two do not compare.

    Two maps without any boundary agree perfectly; where only one of them has none, all three are 0. Beside ignored pixels
    nobody knows the truth: boundary pixels within ``tolerance`` (at least 1) of them are not counted, though those of known
    pixels may still match counted ones. Where that leaves no pixel to look at, all three are NaN.
    """
    found, true = LabelMap.of(predicted), LabelMap.of(truth, ignore_index)
    counted_a, counted_b = found.edges, true.edges
    if not true.known.all():
        counted = true.void_distance > max(1, tolerance)
        if not counted.any():
            return (float("nan"),) * 3
        counted_a, counted_b = counted_a & counted, counted_b & counted
    if not counted_a.any() or not counted_b.any():
        same = float(counted_a.any() == counted_b.any())
        return same, same, same
    precision = float((true.edge_distance[counted_a] <= tolerance).mean())
    recall = float((found.edge_distance[counted_b] <= tolerance).mean())
    return precision, recall, 2 * precision * recall / max(precision + recall, 1e-12)


def share_inside(response: np.ndarray, mask: np.ndarray) -> float:
    """Share of a non-negative response map's total that falls inside ``mask``, in [0, 1]; 0 without any response."""
    total = float(response.sum())
    return float(response[mask].sum()) / total if total > 0 else 0.0


def boundary_iou(
    predicted: np.ndarray | LabelMap,
    truth: np.ndarray | LabelMap,
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
    found, true = LabelMap.of(predicted), LabelMap.of(truth, ignore_index)
    distance = max(1, round(share * float(np.hypot(*true.labels.shape))))
    rims = [labels.rim(distance) & true.known for labels in (found, true)]

    def of_class(labels, where):
        values = labels[where]
        return np.bincount(
            values[(values >= 0) & (values < num_classes)].astype(np.int64), minlength=num_classes
        )

    both = of_class(true.labels, rims[0] & rims[1] & (found.labels == true.labels))
    union = of_class(found.labels, rims[0]) + of_class(true.labels, rims[1]) - both
    return np.stack([both, union], axis=1)


def partition_scores(
    segments: np.ndarray, truth: np.ndarray, ignore_index: int | None = None
) -> dict[str, float]:
    """:func:`table_scores` of two (H, W) maps of any integers, on the pixels that are not ignored."""
    valid = known_pixels(truth, ignore_index)
    numbered = [np.unique(labels[valid], return_inverse=True) for labels in (segments, truth)]
    (_, found), (_, true) = numbered
    sizes = [max(1, len(values)) for values, _ in numbered]
    return table_scores(np.bincount(found * sizes[1] + true, minlength=sizes[0] * sizes[1]).reshape(sizes))


def table_scores(table: np.ndarray) -> dict[str, float]:
    """How two partitions agree whatever their parts are called, from their (K, C) contingencies; NaN where those are all 0.

    Returns:
        "adjusted_rand": 1 for equal partitions, 0 by chance (Hubert and Arabie 1985); "over_segmentation" and
        "under_segmentation": H(segments | truth) and H(truth | segments) in bits, whose sum "variation_of_information" is a
        distance (Meilă 2007).
    """
    total = int(table.sum())
    if not total:
        return dict.fromkeys(PARTITION_SCORES, float("nan"))
    joint, *parts = (float(entropy(counts, base=2)) for counts in (table.ravel(), table.sum(0), table.sum(1)))
    over, under = (max(0.0, joint - part) for part in parts)
    squares = lambda counts: int(np.square(counts.astype(np.int64)).sum())
    both, found, true = squares(table), squares(table.sum(1)), squares(table.sum(0))
    # ordered pairs of pixels: together in both, in the truth alone, in the segments alone, in neither
    together, apart = both - total, total**2 - found - true + both
    true_alone, found_alone = true - both, found - both
    chance = (together + true_alone) * (true_alone + apart) + (together + found_alone) * (found_alone + apart)
    same = not true_alone and not found_alone
    rand = 1.0 if same else 2 * (together * apart - true_alone * found_alone) / chance
    return dict(zip(PARTITION_SCORES, (rand, over, under, over + under), strict=True))


def object_scores(
    segments: np.ndarray,
    segment_classes: np.ndarray,
    truth: np.ndarray | LabelMap,
    ignore_index: int | None = None,
    regions: list[Region] | None = None,
) -> list[dict]:
    """One row per object (connected region of one class) of the ground truth, largest first.

    Args:
        segments: (H, W) segment indices; ``segment_classes`` (K,) the class that each was given.
        regions: the objects, ``find_regions(truth, 0, 1, ignore_index)``, where they are known already.

    Returns:
        "class_index", "area" (share of the picture), "recall" (share of its pixels in segments of its class) and "iou" (of the
        best single segment with it; a segment's ignored pixels do not count).
    """
    true, count = LabelMap.of(truth, ignore_index), len(segment_classes)
    pixels_of = lambda some: np.bincount(some.astype(np.int64), minlength=count)
    sizes = pixels_of(segments[true.known])
    rows = []
    for region in true.regions if regions is None else regions:
        inside = pixels_of(segments[region.window][region.inside])
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
