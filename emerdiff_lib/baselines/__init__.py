"""The rivals, behind one signature: image (and model) in, labels and an embedding per segment out."""

from .diffcut import diffcut
from .diffseg import diffseg
from .features import Backbone, kmeans_activations, kmeans_backbone
from .kmeans import kmeans_cells, kmeans_pixels
from .refiners import guided_masks, pixel_adaptive_masks, random_walk
from .segmentation import Segmentation, with_embeddings
from .superpixels import felzenszwalb, slic

__all__ = ["Backbone", "Segmentation", "diffcut", "diffseg", "felzenszwalb", "guided_masks", "kmeans_activations",
           "kmeans_backbone", "kmeans_cells", "kmeans_pixels", "pixel_adaptive_masks", "random_walk", "slic",
           "with_embeddings"]  # fmt: skip
