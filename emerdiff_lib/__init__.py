"""EmerDiff: pixel-level segmentation from a frozen text-to-image diffusion model, as a small library behind a workbook."""

from .inversion import Trajectory
from .pipeline import EmerDiffOutput, EmerDiffPipeline
from .toyscapes import Scene, Toyscapes

__version__ = "0.1.0"
__all__ = ["EmerDiffOutput", "EmerDiffPipeline", "Scene", "Toyscapes", "Trajectory"]
