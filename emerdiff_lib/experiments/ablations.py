"""The paper's ablations (Tables 4–9, Fig. 14) and some of ours: ``python -m emerdiff_lib.experiments.ablations``.

Every sweep changes one thing about the checkpoint's defaults, on the same scenes with the same noise. Results are kept scene by
scene and setting, so a study can be stopped, goes on, shares what its sweeps have in common, and may be split between processes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from ..clustering import cluster_queries, mask_embeddings
from ..evaluation.metrics import boundary_scores, contingency_table
from ..features import extract_activations
from ..loading import load_pipeline
from ..pipeline import EmerDiffPipeline
from ..runs.harness import Execution, run
from ..runs.identity import digest, model_identity, versions
from ..runs.samples import scene_identity
from ..runs.shards import parse_shard, shard_of
from ..runs.store import JsonStore
from ..runs.task import Item, Task
from ..settings import Assignment, FeatureSettings, Perturbation, Refinement, Shortcuts, check_known
from ..stages import CoarseMasks
from ..toyscapes import Scene, Toyscapes
from .ablation_sweeps import (
    CAPTION,
    FEATURES,
    Sweep,
    changed,
    choose,
    short_layer_names,
    sweeps,
    swept_layers,
)
from .ablation_tables import describe, overview, table
from .names import BILINEAR, EMERDIFF
from .selection import check_range, command, execution
from .strength import label_free_hints

# What masks, responses and labels depend on, one after the other, once a scene is inverted
_COARSE = ("prompt", *(one.name for one in fields(FeatureSettings)))
_RESPONSE = ("mode", *(one.name for kind in (Perturbation, Shortcuts, Assignment) for one in fields(kind)))
_REFINEMENT = tuple(one.name for one in fields(Refinement))


def scene_seeds(first_scene: int, num_scenes: int) -> range:
    """Seeds of test (0–999) or validation scenes (1000–1999); ValueError for others, or for none."""
    return check_range(first_scene, num_scenes, 2000, ("first_scene", "num_scenes"))


class Study:
    """Sweeps on some scenes, with what is known already.

    Args:
        seeds: of the Toyscapes scenes.
        output_dir: results are kept here, a record per scene and setting. Processes with other scenes may share it.
        settings: what to sweep around, over the checkpoint's defaults.
        how: runs are carried out; a shard is a share of the scenes.

    Attributes:
        sweeps: {name: :class:`Sweep`}; put your own in.
        layers: {layer: its short name in the labels}.
        usual: settings that are swept around, flat and complete.
        trials: the :class:`Trials` that compute.
    """

    def __init__(
        self,
        pipe: EmerDiffPipeline,
        seeds: Iterable[int],
        output_dir: Path | str,
        settings: dict | None = None,
        how: Execution | None = None,
    ):
        self.pipe, self.how = pipe, how or Execution()
        self.seeds = shard_of(list(seeds), parse_shard(self.how.shard))
        self.usual = pipe.resolve(**(settings or {})).to_dict()
        self.sweeps = sweeps(pipe, **(settings or {}))
        self.layers = short_layer_names(swept_layers(pipe, self.usual))
        self.trials = Trials(pipe, self.usual, output_dir)

    def compute(self, names: Iterable[str]) -> None:
        """Everything that some sweeps need, scene by scene, so that they share what they have in common.

        Raises:
            ValueError: an unknown name, or a scene that failed.
        """
        chosen = [self.sweeps[check_known("sweep", name, self.sweeps)] for name in names]
        points = [changes for sweep in chosen for changes in sweep.points.values()]
        self._run(
            [self.trials.item(seed, changes) for seed in self.seeds for changes in points],
            "scenes × settings",
        )

    def run(self, sweep: str | Sweep) -> dict[str, list[dict]]:
        """{label: results, scene by scene}; only what was not kept yet is computed.

        Raises:
            ValueError: an unknown name, or a scene that failed.
        """
        sweep = self.sweeps[check_known("sweep", sweep, self.sweeps)] if isinstance(sweep, str) else sweep
        items = {
            label: [self.trials.item(seed, changes) for seed in self.seeds]
            for label, changes in sweep.points.items()
        }
        self._run([item for scene in zip(*items.values(), strict=True) for item in scene], sweep.title)
        recall = self.trials.store.recall
        return {label: [recall(item.name) for item in found] for label, found in items.items()}

    def _run(self, items: list[Item], label: str) -> None:
        once = list({item.name: item for item in items}.values())
        report = run(self.trials, once, replace(self.how, shard=""), label=label)
        if report.failures:
            raise ValueError(f"{len(report.failures)} trials failed. {report}")


class Trials(Task):
    """Scenes under the usual settings with some changes."""

    def __init__(self, pipe: EmerDiffPipeline, usual: dict[str, Any], output_dir: Path | str):
        self.pipe, self.usual, self._bench = pipe, usual, None
        identity = {"study": "ablations", "model": model_identity(pipe), "versions": versions()}
        self.store: JsonStore = JsonStore(output_dir, identity)

    def item(self, seed: int, changes: dict[str, Any]) -> Item:
        """One scene with some changes; those of one scene share its inversion."""
        settings = self.usual | changed(changes, self.usual)
        return Item(f"{seed:06}-{digest(settings)}", (seed, changes), group=str(seed))

    def picture(self, item: Item) -> dict[str, Any]:
        return scene_identity(item.what[0])

    def compute(self, item: Item) -> dict[str, Any]:
        """See :meth:`Bench.evaluate`."""
        seed, changes = item.what
        changes = changed(changes, self.usual)
        return {"changes": changes} | self.bench(seed).evaluate(self.usual | changes)

    def bench(self, seed: int) -> Bench:
        """The scene of a seed, inverted; one at a time is held."""
        if self._bench is None or self._bench.scene.seed != seed:
            self._bench = Bench(self.pipe, Toyscapes.from_seed(seed), self.usual)
        return self._bench

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_bench": None}


class Bench:
    """One scene, inverted once for all its settings, with the usual coarse masks and whatever was computed last.

    The usual settings give what ``pipe(scene.image, generator=torch.Generator().manual_seed(scene.seed))`` gives.
    """

    def __init__(self, pipe: EmerDiffPipeline, scene: Scene, usual: dict[str, Any]):
        self.pipe, self.scene, self.usual = pipe, scene, usual
        how = {"method": usual["inversion"], "noise_maps": False}
        how |= {name: usual[name] for name in ("num_inference_steps", "prompt", "processing_resolution")}
        # Noises are drawn upwards from the smallest timestep: a longer trajectory begins like a shorter one, but the generator
        # has to stand where the shorter one leaves it for all that is drawn afterwards to be the same too.
        generator = torch.Generator().manual_seed(scene.seed)
        start = max(usual["feature_timestep"], usual["modulation_timestep"])
        pipe.invert(scene.image, start_timestep=start, generator=generator, **how)
        self._drawn = generator.get_state()
        steps = pipe.denoiser(usual["num_inference_steps"], prompt=None).timesteps
        generator.manual_seed(scene.seed)
        self.trajectory = pipe.invert(scene.image, start_timestep=max(steps), generator=generator, **how)
        self._kept: dict[str, tuple[str, Any]] = {}

    def coarse(self, settings: dict[str, Any]) -> CoarseMasks:
        """Coarse masks under complete flat settings; the usual ones, and the latest others, are kept."""
        wanted = {name: settings.get(name) for name in (*_COARSE, "features")}
        usual = all(self.usual.get(name) == value for name, value in wanted.items())
        return self._once("usual masks" if usual else "masks", wanted, lambda: self._coarse(wanted))

    def _coarse(self, wanted: dict[str, Any]) -> CoarseMasks:
        generator, kind = torch.Generator(), wanted["features"]
        generator.set_state(self._drawn)
        trajectory = replace(
            self.trajectory, prompt=wanted["prompt"]
        )  # its latents do not depend on the text
        chosen = self.usual | {name: wanted[name] for name in _COARSE}
        coarse = self.pipe.coarse(trajectory, generator=generator, **chosen)
        if kind is None:
            return coarse
        queries = transformed(coarse.queries, kind)
        masks = cluster_queries(queries, wanted["num_masks"], self.scene.seed)
        return replace(coarse, queries=queries, masks=masks, embeddings=mask_embeddings(queries, masks))

    def evaluate(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The scene under complete flat settings.

        Returns:
            for EmerDiff and for the same coarse masks upsampled bilinearly, {"table": pixels of (mask, coarse class),
            "boundary_f": boundary F within 2 px of the fine labels}; "embeddings" (K, d) of the masks; "hints", see
            :func:`.strength.label_free_hints`; "layer_rms", the root mean square of the modulated layer's own output at t_m,
            which λ is added to; "seconds" {"coarse", "modulate", "assign"}. Lists and numbers, for JSON.
        """
        settings = dict(settings)
        if settings["prompt"] == CAPTION:
            settings["prompt"] = self.scene.caption
        coarse = self.coarse(settings)
        perturbed = {name: settings[name] for name in _RESPONSE}
        wanted = {name: settings.get(name) for name in (*_COARSE, *_RESPONSE, "features")}
        responses = self._once("responses", wanted, lambda: self.pipe.respond(coarse, **perturbed))
        labels = self.pipe.assign(responses, **{name: settings[name] for name in _REFINEMENT})
        out = self.pipe.output(responses, labels, difference_maps=True)
        at = {name: settings[name] for name in ("prompt", "modulation_layer", "modulation_timestep")}
        bilinear, embeddings = out.baseline_labels, out.mask_embeddings
        return self.scored(embeddings, {EMERDIFF: labels, BILINEAR: bilinear}) | {
            "hints": label_free_hints(self.scene.image, out.difference_maps, labels, bilinear),
            "layer_rms": self._once("rms", at, lambda: self._layer_rms(**at)),
            "seconds": {"coarse": sum(coarse.seconds.values())}
            | {name: responses.seconds[name] for name in ("modulate", "assign") if name in responses.seconds},
        }

    def scored(self, embeddings: np.ndarray, found: dict[str, np.ndarray]) -> dict[str, Any]:
        """{"embeddings": (K, d) of the masks} and the scores of each (H, W) label map of them, for JSON."""
        result: dict[str, Any] = {"embeddings": np.round(embeddings.astype(float), 5).tolist()}
        for name, labels in found.items():
            classes = len(Toyscapes.coarse_class_names)
            counts = contingency_table(labels, self.scene.coarse_labels, len(embeddings), classes)
            boundary_f = boundary_scores(labels, self.scene.labels, 2)[2]
            result[name] = {"table": counts.tolist(), "boundary_f": boundary_f}
        return result

    def _layer_rms(self, prompt: str, modulation_layer: str, modulation_timestep: int) -> float:
        denoiser = self.pipe.denoiser(self.usual["num_inference_steps"], prompt)
        latents = self.trajectory.latents[modulation_timestep]
        output = extract_activations(denoiser, latents, modulation_timestep, [modulation_layer])[
            modulation_layer
        ]
        return float(output.square().mean().sqrt())

    def _once(self, slot: str, wanted: dict[str, Any], compute: Callable[[], Any]) -> Any:
        """What ``compute`` gives, or what this slot holds if it was computed for the same settings."""
        key = json.dumps(wanted, sort_keys=True)
        if self._kept.get(slot, ("",))[0] != key:
            self._kept[slot] = key, compute()
        return self._kept[slot][1]


def transformed(queries: torch.Tensor, kind: str) -> torch.Tensor:
    """Queries (h, w, d) smoothed over 0.7 cells, or with positions appended at twice their total deviation.

    Raises:
        ValueError: for a ``kind`` that is not in :data:`FEATURES`.
    """
    check_known("features", kind, FEATURES)
    if kind == "smoothed":
        return torch.from_numpy(gaussian_filter(queries.numpy(), (0.7, 0.7, 0)))
    height, width, _ = queries.shape
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    positions = torch.stack([y, x], -1) / torch.stack([y, x], -1).flatten(0, 1).std(0)
    total = queries.flatten(0, 1).var(0).sum().sqrt()
    return torch.cat([queries, positions * (2 * total / 2**0.5)], -1)


def scenes_command(
    description: str | None, output: str, first_scene: int, num_scenes: int
) -> argparse.ArgumentParser:
    """:func:`.selection.command` for a study of Toyscapes scenes."""
    parser = command(description, output)
    parser.set_defaults(num_masks=None)  # the checkpoint's
    parser.add_argument(
        "--first-scene", type=int, default=first_scene, help="0–999: test, 1000–1999: validation"
    )
    parser.add_argument("--num-scenes", type=int, default=num_scenes, help="how many")
    return parser


def read_scenes_command(
    args: argparse.Namespace,
) -> tuple[EmerDiffPipeline, range, dict[str, Any], Execution]:
    """(pipeline, seeds, settings, how to run) that :func:`scenes_command`'s arguments ask for."""
    seeds, how = scene_seeds(args.first_scene, args.num_scenes), execution(args)
    settings = args.settings if args.num_masks is None else {"num_masks": args.num_masks} | args.settings
    return load_pipeline(args.model, args.device, args.dtype), seeds, settings, how


def main(argv: list[str] | None = None) -> None:
    parser = scenes_command(__doc__, "runs/ablations", first_scene=300, num_scenes=10)
    parser.add_argument("--sweeps", nargs="*", default=[], help="which; all by default")
    args = parser.parse_args(argv)
    pipe, seeds, settings, how = read_scenes_command(args)
    study = Study(pipe, seeds, args.output, settings, how)
    chosen = choose(study.sweeps, args.sweeps)
    study.compute(chosen)
    for name, sweep in chosen.items():
        found = study.run(name)
        print(f"\n{sweep.title}" + (f" (paper: {sweep.source})" if sweep.source else ""))
        print(overview(table(found), sweep).to_string())
        print("\n".join(describe(found, sweep)), flush=True)


if __name__ == "__main__":
    main()
