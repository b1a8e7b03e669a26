"""EmerDiff and its baselines side by side on a labelled data set (notebooks 06, 08, 10, 12, 15 and 16).

Methods go by their names in :mod:`.names` and share what they have in common: one inversion and one set of coarse masks per
image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from .. import baselines, plotting
from ..assignment import assign_bilinear
from ..baselines import Segmentation, upsamplers
from ..baselines.upsamplers import Upsampler
from ..clustering import mask_embeddings
from ..datasets import LabelledDataset, Sample
from ..evaluation.intervals import TOO_FEW, in_words, verdict, with_interval
from ..evaluation.regions import true_masks
from ..evaluation.tables import score
from ..pipeline import EmerDiffPipeline
from ..plotting import CHART_COLOURS, NEUTRAL
from ..runs.cached_map import Results
from ..runs.keys import network_digest
from ..runs.notebook import merged_settings
from ..settings import MODES, MODULATED, check_known
from ..stages import CoarseMasks
from ..timing import timed
from . import names
from .mapping import map_images

_RADIUS = MODES["fast"]["guide_radius"]
# mode: {method: what it sets for its assignment}; methods of one mode share their responses
EMERDIFFS: dict[str, dict[str, dict[str, Any]]] = {
    "exact": {names.EMERDIFF: {}, names.EMERDIFF_GUIDED: {"guide_radius": _RADIUS}},
    "pixel": {names.EMERDIFF_PIXEL: {}},
    "fast": {names.EMERDIFF_FAST: {}},
}
# The labels differ, the masks (and so their embeddings) are EmerDiff's
ON_THE_SAME_MASKS: dict[str, Callable[[torch.Tensor, np.ndarray], np.ndarray]] = {
    names.BILINEAR: lambda masks, image: assign_bilinear(masks, image.shape[:2]),
    names.BILINEAR_GUIDED: baselines.guided_masks,
    names.BILINEAR_WALKER: baselines.random_walk,
    names.BILINEAR_ADAPTIVE: baselines.pixel_adaptive_masks,
}
# The coarse features are EmerDiff's, and pixels become segments as in pixel mode; self-attention runs the network besides
ON_THE_SAME_FEATURES: dict[str, Upsampler] = {
    names.QUERIES_BILINEAR: upsamplers.bilinear,
    names.QUERIES_GUIDED: upsamplers.guided,
    names.QUERIES_BILATERAL: upsamplers.joint_bilateral,
    names.QUERIES_ADAPTIVE: upsamplers.adaptive,
    names.QUERIES_BOTH: upsamplers.guided_adaptive,
    names.QUERIES_WALK: upsamplers.random_walk_features,
    names.QUERIES_OPTIMISED: upsamplers.optimised,
    names.QUERIES_ATTENTION: upsamplers.self_attention,
}
# Anything but EmerDiff: given the image, the model, a backbone, K, the grid of the coarse masks and a seed
BY_THEMSELVES: dict[str, Callable[..., Segmentation]] = {
    names.COLOUR: lambda image, count, **_: baselines.kmeans_pixels(image, count),
    names.COLOUR_CELLS: lambda image, count, grid, **_: baselines.kmeans_cells(image, count, grid),
    names.POSITION: lambda image, count, **_: baselines.kmeans_pixels(image, count, colour_weight=0.0),
    names.SLIC: lambda image, count, **_: baselines.slic(image, count),
    names.FELZENSZWALB: lambda image, count, **_: baselines.felzenszwalb(image, count),
    names.ENCODER: lambda image, pipe, count, seed, **_: baselines.kmeans_activations(
        image, pipe, count, seed=seed
    ),
    names.DIFFSEG: lambda image, pipe, count, **_: baselines.diffseg(image, pipe, count),
    names.DIFFSEG_OWN: lambda image, pipe, **_: baselines.diffseg(image, pipe),
    names.DIFFCUT: lambda image, pipe, count, seed, **_: baselines.diffcut(image, pipe, count, seed=seed),
    names.DIFFCUT_OWN: lambda image, pipe, seed, **_: baselines.diffcut(image, pipe, seed=seed),
    names.BACKBONE: lambda image, backbone, count, seed, **_: baselines.cluster_features(
        backbone(image), image.shape[:2], count, seed
    ),
}
KINDS: dict[str, Iterable[str]] = {
    "with modulated denoising": [name for methods in EMERDIFFS.values() for name in methods],
    "the same coarse masks, without": ON_THE_SAME_MASKS,
    "the same coarse features, without": ON_THE_SAME_FEATURES,
    "other methods": BY_THEMSELVES,
}
ALL_METHODS = [name for methods in KINDS.values() for name in methods]


def check_methods(methods: Sequence[str], has_backbone: bool) -> list[str]:
    """The methods, or for none given all that are possible; a backbone that is there takes part in any case.

    Raises:
        ValueError: for an unknown method, and a backbone's without a backbone.
    """
    if names.BACKBONE in methods and not has_backbone:
        raise ValueError(
            f'"{names.BACKBONE}" needs a backbone: a transformers vision model such as "facebook/dinov2-base".'
        )
    chosen = [check_known("method", name, ALL_METHODS) for name in methods or ALL_METHODS]
    if not has_backbone:
        return [name for name in chosen if name != names.BACKBONE]
    return chosen if names.BACKBONE in chosen else [*chosen, names.BACKBONE]


def check_settings(
    pipe: EmerDiffPipeline,
    num_masks: int | None,
    settings: Mapping[str, Any],
    methods: Sequence[str] = (),
) -> dict[str, Any]:
    """Keywords for the pipeline from K (None: the checkpoint's) and further settings, all of them checked.

    Args:
        methods: whose modes have to be possible with them; empty: all modes.

    Raises:
        ValueError: for what the pipeline refuses, and for ``mode`` and ``num_masks`` among the further settings.
    """
    if "mode" in settings:
        raise ValueError(
            f"settings cannot hold mode={settings['mode']!r}: a study says itself which modes it is of; leave it out, and "
            f"where there is a parameter methods, name {names.EMERDIFF!r} or {names.EMERDIFF_FAST!r} among them."
        )
    if "num_masks" in settings and num_masks is None:
        raise ValueError("settings cannot hold num_masks, which is a parameter of its own.")
    merged = merged_settings({"num_masks": num_masks}, settings)
    for mode, names_of_mode in EMERDIFFS.items():
        if mode == "exact" or not methods or set(names_of_mode) & set(methods):
            pipe.resolve(**merged, mode=mode)
    return merged


def segment_image(
    pipe: EmerDiffPipeline,
    sample: Sample,
    methods: Sequence[str],
    settings: Mapping[str, Any],
    backbone: baselines.Backbone | None = None,
) -> dict[str, Segmentation]:
    """One image by every method, in the order of ``methods``.

    All of them are given as many segments as there are coarse masks, except those with their own number. Seeds come from the
    sample, so the result does not depend on what was evaluated before. Everything that is shared is charged to each.

    Args:
        methods: of :data:`ALL_METHODS`, or ``names.UPPER_BOUND``: the true masks on the grid, the upper bound of coarse masks.
        settings: keywords of the pipeline (``num_masks`` …), except ``mode``.
    """
    generator = torch.Generator().manual_seed(sample.seed)
    coarse = pipe.cluster(sample.image, generator=generator, **settings)
    results = _emerdiffs(pipe, coarse, methods, settings)
    for name in (name for name in methods if name not in results):
        segmentation, seconds = timed(partial(_segment, name, pipe, coarse, sample, backbone))
        before = 0.0 if name in BY_THEMSELVES else sum(coarse.seconds.values())
        results[name] = replace(segmentation, seconds=before + seconds)
    return {name: results[name] for name in methods}


def _emerdiffs(
    pipe: EmerDiffPipeline, coarse: CoarseMasks, methods: Sequence[str], settings: Mapping[str, Any]
) -> dict[str, Segmentation]:
    given = {name: settings[name] for name in MODULATED if name in settings}
    radius = {"guide_radius": settings["guide_radius"]} if "guide_radius" in settings else {}
    results = {}
    for mode, rows in EMERDIFFS.items():
        if not any(name in methods for name in rows):
            continue
        responses = pipe.respond(coarse, **given, mode=mode)  # the reader's settings win over the mode's
        for name, refinement in rows.items():
            output = pipe.output(responses, **(refinement | radius))
            seconds = sum(output.timings.values())
            results[name] = Segmentation(output.labels, output.mask_embeddings, seconds)
    return results


def _segment(
    name: str,
    pipe: EmerDiffPipeline,
    coarse: CoarseMasks,
    sample: Sample,
    backbone: baselines.Backbone | None,
) -> Segmentation:
    """One image by a method that is not EmerDiff."""
    image, masks, grid = np.array(sample.image), coarse.masks.cpu(), tuple(coarse.masks.shape[1:])
    if name == names.UPPER_BOUND:
        classes, index = np.unique(sample.labels, return_inverse=True)  # void is a class of its own
        truth = torch.from_numpy(true_masks(index, grid, len(classes)))
        labels = assign_bilinear(truth, sample.labels.shape)
        return Segmentation(labels, mask_embeddings(coarse.queries, truth).cpu().numpy())
    if name in ON_THE_SAME_MASKS:
        return Segmentation(ON_THE_SAME_MASKS[name](masks, image), coarse.embeddings.cpu().numpy())
    if name in ON_THE_SAME_FEATURES:
        more = {"pipe": pipe} if name == names.QUERIES_ATTENTION else {}
        upsample = partial(ON_THE_SAME_FEATURES[name], **more)
        return baselines.cluster_upsampled(coarse.queries, image, upsample, len(masks))
    given = {"image": image, "pipe": pipe, "backbone": backbone, "seed": sample.seed % 2**31}
    return BY_THEMSELVES[name](count=len(masks), grid=grid, **given)


def score_images(
    pipe: EmerDiffPipeline,
    data: LabelledDataset,
    samples: Mapping[str, int],
    methods: Sequence[str],
    settings: Mapping[str, Any],
    output_dir: Path | str,
    backbone: baselines.Backbone | None = None,
    **execution: Any,
) -> Results:
    """{"name", "methods": {method: :func:`~emerdiff_lib.evaluation.tables.score`}} of every image, by
    :func:`~.mapping.map_images`.

    Args:
        methods: from :func:`check_methods`; ``settings``: from :func:`check_settings`.
    """

    def score_image(position: int) -> dict[str, Any]:
        sample, rest = data[position], (len(data.class_names), data.ignore_index, data.background)
        results = segment_image(pipe, sample, methods, settings, backbone)
        scores = {
            name: score(one.labels, sample.labels, one.embeddings, one.seconds, *rest)
            for name, one in results.items()
        }
        return {"name": sample.name, "methods": scores}

    key = {
        "study": "comparison",
        "methods": list(methods),
        "settings": pipe.resolve(**settings).to_dict(),
        "backbone": None if backbone is None else network_digest(backbone.model),
    }
    return map_images(score_image, pipe, data, samples, output_dir, key, **execution)


# -- tables -------------------------------------------------------------------------------------------------------------

ENDS = ["points", "low", "high"]
MEASURES = {"oracle": "oracle mIoU", "modified": "modified mIoU (other split)", "boundary_f": "boundary F"}
COLOURS = dict(zip(KINDS, (*(CHART_COLOURS[i] for i in (3, 0, 2)), NEUTRAL), strict=True))  # in figures


def kind(method: str) -> str:
    """One of :data:`KINDS`; references and controls are "other methods"."""
    return next((name for name, methods in KINDS.items() if method in methods), "other methods")


def difference_table(paired: pd.DataFrame) -> pd.DataFrame:
    """The "paired" table to be read: a row per method, a column per measure; "(n.s.)": the interval includes 0."""
    rows = [(with_interval(*ends), verdict(*ends[1:])) for ends in paired[ENDS].itertuples(index=False)]
    text = [text + " (n.s.)" * (said == "not significant") for text, said in rows]
    wide = paired.assign(text=text).pivot(index="minus", columns="measure", values="text")
    wide = wide.loc[paired["minus"].unique(), [measure for measure in MEASURES if measure in wide]]
    return wide.rename(columns=MEASURES).rename_axis(columns=None)


def interval_panels(figure: Any, tables: Mapping[str, pd.DataFrame]) -> None:
    """A panel per measure: every method's score and 95 % bootstrap interval, the best oracle mIoU on top.

    Args:
        figure: of matplotlib, empty.
    """
    intervals = tables["intervals"].assign(kind=tables["intervals"]["method"].map(kind))
    order = list(tables["scores"].sort_values("oracle mIoU", ascending=False).index)
    titles = {name: title for name, title in MEASURES.items() if name in set(intervals["measure"])}
    axes = figure.subplots(1, len(titles), squeeze=False)[0]
    for axis, (measure, title) in zip(axes, titles.items(), strict=True):
        part = intervals[intervals["measure"] == measure].set_index("method").loc[order].reset_index()
        names_here = axis is axes[0]
        plotting.intervals(axis, part, "method", "value", "low", "high", "kind", COLOURS, names=names_here)
        axis.set_title(title)
    plotting.shared_legend(figure, "percent, with 95 % bootstrap intervals over images")


def findings(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Sentences, for each measure: the first method beside the best that does without modulated denoising, and among all.

    The best is looked for among those that start from the same features or masks, if there are any. All verdicts are those of
    the paired intervals (:func:`~emerdiff_lib.evaluation.intervals.verdict`).
    """
    scores, lines = tables["scores"], []
    reference = scores.index[0]
    pixels = reference in (names.EMERDIFF_PIXEL, names.EMERDIFF_FAST)
    same, inputs = (ON_THE_SAME_FEATURES, "features") if pixels else (ON_THE_SAME_MASKS, "masks")
    for measure, rows in tables["paired"].set_index("minus").groupby("measure", sort=False):
        title, said = MEASURES[measure], rows[ENDS[1:]].apply(lambda ends: verdict(*ends), axis=1)
        candidates = [name for name in rows.index if name in same]
        best = scores.loc[candidates or rows.index, title].idxmax()
        which = f"the same {inputs} without modulated denoising" if candidates else "the other methods"
        line = in_words(
            f"**{reference}**", f"*{best}* (the best of {which})", rows.loc[[best]].assign(measure=title)
        )
        if not said.eq(TOO_FEW).all():
            ahead, behind = (said.eq(word).sum() for word in ("ahead", "behind"))
            line += f" Of all {len(rows)} others, {reference} is ahead of {ahead} and behind {behind}."
        lines.append(line)
    return lines
