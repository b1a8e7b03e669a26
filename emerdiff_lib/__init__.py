"""EmerDiff: pixel-level segmentation from a frozen text-to-image diffusion model, as a small library behind a workbook."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import _environment  # noqa: F401  first: see there
from ._version import __version__

if TYPE_CHECKING:
    from .inversion import Trajectory
    from .pipeline import EmerDiffPipeline, load_pipeline
    from .responses import ImageResponses
    from .settings import Settings
    from .stages import CoarseMasks, EmerDiffOutput, Responses
    from .toyscapes import Scene, Toyscapes

# Names are loaded when they are first asked for (PEP 562): diffusers and scikit-learn take seconds
_PLACES = {
    "CoarseMasks": "stages",
    "EmerDiffOutput": "stages",
    "EmerDiffPipeline": "pipeline",
    "ImageResponses": "responses",
    "Responses": "stages",
    "Scene": "toyscapes",
    "Settings": "settings",
    "Toyscapes": "toyscapes",
    "Trajectory": "inversion",
    "load_pipeline": "pipeline",
}
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
    "load_pipeline",
]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(f".{_PLACES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
