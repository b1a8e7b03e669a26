"""Numbers from label maps. Counts are summed over images; IoU is taken per class over the data set."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_cdt, maximum_filter, minimum_filter
from scipy.stats import entropy

from .regions import boundaries, find_regions, known_pixels

AREA_BINS = (0.0, 0.01, 0.05, 0.2, np.inf)  # shares of the image, for pandas.cut
AREA_NAMES = ("< 1 %", "1–5 %", "5–20 %", "> 20 %")
PARTITION_SCORES = ("adjusted_rand", "over_segmentation", "under_segmentation", "variation_of_information")


def contingency_table(
    segments: np.ndarray,
    labels: np.ndarray,
    num_segments: int | None,
    num_classes: int,
    ignore_index: int | None = None,
) -> np.ndarray:
    """(num_segments, num_classes) int64: how many pixels of each segment carry each class; ignored pixels count nowhere.

    Args:
        num_segments: None: as many as the largest index in ``segments`` says.

    Raises:
        ValueError: if the two maps differ in size, a label is neither a class nor ``ignore_index``, or a counted pixel's
            segment is none of the ``num_segments``.
    """
    if segments.shape != labels.shape:
        raise ValueError(f"Segments are {segments.shape}, labels {labels.shape}: they must be of one size.")
    num_segments = int(segments.max()) + 1 if num_segments is None else num_segments
    known = known_pixels(labels, ignore_index)
    rows, columns = segments[known].astype(np.int64), labels[known].astype(np.int64)
    for name, values, count in (("Label", columns, num_classes), ("Segment", rows, num_segments)):
        if (wrong := values[(values < 0) | (values >= count)]).size:
            raise ValueError(f"{name} {wrong[0]} is not one of 0 to {count - 1}.")
    pairs = np.bincount(rows * num_classes + columns, minlength=num_segments * num_classes)
    return pairs.reshape(num_segments, num_classes)


def grouped_rows(table: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """(count, C) int64: a (K, C) contingency table whose segments are joined, segment k into group ``groups[k]``."""
    joined = np.zeros((count, table.shape[1]), np.int64)
    np.add.at(joined, groups, table)
    return joined


def label_counts(table: np.ndarray) -> np.ndarray:
    """(…, C, 3) pixels of every class that are right, in the truth, and predicted: all that IoU needs.

    Args:
        table: (…, P, C) contingencies of predicted classes with true ones, a confusion matrix; further predictions than the C
            classes, such as "none of these", are right nowhere.
    """
    predicted = table.sum(-1)[..., : table.shape[-1]]
    return np.stack([np.diagonal(table, axis1=-2, axis2=-1), table.sum(-2), predicted], axis=-1)


def class_iou(counts: np.ndarray) -> np.ndarray:
    """(…, C, 3) counts → (…, C) IoU in [0, 1]; NaN for classes that neither occur nor are predicted."""
    right, true, predicted = np.moveaxis(counts, -1, 0)
    union = true + predicted - right
    return np.where(union > 0, right / np.maximum(union, 1), np.nan)


def mean_iou(counts: np.ndarray, skip_absent: bool = True) -> np.ndarray:
    """(…, C, 3) counts → (…) mean IoU over classes, in [0, 1]; NaN where no class is counted.

    Args:
        skip_absent: leave out classes that do not occur in the truth. False counts those that are predicted all the same as
            0, as the code of PiCIE and STEGO does. The two differ on small data sets.
    """
    iou = class_iou(counts)
    kept = counts[..., 1] > 0 if skip_absent else ~np.isnan(iou)
    total = kept.sum(-1)
    return np.where(total > 0, np.where(kept, iou, 0).sum(-1) / np.maximum(total, 1), np.nan)[()]


def pixel_accuracy(counts: np.ndarray) -> np.ndarray:
    """(…, C, 3) counts → (…) share of the counted pixels whose class is right, in [0, 1]; NaN without any."""
    right, true = counts[..., 0].sum(-1), counts[..., 1].sum(-1)
    return np.where(true > 0, right / np.maximum(true, 1), np.nan)[()]


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
    known = known_pixels(truth, ignore_index)
    ours, true = boundaries(predicted), boundaries(truth) & known & ~boundaries(known)
    counted = known if known.all() else _distance(known) > max(1, tolerance)
    if not counted.any():
        return (float("nan"),) * 3
    sides = (ours & counted, true), (true & counted, ours)
    occurs = [edges.any() for edges, _ in sides]
    if not all(occurs):
        return (float(not any(occurs)),) * 3
    precision, recall = (float((_distance(~other)[edges] <= tolerance).mean()) for edges, other in sides)
    return precision, recall, 2 * precision * recall / max(precision + recall, 1e-12)


def boundary_iou(
    predicted: np.ndarray, truth: np.ndarray, num_classes: int, ignore_index: int | None = None
) -> np.ndarray:
    """(C, 2) int64 [intersection, union] per class of the pixels near that class's own contour (Cheng et al., CVPR 2021).

    A class's boundary region is what lies inside it within 2 % of the image diagonal of its contour; the border of the
    image is a contour too. Sums over images divide to Boundary IoU. Ignored pixels are taken away from the prediction's
    boundary regions, not from the prediction, which would give it contours along void that it does not have.

    Args:
        predicted, truth: (H, W) classes, 0 to C − 1, or ``ignore_index`` in the truth.
    """
    distance, known = max(1, round(0.02 * np.hypot(*truth.shape))), known_pixels(truth, ignore_index)
    ours, true = (rim(labels, distance) & known for labels in (predicted, truth))

    pixels_of = lambda labels, where: np.bincount(labels[where].astype(np.int64), minlength=num_classes)
    both = pixels_of(truth, ours & true & (predicted == truth))
    return np.stack([both, pixels_of(predicted, ours) + pixels_of(truth, true) - both], axis=1)


def rim(labels: np.ndarray, distance: int) -> np.ndarray:
    """(H, W) bool: pixels that an erosion of their own label's mask by ``distance`` (chessboard) takes away.

    Those are the pixels with another label, or the image's outside, in the square around them: one price for any number of
    labels and any distance.
    """
    touched = maximum_filter(labels, 3) != minimum_filter(labels, 3)
    touched[[0, -1]] = touched[:, [0, -1]] = True
    return _distance(~touched) < distance


def partition_scores(table: np.ndarray) -> dict[str, float]:
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
    both, ours, true = squares(table), squares(table.sum(1)), squares(table.sum(0))
    # ordered pairs of pixels: together in both, in the truth alone, in the segments alone, in neither
    together, apart = both - total, total**2 - ours - true + both
    true_alone, ours_alone = true - both, ours - both
    chance = (together + true_alone) * (true_alone + apart) + (together + ours_alone) * (ours_alone + apart)
    same = not true_alone and not ours_alone
    rand = 1.0 if same else 2 * (together * apart - true_alone * ours_alone) / chance
    return dict(zip(PARTITION_SCORES, (rand, over, under, over + under), strict=True))


def object_scores(
    segments: np.ndarray, segment_classes: np.ndarray, truth: np.ndarray, ignore_index: int | None = None
) -> list[dict[str, Any]]:
    """One row per object (connected region of one class) of the ground truth, largest first.

    Args:
        segments: (H, W) segment indices; ``segment_classes`` (K,) the class that each was given.

    Returns:
        "class_index", "area" (share of the image), "recall" (share of its pixels in segments of its class) and "iou" (of the
        best single segment with it; a segment's ignored pixels do not count).
    """
    pixels_of = lambda some: np.bincount(some.astype(np.int64), minlength=len(segment_classes))
    sizes, rows = pixels_of(segments[known_pixels(truth, ignore_index)]), []
    for region in find_regions(truth, 0, 1, ignore_index):
        inside = pixels_of(segments[region.window][region.inside])
        right = inside[segment_classes == region.class_index].sum() / region.pixels
        iou = (inside / (sizes + region.pixels - inside)).max()
        row = {"class_index": region.class_index, "area": region.area}
        rows.append(row | {"recall": float(right), "iou": float(iou)})
    return rows


def _distance(outside: np.ndarray) -> np.ndarray:
    """(H, W) chessboard distance to the nearest pixel that is False, of which there must be one."""
    return distance_transform_cdt(outside, metric="chessboard")
