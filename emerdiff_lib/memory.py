"""How much fits into free memory: an estimate, so whoever uses it halves the batch when it was wrong."""

from __future__ import annotations

import psutil
import torch
from diffusers import ModelMixin


def free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    return psutil.virtual_memory().available


def affordable_rows(
    module: ModelMixin, channels: int, pixels: int, share: float = 0.4, most: int = 64
) -> int:
    """Batch rows of ``module`` that ``share`` of the free memory holds, at least 1.

    A row is taken to need eight feature maps of ``channels`` × ``pixels`` at the module's widest resolution.
    """
    row = 8 * channels * pixels * module.dtype.itemsize
    return int(max(1, min(most, share * free_bytes(module.device) / row)))
