"""Which pixels answer when cells are pushed, how much of that stays inside the object, and does it matter? (Notebook 03.)

Two numbers that sound alike and are not. The *share inside* asks where one response lies: how much of it stays within the
object's true outline. *Won* asks who is loudest: the share of the object's pixels that its own response moves more than
every other region's does. Only the second is what an argmax over masks uses (Sec. 3.2, Eq. 5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from ..attention import layer_grid
from ..evaluation.metrics import boundary_scores, share_inside
from ..evaluation.regions import Region, cell_shares, find_regions, inner_cells
from ..inversion import Trajectory
from ..pipeline import EmerDiffPipeline
from ..refinement import resize_maps
from ..toyscapes import Scene, Toyscapes

Progress = Callable[[Iterable], Iterable]
BACKGROUND = ("sky", "grass")
SWEPT = ("λ, after the projection", "λ, before the projection", "injection")
SIZES = {"small (< 1.5 %)": (0.0, 0.015), "objects (1.5–20 %)": (0.015, 0.2), "large (> 20 %)": (0.2, 1.01)}


def modulation_grid(
    pipe: EmerDiffPipeline, trajectory: Trajectory, layer: str | None = None
) -> tuple[int, int]:
    """(h, w) cells of the modulated layer for this picture."""
    layer = layer or pipe.resolve().perturbation.modulation_layer
    return layer_grid(pipe.unet, layer, *trajectory.clean_latents.shape[2:])


def enlarge(cells: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(K, h, w) bool cells as (K, H, W) bool pixels, nearest neighbour."""
    pixels = F.interpolate(torch.from_numpy(cells)[None].float(), size=size, mode="nearest-exact")
    return pixels[0].numpy() > 0.5


def true_objects(scene: Scene, smallest: float = 0.015, largest: float = 0.2, most: int = 3) -> list[Region]:
    """The largest coarse-class regions of a scene that are neither sky nor grass, of these shares of the picture."""
    regions = find_regions(scene.coarse_labels, smallest, largest)
    names = Toyscapes.coarse_class_names
    return [region for region in regions if names[region.class_index] not in BACKGROUND][:most]


def responses_to(
    pipe: EmerDiffPipeline, trajectory: Trajectory, cells: np.ndarray, **settings: Any
) -> np.ndarray:
    """Difference maps (K, H, W) at the picture's own size for K sets of cells (K, h, w), unfiltered.

    ``settings`` are the pipeline's: ``modulation_timestep``, ``modulation_strength``, ``attention_injection`` …
    """
    pushed = pipe.coarse(trajectory, coarse_masks=cells)
    return resize_maps(pipe.respond(pushed, **settings).difference_maps, pushed.size).numpy()


@dataclass(frozen=True)
class Point:
    """One setting of a sweep: what is varied, to which value, and the keywords that do so."""

    parameter: str
    value: Any
    settings: dict[str, Any]


def sweep_points(strengths: Sequence[float], strength: float, timestep: int) -> list[Point]:
    """λ (after and before the projection) and injection, each varied alone around (``strength``, ``timestep``)."""
    base = {"modulation_strength": strength, "modulation_timestep": timestep}
    before = {"offset_placement": "before_projection"}
    after_f, before_f, held = SWEPT
    found = [Point(after_f, s, base | {"modulation_strength": s}) for s in strengths]
    found += [Point(before_f, s, base | before | {"modulation_strength": s}) for s in strengths]
    return found + [Point(held, "with", base), Point(held, "without", base | {"attention_injection": False})]


def object_shares(
    pipe: EmerDiffPipeline,
    scenes: Sequence[Scene],
    sweep: Sequence[Point],
    seed: int = 0,
    progress: Progress = iter,
) -> pd.DataFrame:
    """How much of the response to the inner half of an object's cells lies inside the object.

    Returns:
        a row per object and point: ``parameter``, ``value``, ``scene`` (seed), ``object`` (number within the scene),
        ``class``, ``area`` (share of the picture), ``share inside`` the true outline, ``in cells`` (share inside the pushed
        cells), and ``concentration``, the mean response inside over the mean over the picture. Scenes without an object
        have no row.
    """
    start, records = latest(pipe, (point.settings["modulation_timestep"] for point in sweep)), []
    for scene in progress(scenes):
        objects = true_objects(scene)
        if not objects:
            continue
        trajectory = invert(pipe, scene, start, seed)
        cells = np.stack([inner_cells(o.mask, modulation_grid(pipe, trajectory)) for o in objects])
        pushed, known = enlarge(cells, scene.labels.shape), {}
        for point in sweep:
            key = tuple(sorted(point.settings.items()))  # the middle of every sweep is the same point
            maps = known[key] = (
                known[key] if key in known else responses_to(pipe, trajectory, cells, **point.settings)
            )
            for number, region in enumerate(objects):
                inside = share_inside(maps[number], region.mask)
                records.append(
                    {
                        "parameter": point.parameter,
                        "value": point.value,
                        "scene": scene.seed,
                        "object": number,
                        "class": Toyscapes.coarse_class_names[region.class_index],
                        "area": region.area,
                        "share inside": inside,
                        "in cells": share_inside(maps[number], pushed[number]),
                        "concentration": inside / region.area,
                    }
                )
    return pd.DataFrame(records)


def competing_regions(labels: np.ndarray, grid: tuple[int, int]) -> list[Region]:
    """Every region that covers most of at least one cell of ``grid``: together they hold all cells, so they compete."""
    regions = find_regions(labels, 0.0, 1.0)
    winners = np.stack([cell_shares(region.mask, grid) for region in regions]).argmax(0)
    return [region for number, region in enumerate(regions) if (winners == number).any()]


def inside_or_won(
    pipe: EmerDiffPipeline,
    scenes: Sequence[Scene],
    timesteps: Sequence[int],
    strength: float,
    seed: int = 0,
    progress: Progress = iter,
) -> pd.DataFrame:
    """Share inside, and pixels won, when the inner halves of *all* regions of a scene are pushed, one at a time.

    Returns:
        a row per region and t_m: ``scene``, ``region``, ``timestep``, ``area``, ``size`` (a key of :data:`SIZES`),
        ``share inside``, ``in cells``, ``won`` (share of the region's pixels where its response is the largest of all
        regions'), and ``won beyond the cells`` (the same of its pixels outside the pushed cells; NaN without any).
    """
    start, records = latest(pipe, timesteps), []
    for scene in progress(scenes):
        trajectory = invert(pipe, scene, start, seed)
        grid = modulation_grid(pipe, trajectory)
        regions = competing_regions(scene.coarse_labels, grid)
        cells = np.stack([inner_cells(region.mask, grid) for region in regions])
        pushed = enlarge(cells, scene.labels.shape)
        for timestep in timesteps:
            settings = {"modulation_timestep": timestep, "modulation_strength": strength}
            maps = responses_to(pipe, trajectory, cells, **settings)
            loudest = maps.argmax(0)
            for number, region in enumerate(regions):
                own, beyond = loudest == number, region.mask & ~pushed[number]
                records.append(
                    {
                        "scene": scene.seed,
                        "region": number,
                        "timestep": timestep,
                        "area": region.area,
                        "size": next(n for n, (low, high) in SIZES.items() if low <= region.area < high),
                        "share inside": share_inside(maps[number], region.mask),
                        "in cells": share_inside(maps[number], pushed[number]),
                        "won": float(own[region.mask].mean()),
                        "won beyond the cells": float(own[beyond].mean()) if beyond.any() else np.nan,
                    }
                )
    return pd.DataFrame(records)


def segmentation_by_timestep(
    pipe: EmerDiffPipeline,
    scenes: Sequence[Scene],
    timesteps: Sequence[int],
    num_masks: int,
    strength: float,
    seed: int = 0,
    progress: Progress = iter,
) -> pd.DataFrame:
    """Boundary F of the whole method, k-means masks and all, by t_m, against the fine labels (2 px).

    Returns:
        a row per scene and t_m: ``scene`` (seed), ``timestep`` and ``F`` (percent).
    """
    start, records = latest(pipe, timesteps), []
    for scene in progress(scenes):
        generator = torch.Generator().manual_seed(seed)
        trajectory = invert(pipe, scene, start, seed)
        coarse = pipe.coarse(trajectory, num_masks, generator=generator)
        for timestep in timesteps:
            settings = {"modulation_timestep": timestep, "modulation_strength": strength}
            labels = pipe.assign(pipe.respond(coarse, **settings))
            score = 100 * boundary_scores(labels, scene.labels)[2]
            records.append({"scene": scene.seed, "timestep": timestep, "F": score})
    return pd.DataFrame(records)


def latest(pipe: EmerDiffPipeline, timesteps: Iterable[int]) -> int:
    """Where a trajectory has to start so that every one of ``timesteps``, and the default t_f, lies on it."""
    return max(pipe.resolve().features.feature_timestep, *timesteps)


def invert(pipe: EmerDiffPipeline, scene: Scene, start: int, seed: int) -> Trajectory:
    """A scene's trajectory without noise maps: modulated denoising does not need them."""
    generator = torch.Generator().manual_seed(seed)
    return pipe.invert(scene.image, start_timestep=start, generator=generator, noise_maps=False)
