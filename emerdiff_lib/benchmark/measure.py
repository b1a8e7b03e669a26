"""Time and memory: seconds of a run, its memory at the peak, and the naive implementation beside every mode on one image."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from collections.abc import Callable

import numpy as np
import pandas as pd
import psutil
import torch
from tqdm.auto import tqdm

from ..pipeline import EmerDiffPipeline
from ..settings import whole
from ..stages import CoarseMasks, Responses
from ..studies.names import EMERDIFF, EMERDIFF_FAST, EMERDIFF_PIXEL
from ..timing import timed
from . import reference

NAIVE = "naive implementation"
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


def against_naive(pipe: EmerDiffPipeline, coarse: CoarseMasks, repeats: int = 3) -> pd.DataFrame:
    """One image from its coarse masks to labels, by the naive implementation and in every mode.

    Args:
        coarse: of a trajectory with noise maps (``pipe.invert``), which the naive implementation replays.
        repeats: medians are over this many runs, taken in turns.

    Returns:
        A row per implementation: "seconds" (median) and "times faster" than the naive one; "same labels", the share of
        pixels labelled as by it, and "difference", the largest one between their difference maps (both NaN where segments
        are none of its masks).

    Raises:
        ValueError: ``repeats`` is not at least 1.
    """
    whole(1)("repeats", repeats)

    def respond_naively() -> Responses:
        inversion, perturbation = coarse.settings.inversion, coarse.settings.perturbation
        maps = reference.difference_maps(
            pipe.denoiser(inversion.num_inference_steps, inversion.prompt),
            pipe.decode,
            coarse.trajectory,
            coarse.masks,
            perturbation.modulation_layer,
            perturbation.modulation_timestep,
            perturbation.modulation_strength,
        )
        return Responses(coarse, maps, coarse.settings)

    runs = {NAIVE: respond_naively} | {
        name: lambda mode=mode: pipe.respond(coarse, mode=mode) for mode, name in NAME_OF_MODE.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    responses, labels = {}, {}

    @torch.no_grad()
    def segment(name: str):
        responses[name] = runs[name]()
        labels[name] = pipe.assign(responses[name])

    turns = list(runs) * (1 + repeats)  # a slow minute of the machine hits all of them
    for name in tqdm(turns, desc="against the naive implementation", leave=False):
        seconds[name] += run_times(lambda: segment(name), pipe.unet.device, 1, warm_up=False)  # noqa: B023
    table = pd.DataFrame({"seconds": {name: float(np.median(taken[1:])) for name, taken in seconds.items()}})
    table["times faster"] = table.loc[NAIVE, "seconds"] / table["seconds"]
    maps = {name: each.difference_maps for name, each in responses.items() if isinstance(each, Responses)}
    for name, each in maps.items():
        table.loc[name, "same labels"] = float((labels[name] == labels[NAIVE]).mean())
        table.loc[name, "difference"] = float((each - maps[NAIVE]).abs().max())
    return table.rename_axis("implementation")


class PeakMemory:
    """Bytes by which memory rose above where it stood, at most: allocated memory on a GPU, the process's own on a CPU."""

    def __init__(self, device: torch.device):
        self.device, self.bytes = device, 0

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.start = torch.cuda.memory_allocated(self.device)
            return self
        _return_idle_memory()
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


def _return_idle_memory() -> None:
    """Gives memory that lies idle in this process back to the system (glibc), so that using it again is seen."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
