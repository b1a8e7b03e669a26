"""What segments are, one by one: where they lie, what they look like, their outlines, and what one would point at.

Coordinates are in pixels of the image, x to the right and y down, a pixel's corner at whole numbers and its middle at halves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.ndimage import distance_transform_edt, label
from skimage.measure import find_contours, regionprops

from ..stages import EmerDiffOutput


def boxes(labels: np.ndarray) -> dict[int, tuple[int, int, int, int]]:
    """{segment: (x, y, width, height)} of the segments that there are."""
    places = {}
    for region in regionprops(labels.astype(np.int32) + 1):
        top, left, bottom, right = region.bbox
        places[region.label - 1] = left, top, right - left, bottom - top
    return places


def segment_table(output: EmerDiffOutput, image: np.ndarray) -> pd.DataFrame:
    """A row per segment: "area" in pixels and "share" of the image, its box ("x", "y", "width", "height"), centroid ("cx",
    "cy"), mean colour ("red", "green", "blue", 0 to 255) and mean query vector ("q0", "q1" …).

    Args:
        image: (H, W, 3) uint8, the image that was segmented.
    """
    rows = []
    for region in regionprops(output.labels.astype(np.int32) + 1, intensity_image=image):
        segment, (cy, cx), (top, left, bottom, right) = region.label - 1, region.centroid, region.bbox
        row = {"segment": segment, "area": int(region.area), "share": region.area / output.labels.size}
        row |= {"x": left, "y": top, "width": right - left, "height": bottom - top}
        row |= {"cx": cx + 0.5, "cy": cy + 0.5}
        row |= dict(zip(("red", "green", "blue"), region.intensity_mean, strict=True))
        rows.append(row | {f"q{i}": float(q) for i, q in enumerate(output.mask_embeddings[segment])})
    return pd.DataFrame(rows).set_index("segment")


def polygons(labels: np.ndarray) -> dict[str, Any]:
    """A GeoJSON-like ``FeatureCollection``: a MultiPolygon per segment, its holes kept, in pixels instead of degrees.

    Outlines pass between the middles of pixels, so that a pixel lies in a segment's polygon exactly if it has its label.
    """
    features = []
    for segment in np.unique(labels):
        shapes = []
        for piece in regionprops(label(labels == segment)[0]):
            top, left, *_ = piece.bbox
            inside = np.pad(piece.image, 1).astype(float)  # a margin of one pixel
            rings = [ring[:, ::-1] + (left - 0.5, top - 0.5) for ring in find_contours(inside, 0.5)]
            rings.sort(key=lambda ring: -np.ptp(ring[:, 0]))  # the outline is wider than its holes
            shapes.append([ring.tolist() for ring in rings])
        geometry = {"type": "MultiPolygon", "coordinates": shapes}
        features.append({"type": "Feature", "properties": {"segment": int(segment)}, "geometry": geometry})
    return {"type": "FeatureCollection", "features": features}


def prompts(labels: np.ndarray) -> list[dict[str, Any]]:
    """For SAM and its like, a dictionary per segment: "segment", "point" [x, y], "label" 1, and "box" [x0, y0, x1, y1].

    The point is the pixel that is farthest from the segment's edge, which a centroid may lie outside of.
    """
    points = []
    for segment, (x, y, width, height) in boxes(labels).items():
        inside = np.pad(labels[y : y + height, x : x + width] == segment, 1)
        depth = distance_transform_edt(inside)[1:-1, 1:-1]
        row, column = np.unravel_index(depth.argmax(), depth.shape)
        point, box = [x + int(column) + 0.5, y + int(row) + 0.5], [x, y, x + width, y + height]
        points.append({"segment": segment, "point": point, "label": 1, "box": box})
    return points
