"""Memory at its peak."""

from __future__ import annotations

import threading

import psutil
import torch


class PeakMemory:
    """Bytes by which memory rose above where it stood, at most: allocated memory on a GPU, the process's own on a CPU."""

    def __init__(self, device: torch.device):
        self.device, self.bytes = device, 0

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.start = torch.cuda.memory_allocated(self.device)
            return self
        self.process, self.done = psutil.Process(), threading.Event()
        self.start = self.process.memory_info().rss
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.done.wait(0.002):
            self.bytes = max(self.bytes, self.process.memory_info().rss - self.start)

    def __exit__(self, *error) -> None:
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self.device) - self.start
        else:
            self.done.set()
            self.thread.join()
