"""The region benchmark of the Berkeley segmentation data set (Arbeláez et al., TPAMI 2011, Sec. 3.1), as its own code counts.

A segmentation is compared with those of several people. A method that has a parameter (a threshold, a number of segments) is
judged at the best value for the whole set (ODS) and at the best value for each image (OIS), for each measure by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from skimage.measure import label as connected_components

from .metrics import contingency_table, partition_scores

MEASURES = ("covering", "PRI", "VI")


def region_scores(labels: np.ndarray, annotations: Sequence[np.ndarray]) -> np.ndarray:
    """(people, 3): covering and probabilistic Rand index in [0, 1], and variation of information in bits.

    Covering of a person's regions by segments: the mean, weighted by area, of each region's best IoU with a segment.

    Args:
        labels: (H, W) segments 0 … K−1; a segment may lie in several places.
        annotations: (H, W) regions of each person.
    """
    scores = []
    for regions in annotations:
        table = contingency_table(labels, regions, None, int(regions.max()) + 1)
        segment, region, pixels = table.sum(1), table.sum(0), table.sum()
        iou = table / (segment[:, None] + region - table).clip(min=1)
        squares = [np.square(counts.astype(float)).sum() for counts in (segment, region, table)]
        rand = 1 - (squares[0] + squares[1] - 2 * squares[2]) / (float(pixels) * (pixels - 1))
        variation = partition_scores(table)["variation_of_information"]
        scores.append(((region * iou.max(0)).sum() / pixels, rand, variation))
    return np.array(scores)


def connected(labels: np.ndarray) -> np.ndarray:
    """(H, W) int32 segments as regions: each connected part (side by side, not by corners) is one of its own."""
    return (connected_components(labels, background=-1, connectivity=1) - 1).astype(np.int32)


def ods_and_ois(scores: Sequence[Mapping[float, np.ndarray]]) -> pd.DataFrame:
    """A row per measure, with its ODS and OIS.

    Covering is a mean over all pairs of an image and a person, the other two are means over images of means over people.

    Args:
        scores: of each image, {parameter: :func:`region_scores`}; the same parameters for all.
    """
    parameters = list(scores[0])
    people = np.array([len(one[parameters[0]]) for one in scores])
    table = np.array([[one[p].mean(0) for p in parameters] for one in scores])  # (images, parameters, 3)
    rows = {}
    for k, (measure, weights) in enumerate(zip(MEASURES, (people, None, None), strict=True)):
        better = -1 if measure == "VI" else 1
        values = better * table[:, :, k]
        rows[measure] = {
            "ODS": better * np.average(values, axis=0, weights=weights).max(),
            "OIS": better * np.average(values.max(1), weights=weights),
        }
    return pd.DataFrame.from_dict(rows, orient="index")
