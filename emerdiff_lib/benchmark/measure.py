"""Time and memory of one image: the reference point and every mode side by side; curves; and memory at its peak."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from ..experiments.names import EMERDIFF, EMERDIFF_FAST, EMERDIFF_PIXEL
from ..images import ImageInput
from ..pipeline import EmerDiffPipeline
from ..settings import whole
from ..stages import CoarseMasks, Responses
from . import reference
from .costs import Cost, Machine, count, modulation_cost, run_times
from .peak import PeakMemory

REFERENCE = "reference point"
NAME_OF_MODE = {"exact": EMERDIFF, "pixel": EMERDIFF_PIXEL, "fast": EMERDIFF_FAST}


def against_reference(
    pipe: EmerDiffPipeline, coarse: CoarseMasks, machine: Machine, repeats: int = 3
) -> pd.DataFrame:
    """One image from its coarse masks to labels, by the reference point and in every mode.

    Args:
        coarse: made by :func:`coarse_for_reference`.
        machine: what the prediction is for; measured in the dtype of the pipeline.
        repeats: medians are over this many runs, taken in turns.

    Returns:
        A row per implementation: "seconds" (median) and "times faster" than the reference point; "same labels", the share
        of pixels labelled as by it, and "difference", the largest one between their difference maps (both NaN where segments
        are none of its masks); "GFLOP", "predicted s" and "utilisation" (share of the measured rate of matrix products) of
        the library's own, without what follows the network.

    Raises:
        ValueError: ``repeats`` is not at least 1.
    """
    whole(1)("repeats", repeats)
    runs = {REFERENCE: lambda: Responses(coarse, reference_maps(pipe, coarse), coarse.settings)} | {
        name: lambda mode=mode: pipe.respond(coarse, mode=mode) for mode, name in NAME_OF_MODE.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    responses, labels = {}, {}

    def once(name: str):
        responses[name] = runs[name]()
        labels[name] = pipe.assign(responses[name])

    rounds = [
        name for _ in range(1 + repeats) for name in runs
    ]  # a slow minute of the machine hits all of them
    for name in tqdm(rounds, desc="against the reference point", leave=False):
        seconds[name] += run_times(lambda: once(name), 1, pipe.unet.device, warm_up=False)  # noqa: B023
    table = pd.DataFrame({"seconds": {name: float(np.median(taken[1:])) for name, taken in seconds.items()}})
    table["times faster"] = table.loc[REFERENCE, "seconds"] / table["seconds"]
    maps = {name: r.difference_maps for name, r in responses.items() if isinstance(r, Responses)}
    for name, each in maps.items():
        table.loc[name, "same labels"] = float((labels[name] == labels[REFERENCE]).mean())
        table.loc[name, "difference"] = float((each - maps[REFERENCE]).abs().max())
    for mode, name in NAME_OF_MODE.items():
        cost = cost_of(pipe, coarse, mode=mode)
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
        used.assignment.num_parts or len(coarse.masks),
        used.perturbation,
        pipe.default_mask_batch_size(coarse.trajectory, used.shortcuts),
        used.shortcuts,
    )


def arithmetic(pipe: EmerDiffPipeline, coarse: CoarseMasks) -> pd.Series:
    """GFLOP of one U-Net row, of one decoding, and of modulated denoising without any saving, and in every mode."""
    how, clean = coarse.settings.inversion, coarse.trajectory.clean_latents
    denoiser, t_m = (
        pipe.denoiser(how.num_inference_steps, how.prompt),
        coarse.settings.perturbation.modulation_timestep,
    )
    row = count(lambda: denoiser.unet_output(clean, t_m)).flops
    decoding = count(lambda: pipe.decode(clean)).flops
    masks, steps = len(coarse.masks), sum(t <= t_m for t in denoiser.timesteps)
    flops = {
        "one U-Net row": row,
        "one decoding": decoding,
        f"one by one: {2 * masks + 1} rows, {steps} steps": (2 * masks + 1) * steps * row
        + 2 * masks * decoding,
    } | {name: cost_of(pipe, coarse, mode=mode).flops for mode, name in NAME_OF_MODE.items()}
    return pd.Series(flops, name="GFLOP") / 1e9


def spread_timesteps(pipe: EmerDiffPipeline, last: int, count: int = 3) -> list[int]:
    """``count`` inference timesteps (or as many as there are), evenly spread up to ``last``, ascending."""
    until = [t for t in pipe.denoiser(prompt=None).timesteps[::-1] if t <= last]
    return sorted({until[max(1, round(len(until) * (i + 1) / count)) - 1] for i in range(count)})


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
