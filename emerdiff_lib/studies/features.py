"""Features of an image at any layer and timestep, and how much of its classes they hold: linear probes and clusters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ..assignment import assign_bilinear
from ..clustering import cluster_queries
from ..evaluation.metrics import contingency_table
from ..evaluation.protocols import oracle
from ..features import extract_queries
from ..inversion import draw_noise
from ..pipeline import EmerDiffPipeline
from ..settings import Settings


def nearest(timesteps: Iterable[int], wanted: int) -> int:
    """The timestep nearest to a wanted one, for schedules that do not have it; the smaller of two."""
    return min(timesteps, key=lambda t: (abs(t - wanted), t))


def short_layer_names(layers: Iterable[str]) -> dict[str, str]:
    """{layer: as short as it stays unambiguous among them}: "up 2.0" for "up_blocks.2.attentions.0.[…].attn2"."""
    parts = {layer: layer.split(".transformer_blocks") for layer in layers}
    names = {layer: attention.removesuffix(".attn") for layer, (attention, *_) in parts.items()}
    for long, short in (("_blocks.", " "), ("_block", ""), (".attentions.", "."), ("attentions.", "")):
        names = {layer: name.replace(long, short) for layer, name in names.items()}
    if len(set(names.values())) < len(names):  # several transformer blocks in one
        names = {layer: f"{names[layer]}.{blocks.split('.')[1]}" for layer, (_, blocks) in parts.items()}
    return names


@torch.no_grad()
def image_queries(
    pipe: EmerDiffPipeline,
    image: Image.Image,
    timestep: int,
    layers: Sequence[str],
    draws: int = 1,
    seed: int = 0,
    settings: Settings | None = None,
) -> dict[str, torch.Tensor]:
    """Queries of an image at one timestep, averaged over ``draws`` noises, {layer: (h, w, d) float32}.

    ``settings`` have the prompt and the size of the image; by default the checkpoint's.
    """
    settings = settings or pipe.resolve()
    predictor = pipe.predictor(settings.num_inference_steps, settings.prompt)
    clean = pipe.encode(image, settings.processing_resolution)
    noise = draw_noise(clean, draws, torch.Generator().manual_seed(seed))
    return extract_queries(predictor, predictor.add_noise(clean, noise, timestep), timestep, list(layers))


def probe_accuracy(
    train: list[np.ndarray],
    train_labels: list[np.ndarray],
    test: list[np.ndarray],
    test_labels: list[np.ndarray],
) -> float:
    """Accuracy in [0, 1] of a logistic regression from features to cell classes, on images that it was not fitted on.

    Args:
        train, test: (h, w, d) features of each image.
        train_labels, test_labels: (h, w) classes of the same cells.
    """
    flat = lambda parts: np.concatenate([np.asarray(p).reshape(-1, p.shape[-1]) for p in parts])
    classes = lambda parts: np.concatenate([p.ravel() for p in parts])
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, tol=1e-2, max_iter=1000))
    return float(probe.fit(flat(train), classes(train_labels)).score(flat(test), classes(test_labels)))


def cluster_counts(
    features: torch.Tensor, num_masks: int, labels: np.ndarray, num_classes: int, seed: int = 0
) -> np.ndarray:
    """(C, 3) class counts, under the oracle, of the bilinearly upsampled k-means masks of (h, w, d) features."""
    masks = cluster_queries(features, num_masks, seed)
    segments = assign_bilinear(masks, labels.shape)
    return oracle(contingency_table(segments, labels, len(masks), num_classes))
