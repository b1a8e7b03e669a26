"""Sweeps on Toyscapes scenes (notebook 07): each changes one thing, on the same scenes with the same noise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from ..clustering import cluster_queries, mask_embeddings
from ..evaluation.metrics import boundary_scores, contingency_table
from ..inversion import Trajectory
from ..pipeline import EmerDiffPipeline
from ..runs.keys import digest, scene_key
from ..settings import ASSIGNED, MODULATED, NAMES, check_known
from ..stages import CoarseMasks
from ..toyscapes import Scene, Toyscapes
from .mapping import map_scenes
from .names import BILINEAR, EMERDIFF

CAPTION = "the scene's caption"  # as a prompt: each scene's own
FEATURES = ("smoothed", "with positions")


def run_sweeps(
    pipe: EmerDiffPipeline,
    sweeps: Mapping[str, Mapping[str, dict[str, Any]]],
    usual: dict[str, Any],
    seeds: Iterable[int],
    output_dir: Path | str,
    **execution: Any,
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """{sweep: {label: :func:`evaluate`'s results, scene by scene}}, by :func:`~.mapping.map_scenes`.

    Results are kept by scene and settings: sweeps around the same settings share what they have in common.

    Args:
        sweeps: {name: {label: settings of the pipeline, by flat name}}. Two things are known here alone: the setting "features"
            (one of :data:`FEATURES`) and the prompt :data:`CAPTION`.
        usual: settings that are swept around, flat and complete.
    """
    name = lambda point: digest(usual | point)
    inverted: dict[int, InvertedScene] = {}  # the last scene, for all its points

    def trial(seed: int, settings: dict[str, Any]) -> dict[str, Any]:
        if seed not in inverted:
            inverted.clear()
            inverted[seed] = invert_scene(pipe, Toyscapes.from_seed(seed), usual)
        return evaluate(pipe, inverted[seed], settings)

    results = map_scenes(
        trial,
        seeds,
        {name(point): usual | point for points in sweeps.values() for point in points.values()},
        output_dir,
        pipe,
        key={"study": "ablations", "settings": usual},
        sample_key=lambda seed, settings: scene_key(seed) | {"trial": settings},
        **execution,
    )
    return {
        title: {label: results[name(point)] for label, point in points.items()}
        for title, points in sweeps.items()
    }


@dataclass
class InvertedScene:
    """What all settings of a scene share.

    Attributes:
        trajectory: from the noisiest timestep on.
        generator_state: where a trajectory of the usual length leaves the generator. Noises are drawn upwards from the smallest
            timestep, so that a longer trajectory begins like a shorter one; what is drawn afterwards has to be the same, too.
        coarse: the usual masks.
    """

    scene: Scene
    trajectory: Trajectory
    generator_state: torch.Tensor
    coarse: CoarseMasks


def invert_scene(pipe: EmerDiffPipeline, scene: Scene, usual: dict[str, Any]) -> InvertedScene:
    """The usual settings give what ``pipe(scene.image, generator=torch.Generator().manual_seed(scene.seed))`` gives."""
    names = ("num_inference_steps", "prompt", "processing_resolution")
    options = {"method": usual["inversion"], "noise_maps": False} | {name: usual[name] for name in names}
    steps = pipe.predictor(usual["num_inference_steps"], prompt=None).timesteps
    generator = torch.Generator().manual_seed(scene.seed)
    start = max(usual["feature_timestep"], usual["modulation_timestep"])
    pipe.invert(scene.image, start_timestep=start, generator=generator, **options)
    state = generator.get_state()
    generator.manual_seed(scene.seed)
    trajectory = pipe.invert(scene.image, start_timestep=max(steps), generator=generator, **options)
    generator.set_state(state)
    return InvertedScene(scene, trajectory, state, pipe.cluster(trajectory, generator=generator, **usual))


def evaluate(pipe: EmerDiffPipeline, inverted: InvertedScene, settings: dict[str, Any]) -> dict[str, Any]:
    """A scene under complete flat settings.

    Returns:
        "seed" of the scene; "embeddings" (K, d) of the masks; for EmerDiff and for the same coarse masks upsampled bilinearly,
        {"table": pixels of (mask, coarse class), "boundary_f": boundary F within 2 px of the fine labels}. For JSON.
    """
    scene = inverted.scene
    output = pipe.output(pipe.respond(coarse_masks(pipe, inverted, settings)))
    embeddings = np.round(output.mask_embeddings.astype(float), 5)
    result = {"seed": scene.seed, "embeddings": embeddings.tolist()}
    for method, segments in ((EMERDIFF, output.labels), (BILINEAR, output.baseline_labels)):
        classes = len(Toyscapes.coarse_class_names)
        table = contingency_table(segments, scene.coarse_labels, len(output.mask_embeddings), classes)
        boundary_f = boundary_scores(segments, scene.labels, 2)[2]
        result[method] = {"table": table.tolist(), "boundary_f": boundary_f}
    return result


def coarse_masks(pipe: EmerDiffPipeline, inverted: InvertedScene, settings: dict[str, Any]) -> CoarseMasks:
    """Coarse masks under complete flat settings: the usual ones, unless these say something else about masks."""
    given = {name: value for name, value in settings.items() if name != "features"}
    kind = settings.get("features")
    if given["prompt"] == CAPTION:
        given["prompt"] = inverted.scene.caption
    resolved, usual = pipe.resolve(**given), inverted.coarse.settings
    differing = {name for name in NAMES if getattr(resolved, name) != getattr(usual, name)}
    if kind is None and differing <= {*MODULATED, *ASSIGNED}:
        return replace(inverted.coarse, settings=resolved)
    trajectory = replace(inverted.trajectory, prompt=given["prompt"])  # its latents do not depend on the text
    generator = torch.Generator()
    generator.set_state(inverted.generator_state)
    coarse = pipe.cluster(trajectory, generator=generator, **given)
    if kind is None:
        return coarse
    queries = transformed(coarse.queries, kind)
    masks = cluster_queries(queries, resolved.num_masks, inverted.scene.seed)
    embeddings, clustered = mask_embeddings(queries, masks), masks.numpy().tobytes()
    return replace(coarse, queries=queries, masks=masks, embeddings=embeddings, clustered=clustered)


def transformed(queries: torch.Tensor, kind: str) -> torch.Tensor:
    """Queries (h, w, d) smoothed over 0.7 cells, or with positions appended at twice their total deviation.

    Raises:
        ValueError: for a ``kind`` that is not in :data:`FEATURES`.
    """
    if check_known("features", kind, FEATURES) == "smoothed":
        return torch.from_numpy(gaussian_filter(queries.numpy(), (0.7, 0.7, 0)))
    height, width, _ = queries.shape
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    positions = torch.stack([y, x], -1) / torch.stack([y, x], -1).flatten(0, 1).std(0)
    total = queries.flatten(0, 1).var(0).sum().sqrt()
    return torch.cat([queries, positions * (2 * total / 2**0.5)], -1)
