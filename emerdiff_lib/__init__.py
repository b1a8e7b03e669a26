"""EmerDiff: pixel-level segmentation from a frozen text-to-image diffusion model, as a small library behind a workbook."""

from ._version import __version__
from .inversion import Trajectory
from .pipeline import EmerDiffOutput, EmerDiffPipeline
from .toyscapes import Scene, Toyscapes

__all__ = ["EmerDiffOutput", "EmerDiffPipeline", "Scene", "Toyscapes", "Trajectory", "__version__"]
