from ._version import __version__
from .export import load_output, save_output
from .inversion import Trajectory
from .pipeline import EmerDiffPipeline, load_pipeline
from .responses import ImageResponses
from .settings import Settings
from .stages import CoarseMasks, EmerDiffOutput, Responses
from .toyscapes import Scene, Toyscapes
from .words import name_image

__all__ = [
    "CoarseMasks",
    "EmerDiffOutput",
    "EmerDiffPipeline",
    "ImageResponses",
    "Responses",
    "Scene",
    "Settings",
    "Toyscapes",
    "Trajectory",
    "__version__",
    "load_output",
    "load_pipeline",
    "name_image",
    "save_output",
]
