"""Where objects get lost on their way through the method (notebooks 08 and 15).

An object is found if segments of its class, in the final labels, hold at least half of its pixels, whatever else happened to
it. One that is not found is lost at the first stage whose criterion it fails. The criteria are kept beside that, as an object
can fail one and still be found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import binary_dilation

from ..assignment import resize_maps
from ..datasets import LabelledDataset, Sample
from ..evaluation.metrics import AREA_BINS, AREA_NAMES, contingency_table
from ..evaluation.regions import Region, cell_shares, find_regions, known_pixels
from ..pipeline import EmerDiffPipeline
from .mapping import map_images

FOUND = "found"
STAGES = ("VAE", "coarse grid", "clustering", "modulation", "argmax")


@dataclass
class Trace:
    """What each stage made of one image.

    Attributes:
        image, reconstruction: (H, W, 3) float in [0, 1], before and after the VAE.
        masks: (K, h, w) bool coarse masks; ``maps``: (K, H, W) float difference maps; ``labels``: (H, W) segments.
        truth: (H, W) classes, or ``ignore_index``.
    """

    image: np.ndarray
    reconstruction: np.ndarray
    masks: np.ndarray
    maps: np.ndarray
    labels: np.ndarray
    truth: np.ndarray
    ignore_index: int | None = None


def trace(
    pipe: EmerDiffPipeline, sample: Sample, num_masks: int, ignore_index: int | None = None, **settings: Any
) -> Trace:
    """One image through the whole method, with everything that it passes kept; randomness is the sample's."""
    generator, size = torch.Generator().manual_seed(sample.seed), (sample.image.height, sample.image.width)
    coarse = pipe.cluster(sample.image, num_masks, generator=generator, **settings)
    responses = pipe.modulate(coarse)
    decoded = pipe.decode(coarse.trajectory.clean_latents)
    decoded = torch.nn.functional.interpolate(decoded, size=size, mode="bilinear", antialias=True)
    return Trace(
        image=np.asarray(sample.image) / 255.0,
        reconstruction=decoded[0].permute(1, 2, 0).cpu().numpy(),
        masks=coarse.masks.cpu().numpy(),
        maps=resize_maps(responses.difference_maps, size).cpu().numpy(),
        labels=pipe.assign(responses),
        truth=sample.labels,
        ignore_index=ignore_index,
    )


def best_mask(masks: np.ndarray, inside: np.ndarray) -> int:
    """Which of the coarse masks (K, h, w) has the cell that an (H, W) bool region covers best."""
    covered = cell_shares(inside, masks.shape[1:])
    row, column = np.unravel_index(covered.argmax(), covered.shape)
    return int(masks[:, row, column].argmax())


def contrast(image: np.ndarray, mask: np.ndarray, around: np.ndarray) -> float:
    """Distance of a mask's mean colour to that of its surroundings; 0 without surroundings."""
    return float(np.linalg.norm(image[mask].mean(0) - image[around].mean(0))) if around.any() else 0.0


def box(region: Region) -> list[int]:
    """[top, left, bottom, right] of a region in pixels."""
    rows, columns = region.window
    return [rows.start, columns.start, rows.stop, columns.stop]


def object_rows(way: Trace, smallest: float = 0.0005) -> list[dict[str, Any]]:
    """One row per object, a connected region of one class of the ground truth, down to a share of ``smallest``.

    Criteria of the stages, each judged by itself:

    - *VAE*: its contrast to its surroundings is at least half of the original's after encoding and decoding.
    - *coarse grid*: it covers at least half of some cell.
    - *clustering*: the mask of the cell that it covers best is mostly of its class.
    - *modulation*: that mask's difference map is stronger inside the object than around it.
    - *argmax*: segments of its class hold at least half of its pixels.

    Returns:
        {"class_index", "area" (share of the image), "box" [top, left, bottom, right] in pixels, "recall" in [0, 1], a bool per
        stage, "outcome": "found", or the first stage that it fails if it fails the last one}.
    """
    known, grid = way.truth[known_pixels(way.truth, way.ignore_index)], way.masks.shape[1:]
    classes, rows = np.unique(known), []
    shares = np.stack([cell_shares(way.truth == c, grid) for c in classes])  # (C, h, w)
    mask_classes = classes[np.einsum("khw,chw->kc", way.masks.astype(float), shares).argmax(1)]
    size = len(way.masks), int(known.max()) + 1
    pixels = contingency_table(way.labels, way.truth, *size, way.ignore_index)
    segment_classes = pixels.argmax(1)  # the oracle's, as in the tables of the evaluation
    for region in find_regions(way.truth, smallest, 1.0, way.ignore_index):
        inside = region.mask
        around = binary_dilation(inside, iterations=4) & ~inside  # the four pixels around it
        mask = best_mask(way.masks, inside)
        before, response = contrast(way.image, inside, around), way.maps[mask]
        recall = float((segment_classes[way.labels[inside]] == region.class_index).mean())
        passed = {
            "VAE": before > 0 and contrast(way.reconstruction, inside, around) >= 0.5 * before,
            "coarse grid": bool(cell_shares(inside, grid).max() >= 0.5),
            "clustering": bool(mask_classes[mask] == region.class_index),
            "modulation": bool(around.any() and response[inside].mean() > response[around].mean()),
            "argmax": recall >= 0.5,
        }
        outcome = FOUND if passed["argmax"] else next(stage for stage in STAGES if not passed[stage])
        row = {"class_index": region.class_index, "area": region.area, "box": box(region), "recall": recall}
        rows.append(row | passed | {"outcome": outcome})
    return rows


def follow(
    pipe: EmerDiffPipeline,
    data: LabelledDataset,
    samples: Mapping[str, int],
    mask_counts: Iterable[int],
    output_dir: Path | str,
    settings: Mapping[str, Any],
    **execution: Any,
) -> pd.DataFrame:
    """All objects of some images (names and positions in ``data``) under every K.

    Returns:
        A row per object and K: those of :func:`object_rows`, "K", "position" and "size", the bin of its area; "size" and
        "outcome" are ordered categories.

    Raises:
        ValueError: for a setting that the pipeline refuses, or if every image failed.
    """
    counts = list(dict.fromkeys(mask_counts))
    resolved = {str(k): pipe.resolve(num_masks=k, **settings).to_dict() for k in counts}

    def rows_of(position: int) -> list[dict[str, Any]]:
        rows = []
        for k in counts:
            way = trace(pipe, data[position], k, data.ignore_index, **settings)
            rows += [row | {"K": k, "position": position} for row in object_rows(way)]
        return rows

    key = {"study": "lost objects", "settings": resolved}
    results = map_images(rows_of, pipe, data, samples, output_dir, key, **execution)
    outcome = pd.CategoricalDtype([*STAGES, FOUND], ordered=True)
    objects = pd.DataFrame([row for rows in results for row in rows]).astype({"outcome": outcome})
    return objects.assign(size=pd.cut(objects["area"], AREA_BINS, right=False, labels=AREA_NAMES))


def failure_stages(objects: pd.DataFrame) -> pd.DataFrame:
    """Percent of the objects of each size by outcome, a row per K and size in order, with the number of "objects"."""
    grouped = objects.groupby(["K", "size"], observed=False)["outcome"]
    shares = 100 * grouped.value_counts(normalize=True).unstack("outcome").reindex(columns=[*STAGES, FOUND])
    return shares.astype(float).assign(objects=grouped.size())
