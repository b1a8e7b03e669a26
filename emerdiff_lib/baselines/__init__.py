"""The methods compared with, behind one signature: an image (and a model) in, labels and an embedding per segment out.

The refiners are the exception, as they are no segmentors: they bring EmerDiff's own coarse masks to pixels, and upsamplers its
coarse features.
"""

from .activations import kmeans_activations
from .backbones import Backbone, kmeans_backbone
from .diffcut import diffcut
from .diffseg import diffseg
from .kmeans import kmeans_cells, kmeans_pixels
from .refiners import guided_masks, pixel_adaptive_masks, random_walk
from .segmentation import Segmentation
from .superpixels import felzenszwalb, slic
from .upsamplers import cluster_upsampled

__all__ = [
    "Backbone",
    "Segmentation",
    "cluster_upsampled",
    "diffcut",
    "diffseg",
    "felzenszwalb",
    "guided_masks",
    "kmeans_activations",
    "kmeans_backbone",
    "kmeans_cells",
    "kmeans_pixels",
    "pixel_adaptive_masks",
    "random_walk",
    "slic",
]
