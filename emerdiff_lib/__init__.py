"""EmerDiff: pixel-level segmentation from a frozen text-to-image diffusion model, as a small library behind a workbook."""

from .inversion import Trajectory
from .pipeline import EmerDiffOutput, EmerDiffPipeline
from .toyscapes import Scene, Toyscapes

from ._version import __version__
__all__ = ["EmerDiffOutput", "EmerDiffPipeline", "Scene", "Toyscapes", "Trajectory"]
