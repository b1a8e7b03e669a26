"""Quality against seconds: every shortcut alone and together on the same coarse masks, scene by scene."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..assignment import assign_bilinear
from ..baselines import guided_masks, upsamplers
from ..evaluation.intervals import interval
from ..evaluation.metrics import boundary_scores, contingency_table, mean_iou
from ..evaluation.protocols import oracle
from ..experiments.names import (
    BILINEAR,
    BILINEAR_GUIDED,
    EMERDIFF,
    EMERDIFF_FAST,
    EMERDIFF_GUIDED,
    EMERDIFF_PIXEL,
    PIXELS_GUIDED,
)
from ..pipeline import EmerDiffPipeline
from ..runs.harness import results_of
from ..runs.identity import model_identity, versions
from ..runs.samples import scene_identity
from ..runs.store import JsonStore
from ..runs.task import Item, Task
from ..settings import MODES, check_known
from ..timing import timed
from ..toyscapes import Scene, Toyscapes

GUIDE_RADIUS = MODES["fast"]["guide_radius"]
# Settings over those of exact mode: every shortcut alone, then together
VARIANTS: dict[str, dict[str, Any]] = {
    EMERDIFF: {},
    EMERDIFF_GUIDED: dict(guide_radius=GUIDE_RADIUS),
    "one-sided": dict(one_sided=True),
    "12 steps": dict(denoising_steps=12),
    "6 steps": dict(denoising_steps=6),
    "3 steps": dict(denoising_steps=3),
    "1 step (x̂₀)": dict(denoising_steps=1),
    "latents, guided": dict(readout="latents", guide_radius=GUIDE_RADIUS),
    "6 steps, one-sided": dict(denoising_steps=6, one_sided=True),
    "2 steps, one-sided": dict(denoising_steps=2, one_sided=True),
    "2 steps, one-sided, guided": dict(denoising_steps=2, one_sided=True, guide_radius=GUIDE_RADIUS),
    "2 steps, one-sided, latents, guided": dict(
        denoising_steps=2, one_sided=True, readout="latents", guide_radius=GUIDE_RADIUS
    ),
    EMERDIFF_PIXEL: dict(mode="pixel"),
    "pixel, both sides": dict(mode="pixel", one_sided=False),
    "pixel, 6 steps": dict(mode="pixel", denoising_steps=6),
    "pixel, latents": dict(mode="pixel", readout="latents"),
    "pixel, 24 parts": dict(mode="pixel", num_parts=24),
    EMERDIFF_FAST: dict(mode="fast"),
}
KINDS = ("no denoising", "difference maps", "difference maps, then guided filter", "pixel features")
NETWORK_FREE = (BILINEAR, BILINEAR_GUIDED, PIXELS_GUIDED)


def choose(names: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """Variants by name, all of them for no name; exact mode, which the others are compared with, is always among them.

    Raises:
        ValueError: an unknown name.
    """
    chosen = [check_known("variant", name, VARIANTS) for name in names] or list(VARIANTS)
    return {name: VARIANTS[name] for name in dict.fromkeys([EMERDIFF, *chosen])}


class Front(Task):
    """Toyscapes scenes under every variant. Seconds are part of a result: nothing else should use the cores meanwhile."""

    def __init__(
        self,
        pipe: EmerDiffPipeline,
        variants: Mapping[str, dict],
        output_dir: Path | str,
        settings: dict[str, Any],
    ):
        self.pipe, self.variants, self.settings = pipe, dict(variants), settings
        identity = {
            "study": "front",
            "variants": {
                name: pipe.resolve(**settings, **variant).to_dict() for name, variant in self.variants.items()
            },
            "model": model_identity(pipe),
            "versions": versions(),
        }
        self.store: JsonStore = JsonStore(output_dir, identity)

    def picture(self, item: Item) -> dict[str, str]:
        return scene_identity(item.what)

    def compute(self, item: Item) -> list[dict]:
        return evaluate_scene(self.pipe, Toyscapes.from_seed(item.what), self.variants, **self.settings)


def evaluate(
    pipe: EmerDiffPipeline,
    seeds: Iterable[int],
    output_dir: Path | str,
    variants: Mapping[str, dict] = VARIANTS,
    **settings: Any,
) -> list[dict]:
    """:func:`evaluate_scene` of every Toyscapes scene; what is in ``output_dir`` already, of exactly this, is kept."""
    items = [Item(f"{seed:06}", seed) for seed in seeds]
    results = results_of(Front(pipe, variants, output_dir, settings), items, label="scenes")
    return [row for scene in results for row in scene]


def evaluate_scene(
    pipe: EmerDiffPipeline, scene: Scene, variants: Mapping[str, dict] = VARIANTS, **settings: Any
) -> list[dict]:
    """One scene under every variant, and its coarse masks and features brought to pixels without the network.

    Args:
        variants: {name: settings of shortcuts, assignment and refinement, or a mode}; exact mode is always added.
        **settings: of the pipeline, for all of them.

    Returns:
        For each, for JSON: "scene", "variant", "seconds" of the whole picture, "table" (K, C) of pixels per coarse class,
        "boundary F" (2 px, fine classes) in [0, 1], and the share of labels that are "as exact" mode's (NaN for segments
        that are none of its masks).
    """
    coarse = pipe.coarse(scene.image, generator=torch.Generator().manual_seed(scene.seed), **settings)
    before, picture = sum(coarse.seconds.values()), np.array(scene.image)
    free = {
        BILINEAR: lambda: assign_bilinear(coarse.masks, coarse.size),
        BILINEAR_GUIDED: lambda: guided_masks(coarse.masks, picture, GUIDE_RADIUS),
        PIXELS_GUIDED: lambda: (
            upsamplers.cluster_upsampled(coarse.queries, picture, upsamplers.guided, len(coarse.masks)).labels
        ),
    }
    found = {}
    for name, run in free.items():
        labels, seconds = timed(run)
        found[name] = labels, before + seconds
    for name, variant in ({EMERDIFF: {}} | dict(variants)).items():
        shortcuts = {key: value for key, value in variant.items() if key != "guide_radius"}
        responses = pipe.respond(coarse, **shortcuts)
        refinement = {key: value for key, value in variant.items() if key == "guide_radius"}
        labels = pipe.assign(responses, **refinement)
        found[name] = labels, sum(responses.seconds.values())
    exact, classes = found[EMERDIFF][0], len(Toyscapes.coarse_class_names)
    return [
        {
            "scene": scene.seed,
            "variant": name,
            "seconds": seconds,
            "table": contingency_table(labels, scene.coarse_labels, None, classes).tolist(),
            "boundary F": boundary_scores(labels, scene.labels, 2)[2],
            "as exact": np.nan
            if kind_of(name) == KINDS[3] or name == PIXELS_GUIDED
            else float((labels == exact).mean()),
        }
        for name, (labels, seconds) in found.items()
    ]


def front(results: list[dict]) -> pd.DataFrame:
    """Rows of :func:`evaluate` as one table, slowest first.

    Columns: "s / image" (median), "times faster" than exact, oracle "mIoU" and "boundary F" in points, the "gain" in mIoU
    over bilinear with its 95 % bootstrap interval ("low", "high"), that gain as a "share of gain" of the exact one's (NaN
    where exact gains nothing), the share of labels "as exact" mode's, and the variant's "kind".
    """
    rows = pd.DataFrame(results)
    base, columns = _counts(rows, BILINEAR), {}
    for name, some in rows.groupby("variant", sort=False):
        counts = _counts(rows, name)
        gain, low, high = interval(counts, base)
        columns[name] = {
            "s / image": some["seconds"].median(),
            "mIoU": 100 * mean_iou(counts.sum(0)),
            "boundary F": 100 * some["boundary F"].mean(),
            "gain": 100 * gain,
            "low": 100 * low,
            "high": 100 * high,
            "as exact": some["as exact"].mean(),
        }
    table = pd.DataFrame(columns).T.rename_axis("variant")
    table.insert(1, "times faster", table.loc[EMERDIFF, "s / image"] / table["s / image"])
    whole = table.loc[EMERDIFF, "gain"]
    table["share of gain"] = table["gain"] / whole if whole > 0 else np.nan
    table["kind"] = [kind_of(name) for name in table.index]
    return table.sort_values("s / image", ascending=False, kind="stable")


def beyond_filters(results: list[dict]) -> pd.DataFrame:
    """What modulated denoising adds to a guided filter: paired differences of modes to filtered masks and filtered features.

    Returns:
        A row per (variant, rival): the difference in points of oracle "mIoU" and of "boundary F", each with the "low" and
        "high" of its 95 % bootstrap interval over scenes.
    """
    rows, found = pd.DataFrame(results), {}
    edges = lambda name: rows[rows.variant == name]["boundary F"].to_numpy()
    modes = [n for n in (EMERDIFF, EMERDIFF_GUIDED, EMERDIFF_PIXEL, EMERDIFF_FAST) if n in set(rows.variant)]
    for name in modes:
        for rival in (BILINEAR_GUIDED, PIXELS_GUIDED):
            differences = {
                "mIoU": interval(_counts(rows, name), _counts(rows, rival)),
                "boundary F": interval(edges(name), edges(rival)),
            }
            row = found.setdefault((name, rival), {})
            for score, (value, low, high) in differences.items():
                row |= {score: 100 * value, f"{score} low": 100 * low, f"{score} high": 100 * high}
    return pd.DataFrame(found).T.rename_axis(["variant", "minus"])


def _counts(rows: pd.DataFrame, variant: str) -> np.ndarray:
    """(N, C, 3) of the oracle, scene by scene."""
    return np.stack([oracle(table) for table in rows[rows.variant == variant]["table"]])


def kind_of(variant: str) -> str:
    """Which of :data:`KINDS` a row of :func:`front` is."""
    if variant in NETWORK_FREE:
        return KINDS[0]
    changes = VARIANTS.get(variant, {})
    if MODES[changes.get("mode", "exact")].get("num_parts") is not None:
        return KINDS[3]
    return KINDS[2] if changes.get("guide_radius") else KINDS[1]
