"""EmerDiff: pixel-level segmentation from a frozen text-to-image diffusion model, as a small library behind a workbook.

What is offered here stands in ``__init__.pyi``; each name is loaded when it is first used.
"""

import logging
import os

import lazy_loader

from ._version import __version__  # noqa: F401

# Two wishes that PyTorch reads when it is loaded; what the user has set stays. Threads of OpenMP that have nothing to do sleep at
# once instead of spinning on cores that others need (CHANGELOG.md has the numbers); ACTIVE is faster on cores that nobody else
# uses. Memory comes in large pages (Linux), which saves an eighth of a U-Net call on a CPU.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

# Image processors that nothing here uses would rather have torchvision, and say so in red
logging.getLogger("transformers.utils.import_utils").addFilter(
    lambda record: "requires torchvision" not in record.getMessage()
)

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
