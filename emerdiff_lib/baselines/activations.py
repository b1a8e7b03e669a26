"""A baseline inside the same network: k-means of its encoder's activations."""

from __future__ import annotations

import numpy as np
import torch

from ..features import extract_activations, noise_ensemble
from ..pipeline import EmerDiffPipeline
from .segmentation import Segmentation, cluster_features


@torch.no_grad()
def kmeans_activations(
    image: np.ndarray, pipe: EmerDiffPipeline, num_segments: int, seed: int = 0
) -> Segmentation:
    """k-means of :meth:`.Backbone.encoder_module`'s output, upsampled bilinearly: EmerDiff's coarse masks with other features.

    The image is (H, W, 3) uint8; timestep and number of noise draws are those of the checkpoint's queries.
    """
    defaults, module = pipe.default_settings(), pipe.backbone.encoder_module()
    timestep, size = defaults["feature_timestep"], defaults["noise_ensemble_size"]
    generator, predictor = torch.Generator().manual_seed(seed), pipe.predictor()
    trajectory = pipe.invert(image, start_timestep=timestep, generator=generator, noise_maps=False)
    noisy = noise_ensemble(predictor, trajectory, timestep, size, generator)
    features = extract_activations(predictor, noisy, timestep, [module])[module]
    return cluster_features(features, image.shape[:2], num_segments, seed)
