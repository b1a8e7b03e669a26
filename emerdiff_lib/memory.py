"""How much fits into free memory: an estimate, so whoever uses it halves the batch when it was wrong."""

from __future__ import annotations

import psutil
import torch


def affordable_rows(
    device: torch.device,
    dtype: torch.dtype,
    channels: int,
    pixels: int,
    share: float = 0.4,
    most: int = 64,
) -> int:
    """Batch rows of a network that ``share`` of the free memory holds, at least 1.

    A row is taken to need eight feature maps of ``channels`` × ``pixels`` at the network's widest resolution.
    """
    free = psutil.virtual_memory().available
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free = torch.cuda.mem_get_info(device)[0] + reserved
    return int(max(1, min(most, share * free / (8 * channels * pixels * dtype.itemsize))))
