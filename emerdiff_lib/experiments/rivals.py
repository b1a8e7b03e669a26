"""EmerDiff and its rivals side by side on a data set: ``python -m emerdiff_lib.experiments.rivals``.

Methods go by their names in :mod:`~emerdiff_lib.experiments.names` and share what they have in common: one inversion and one
set of coarse masks per picture. Results are kept picture by picture; run again to go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import baselines
from ..assignment import assign_bilinear
from ..baselines import upsamplers
from ..baselines.upsamplers import Upsampler
from ..datasets import LabelledDataset, Sample, open_dataset
from ..evaluation.tables import score
from ..loading import load_pipeline
from ..pipeline import EmerDiffPipeline
from ..responses import ImageResponses
from ..runs.harness import Execution, results_of
from ..runs.identity import fingerprint, model_identity, versions
from ..runs.parameters import merged_settings
from ..runs.samples import dataset_identity, sample_identity, sample_items
from ..runs.store import JsonStore, Results
from ..runs.task import Item, Task
from ..settings import MODES, Assignment, Perturbation, Shortcuts, check_known
from ..stages import CoarseMasks
from ..timing import timed
from .names import (
    BACKBONE,
    BILINEAR,
    BILINEAR_ADAPTIVE,
    BILINEAR_GUIDED,
    BILINEAR_WALKER,
    COLOUR,
    COLOUR_CELLS,
    DIFFCUT,
    DIFFCUT_OWN,
    DIFFSEG,
    DIFFSEG_OWN,
    EMERDIFF,
    EMERDIFF_FAST,
    EMERDIFF_GUIDED,
    EMERDIFF_PIXEL,
    ENCODER,
    FELZENSZWALB,
    PIXELS_ADAPTIVE,
    PIXELS_ATTENTION,
    PIXELS_BILATERAL,
    PIXELS_BILINEAR,
    PIXELS_GUIDED,
    PIXELS_OPTIMISED,
    PIXELS_WALK,
    POSITION,
    SLIC,
)
from .selection import command, execution, finish, first_pictures

EMERDIFFS = (EMERDIFF, EMERDIFF_GUIDED, EMERDIFF_PIXEL, EMERDIFF_FAST)
# The labels differ, the masks (and so their embeddings) are EmerDiff's
ON_THE_SAME_MASKS: dict[str, Callable[[torch.Tensor, np.ndarray], np.ndarray]] = {
    BILINEAR: lambda masks, image: assign_bilinear(masks, image.shape[:2]),
    BILINEAR_GUIDED: baselines.guided_masks,
    BILINEAR_WALKER: baselines.random_walk,
    BILINEAR_ADAPTIVE: baselines.pixel_adaptive_masks,
}
# The coarse features are EmerDiff's, and pixels become segments as in pixel mode
ON_THE_SAME_FEATURES: dict[str, Upsampler] = {
    PIXELS_BILINEAR: upsamplers.bilinear,
    PIXELS_GUIDED: upsamplers.guided,
    PIXELS_BILATERAL: upsamplers.joint_bilateral,
    PIXELS_ADAPTIVE: upsamplers.adaptive,
    PIXELS_WALK: upsamplers.random_walk_features,
    PIXELS_OPTIMISED: upsamplers.optimised,
}
BY_THEMSELVES = (
    COLOUR,
    COLOUR_CELLS,
    POSITION,
    SLIC,
    FELZENSZWALB,
    ENCODER,
    DIFFSEG,
    DIFFSEG_OWN,
    DIFFCUT,
    DIFFCUT_OWN,
    BACKBONE,
)
ALL_METHODS = (*EMERDIFFS, *ON_THE_SAME_MASKS, *ON_THE_SAME_FEATURES, PIXELS_ATTENTION, *BY_THEMSELVES)


@dataclass
class Result:
    """labels (H, W) int32 in 0 … K−1; embeddings (K, d) float32; seconds for this picture from start to end."""

    labels: np.ndarray
    embeddings: np.ndarray
    seconds: float


def check_methods(methods: Iterable[str], has_backbone: bool) -> list[str]:
    """The methods, or for none given all that are possible; a backbone that is there takes part in any case.

    Raises:
        ValueError: for an unknown one, one named twice, and a backbone's without a backbone.
    """
    if isinstance(methods, str):
        raise ValueError(f"methods={methods!r} is one string; give a list of names.")
    methods = [check_known("method", name, ALL_METHODS) for name in methods]
    if doubled := [name for name in methods if methods.count(name) > 1]:
        raise ValueError(f"Method {doubled[0]!r} is named twice; name it once.")
    if BACKBONE in methods and not has_backbone:
        raise ValueError(
            f'"{BACKBONE}" needs a backbone: a transformers vision model such as "facebook/dinov2-base".'
        )
    methods = methods or [name for name in ALL_METHODS if name != BACKBONE]
    return [*methods, BACKBONE] if has_backbone and BACKBONE not in methods else methods


def check_settings(pipe: EmerDiffPipeline, num_masks: int | None, settings: dict[str, Any]) -> dict[str, Any]:
    """Keywords for the pipeline from K (None: the checkpoint's) and further settings, all of them checked.

    Raises:
        ValueError: for what the pipeline refuses, and for ``mode`` and ``num_masks`` among the further settings.
    """
    if not isinstance(settings, dict):
        raise ValueError(f"settings={settings!r} is no dictionary; write {{name: value}}, or {{}} for none.")
    if "mode" in settings:
        raise ValueError(
            f"settings cannot hold mode={settings['mode']!r}, as modes are methods here: leave it out and name "
            f"{EMERDIFF!r} or {EMERDIFF_FAST!r} among the methods."
        )
    settings = merged_settings({"num_masks": num_masks}, settings)
    pipe.resolve(**settings)
    return settings


def segment(
    pipe: EmerDiffPipeline,
    sample: Sample,
    methods: list[str],
    settings: dict[str, Any],
    backbone: baselines.Backbone | None = None,
) -> dict[str, Result]:
    """One picture by every method, in the order of ``methods``.

    All of them are given as many segments as there are coarse masks, except those with their own number. Seeds come from the
    sample, so the result does not depend on what was evaluated before. Everything that is shared is charged to each.

    Args:
        settings: keywords of the pipeline (``num_masks`` …), except ``mode``.
    """
    generator = torch.Generator().manual_seed(sample.seed)
    coarse = pipe.coarse(sample.image, generator=generator, **settings)
    found = _emerdiffs(pipe, coarse, methods, settings)
    image, masks, before = np.array(sample.image), coarse.masks.cpu(), sum(coarse.seconds.values())
    for name, refine in ON_THE_SAME_MASKS.items():
        if name in methods:
            labels, seconds = timed(partial(refine, masks, image))
            found[name] = Result(labels, coarse.embeddings.cpu().numpy(), before + seconds)
    upsampled = ON_THE_SAME_FEATURES | {PIXELS_ATTENTION: partial(upsamplers.self_attention, pipe=pipe)}
    for name, upsample in upsampled.items():
        if name in methods:
            cluster = partial(baselines.cluster_upsampled, coarse.queries, image, upsample, len(masks))
            result, seconds = timed(cluster)
            found[name] = Result(result.labels, result.embeddings, before + seconds)
    runs = _rivals(pipe, image, len(masks), tuple(masks.shape[1:]), sample.seed % 2**31, backbone)
    for name, run in runs.items():
        if name in methods:
            result, seconds = timed(run)
            found[name] = Result(result.labels, result.embeddings, seconds)
    return {name: found[name] for name in methods}


def _emerdiffs(
    pipe: EmerDiffPipeline, coarse: CoarseMasks, methods: list[str], settings: dict[str, Any]
) -> dict[str, Result]:
    """EmerDiff's own rows: one set of exact responses serves two of them, and all share the coarse masks, or their queries."""
    found: dict[str, Result] = {}
    radius = {"guide_radius": settings.get("guide_radius", MODES["fast"]["guide_radius"])}
    own = {"guide_radius": settings.get("guide_radius", MODES["pixel"]["guide_radius"])}
    kinds = (Perturbation, Shortcuts, Assignment)
    given = {one.name: settings[one.name] for kind in kinds for one in fields(kind) if one.name in settings}
    runs: tuple[tuple[dict, dict], ...] = (  # what the reader sets wins over the mode, as ever
        ({}, {EMERDIFF: {}, EMERDIFF_GUIDED: radius}),
        ({"mode": "pixel"} | given, {EMERDIFF_PIXEL: own}),
        ({"mode": "fast"} | given, {EMERDIFF_FAST: radius}),
    )
    for perturbed, rows in runs:
        if not any(name in methods for name in rows):
            continue
        responses, seconds = timed(partial(pipe.respond, coarse, **perturbed))
        for name, refinement in rows.items():
            labels, last = timed(partial(pipe.assign, responses, **refinement))
            embeddings = coarse.embeddings
            if isinstance(responses, ImageResponses):
                _, embeddings = responses.cells_of(labels)
            total = sum(coarse.seconds.values()) + seconds + last
            found[name] = Result(labels, embeddings.cpu().numpy(), total)
    return found


def _rivals(
    pipe: EmerDiffPipeline,
    image: np.ndarray,
    count: int,
    grid: tuple[int, int],
    seed: int,
    backbone: baselines.Backbone | None,
) -> dict[str, Callable[[], baselines.Segmentation]]:
    return {
        COLOUR: lambda: baselines.kmeans_pixels(image, count),
        COLOUR_CELLS: lambda: baselines.kmeans_cells(image, count, grid),
        POSITION: lambda: baselines.kmeans_pixels(image, count, colour_weight=0.0),
        SLIC: lambda: baselines.slic(image, count),
        FELZENSZWALB: lambda: baselines.felzenszwalb(image, count),
        ENCODER: lambda: baselines.kmeans_activations(image, pipe, count, seed=seed),
        DIFFSEG: lambda: baselines.diffseg(image, pipe, count),
        DIFFSEG_OWN: lambda: baselines.diffseg(image, pipe),
        DIFFCUT: lambda: baselines.diffcut(image, pipe, count, seed=seed),
        DIFFCUT_OWN: lambda: baselines.diffcut(image, pipe, seed=seed),
        BACKBONE: lambda: baselines.kmeans_backbone(image, backbone, count, seed=seed),
    }


def score_all(
    found: dict[str, Result], truth: np.ndarray, num_classes: int, ignore_index: int | None = None
) -> dict[str, dict[str, Any]]:
    """{method: :func:`~emerdiff_lib.evaluation.tables.score`} of one picture."""
    return {
        name: score(r.labels, truth, r.embeddings, r.seconds, num_classes, ignore_index)
        for name, r in found.items()
    }


class Comparison(Task):
    """Every picture of a data set under every method.

    Args:
        settings: from :func:`check_settings`; ``methods``: from :func:`check_methods`.
    """

    def __init__(
        self,
        pipe: EmerDiffPipeline,
        data: LabelledDataset,
        methods: list[str],
        output_dir: Path | str,
        settings: dict[str, Any],
        backbone: baselines.Backbone | None = None,
    ):
        self.pipe, self.data, self.methods, self.settings = pipe, data, list(methods), settings
        self.backbone = backbone
        identity = {
            "study": "rivals",
            "methods": self.methods,
            "settings": pipe.resolve(**settings).to_dict(),
            "model": model_identity(pipe),
            "data": dataset_identity(data),
            "backbone": None if backbone is None else fingerprint(backbone.model),
            "versions": versions(),
        }
        self.store: JsonStore = JsonStore(output_dir, identity)

    def picture(self, item: Item) -> dict[str, str]:
        return sample_identity(self.data, item.what)

    def compute(self, item: Item) -> dict[str, Any]:
        sample, data = self.data[item.what], self.data
        found = segment(self.pipe, sample, self.methods, self.settings, self.backbone)
        scores = score_all(found, sample.labels, len(data.class_names), data.ignore_index)
        return {"name": sample.name, "methods": scores}


def evaluate(
    pipe: EmerDiffPipeline,
    data: LabelledDataset,
    methods: list[str],
    output_dir: Path | str,
    settings: dict[str, Any],
    positions: Iterable[int],
    backbone: baselines.Backbone | None = None,
    how: Execution | None = None,
    label: str = "pictures",
) -> Results:
    """The pictures at ``positions`` under every method; what is in ``output_dir`` already, of exactly this, is kept.

    Returns:
        A dictionary per picture that did not fail: "name" and "methods", {method:
        :func:`~emerdiff_lib.evaluation.tables.score`}.

    Raises:
        ValueError: if every picture failed.
        StoreError: ``output_dir`` cannot be written.
    """
    task = Comparison(pipe, data, methods, output_dir, settings, backbone)
    return results_of(task, sample_items(data, positions), how, label=label)


def main(argv: list[str] | None = None) -> None:
    parser = command(__doc__, "runs/evaluation-06")
    parser.add_argument("--dataset", default="toyscapes", help="as notebook 06 names them")
    parser.add_argument("--root", default="", help="folder with the data set's official layout")
    parser.add_argument("--split", default="test", help="the split that is reported")
    parser.add_argument("--limit", type=int, default=100, help="its first so many pictures")
    parser.add_argument("--fit-split", default="validation", help="the split that concepts are fitted on")
    parser.add_argument("--fit-limit", type=int, default=20, help="its first so many pictures")
    parser.add_argument("--methods", nargs="*", default=[], help="names as in the table; all by default")
    parser.add_argument("--backbone", default="", help="a transformers vision model as one more rival")
    args = parser.parse_args(argv)
    methods = check_methods(args.methods, bool(args.backbone))
    parts = []
    for folder, split, limit, name in (
        ("report", args.split, args.limit, "limit"),
        ("fit", args.fit_split, args.fit_limit, "fit_limit"),
    ):
        data = open_dataset(args.dataset, args.root, split)
        parts.append((folder, data, first_pictures(limit, len(data), name)))
    how, pipe = execution(args), load_pipeline(args.model, args.device, args.dtype)
    settings = check_settings(pipe, args.num_masks, args.settings)
    backbone = baselines.Backbone.from_pretrained(args.backbone) if args.backbone else None
    runs = []
    for folder, data, positions in parts:
        output = args.output / folder
        results = evaluate(pipe, data, methods, output, settings, positions, backbone, how, folder)
        print(f"{len(results)} pictures of {data} under {len(methods)} methods are in {output}.")
        runs.append(results)
    print(f"Notebook 06 makes the tables: -p output_dir {args.output}.")
    finish(*runs)


if __name__ == "__main__":
    main()
