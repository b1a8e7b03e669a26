"""EmerDiff: pixel-level segmentation from a frozen text-to-image diffusion model, as a small library behind a workbook.

What is offered here stands in ``__init__.pyi``; each name is loaded when it is first used.
"""

import lazy_loader

from . import _environment  # noqa: F401  first: see there
from ._version import __version__  # noqa: F401

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
