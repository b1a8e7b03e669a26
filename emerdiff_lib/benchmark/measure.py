"""Time and memory of one image: the reference point, exact and fast side by side; curves; and memory at its peak."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch
from tqdm.auto import tqdm

from ..experiments.names import EMERDIFF, EMERDIFF_FAST
from ..images import ImageInput
from ..pipeline import EmerDiffPipeline
from ..stages import CoarseMasks, Responses
from . import reference
from .costs import Cost, Machine, modulation_cost, run_times

REFERENCE = "reference point"
NAME_OF_MODE = {"exact": EMERDIFF, "fast": EMERDIFF_FAST}


def against_reference(
    pipe: EmerDiffPipeline,
    image: ImageInput,
    machine: Machine,
    repeats: int = 3,
    seed: int = 0,
    **settings: Any,
) -> pd.DataFrame:
    """One image from its coarse masks to labels, by the reference point, the exact and the fast mode.

    Args:
        machine: what the prediction is for; measured in the dtype of the pipeline.
        repeats: medians are over this many runs, taken in turns.
        **settings: ``num_masks``, ``modulation_timestep`` … over the checkpoint's own.

    Returns:
        A row per implementation: "seconds" (median) and "times faster" than the reference point; "same labels", the share
        of pixels labelled as by it, and "difference", the largest one between their difference maps (NaN where latents
        were compared); "GFLOP", "predicted s" and "utilisation" (share of the measured rate of matrix products) of the
        library's own, without the filters behind the maps.
    """
    with torch.no_grad():
        coarse = coarse_for_reference(pipe, image, seed, **settings)
        chosen = coarse.settings
        runs = {REFERENCE: lambda: Responses(coarse, reference_maps(pipe, coarse), chosen)} | {
            name: lambda mode=mode: pipe.respond(coarse, mode=mode) for mode, name in NAME_OF_MODE.items()
        }
        bar = tqdm(total=len(runs) * (1 + repeats), desc="against the reference point", leave=False)
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        responses, labels = {}, {}
        for repeat in range(1 + repeats):  # in turns, so that a slow minute of the machine hits all of them
            for name, run in runs.items():

                def whole(name=name, run=run):
                    responses[name] = run()
                    labels[name] = pipe.assign(responses[name])

                taken = run_times(whole, 1, pipe.unet.device, warm_up=False)
                if repeat:  # the first is the warm-up
                    seconds[name] += taken
                bar.update()
        bar.close()
        costs = {name: cost_of(pipe, coarse, mode=mode) for mode, name in NAME_OF_MODE.items()}
    table = pd.DataFrame({"seconds": {name: float(np.median(taken)) for name, taken in seconds.items()}})
    table["times faster"] = table.loc[REFERENCE, "seconds"] / table["seconds"]
    table["same labels"] = [float((labels[name] == labels[REFERENCE]).mean()) for name in table.index]
    maps = {name: found.difference_maps for name, found in responses.items()}
    table["difference"] = [
        float((each - maps[REFERENCE]).abs().max()) if each.shape == maps[REFERENCE].shape else np.nan
        for each in maps.values()
    ]
    for name, cost in costs.items():
        table.loc[name, "GFLOP"] = cost.flops / 1e9
        table.loc[name, "predicted s"] = cost.seconds(machine, pipe.unet.dtype)
    table["utilisation"] = table["GFLOP"] * 1e9 / table["seconds"] / machine.rate(pipe.unet.dtype)
    return table.rename_axis("implementation")


def coarse_for_reference(
    pipe: EmerDiffPipeline, image: ImageInput, seed: int = 0, **settings: Any
) -> CoarseMasks:
    """Coarse masks whose trajectory holds the noise maps that the reference point replays, unlike the pipeline."""
    chosen, generator = pipe.resolve(**settings), torch.Generator().manual_seed(seed)
    start = max(chosen.features.feature_timestep, chosen.perturbation.modulation_timestep)
    how = chosen.inversion
    trajectory = pipe.invert(
        image,
        how.inversion,
        start,
        how.num_inference_steps,
        how.prompt,
        how.processing_resolution,
        generator,
    )
    return pipe.coarse(trajectory, generator=generator, **chosen.to_dict())


@torch.no_grad()
def reference_maps(pipe: EmerDiffPipeline, coarse: CoarseMasks) -> torch.Tensor:
    """(K, H, W) difference maps by the reference point, unfiltered."""
    how, push = coarse.settings.inversion, coarse.settings.perturbation
    return reference.difference_maps(
        pipe.denoiser(how.num_inference_steps, how.prompt),
        pipe.decode,
        coarse.trajectory,
        coarse.masks,
        push.modulation_layer,
        push.modulation_timestep,
        push.modulation_strength,
    )


def cost_of(pipe: EmerDiffPipeline, coarse: CoarseMasks, **settings: Any) -> Cost:
    """What ``pipe.respond(coarse, **settings)`` costs by the model's count."""
    used, how = coarse.settings.replace(**settings), coarse.settings.inversion
    return modulation_cost(
        pipe.denoiser(how.num_inference_steps, how.prompt),
        pipe.decode,
        tuple(coarse.trajectory.clean_latents.shape[1:]),
        tuple(coarse.masks.shape[1:]),
        len(coarse.masks),
        used.perturbation,
        pipe.default_mask_batch_size(coarse.trajectory, used.shortcuts),
        used.shortcuts,
    )


def scaling(
    pipe: EmerDiffPipeline,
    image: ImageInput,
    mask_counts: Iterable[int],
    resolutions: Iterable[int],
    timesteps: Iterable[int],
    repeats: int = 2,
    **settings: Any,
) -> pd.DataFrame:
    """Seconds from coarse masks to difference maps against K, image side and number of steps, one varied at a time.

    ``settings`` are those of all other trials. Returns columns "varied", "value", "method" and "seconds" (the least of
    ``repeats``).
    """
    denoiser = pipe.denoiser(pipe.resolve(**settings).inversion.num_inference_steps, prompt=None)
    steps = lambda t: sum(each <= t for each in denoiser.timesteps)
    trials = [("masks K", k, {"num_masks": k}) for k in mask_counts]
    trials += [("image side in pixels", side, {"processing_resolution": side}) for side in resolutions]
    trials += [("denoising steps", steps(t), {"modulation_timestep": t}) for t in timesteps]
    rows = []
    for varied, value, change in tqdm(trials, desc="curves", leave=False):
        coarse = pipe.coarse(image, generator=torch.Generator().manual_seed(0), **settings | change)
        for mode, name in NAME_OF_MODE.items():
            once = lambda mode=mode: pipe.respond(coarse, mode=mode)  # noqa: B023
            seconds = min(run_times(once, repeats, pipe.unet.device, warm_up=False))
            rows.append({"varied": varied, "value": value, "method": name, "seconds": seconds})
    return pd.DataFrame(rows)


def peak_memory(
    pipe: EmerDiffPipeline,
    image: ImageInput,
    mask_counts: Sequence[int],
    timesteps: Sequence[int],
    mask_batch_size: int = 8,
) -> pd.DataFrame:
    """MiB by which memory peaks during exact runs: a row per K, a column per t_m, with batches of one size."""
    run = lambda k, t: pipe(image, k, modulation_timestep=t, mask_batch_size=mask_batch_size)
    run(max(mask_counts), min(timesteps))  # what the allocator keeps for itself
    table = pd.DataFrame(index=pd.Index(mask_counts, name="K"), columns=[f"t_m = {t}" for t in timesteps])
    trials = [(k, t) for k in mask_counts for t in timesteps]
    for k, t in tqdm(trials, desc="memory", leave=False):
        with PeakMemory(pipe.unet.device) as peak:
            run(k, t)
        table.loc[k, f"t_m = {t}"] = peak.bytes / 2**20
    return table.astype(float)


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


def describe(comparison: pd.DataFrame, memory: pd.DataFrame) -> list[str]:
    """Sentences about :func:`against_reference` and :func:`peak_memory`."""
    exact, fast = comparison.loc[EMERDIFF], comparison.loc[EMERDIFF_FAST]
    off = exact["seconds"] / exact["predicted s"] - 1
    least, most = memory.to_numpy().min(), memory.to_numpy().max()
    more = memory.index.max() / memory.index.min()
    return [
        f"From coarse masks to labels, exact mode is {exact['times faster']:.1f} times as fast as the reference point: "
        f"{exact['same labels']:.2%} of the labels are the same and no difference map is off by more than "
        f"{exact['difference']:.0e}. It runs at {exact['utilisation']:.0%} of the rate of matrix products and takes "
        f"{off:+.0%} against the cost model.",
        f"Fast mode is {fast['times faster']:.0f} times as fast as the reference point; {fast['same labels']:.0%} of its "
        "labels are the same.",
        f"Memory rises by {least:.0f} to {most:.0f} MiB over the K and t_m tried, where K alone grows {more:.0f}-fold.",
    ]
