"""Seconds that scoring one full-size picture takes, function by function.

    python -m emerdiff_lib.benchmark.scoring --num-classes 171

The picture is made up: Voronoi cells of every size, thin things, specks, and void along borders and in blobs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from scipy.spatial import KDTree

from ..evaluation.metrics import (
    LabelMap,
    boundary_iou,
    boundary_scores,
    contingency_table,
    object_scores,
    partition_scores,
)
from ..evaluation.protocols import per_image_matching
from ..evaluation.regions import find_regions
from ..evaluation.tables import score
from ..timing import timed

VOID = 255


def street(size: tuple[int, int], num_classes: int, seed: int = 0) -> np.ndarray:
    """(H, W) uint8 classes and :data:`VOID`: cells that are large below and small above, poles, wires, specks, void."""
    rng, (height, width) = np.random.default_rng(seed), size
    seeds = rng.random((400, 2)) ** [1.5, 1] * size  # crowded above
    labels = rng.integers(0, num_classes, 400)[_nearest(seeds, size)].astype(np.uint8)
    for x in rng.integers(0, width - 8, 40):
        top, length = rng.integers(0, height // 2), rng.integers(height // 16, height // 2)
        labels[top : top + length, x : x + rng.integers(1, 8)] = rng.integers(num_classes)
    for y in rng.integers(0, height // 2, 10):
        labels[y : y + 2] = rng.integers(num_classes)
    specks = rng.integers(0, size, (300, 2))
    for y, x in specks:
        labels[y : y + rng.integers(1, 12), x : x + rng.integers(1, 12)] = rng.integers(num_classes)
    band = np.zeros(size, bool)
    band[:, 2:] = labels[:, 2:] != labels[:, :-2]
    labels[band & (np.arange(width) // 64 % 2 == 0)] = VOID  # void along every second piece of border
    for y, x in specks[:40]:
        labels[y : y + height // 20, x : x + width // 40] = VOID
    return labels


def segmentation(truth: np.ndarray, num_segments: int, seed: int = 0) -> np.ndarray:
    """(H, W) int64 segments that follow large cells of their own, and the truth's edges with a shift of a few pixels."""
    rng = np.random.default_rng(seed)
    cells = _nearest(rng.random((3 * num_segments, 2)) * truth.shape, truth.shape)
    shifted = np.roll(truth, (2, 3), (0, 1)).astype(np.int64)
    return (cells + shifted) % num_segments


def _nearest(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) index of the point nearest to every pixel."""
    return KDTree(points).query(np.moveaxis(np.indices(size), 0, -1))[1]


def measure(
    truth: np.ndarray, segments: np.ndarray, num_segments: int, num_classes: int, repeats: int
) -> dict[str, float]:
    """{function: seconds}, the least of ``repeats``; "… once more" scores another method on the same picture."""
    shared = LabelMap(truth, VOID)
    score(segments, shared, np.zeros((num_segments, 1)), 0.0, num_classes)  # finds what is shared
    embeddings = np.random.default_rng(0).normal(size=(num_segments, 64))
    named = contingency_table(segments, truth, num_segments, num_classes, VOID).argmax(1)
    functions: dict[str, Callable] = {
        "find_regions": lambda: find_regions(truth, 0, 1, VOID),
        "contingency_table": lambda: contingency_table(segments, truth, num_segments, num_classes, VOID),
        "boundary_scores": lambda: boundary_scores(segments, truth, 2, VOID),
        "partition_scores": lambda: partition_scores(segments, truth, VOID),
        "boundary_iou": lambda: boundary_iou(named[segments], truth, num_classes, ignore_index=VOID),
        "per_image_matching": lambda: per_image_matching(segments, truth, num_classes, VOID),
        "object_scores": lambda: object_scores(segments, named, truth, VOID),
        "score": lambda: score(segments, truth, embeddings, 0.0, num_classes, VOID),
        "… once more": lambda: score(segments, shared, embeddings, 0.0, num_classes),
    }
    return {name: min(timed(run)[1] for _ in range(repeats)) for name, run in functions.items()}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048), help="height and width")
    parser.add_argument("--num-segments", type=int, default=30)
    parser.add_argument("--num-classes", type=int, default=19)
    parser.add_argument("--repeats", type=int, default=3, help="the least of so many measurements is printed")
    args = parser.parse_args(argv)
    truth = street(tuple(args.size), args.num_classes)
    segments = segmentation(truth, args.num_segments)
    found = measure(truth, segments, args.num_segments, args.num_classes, args.repeats)
    height, width = args.size
    objects = len(find_regions(truth, 0, 1, VOID))
    print(
        f"{height} × {width} pixels, {args.num_segments} segments, {args.num_classes} classes, {objects} objects;"
    )
    print("seconds on one core:")
    for name, seconds in found.items():
        print(f"{name:20} {seconds:7.3f}")


if __name__ == "__main__":
    main()
