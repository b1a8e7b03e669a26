"""Where to take queries, and where to modulate, for any model (notebook 10).

Both stages by themselves, at every layer of a model that attends to text. *Reading*: how well k-means masks of a layer's
queries fit the classes, and how well a linear probe tells classes apart by them. *Pushing*: how well **true** coarse masks find
their pixels by modulating a layer, beside bilinear upsampling; the queries have no part in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from ..assignment import assign_bilinear
from ..clustering import mask_embeddings
from ..datasets import LabelledDataset
from ..evaluation.intervals import interval
from ..evaluation.metrics import boundary_scores, mean_iou
from ..evaluation.regions import cell_labels, true_masks
from ..interventions import is_joint
from ..inversion import draw_noise
from ..pipeline import EmerDiffPipeline
from ..runs.cached_map import cached_map
from ..runs.keys import dataset_key, model_key, sample_key, versions
from ..settings import InversionSettings, whole
from ..words import word_attention
from .features import cluster_counts, image_queries, nearest, probe_accuracy
from .names import BILINEAR

READ_AT, PUSHED_AT = (
    (1, 101, 281, 481),
    (281, 481, 681),
)  # timesteps, moved to the nearest inference timesteps
DENOISING_STEPS = 6  # of every modulation, to fit all layers into minutes


def study(
    pipe: EmerDiffPipeline,
    data: LabelledDataset,
    samples: Mapping[str, int],
    output_dir: Path | str,
    settings: Mapping[str, Any],
    **execution: Any,
) -> dict[str, pd.DataFrame]:
    """All tables of one model: "Reading", "Pushing" and, where text and image tokens share attention, "Attention".

    Args:
        samples: names and positions in ``data``, at least two.
        settings: of the pipeline; :data:`DENOISING_STEPS` unless they say otherwise.
    """
    settings = {"denoising_steps": DENOISING_STEPS} | dict(settings)
    resolved, layers = pipe.resolve(**settings), pipe.backbone.layers()
    schedule = pipe.predictor(resolved.inversion.num_inference_steps).timesteps
    read_at, pushed_at = ([nearest(schedule, t) for t in times] for times in (READ_AT, PUSHED_AT))
    positions, features = list(samples.values()), resolved.features
    common = pipe, data, positions, layers
    tables = {
        "Reading": reading(
            *common, read_at, features.num_masks, features.noise_ensemble_size, resolved.inversion
        )
    }
    key = {
        "study": "layers",
        "layers": layers,
        "timesteps": pushed_at,
        "settings": resolved.to_dict(),
        "model": model_key(pipe),
        "data": dataset_key(data),
        "versions": versions(),
    }
    push = partial(push_true_masks, pipe, data, layers, pushed_at, settings)
    results = cached_map(
        push, samples, output_dir, key, partial(sample_key, data), label="true masks", **execution
    )
    tables["Pushing"] = pushing_table(results)
    if any(is_joint(pipe.denoiser.get_submodule(name)) for name in layers):
        shares = attention_to_text(*common, nearest(schedule, 281), resolved.inversion)
        tables["Attention"] = shares.rename_axis("layer").to_frame()
    return {title: frame.round(1) for title, frame in tables.items()}


@torch.no_grad()
def reading(
    pipe: EmerDiffPipeline,
    data: LabelledDataset,
    positions: Sequence[int],
    layers: Sequence[str],
    timesteps: Iterable[int],
    num_masks: int,
    draws: int = 8,
    inversion: InversionSettings | None = None,
) -> pd.DataFrame:
    """What a layer's queries know, by timestep.

    Args:
        draws: of noise that queries are averaged over.
        inversion: as for :func:`.features.image_queries`.

    Returns:
        a row per layer with at least ``num_masks`` cells and timestep: "oracle mIoU" of their bilinearly upsampled masks and
        "probe accuracy", of cells with a known class, of a linear probe that was fitted on the other half of the images;
        both in percent.

    Raises:
        ValueError: fewer than two images.
    """
    whole(2)("num_pictures", len(positions))
    classes, rows = len(data.class_names), []
    samples = [data[position] for position in positions]
    for timestep in tqdm(list(timesteps), desc="timesteps", leave=False):
        queries = [image_queries(pipe, s.image, timestep, layers, draws, s.seed, inversion) for s in samples]
        for layer in layers:
            features = [by_layer[layer] for by_layer in queries]
            if min(one.shape[:2].numel() for one in features) < num_masks:
                continue
            counts = sum(
                cluster_counts(one, num_masks, s.labels, classes, ignore_index=data.ignore_index)
                for one, s in zip(features, samples, strict=True)
            )
            known = [known_cells(one, s.labels, data) for one, s in zip(features, samples, strict=True)]
            halves = [list(map(list, zip(*half, strict=True))) for half in (known[::2], known[1::2])]
            accuracy = (probe_accuracy(*halves[0], *halves[1]) + probe_accuracy(*halves[1], *halves[0])) / 2
            rows.append((layer, timestep, 100 * mean_iou(counts), 100 * accuracy))
    columns = ["layer", "t", "oracle mIoU", "probe accuracy"]
    return pd.DataFrame(rows, columns=columns).set_index(["layer", "t"])


def known_cells(
    queries: torch.Tensor, labels: np.ndarray, data: LabelledDataset
) -> tuple[np.ndarray, np.ndarray]:
    """(n, 1, d) queries of the cells whose pixels are mostly of known classes, and these, (n, 1)."""
    count = len(data.class_names)
    cells = cell_labels(_with_void(labels, data), tuple(queries.shape[:2]), count + 1)
    return queries.numpy()[cells < count][:, None], cells[cells < count][:, None]


def _with_void(labels: np.ndarray, data: LabelledDataset) -> np.ndarray:
    """Ignored pixels as one more class."""
    return np.where(labels == data.ignore_index, len(data.class_names), labels)


@torch.no_grad()
def attention_to_text(
    pipe: EmerDiffPipeline,
    data: LabelledDataset,
    positions: Iterable[int],
    layers: Sequence[str],
    timestep: int,
    inversion: InversionSettings,
) -> pd.Series:
    """How much of image tokens' attention goes to the prompt's, percent, by layer: all of it in cross-attention."""
    shares, predictor = [], pipe.predictor(inversion.num_inference_steps, inversion.prompt)
    for sample in (data[position] for position in positions):
        clean = pipe.encode(sample.image, inversion.processing_resolution)
        noise = draw_noise(clean, 1, torch.Generator().manual_seed(sample.seed))
        attention = word_attention(predictor, predictor.add_noise(clean, noise, timestep), timestep, layers)
        shares.append([100 * attention[name].sum(-1).mean().item() for name in layers])
    return pd.Series(np.mean(shares, 0), list(layers), name="% of attention to words")


@torch.no_grad()
def push_true_masks(
    pipe: EmerDiffPipeline,
    data: LabelledDataset,
    layers: Iterable[str],
    timesteps: Sequence[int],
    settings: Mapping[str, Any],
    position: int,
) -> dict[str, float]:
    """Boundary F (2 px) of one image's true coarse masks, {"layer at t": F}, and of their bilinear upsampling."""
    sample = data[position]
    latest = {"modulation_timestep": max(timesteps)}
    generator = torch.Generator().manual_seed(sample.seed)
    coarse = pipe.cluster(sample.image, generator=generator, **(dict(settings) | latest))
    truth, grid = _with_void(sample.labels, data), tuple(coarse.masks.shape[1:])
    masks = torch.from_numpy(true_masks(truth, grid, len(data.class_names) + 1))
    coarse = replace(coarse, masks=masks, embeddings=mask_embeddings(coarse.queries, masks))
    edges = lambda labels: boundary_scores(labels, sample.labels, 2, data.ignore_index)[2]
    scores = {BILINEAR: edges(assign_bilinear(masks, coarse.size))}
    for layer in layers:
        for timestep in timesteps:
            changed = coarse.settings.replace(modulation_layer=layer, modulation_timestep=timestep)
            there = replace(coarse, settings=pipe.checked(changed, coarse.trajectory))
            scores[f"{layer} at {timestep}"] = edges(pipe.assign(pipe.respond(there)))
    return scores


def pushing_table(results: Sequence[Mapping[str, float]]) -> pd.DataFrame:
    """A row per layer and timestep in percent: "boundary F", its paired difference to bilinear upsampling of the same masks in
    points, and that one's 95 % bootstrap interval over images."""
    edges, rows = {name: np.array([result[name] for result in results]) for name in results[0]}, []
    for name, scores in edges.items():
        if name != BILINEAR:
            layer, timestep = name.rsplit(" at ", 1)
            ends = (100 * end for end in interval(scores, edges[BILINEAR]))
            rows.append((layer, int(timestep), 100 * scores.mean(), *ends))
    columns = ["layer", "t", "boundary F", "− bilinear", "low", "high"]
    return pd.DataFrame(rows, columns=columns).set_index(["layer", "t"])
