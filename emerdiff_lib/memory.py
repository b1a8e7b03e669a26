"""How much fits into free memory, and how a CPU process holds on to it while it works.

What fits is an estimate: whoever uses it halves the batch when it was wrong.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch


def free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    return psutil.virtual_memory().available


def affordable_rows(
    module: torch.nn.Module, channels: int, pixels: int, share: float = 0.4, most: int = 64
) -> int:
    """Batch rows of ``module`` that ``share`` of the free memory holds, at least 1.

    A row is taken to need eight feature maps of ``channels`` × ``pixels`` at the module's widest resolution.
    """
    row = 8 * channels * pixels * module.dtype.itemsize
    return int(max(1, min(most, share * free_bytes(module.device) / row)))


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h
_DEFAULTS = {_M_TRIM_THRESHOLD: 128 * 1024, _M_MMAP_MAX: 65536}


@contextmanager
def pages_kept(device: torch.device) -> Iterator[None]:
    """Within the context, freed memory stays with the process instead of going back to the system after every operation.

    On a CPU, glibc hands large tensors back at once and the next one faults its pages in again: about a quarter of the time
    of a U-Net call. Elsewhere (GPU, other systems, or where MALLOC_… variables say what is wanted) this does nothing.
    """
    chosen = any(name.startswith("MALLOC_") for name in os.environ) or "GLIBC_TUNABLES" in os.environ
    libc = ctypes.CDLL(None) if sys.platform == "linux" and device.type == "cpu" and not chosen else None
    if libc is None or not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield
        return
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        for option, value in _DEFAULTS.items():
            libc.mallopt(option, value)
        libc.malloc_trim(0)
