"""The same measurements for every model, paired by scene (notebook 10).

Models that differ in one thing are compared by both stages (:mod:`.domain_shift`: what the features know beyond positions, and
what modulation adds to *true* coarse masks) and by the whole method.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..evaluation.intervals import bootstrap
from ..evaluation.metrics import mean_iou
from ..loading import quietly
from ..pipeline import EmerDiffPipeline, load_pipeline
from .domain_shift import REFERENCE, class_counts, run_shifts

UNTRAINED = "untrained"  # a model's name that stands for the first one's architecture with random weights
FEATURES, CORRESPONDENCE, CONTROL, WHOLE = MEASURES = (
    "features beyond positions",
    "correspondence beyond bilinear",
    "guided filter beyond bilinear",
    "whole method",
)


def untrained(pipe: EmerDiffPipeline, seed: int = 0) -> EmerDiffPipeline:
    """The same model with a network of random weights, from ``seed``: what architecture and image give by themselves."""
    with torch.random.fork_rng(devices=[]), quietly():
        torch.manual_seed(seed)
        network = (
            type(pipe.denoiser)
            .from_config(pipe.denoiser.config)
            .to(pipe.denoiser.device, pipe.denoiser.dtype)
        )
    parts = pipe.components | {pipe.backbone.network: network.eval()}
    known = set(inspect.signature(type(pipe.pipe)).parameters)
    options = {name: value for name, value in pipe.config.items() if name in known - parts.keys()}
    other = EmerDiffPipeline(type(pipe.pipe)(**parts, **options), pipe.own_settings)
    other.set_progress_bar_config(disable=True)
    return other


def load_models(
    models: Iterable[str], device: str = "", dtype: str = "float32"
) -> dict[str, EmerDiffPipeline]:
    """{short name: pipeline}; :data:`UNTRAINED` is the first one's control.

    Raises:
        ValueError: no model, one named twice, or a control without anything to control.
    """
    models = list(models)
    if not models or models[0] == UNTRAINED:
        raise ValueError(
            f"models={models!r} is not possible; give a list whose first is a model, not {UNTRAINED!r}."
        )
    pipes: dict[str, EmerDiffPipeline] = {}
    for name in models:
        short = Path(name).name
        if short in pipes:
            raise ValueError(f"Model {short!r} is named twice; give folders of different names.")
        first = next(iter(pipes.values()), None)
        pipes[short] = untrained(first) if name == UNTRAINED else load_pipeline(name, device, dtype)
    return pipes


def overview(pipes: Mapping[str, EmerDiffPipeline], settings: Mapping[str, Any]) -> pd.DataFrame:
    """A row per model: its family, size, what it predicts and reads, and where the method takes queries and modulates."""
    place = lambda layer: layer.removesuffix(".attn2").removesuffix(".transformer_blocks.0")
    rows = {}
    for name, pipe in pipes.items():
        resolved = pipe.resolve(**settings)
        rows[name] = {
            "layout": pipe.backbone.name,
            "million weights": sum(parameter.numel() for parameter in pipe.denoiser.parameters()) / 1e6,
            "predicts": pipe.scheduler.config.get("prediction_type", "flow"),
            "reads": "words" if pipe.backbone.text_tokens("") else "no words",
            "pixels": resolved.inversion.processing_resolution,
            "queries": place(resolved.features.feature_layer),
            "t_f": resolved.features.feature_timestep,
            "modulated": place(resolved.perturbation.modulation_layer),
            "t_m": resolved.perturbation.modulation_timestep,
        }
    return pd.DataFrame(rows).T.rename_axis("model")


def measure(
    pipes: Mapping[str, EmerDiffPipeline],
    seeds: Iterable[int],
    output_dir: Path | str,
    settings: dict[str, Any],
    **execution: Any,
) -> dict[str, list[dict]]:
    """{model: :func:`.domain_shift.evaluate_scene`, scene by scene}, kept in a folder for each model.

    An untrained model is no checkpoint that another process could load: it always runs in this one.
    """
    seeds, results = list(seeds), {}
    for name, pipe in pipes.items():
        how = execution | ({"workers": 1, "engine": "local"} if name == UNTRAINED else {})
        folder = Path(output_dir) / name
        results[name] = run_shifts(pipe, [REFERENCE], seeds, folder, settings, **how)[REFERENCE]
    return results


def statistic(results: list[dict], measure: str) -> Callable[[np.ndarray], np.ndarray]:
    """One of :data:`MEASURES` in points, as a function of (…, n) indices of scenes, for :func:`~.intervals.bootstrap`."""
    if measure == FEATURES:
        masks, positions = class_counts(results, "own cells"), class_counts(results, "position cells")
        return lambda rows: 100 * (mean_iou(masks[rows].sum(-3)) - mean_iou(positions[rows].sum(-3)))
    if measure == WHOLE:
        segments = class_counts(results, "own")
        return lambda rows: 100 * mean_iou(segments[rows].sum(-3))
    way = "modulated" if measure == CORRESPONDENCE else "guided"
    gains = np.array([result["boundary F"][way] - result["boundary F"]["bilinear"] for result in results])
    return lambda rows: 100 * gains[rows].mean(-1)


def table(results: Mapping[str, list[dict]], draws: int = 500) -> pd.DataFrame:
    """A row per model and measure, in points: "value" with its 95 % bootstrap interval over scenes ("low", "high"), and its
    paired difference to the first model's ("− first", "from", "to").

    Features and the whole method are oracle mIoU (of coarse masks on their grid above masks of positions, and of pixels),
    correspondence and the guided filter boundary F of true coarse masks above bilinear upsampling.
    """
    rows, first = [], next(iter(results.values()))
    for model, scenes in results.items():
        for name in MEASURES:
            value, reference = statistic(scenes, name), statistic(first, name)
            difference = lambda rows, a=value, b=reference: a(rows) - b(rows)
            ends = (*bootstrap(value, len(scenes), draws), *bootstrap(difference, len(scenes), draws))
            rows.append((model, name, *ends))
    columns = ["model", "measure", "value", "low", "high", "− first", "from", "to"]
    return pd.DataFrame(rows, columns=columns).set_index(["model", "measure"])
