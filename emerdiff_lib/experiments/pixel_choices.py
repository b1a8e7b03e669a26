"""How pixel mode was chosen: ``python -m emerdiff_lib.experiments.pixel_choices --num-scenes 24``.

One number at a time is walked around the present ones on *validation* scenes, those of the responses first (each is a run of
its own) and then those of the recipe that makes segments of them (:class:`~emerdiff_lib.pixels.Recipe`; no network any more).
``--question rivals`` does the same for the upsamplers that pixel mode is held against, which deserve as much.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..baselines import upsamplers
from ..baselines.upsamplers import cluster_upsampled
from ..pipeline import EmerDiffPipeline
from ..pixels import RECIPE
from ..settings import MODES, check_known
from .ablation_sweeps import Sweep, changed
from .ablations import Study, read_scenes_command, scenes_command
from .defaults import advice, compare, publish
from .names import EMERDIFF
from .selection import bar

QUESTIONS = ("responses", "recipe", "fast", "rivals")
RECIPES: dict[str, list[float]] = {
    "floor": [0, 1, 2, 3],
    "colour": [0, 0.05, 0.1],
    "adaptive": [0, 5, 10],
    "dimensions": [8, 16, 32],
    "clusters": [25, 40, 60],
    "smallest": [0.1, 0.2, 0.4],
    "reach": [0.125, 0.25, 0.375],
    "superpixels_per_segment": [1.5, 2, 2.5, 3],
    "joining": [0, 0.25, 0.5],
    "grouping": [0, 0.25, 0.5],
}
# Every upsampler around its defaults: {what is set: values}
UPSAMPLERS: dict[str, tuple[Callable, dict[str, list[float]]]] = {
    "guided filter": (upsamplers.guided, {"radius_in_cells": [1.0, 1.5, 2.0]}),
    "joint bilateral": (
        upsamplers.joint_bilateral,
        {"space": [0.7, 1.0, 1.4], "colour": [0.02, 0.03, 0.05, 0.1]},
    ),
    "random walk": (
        upsamplers.random_walk_features,
        {"beta": [130, 300, 500, 1000], "pull": [0.003, 0.01, 0.03]},
    ),
    "optimised": (upsamplers.optimised, {"steps": [30, 60, 100, 150, 300]}),
}


def walks(pipe: EmerDiffPipeline, usual: dict[str, Any], question: str) -> dict[str, Sweep]:
    """A sweep per number; ``usual`` are pixel mode's settings."""
    if question == "recipe":
        own = asdict(RECIPE)
        grids = {name: sorted({*values, own[name]}) for name, values in RECIPES.items()}
        return {
            name: Sweep(name, {f"{v:g}": {"recipe": {name: v}} for v in values}, f"{own[name]:g}")
            for name, values in grids.items()
        }
    if question == "fast":
        fast, points = MODES["fast"], {}
        for parts, steps, readout in itertools.product((12, 16, 24), (1, 2), ("latents", "image")):
            label = f"{parts} parts, {steps} step{'s' * (steps > 1)}, {readout}"
            points[label] = fast | {"num_parts": parts, "denoising_steps": steps, "readout": readout}
        exact = pipe.resolve(num_masks=usual["num_masks"], mode="exact").to_dict()
        own = next(label for label, point in points.items() if point == fast)
        return {"fast": Sweep("fast", {EMERDIFF: exact, "pixel": {}} | points, own)}
    grids = {
        "num_parts": [16, 24, 32, 64, 128],
        "modulation_strength": [1.0, 3.0, 10.0],
        "denoising_steps": [1, 2, 3, 6],
        "guide_radius": [0.0, 0.5, 1.0, 1.5],
        "modulation_timestep": [t for t in (281, 381, 481, 581) if t in pipe.denoiser(prompt=None).timesteps],
    }
    found = {}
    for name, values in grids.items():
        points = {f"{v:g}": {name: v} for v in sorted({*values, usual[name]})}
        found[name] = Sweep(name, points, f"{usual[name]:g}")
    two = {"one-sided": {"one_sided": True}, "two-sided": {"one_sided": False}}
    default = next(label for label, changes in two.items() if not changed(changes, usual))
    latents = {name: {"readout": name} for name in ("image", "latents")}
    return found | {"sides": Sweep("sides", two, default), "readout": Sweep("readout", latents, "image")}


@torch.no_grad()
def rivals(study: Study, progress: Callable | None = None) -> tuple[dict, dict[str, str]]:
    """({"method: option": {value: results, scene by scene}}, {…: the default value}); nothing is kept on disk."""
    found: dict[str, dict[str, list[dict]]] = {}
    defaults: dict[str, str] = {}
    for seed in (progress or bar("scenes"))(study.seeds):
        bench = study.trials.bench(seed)
        coarse, image = bench.coarse(study.usual), np.array(bench.scene.image)
        for method, (upsample, options) in UPSAMPLERS.items():
            for option, values in options.items():
                usual = upsample.__defaults__[upsample.__code__.co_varnames[2:].index(option)]
                defaults[f"{method}: {option}"] = f"{usual:g}"
                for value in sorted({*values, usual}):
                    with_option = partial(upsample, **{option: value})
                    result = cluster_upsampled(coarse.queries, image, with_option, study.usual["num_masks"])
                    points = found.setdefault(f"{method}: {option}", {}).setdefault(f"{value:g}", [])
                    points.append(bench.scored(result.embeddings, {EMERDIFF: result.labels}))
    return found, defaults


def fast_enough(table: pd.DataFrame, share: float = 0.1) -> list[str]:
    """What "fast" should be, by :func:`compare`'s table with the seconds "s": the best for less than a share of exact mode's."""
    part = table.loc["fast"]
    cheap = part[part["s"] < share * part.loc[EMERDIFF, "s"]]
    if cheap.empty:
        return [f"Nothing that was tried takes less than {share:.0%} of exact mode's seconds."]
    best = cheap["mean"].idxmax()
    return [
        f"The best for less than {share:.0%} of exact mode's seconds: {best} ({cheap.loc[best, 'mean']:.1f} at "
        f"{cheap.loc[best, 's'] / part.loc[EMERDIFF, 's']:.1%})."
    ]


def _seconds(results: list[dict]) -> float:
    """A picture's, from queries to labels."""
    return float(np.mean([sum(one["seconds"].values()) for one in results]))


def main(argv: list[str] | None = None) -> pd.DataFrame:
    parser = scenes_command(__doc__, "runs/pixel-choices", first_scene=1240, num_scenes=24)
    parser.add_argument("--question", default="recipe", help=f"one of {', '.join(QUESTIONS)}")
    parser.add_argument("--numbers", nargs="+", default=[], help="of that question; all by default")
    args = parser.parse_args(argv)
    check_known("question", args.question, QUESTIONS)
    pipe, seeds, settings, how = read_scenes_command(args)
    study = Study(pipe, seeds, args.output, {"mode": "pixel"} | settings, how)
    if args.question == "rivals":
        found, defaults = rivals(study)
    else:
        known = walks(pipe, study.usual, args.question)
        numbers = [check_known("number", name, known) for name in args.numbers]
        chosen = study.sweeps = {name: known[name] for name in numbers or known}
        study.compute(chosen)  # scene by scene, so that all recipes share a scene's responses
        found = {name: study.run(name) for name in chosen}
        defaults = {name: str(sweep.default) for name, sweep in chosen.items()}
    table = compare(found, defaults)
    if args.question != "rivals":
        seconds = {
            (name, label): _seconds(r) for name, points in found.items() for label, r in points.items()
        }
        table["s"] = pd.Series(seconds)
    notes = fast_enough(table) if args.question == "fast" else advice(table)
    title = f"How pixel mode was chosen: {', '.join([args.question, *args.numbers])}"
    name = "_".join(["pixel", args.question, *args.numbers])
    return publish(study, args, "pixel_choices", name, title, "those of pixel mode", table, notes)


if __name__ == "__main__":
    main()
