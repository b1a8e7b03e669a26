"""Where objects get lost on their way through the method: ``python -m emerdiff_lib.experiments.lost_objects``.

An object is found if segments of its class, in the final labels, hold at least half of its pixels, whatever else happened to
it. One that is not found is lost at the first stage whose criterion it fails. The criteria are kept beside that, as an object
can fail one and still be found.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import binary_dilation

from ..assignment import resize_maps
from ..datasets import LabelledDataset, Sample, open_dataset
from ..evaluation.metrics import area_bin, contingency_table
from ..evaluation.regions import cell_shares, find_regions, sample_labels
from ..loading import load_pipeline
from ..pipeline import EmerDiffPipeline
from ..plotting import colourise, segment_palette
from ..runs.harness import Execution, results_of
from ..runs.identity import model_identity, versions
from ..runs.samples import dataset_identity, sample_identity, sample_items
from ..runs.store import JsonStore
from ..runs.task import Item, Task
from .lost_object_tables import FOUND, STAGES, fates, in_order
from .names import (
    BILINEAR,
    BILINEAR_ADAPTIVE,
    BILINEAR_GUIDED,
    BILINEAR_WALKER,
    COLOUR,
    DIFFCUT,
    DIFFSEG,
    FELZENSZWALB,
    SLIC,
)
from .rivals import EMERDIFFS, check_settings, evaluate
from .selection import check_range, command, execution, finish

RIVALS = (
    *EMERDIFFS,
    BILINEAR,
    BILINEAR_GUIDED,
    BILINEAR_WALKER,
    BILINEAR_ADAPTIVE,
    COLOUR,
    SLIC,
    FELZENSZWALB,
    DIFFSEG,
    DIFFCUT,
)


@dataclass
class Trace:
    """What each stage made of one picture.

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
    """One picture through the whole method, with everything that it passes kept; randomness is the sample's."""
    generator, size = torch.Generator().manual_seed(sample.seed), (sample.image.height, sample.image.width)
    coarse = pipe.coarse(sample.image, num_masks, generator=generator, **settings)
    responses = pipe.respond(coarse)
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


def ring(mask: np.ndarray, width: int = 4) -> np.ndarray:
    """(H, W) bool: the pixels within ``width`` around a mask."""
    return binary_dilation(mask, iterations=width) & ~mask


def contrast(image: np.ndarray, mask: np.ndarray, width: int = 4) -> float:
    """Distance of a mask's mean colour to that of its surroundings; 0 without surroundings."""
    around = ring(mask, width)
    return float(np.linalg.norm(image[mask].mean(0) - image[around].mean(0))) if around.any() else 0.0


def object_rows(way: Trace, smallest: float = 0.0005) -> list[dict[str, Any]]:
    """One row per object, a connected region of one class of the ground truth, down to a share of ``smallest``.

    Criteria of the stages, each judged by itself:

    - *VAE*: its contrast to its surroundings is at least half of the original's after encoding and decoding.
    - *coarse grid*: it covers at least half of some cell.
    - *clustering*: the mask of the cell that it covers best is mostly of its class.
    - *modulation*: that mask's difference map is stronger inside the object than around it.
    - *argmax*: segments of its class hold at least half of its pixels.

    Returns:
        {"class_index", "area" (share of the picture), "size" (its bin), "box" [top, left, bottom, right] in pixels, "recall" in
        [0, 1], a bool per stage, "fate": "found", or the first stage that it fails if it fails the last one}.
    """
    grid, truth = way.masks.shape[1:], way.truth
    known = np.ones(truth.shape, bool) if way.ignore_index is None else truth != way.ignore_index
    classes = np.unique(truth[known])
    shares = np.stack([cell_shares(truth == c, grid) for c in classes])  # (C, h, w)
    mask_classes = classes[np.einsum("khw,chw->kc", way.masks.astype(float), shares).argmax(1)]
    table = contingency_table(way.labels, truth, len(way.masks), int(classes.max()) + 1, way.ignore_index)
    segment_classes = table.argmax(1)  # the oracle's, as in the tables of the evaluation
    rows = []
    for region in find_regions(truth, smallest, 1.0, way.ignore_index):
        inside = region.mask
        covered, around = cell_shares(inside, grid), ring(inside)
        mask = best_mask(way.masks, inside)
        before, response = contrast(way.image, inside), way.maps[mask]
        recall = float((segment_classes[way.labels[inside]] == region.class_index).mean())
        passed = {
            "VAE": before > 0 and contrast(way.reconstruction, inside) >= 0.5 * before,
            "coarse grid": bool(covered.max() >= 0.5),
            "clustering": bool(mask_classes[mask] == region.class_index),
            "modulation": bool(around.any() and response[inside].mean() > response[around].mean()),
            "argmax": recall >= 0.5,
        }
        vertical, horizontal = region.window
        rows.append(
            {
                "class_index": region.class_index,
                "area": region.area,
                "size": area_bin(region.area),
                "box": [vertical.start, horizontal.start, vertical.stop, horizontal.stop],
                "recall": recall,
                **passed,
                "fate": FOUND if passed["argmax"] else next(s for s in STAGES if not passed[s]),
            }
        )
    return rows


class Traces(Task):
    """The fates of all objects of a picture under every K."""

    def __init__(
        self,
        pipe: EmerDiffPipeline,
        data: LabelledDataset,
        mask_counts: list[int],
        output_dir: Path | str,
        settings: dict[str, Any],
    ):
        self.pipe, self.data, self.mask_counts, self.settings = pipe, data, mask_counts, settings
        identity = {
            "study": "lost objects",
            "settings": {str(k): pipe.resolve(num_masks=k, **settings).to_dict() for k in mask_counts},
            "model": model_identity(pipe),
            "data": dataset_identity(data),
            "versions": versions(),
        }
        self.store: JsonStore = JsonStore(output_dir, identity)

    def picture(self, item: Item) -> dict[str, str]:
        return sample_identity(self.data, item.what)

    def compute(self, item: Item) -> dict[str, Any]:
        sample, ignored = self.data[item.what], self.data.ignore_index
        ways = {k: trace(self.pipe, sample, k, ignored, **self.settings) for k in self.mask_counts}
        return {"position": item.what, "rows": {str(k): object_rows(way) for k, way in ways.items()}}


def follow(
    pipe: EmerDiffPipeline,
    data: LabelledDataset,
    positions: Iterable[int],
    mask_counts: Iterable[int],
    output_dir: Path | str,
    settings: dict[str, Any] | None = None,
    how: Execution | None = None,
) -> pd.DataFrame:
    """All objects of the pictures at ``positions`` under every K; what ``output_dir`` has already, of exactly this, is kept.

    Returns:
        A row per object and K: those of :func:`object_rows`, "K" and "position"; "size" and "fate" are ordered categories.

    Raises:
        ValueError: for a setting that the pipeline refuses, or if every picture failed.
    """
    task = Traces(pipe, data, list(dict.fromkeys(mask_counts)), output_dir, settings or {})
    results = results_of(task, sample_items(data, positions), how, label="scenes")
    rows = [
        row | {"K": int(k), "position": result["position"]}
        for result in results
        for k, found in result["rows"].items()
        for row in found
    ]
    return in_order(pd.DataFrame(rows))


def close_up(way: Trace, box: list[int], class_index: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Pictures around one object (:func:`object_rows`' "box" and "class_index") and its true outline's mask, both cropped.

    Returns:
        {title: (h, w, 3) or (h, w)} for :func:`emerdiff_lib.plotting.grid_of_maps`, and (h, w) bool.
    """
    place = slice(box[0], box[2]), slice(box[1], box[3])
    regions = find_regions(way.truth, 0.0, 1.0, way.ignore_index)
    (inside,) = (r.mask for r in regions if (r.class_index, r.window) == (class_index, place))
    size, palette = way.truth.shape, segment_palette(len(way.masks))
    pictures = {
        "picture": way.image,
        "after the VAE": way.reconstruction,
        "coarse masks": colourise(sample_labels(way.masks.argmax(0), size), palette),
        "difference map of its mask": way.maps[best_mask(way.masks, inside)],
        "labels": colourise(way.labels, palette),
    }
    crop = window(box, size)
    return {title: picture[crop] for title, picture in pictures.items()}, inside[crop]


def window(
    box: list[int], size: tuple[int, int], margin: float = 1.0, smallest: int = 32
) -> tuple[slice, slice]:
    """A square around an object's box, ``margin`` boxes wide on every side, moved inside a picture of (H, W)."""
    top, left, bottom, right = box
    side = min(max(smallest, round((1 + 2 * margin) * max(bottom - top, right - left))), *size)
    parts = []
    for low, high, length in ((top, bottom, size[0]), (left, right, size[1])):
        start = max(0, min((low + high - side) // 2, length - side))
        parts.append(slice(start, start + side))
    return parts[0], parts[1]


def main(argv: list[str] | None = None) -> pd.DataFrame:
    parser = command(__doc__, "runs/small-objects")
    parser.add_argument("--first-scene", type=int, default=200, help="test scene of Toyscapes to begin with")
    parser.add_argument("--num-scenes", type=int, default=24, help="scenes")
    parser.add_argument("--more-masks", type=int, default=24, help="another K")
    args = parser.parse_args(argv)
    data = open_dataset("toyscapes", split="test")
    scenes = check_range(args.first_scene, args.num_scenes, len(data), ("first_scene", "num_scenes"))
    how, pipe = execution(args), load_pipeline(args.model, args.device, args.dtype)
    settings = check_settings(pipe, args.num_masks, args.settings)
    counts = [pipe.resolve(**settings).features.num_masks, args.more_masks]
    others = {name: value for name, value in settings.items() if name != "num_masks"}
    objects = follow(pipe, data, scenes, counts, args.output / "objects", others, how)
    folder = args.output / "rivals"
    results = evaluate(pipe, data, list(RIVALS), folder, settings, scenes, how=how, label="rivals")
    print(fates(objects).round(0).to_string())
    finish(results)
    return objects


if __name__ == "__main__":
    main()
