"""Segmentations that need no diffusion model: the yardsticks for everything that claims to have emerged."""

from .kmeans import KMeansSegmentation, kmeans_cells, kmeans_pixels

__all__ = ["KMeansSegmentation", "kmeans_cells", "kmeans_pixels"]
