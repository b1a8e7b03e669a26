"""The same measurements for every model: ``python -m emerdiff_lib.experiments.cross_model --models toyscapes untrained …``.

What do EmerDiff's semantics come from: text, denoising, the architecture, or the picture itself? Models that differ in one thing
are held against each other by both stages (``studies.domain_shift``: what the features know beyond positions, and what modulation
adds to *true* coarse masks) and by the whole method, scene by scene, so that differences are paired.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..checkpoints import family_of, quietly
from ..datasets.images import scene_seeds
from ..evaluation.intervals import bootstrap
from ..evaluation.metrics import mean_iou
from ..loading import load_pipeline
from ..pipeline import EmerDiffPipeline
from ..runs.harness import Execution
from ..studies.domain_shift import REFERENCE, WAYS, class_counts, run_shifts
from .manifest import write_manifest
from .selection import command as study_command
from .selection import execution

UNTRAINED = "untrained"  # a model's name that stands for the first one's architecture with random weights
FEATURES, CORRESPONDENCE, CONTROL, WHOLE = MEASURES = (
    "features beyond positions",
    "correspondence beyond bilinear",
    "guided filter beyond bilinear",
    "whole method",
)


def untrained(pipe: EmerDiffPipeline, seed: int = 0) -> EmerDiffPipeline:
    """The same model with a network of random weights, from ``seed``: what architecture and picture give by themselves."""
    with torch.random.fork_rng(devices=[]), quietly():
        torch.manual_seed(seed)
        unet = type(pipe.unet).from_config(pipe.unet.config).to(pipe.unet.device, pipe.unet.dtype)
    own = ("default_settings", "force_zeros_for_empty_prompt", "max_sequence_length")
    kept = {name: pipe.config[name] for name in own}
    other = EmerDiffPipeline(**(pipe.components | {"unet": unet.eval()}), **kept)
    other.model_name = f"{pipe.model_name}, {UNTRAINED}"
    other.set_progress_bar_config(disable=True)
    return other


def load_models(
    names: Iterable[str], device: str = "", dtype: str = "float32"
) -> dict[str, EmerDiffPipeline]:
    """{short name: pipeline}; :data:`UNTRAINED` is the first one's control.

    Raises:
        ValueError: no model, one named twice, or a control without anything to control.
    """
    names = list(names)
    if not names or names[0] == UNTRAINED:
        raise ValueError(
            f"models={names!r} is not possible; give a list whose first is a model, not {UNTRAINED!r}."
        )
    found: dict[str, EmerDiffPipeline] = {}
    for name in names:
        short = Path(name).name
        if short in found:
            raise ValueError(f"Model {short!r} is named twice; give folders of different names.")
        found[short] = (
            untrained(found[next(iter(found))]) if name == UNTRAINED else load_pipeline(name, device, dtype)
        )
    return found


def overview(models: Mapping[str, EmerDiffPipeline], settings: dict[str, Any] | None = None) -> pd.DataFrame:
    """A row per model: its family, size, what it predicts and reads, and where the method looks and pushes."""
    rows = {}
    for name, pipe in models.items():
        used, family = pipe.resolve(**(settings or {})), family_of(pipe.unet.config)
        weights = sum(parameter.numel() for parameter in pipe.unet.parameters())
        rows[name] = {
            "layout": family.name if family else "unknown",
            "million weights": weights / 1e6,
            "predicts": pipe.scheduler.config.get("prediction_type", "flow"),
            "reads": "words" if pipe.tokenizer is not None else "no words",
            "pixels": used.inversion.processing_resolution,
            "queries": _place(used.features.feature_layer),
            "t_f": used.features.feature_timestep,
            "modulated": _place(used.perturbation.modulation_layer),
            "t_m": used.perturbation.modulation_timestep,
        }
    return pd.DataFrame(rows).T.rename_axis("model")


def _place(layer: str) -> str:
    """A layer's name without what all layers of one transformer block share."""
    return layer.removesuffix(".attn2").removesuffix(".transformer_blocks.0")


def measure(
    models: Mapping[str, EmerDiffPipeline],
    seeds: Iterable[int],
    output_dir: Path | str,
    settings: dict[str, Any] | None = None,
    how: Execution | None = None,
) -> dict[str, list[dict]]:
    """{model: ``domain_shift.evaluate_scene``, scene by scene}; what is in ``output_dir`` already, of exactly this, is kept,
    in a folder for each model.

    An untrained model is no checkpoint that another process could load: it always runs in this one.
    """
    seeds, how, found = list(seeds), how or Execution(), {}
    for name, pipe in models.items():
        own = Execution(shard=how.shard) if name == UNTRAINED else how
        folder = Path(output_dir) / name
        options = {"engine": own.engine, "workers": own.workers, "shard": own.shard}
        found[name] = run_shifts(pipe, [REFERENCE], seeds, folder, settings or {}, **options)[REFERENCE]
    return found


def _statistic(results: list[dict], measure: str):
    """Of the scenes with given (…, n) indices, in points."""
    if measure == FEATURES:
        own, nothing = class_counts(results, "own cells"), class_counts(results, "position cells")
        return lambda rows: 100 * (mean_iou(own[rows].sum(-3)) - mean_iou(nothing[rows].sum(-3)))
    if measure == WHOLE:
        whole = class_counts(results, "own")
        return lambda rows: 100 * mean_iou(whole[rows].sum(-3))
    way = WAYS[1] if measure == CORRESPONDENCE else WAYS[2]
    gains = np.array([r["boundary F"][way] - r["boundary F"][WAYS[0]] for r in results])
    return lambda rows: 100 * gains[rows].mean(-1)


def table(found: Mapping[str, list[dict]], draws: int = 500) -> pd.DataFrame:
    """A row per model and measure, in points: "value" with its 95 % bootstrap interval over scenes ("low", "high"), and its
    paired difference to the first model's ("− first", "from", "to").

    Features and the whole method are oracle mIoU (of coarse masks on their grid above masks of positions, and of pixels),
    correspondence and the guided filter boundary F of true coarse masks above bilinear upsampling.
    """
    rows, first = [], next(iter(found.values()))
    for name, results in found.items():
        for measure in MEASURES:
            own, other = _statistic(results, measure), _statistic(first, measure)
            value, low, high = bootstrap(own, len(results), draws)
            change = bootstrap(lambda rows: own(rows) - other(rows), len(results), draws)  # noqa: B023
            row = {"model": name, "measure": measure, "value": value, "low": low, "high": high}
            rows.append(row | dict(zip(("− first", "from", "to"), change, strict=True)))
    return pd.DataFrame(rows).set_index(["model", "measure"])


def describe(table: pd.DataFrame) -> list[str]:
    """A sentence per model but the first: where it differs from it, measurably."""
    models = list(dict.fromkeys(table.index.get_level_values("model")))
    sentences = []
    for name in models[1:]:
        part, told = table.loc[name], []
        for measure, row in part.iterrows():
            if measure != CONTROL and (row["from"] > 0 or row["to"] < 0):
                told.append(f"{measure} {row['− first']:+.1f} [{row['from']:+.1f}, {row['to']:+.1f}]")
        different = "; ".join(told) or "nothing that can be told from chance"
        sentences.append(f"{name} against {models[0]}, points: {different}.")
    return sentences


def command() -> argparse.ArgumentParser:
    parser = study_command(__doc__, "runs/cross-model")
    parser.set_defaults(model="", num_masks=None)
    parser.add_argument("--first-scene", type=int, default=1700, help="0–999: test, 1000–1999: validation")
    parser.add_argument("--num-scenes", type=int, default=12, help="how many")
    parser.add_argument(
        "--models", nargs="+", default=["toyscapes", UNTRAINED], help=f"folders, names, or {UNTRAINED!r}"
    )
    return parser


def main(argv: list[str] | None = None) -> pd.DataFrame:
    args = command().parse_args(argv)
    if args.model:
        raise ValueError(f"--model {args.model} is one model; name all that are compared with --models.")
    seeds, how = scene_seeds(args.first_scene, args.num_scenes), execution(args)
    settings = args.settings if args.num_masks is None else {"num_masks": args.num_masks} | args.settings
    models = load_models(args.models, args.device, args.dtype)
    found = table(measure(models, seeds, args.output, settings, how))
    notes = describe(found)
    print(found.round(1).to_string())
    print("\n".join(notes))
    if not how.shard:
        given = f"--models {' '.join(map(str, args.models))} --first-scene {args.first_scene} --num-scenes {args.num_scenes}"
        write_manifest(
            args.output / "cross_model.json",
            title="Models held against each other",
            question="What do EmerDiff's semantics come from?",
            command=f"python -m emerdiff_lib.experiments.cross_model {given}",
            settings={name: pipe.resolve(**settings).to_dict() for name, pipe in models.items()},
            seeds=seeds,
            tables={"Points, with 95 % intervals": found},
            notes=notes,
        )
    return found


if __name__ == "__main__":
    main()
