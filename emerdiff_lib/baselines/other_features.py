"""k-means of other features: of the same network's encoder, and of vision backbones that are no diffusion models."""

from __future__ import annotations

import os

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoModel, PreTrainedModel
from transformers.image_processing_base import ImageProcessingMixin

from ..features import extract_activations, noise_ensemble
from ..images import processing_size, to_guide
from ..loading import load_component
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


class Backbone:
    """A vision transformer of ``transformers`` (DINOv2 and the like) as a source of patch features.

    Args:
        model: a vision model whose ``last_hidden_state`` ends with one token per patch.
        mean, std: of the pixel normalisation.
    """

    def __init__(self, model: PreTrainedModel, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)):
        self.model = model.eval()
        self.mean, self.std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (mean, std))

    @classmethod
    def from_pretrained(cls, name: str) -> Backbone:
        """Load weights (safetensors) by folder or hub id, "facebook/dinov2-base" for one."""
        name = os.path.expanduser(name)
        model = load_component(AutoModel, name, optional="pooler")  # which is not used
        # the image processors themselves want torchvision
        processing, _ = ImageProcessingMixin.get_image_processor_dict(name)
        return cls(model, processing["image_mean"], processing["image_std"])

    @torch.no_grad()
    def __call__(self, image: np.ndarray, resolution: int = 518) -> torch.Tensor:
        """(h, w, d) float32 patch features of an (H, W, 3) uint8 image, at about resolution² pixels."""
        patch = self.model.config.patch_size
        size = processing_size((image.shape[0], image.shape[1]), resolution, patch)
        pixels = F.interpolate(to_guide(image)[None], size=size, mode="bicubic", antialias=True)
        pixels = (pixels.clamp(0, 1) - self.mean) / self.std
        tokens = self.model(pixel_values=pixels.to(self.model.device, self.model.dtype)).last_hidden_state
        h, w = (side // patch for side in size)
        return tokens[0, -h * w :].float().cpu().unflatten(0, (h, w))
