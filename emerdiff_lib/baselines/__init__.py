"""The methods compared with, behind one signature: an image (and a model) in, labels and an embedding per segment out.

The refiners are the exception, as they are no segmentors: they bring EmerDiff's own coarse masks to pixels, and upsamplers its
coarse features.
"""

from .diffcut import diffcut
from .diffseg import diffseg
from .image_alone import felzenszwalb, kmeans_cells, kmeans_pixels, slic
from .other_features import Backbone, kmeans_activations
from .segmentation import Segmentation, cluster_features
from .upsamplers import cluster_upsampled, guided_masks, pixel_adaptive_masks, random_walk
