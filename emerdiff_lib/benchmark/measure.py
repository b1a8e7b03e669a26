"""Time and memory of a run."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from threading import Event, Thread

import psutil
import torch

from ..studies.names import EMERDIFF, EMERDIFF_FAST, EMERDIFF_PIXEL
from ..timing import timed

NAME_OF_MODE = {"exact": EMERDIFF, "pixel": EMERDIFF_PIXEL, "fast": EMERDIFF_FAST}


def run_times(
    run: Callable[[], object], device: torch.device, repeats: int = 3, warm_up: bool = True
) -> list[float]:
    """Seconds of each of ``repeats`` runs, what they leave to a GPU included, after one that is not counted."""

    def finished():
        run()
        if device.type not in ("cpu", "meta"):
            torch.accelerator.synchronize(device)

    return [timed(finished)[1] for _ in range(repeats + warm_up)][warm_up:]


def peak_memory(run: Callable[[], object], device: torch.device) -> int:
    """Bytes by which memory rises during a run, at most: allocated memory on a GPU, the process's own on a CPU."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        start = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - start
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)  # idle memory goes back to the system, so that using it again is seen
    process, done = psutil.Process(), Event()
    sizes = [process.memory_info().rss]

    def watch():
        while not done.wait(0.002):
            sizes.append(process.memory_info().rss)

    watcher = Thread(target=watch)
    watcher.start()
    try:
        run()
    finally:
        done.set()
        watcher.join()
    return max(sizes) - sizes[0]
