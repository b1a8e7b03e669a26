"""Quality against seconds: every approximation alone and together on the same coarse masks, scene by scene."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..evaluation.metrics import boundary_scores, contingency_table
from ..evaluation.protocols import oracle
from ..pipeline import EmerDiffPipeline
from ..runs.cached_map import cached_map
from ..runs.keys import scene_key
from ..settings import MODES
from ..studies import names
from ..studies.comparison import segment_image
from ..studies.mapping import common_key
from ..toyscapes import Scene, Toyscapes

GUIDED = {"guide_radius": MODES["fast"]["guide_radius"]}
# Settings over those of exact mode: every approximation alone, then together
VARIANTS: dict[str, dict[str, Any]] = {
    names.EMERDIFF: {},
    names.EMERDIFF_GUIDED: GUIDED,
    "one-sided": dict(one_sided=True),
    "12 steps": dict(denoising_steps=12),
    "6 steps": dict(denoising_steps=6),
    "3 steps": dict(denoising_steps=3),
    "1 step (x̂₀)": dict(denoising_steps=1),
    "latents, guided": dict(readout="latents") | GUIDED,
    "6 steps, one-sided": dict(denoising_steps=6, one_sided=True),
    "2 steps, one-sided": dict(denoising_steps=2, one_sided=True),
    "2 steps, one-sided, guided": dict(denoising_steps=2, one_sided=True) | GUIDED,
    "2 steps, one-sided, latents, guided": dict(denoising_steps=2, one_sided=True, readout="latents")
    | GUIDED,
    names.EMERDIFF_PIXEL: dict(mode="pixel"),
    "pixel, both sides": dict(mode="pixel", one_sided=False),
    "pixel, 6 steps": dict(mode="pixel", denoising_steps=6),
    "pixel, latents": dict(mode="pixel", readout="latents"),
    "pixel, 24 probe masks": dict(mode="pixel", num_parts=24),
    names.EMERDIFF_FAST: dict(mode="fast"),
}
KINDS = ("no denoising", "difference maps", "difference maps, then guided filter", "pixel features")
OF_QUERIES = (names.QUERIES_GUIDED, names.QUERIES_ADAPTIVE)
NETWORK_FREE = (names.BILINEAR, names.BILINEAR_GUIDED, *OF_QUERIES)


def evaluate(
    pipe: EmerDiffPipeline,
    seeds: Iterable[int],
    output_dir: Path | str,
    variants: Mapping[str, dict] = VARIANTS,
    **settings: Any,
) -> list[dict]:
    """:func:`evaluate_scene` of every Toyscapes scene. Seconds are part of a result: nothing else should use the cores."""
    resolved = {name: pipe.resolve(**settings | variant).to_dict() for name, variant in variants.items()}
    key = {"study": "front", "variants": resolved} | common_key(pipe)
    evaluate_one = lambda seed: evaluate_scene(pipe, Toyscapes.from_seed(seed), variants, **settings)
    scenes = {f"{seed:06}": seed for seed in seeds}
    results = cached_map(evaluate_one, scenes, output_dir, key, scene_key)
    return [row for rows in results for row in rows]


def evaluate_scene(
    pipe: EmerDiffPipeline, scene: Scene, variants: Mapping[str, dict] = VARIANTS, **settings: Any
) -> list[dict]:
    """One scene under every variant, and its coarse masks and features brought to pixels without the network.

    Args:
        variants: {name: settings of approximations, assignment and refinement, or a mode}; exact mode is always added.
        **settings: of the pipeline, for all of them.

    Returns:
        For each, for JSON: "scene", "variant", "seconds" of the whole image, "counts" (C, 3) of the coarse classes under the
        oracle, "boundary F" (2 px, fine classes) in [0, 1], and the share of labels that are "as exact" mode's (NaN for segments
        that are none of its masks).
    """
    coarse = pipe.cluster(scene.image, generator=torch.Generator().manual_seed(scene.seed), **settings)
    without_denoising = segment_image(pipe, scene, NETWORK_FREE, settings)
    results = {name: (found.labels, found.seconds) for name, found in without_denoising.items()}
    for name, variant in ({names.EMERDIFF: {}} | dict(variants)).items():
        responses = pipe.respond(coarse, **{k: v for k, v in variant.items() if k != "guide_radius"})
        labels = pipe.assign(responses, **{k: v for k, v in variant.items() if k == "guide_radius"})
        results[name] = labels, sum(responses.seconds.values())
    exact, classes, rows = results[names.EMERDIFF][0], len(Toyscapes.coarse_class_names), []
    for name, (labels, seconds) in results.items():
        table = contingency_table(labels, scene.coarse_labels, None, classes)
        scores = {"counts": oracle(table).tolist(), "boundary F": boundary_scores(labels, scene.labels, 2)[2]}
        comparable = kind_of(name) != KINDS[3] and name not in OF_QUERIES
        scores["as exact"] = float((labels == exact).mean()) if comparable else np.nan
        rows.append({"scene": scene.seed, "variant": name, "seconds": seconds} | scores)
    return rows


def kind_of(variant: str) -> str:
    """Which of :data:`KINDS` a variant is."""
    if variant in NETWORK_FREE:
        return KINDS[0]
    changes = VARIANTS.get(variant, {})
    if changes.get("mode", "exact") != "exact":
        return KINDS[3]
    return KINDS[2] if changes.get("guide_radius") else KINDS[1]
