"""How a checkpoint's defaults are chosen: ``python -m emerdiff_lib.experiments.defaults --num-scenes 8``.

One setting at a time is walked around the present defaults on *validation* scenes; what is best by the mean of oracle mIoU and
boundary F should be the default, unless the difference cannot be told from chance. Move a default in ``checkpoints.py``, run
again, and stop when nothing moves any more. ``--question refinement-order`` asks in which order the Gaussian and the guided
filter should follow each other.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..assignment import assign_bilinear, assign_pixels
from ..evaluation.metrics import mean_iou
from ..evaluation.protocols import bootstrap
from ..pipeline import EmerDiffPipeline
from ..refinement import refine
from ..settings import Refinement, check_known
from ..stages import Responses
from .ablation_sweeps import Sweep, changed, nearest_timestep, short_layer_names, swept_layers
from .ablation_tables import level, scores, with_interval
from .ablations import Study, read_scenes_command, scenes_command
from .manifest import write_manifest
from .names import BILINEAR, EMERDIFF
from .selection import bar

QUESTIONS = ("defaults", "refinement-order")
GUIDE_RADIUS = 1.5  # cells; where a guided filter is asked about and the settings have none
GAUSSIAN, GUIDED = "Gaussian", "guided"
ORDERS = ((), (GAUSSIAN,), (GUIDED,), (GAUSSIAN, GUIDED), (GUIDED, GAUSSIAN))


def walks(pipe: EmerDiffPipeline, **settings: Any) -> dict[str, Sweep]:
    """A sweep per tuned setting, by its flat name: values around the checkpoint's default, which is one of them."""
    usual = pipe.resolve(**settings).to_dict()
    near = nearest_timestep(pipe, usual["num_inference_steps"])
    strength = usual["modulation_strength"]
    grids: dict[str, list] = {
        "filter_sigma": [0.0, 0.5, 1.0, 2.0],
        "modulation_strength": [strength * factor for factor in (0.3, 0.5, 1, 2, 3)],
        "modulation_timestep": [near(t) for t in (281, 381, 481, 581, 681, 781, 881)],
        "modulation_layer": swept_layers(pipe, usual),
        "noise_ensemble_size": [1, 2, 4, 8, 16],
        "feature_timestep": [near(t) for t in (1, 101, 181, 281, 381, 481)],
    }
    found = {}
    for name, values in grids.items():
        values = list(dict.fromkeys([*values, usual[name]]))
        texts = short_layer_names(values) if name == "modulation_layer" else None
        values = values if texts else sorted(values)
        points = {texts[v] if texts else f"{v:g}": {name: v} for v in values}
        default = next(label for label, changes in points.items() if not changed(changes, usual))
        found[name] = Sweep(name, points, default)
    return found


def mean_score(results: list[dict]) -> float:
    """What defaults are chosen by: the mean of oracle mIoU and boundary F, in points."""
    return (level(results, "oracle mIoU") + level(results, "boundary F")) / 2


def mean_score_difference(
    first: list[dict], second: list[dict], draws: int = 500
) -> tuple[float, float, float]:
    """(first − second, low, high) of :func:`mean_score` on the same scenes, with the 95 % bootstrap interval over scenes."""

    def statistic(rows: np.ndarray) -> float:
        halves = [50 * (mean_iou(oracle[rows].sum(0)) + edges[rows].mean()) for oracle, edges in parts]
        return float(halves[0] - halves[1])

    parts = [(scores(r, "oracle mIoU"), scores(r, "boundary F")) for r in (first, second)]
    return bootstrap(statistic, len(first), draws)


def compare(
    found: dict[str, dict[str, list[dict]]], defaults: dict[str, str], draws: int = 500
) -> pd.DataFrame:
    """A row per setting and value, in points: both scores, their mean, its paired difference to the default, and what the value
    is: "default", "best", or "better, measurably" (its interval lies above 0)."""
    rows = []
    for name, points in found.items():
        usual = points[defaults[name]]
        best = max(points, key=lambda label: mean_score(points[label]))
        for label, results in points.items():
            value, low, high = mean_score_difference(results, usual, draws)
            is_default = label == defaults[name]
            words = [w for w, true in (("default", is_default), ("best", label == best)) if true]
            words += ["better, measurably"] if low > 0 and not is_default else []
            row = {"setting": name, "value": label}
            row |= {measure: level(results, measure) for measure in ("oracle mIoU", "boundary F")}
            row |= {"mean": mean_score(results), "− default": value, "low": low, "high": high}
            rows.append(row | {"is": ", ".join(words)})
    return pd.DataFrame(rows).set_index(["setting", "value"])


def advice(table: pd.DataFrame) -> list[str]:
    """A sentence per setting of :func:`compare`'s table: whether its default should stay."""
    sentences = []
    for name, part in table.groupby(level=0, sort=False):
        part = part.droplevel(0)
        best, default = part["mean"].idxmax(), part.index[part["is"].str.startswith("default")][0]
        row = part.loc[best]
        difference = with_interval((row["− default"], row["low"], row["high"]))
        if best == default:
            sentences.append(f"{name}: {default} is best and stays.")
        elif row["low"] > 0:
            sentences.append(f"{name}: {best} is better than the default {default}: {difference}. Move it.")
        else:
            sentences.append(
                f"{name}: {best} cannot be told from the default {default}: {difference}. It stays."
            )
    return sentences


def refined(responses: Responses, order: tuple[str, ...], scale: int, refinement: Refinement) -> np.ndarray:
    """(H, W) labels with the two filters one after the other in any ``order``; ``scale`` is the VAE's reduction."""
    guide, maps = responses.coarse.guide(scale), responses.difference_maps
    cell = guide.shape[1] / responses.coarse.masks.shape[1]
    for step in order:
        alone = Refinement(
            filter_sigma=refinement.filter_sigma if step == GAUSSIAN else 0,
            guide_radius=refinement.guide_radius if step == GUIDED else 0,
        )
        maps = refine(maps, alone, guide, cell)
    return assign_pixels(maps, responses.coarse.size)


@torch.no_grad()
def refinement_orders(study: Study, progress: Callable | None = None) -> dict[str, list[dict]]:
    """{order: results, scene by scene}: the usual responses under every order in :data:`ORDERS`; nothing is kept on disk."""
    pipe, usual = study.pipe, study.usual
    refinement = Refinement(usual["filter_sigma"] or 0.5, usual["guide_radius"] or GUIDE_RADIUS)
    found: dict[str, list[dict]] = {" → ".join(order) or "none": [] for order in ORDERS}
    for seed in (progress or bar("scenes"))(study.seeds):
        bench = study.trials.bench(seed)
        coarse = bench.coarse(usual)
        responses, bilinear = pipe.respond(coarse), assign_bilinear(coarse.masks, coarse.size)
        for name, order in zip(found, ORDERS, strict=True):
            labels = refined(responses, order, pipe.vae_scale_factor, refinement)
            found[name].append(
                bench.scored(coarse.embeddings.numpy(), {EMERDIFF: labels, BILINEAR: bilinear})
            )
    return found


def main(argv: list[str] | None = None) -> pd.DataFrame:
    parser = scenes_command(__doc__, "runs/defaults", first_scene=1000, num_scenes=8)
    parser.add_argument("--question", default="defaults", help=f"one of {', '.join(QUESTIONS)}")
    args = parser.parse_args(argv)
    check_known("question", args.question, QUESTIONS)
    pipe, seeds, settings, how = read_scenes_command(args)
    study = Study(pipe, seeds, args.output, settings, how)
    if args.question == "defaults":
        chosen = walks(pipe, **settings)
        found = {name: study.run(sweep) for name, sweep in chosen.items()}
        table = compare(found, {name: sweep.default for name, sweep in chosen.items()})
        notes = advice(table)
    else:
        usual = f"{GAUSSIAN} → {GUIDED}"
        table = compare({"order of the filters": refinement_orders(study)}, {"order of the filters": usual})
        notes = advice(table)
    title = f"How the defaults of {args.model} were chosen: {args.question}"
    return publish(study, args, "defaults", args.question, title, "the defaults", table, notes)


def publish(
    study: Study,
    args: argparse.Namespace,
    module: str,
    name: str,
    title: str,
    around: str,
    table: pd.DataFrame,
    notes: list[str],
) -> pd.DataFrame:
    """Print :func:`compare`'s table and write ``name``.json, unless this is a shard: a share of the scenes answers nothing."""
    print(table.round(1).to_string())
    print("\n".join(notes), flush=True)
    if not study.how.shard:
        given = f"--question {args.question} --first-scene {args.first_scene} --num-scenes {args.num_scenes}"
        if args.settings:
            given += f" --settings '{json.dumps(args.settings)}'"
        if numbers := vars(args).get("numbers"):
            given += f" --numbers {' '.join(numbers)}"
        write_manifest(
            args.output / f"{name}.json",
            title=title,
            question=f"Which values around {around} are best on validation scenes?",
            command=f"python -m emerdiff_lib.experiments.{module} --model {args.model} {given}",
            settings=study.usual,
            seeds={"tuning": study.seeds},
            tables={"one setting at a time": table},
            notes=notes,
        )
    return table


if __name__ == "__main__":
    main()
