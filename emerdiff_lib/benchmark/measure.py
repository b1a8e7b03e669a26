"""Measurements: one image by the reference point, exact and fast; peak memory; and quality against seconds over scenes."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager

import numpy as np
import pandas as pd
import psutil
import torch

from ..evaluation.metrics import boundary_scores, contingency_table, mean_iou
from ..evaluation.protocols import Record, bootstrap, mean_statistic, miou_statistic, oracle
from ..images import to_tensor
from ..modulation import difference_maps
from ..pipeline import MODES
from ..toyscapes import Scene, Toyscapes
from ..upsampling import guided_upsample
from . import reference, stable_diffusion
from .costs import Machine, median, modulation_cost, timed

BILINEAR, GUIDED_BILINEAR, EXACT, FAST = "bilinear", "bilinear, guided filter", "exact", "fast"
GUIDE_RADIUS = MODES[FAST].guide_radius
# Every shortcut alone, then together; "fast" is what the pipeline calls so.
VARIANTS: dict[str, dict] = {
    EXACT: {},
    "one-sided": dict(one_sided=True),
    "12 steps": dict(denoising_steps=12),
    "6 steps": dict(denoising_steps=6),
    "3 steps": dict(denoising_steps=3),
    "1 step (x̂₀)": dict(denoising_steps=1),
    "guided filter": dict(guide_radius=GUIDE_RADIUS),
    "latents, guided": dict(readout="latents", guide_radius=GUIDE_RADIUS),
    "8 coded passes": dict(coded_passes=8),
    "6 steps, one-sided": dict(denoising_steps=6, one_sided=True),
    "4 steps, one-sided": dict(denoising_steps=4, one_sided=True),
    "2 steps, one-sided": dict(denoising_steps=2, one_sided=True),
    "6 steps, one-sided, guided": dict(denoising_steps=6, one_sided=True, guide_radius=GUIDE_RADIUS),
    "6 steps, otherwise as fast": dict(mode="fast", denoising_steps=6),
    "3 steps, otherwise as fast": dict(mode="fast", denoising_steps=3),
    "2 steps, a row per mask, otherwise as fast": dict(mode="fast", coded_passes=2**20),
    "1 step, otherwise as fast": dict(mode="fast", denoising_steps=1),
    FAST: dict(mode="fast"),
}


class PeakMemory:
    """Bytes by which memory rose above where it stood, at most: allocated memory on a GPU, the process's own on a CPU."""

    def __init__(self, device: torch.device):
        self.device, self.bytes = device, 0

    def __enter__(self):
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.start = torch.cuda.memory_allocated(self.device)
            return self
        self.process, self.done = psutil.Process(), threading.Event()
        self.start = self.process.memory_info().rss
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def _watch(self):
        while not self.done.wait(0.002):
            self.bytes = max(self.bytes, self.process.memory_info().rss - self.start)

    def __exit__(self, *error):
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self.device) - self.start
        else:
            self.done.set()
            self.thread.join()


@torch.no_grad()
def against_reference(
    pipe,
    image,
    machine: Machine,
    num_masks: int = 16,
    modulation_timestep: int = 281,
    repeats: int = 3,
    seed: int = 0,
) -> pd.DataFrame:
    """Modulated denoising of one image by the reference point, the exact and the fast mode: medians, taken in turns.

    Returns:
        A row per implementation: seconds, times faster than the reference, predicted seconds and utilisation (share of the
        measured matrix-product rate), and the share of pixels labelled as by the reference.
    """
    generator = lambda: torch.Generator().manual_seed(seed)
    output = pipe(
        image, num_masks, modulation_timestep=modulation_timestep, mode="fast", generator=generator()
    )
    settings, masks = output.settings, torch.from_numpy(output.coarse_masks)
    trajectory = pipe.invert(image, start_timestep=modulation_timestep, generator=generator())
    denoiser, layer = pipe.denoiser(), settings["modulation_layer"]
    common = (
        denoiser,
        pipe.decode,
        trajectory,
        masks,
        layer,
        modulation_timestep,
        settings["modulation_strength"],
    )
    guide = to_tensor(image, tuple(settings["processing_size"]))[0] / 2 + 0.5
    runs = {
        "reference": lambda: reference.difference_maps(*common),
        **{
            mode: lambda mode=mode: difference_maps(
                *common,
                chunk_size=pipe.default_mask_batch_size(trajectory, MODES[mode]),
                shortcuts=MODES[mode],
                guide=guide,
            )
            for mode in (EXACT, FAST)
        },
    }
    labels = {name: run().argmax(0) for name, run in runs.items()}
    device = trajectory.clean_latents.device
    seconds = {name: [] for name in runs}
    for _ in range(repeats):  # in turns, so that a slow minute of the machine hits all of them
        for name, run in runs.items():
            seconds[name] += timed(run, 1, device, warm_up=False)
    rows = []
    for name in runs:
        middle = float(np.median(seconds[name]))
        row = {
            "implementation": name,
            "seconds": middle,
            "times faster": np.median(seconds["reference"]) / middle,
        }
        if name in MODES:
            cost = modulation_cost(
                denoiser,
                pipe.decode,
                tuple(trajectory.clean_latents.shape[1:]),
                tuple(masks.shape[1:]),
                len(masks),
                layer,
                modulation_timestep,
                pipe.default_mask_batch_size(trajectory, MODES[name]),
                MODES[name],
            )
            rate = machine.flops_per_second["float32"]
            row |= {"GFLOP": cost.flops / 1e9, "predicted s": cost.seconds(machine, torch.float32)}
            row |= {"utilisation": cost.flops / middle / rate}
        row["same labels"] = float((labels[name] == labels["reference"]).float().mean())
        rows.append(row)
    return pd.DataFrame(rows).set_index("implementation")


@torch.no_grad()
def peak_memory(
    pipe, image, mask_counts=(8, 16, 32), timesteps=(81, 281, 481), mask_batch_size: int = 8
) -> pd.DataFrame:
    """MiB by which memory peaks during exact runs of different K and numbers of steps, at the same batch size."""
    rows = []
    run = lambda k, t: pipe(image, k, modulation_timestep=t, mask_batch_size=mask_batch_size)
    run(max(mask_counts), min(timesteps))  # what the allocator keeps for itself
    for k in mask_counts:
        for t in timesteps:
            with PeakMemory(pipe._execution_device) as peak:
                run(k, t)
            rows.append({"K": k, "t_m": t, "MiB": peak.bytes / 2**20})
    return pd.DataFrame(rows).pivot(index="K", columns="t_m", values="MiB")


@torch.no_grad()
def scaling(
    pipe,
    image,
    mask_counts=(4, 8, 16, 32),
    resolutions=(96, 128, 192),
    timesteps=(81, 281, 481),
    mode="exact",
):
    """Seconds of modulated denoising against K, image size and number of steps, one varied at a time."""
    rows = []
    trials = [("masks K", k, dict(num_masks=k)) for k in mask_counts]
    trials += [("image side in pixels", r, dict(processing_resolution=r)) for r in resolutions]
    trials += [("denoising steps", t // 20 + 1, dict(modulation_timestep=t)) for t in timesteps]
    for name, value, settings in trials:
        settings = dict(num_masks=8, modulation_timestep=281) | settings
        timings = [pipe(image, mode=mode, **settings).timings["modulate"] for _ in range(2)]
        rows.append({"varied": name, "value": value, "mode": mode, "seconds": min(timings)})
    return pd.DataFrame(rows)


def evaluate_variants(pipe, scene: Scene, variants: dict[str, dict] = VARIANTS, **settings) -> list[dict]:
    """One scene under every variant, on the same coarse masks: seconds for the whole picture, contingency table, boundary F."""
    image, generator = scene.image, lambda: torch.Generator().manual_seed(scene.seed)
    first = pipe(image, generator=generator(), **settings, **variants[EXACT])
    before = sum(first.timings[stage] for stage in ("encode", "invert", "queries", "cluster"))
    guide = to_tensor(image, tuple(first.settings["processing_size"]))[0] / 2 + 0.5
    radius = round(GUIDE_RADIUS * guide.shape[1] / first.coarse_masks.shape[1])
    start = time.perf_counter()
    filtered = guided_upsample(torch.from_numpy(first.coarse_masks), guide, radius).argmax(0).numpy()
    filtering = time.perf_counter() - start
    found = {
        BILINEAR: (first.baseline_labels, before),
        GUIDED_BILINEAR: (filtered, before + filtering),
        EXACT: (first.labels, before + first.timings["modulate"] + first.timings["assign"]),
    }
    for name, variant in variants.items():
        if name != EXACT:
            output = pipe(
                image, coarse_masks=first.coarse_masks, generator=generator(), **(settings | variant)
            )
            found[name] = output.labels, before + output.timings["modulate"] + output.timings["assign"]
    classes, masks = len(Toyscapes.coarse_class_names), len(first.coarse_masks)
    return [
        {
            "scene": scene.seed,
            "variant": name,
            "seconds": seconds,
            "table": contingency_table(labels, scene.coarse_labels, masks, classes),
            "boundary F": boundary_scores(labels, scene.labels, 2)[2],
            "as exact": float((labels == first.labels).mean()),
        }
        for name, (labels, seconds) in found.items()
    ]


def front(results: list[dict]) -> pd.DataFrame:
    """Rows of :func:`evaluate_variants` for many scenes as one table, slowest first.

    Columns: seconds per image (median), times faster than exact, oracle mIoU and boundary F in points, the gain in mIoU over
    bilinear with its 95 % bootstrap interval, that gain as a share of the exact one's, and pixels labelled as by exact.
    """
    rows = pd.DataFrame(results)
    confusion = lambda name: np.stack(
        [oracle(Record(table, np.zeros((len(table), 1)))) for table in rows[rows.variant == name]["table"]]
    )
    base, gains = confusion(BILINEAR), {}
    table = []
    for name, some in rows.groupby("variant", sort=False):
        confusions = confusion(name)
        gain, low, high = bootstrap(miou_statistic(confusions, minus=base), len(some))
        gains[name] = gain
        table.append(
            {
                "variant": name,
                "s / image": some["seconds"].median(),
                "mIoU": 100 * mean_iou(confusions.sum(0)),
                "boundary F": 100
                * bootstrap(mean_statistic(some["boundary F"].to_numpy()), len(some), draws=1)[0],
                "gain": 100 * gain,
                "low": 100 * low,
                "high": 100 * high,
                "as exact": some["as exact"].mean(),
            }
        )
    table = pd.DataFrame(table).set_index("variant")
    table.insert(1, "times faster", table.loc[EXACT, "s / image"] / table["s / image"])
    table["share of gain"] = table["gain"] / table.loc[EXACT, "gain"]
    return table.sort_values("s / image", ascending=False)


@contextmanager
def stable_diffusion_pair(dtype=torch.bfloat16, device="cpu"):
    """U-Net and VAE of true Stable Diffusion 1.4 size, random weights."""
    unet, vae = stable_diffusion.networks(dtype, device)
    yield unet, vae
    del unet, vae


@torch.no_grad()
def at_stable_diffusion_size(
    machine: Machine,
    num_masks: int = 2,
    timestep: int = 21,
    resolution: int = 512,
    dtype=torch.bfloat16,
    device: torch.device | str = "cpu",
    repeats: int = 1,
    target_masks: int = 30,
    target_timestep: int = 281,
) -> pd.DataFrame:
    """Modulated denoising and decoding at Stable Diffusion 1.4's size: a small run measured, a full one predicted.

    Returns:
        Rows "measured" (K, steps as given) and, for both modes, "predicted" ones at the paper's K = 30 and t_m = 281, the
        latter also scaled by what the small run took over its own prediction.
    """
    layer = "up_blocks.1.attentions.2.transformer_blocks.0.attn2"
    side = resolution // 8
    shape, grid = (4, side, side), (side // 4, side // 4)
    decoder = lambda vae: (
        lambda x: torch.cat([vae.decode((part / 0.18215).to(vae.dtype)).sample for part in x.split(1)])
    )
    rows = []
    with stable_diffusion_pair(dtype, "meta") as (unet, vae):
        predict = lambda k, t, mode: modulation_cost(
            stable_diffusion.denoiser(unet), decoder(vae), shape, grid, k, layer, t, k, MODES[mode]
        )
        small = predict(num_masks, timestep, EXACT)
        full = {mode: predict(target_masks, target_timestep, mode) for mode in (EXACT, FAST)}
    with stable_diffusion_pair(dtype, device) as (unet, vae):
        denoiser = stable_diffusion.denoiser(unet)
        clean = torch.randn(1, *shape, device=device)
        steps = [t for t in denoiser.timesteps if t <= timestep]
        trajectory = reference.Trajectory(
            "ddpm", steps, dict.fromkeys(steps, clean), clean, len(denoiser.timesteps)
        )
        masks = torch.arange(grid[0])[None, :, None].expand(num_masks, *grid) % num_masks
        masks = masks == torch.arange(num_masks)[:, None, None]
        run = lambda: difference_maps(
            denoiser, decoder(vae), trajectory, masks, layer, timestep, 10.0, chunk_size=num_masks
        )
        with PeakMemory(torch.device(device)) as peak:
            run()
        seconds = (
            median(run, repeats, device)
            if torch.device(device).type == "cuda"
            else min(timed(run, repeats, device, False))
        )
    rate = machine.flops_per_second[str(dtype).removeprefix("torch.")]
    slack = seconds / small.seconds(machine, dtype)
    rows.append(
        {
            "run": f"measured, exact, K={num_masks}, {len(steps)} steps",
            "TFLOP": small.flops / 1e12,
            "predicted s": small.seconds(machine, dtype),
            "seconds": seconds,
            "utilisation": small.flops / seconds / rate,
            "peak MiB": peak.bytes / 2**20,
        }
    )
    for mode, cost in full.items():
        rows.append(
            {
                "run": f"predicted, {mode}, K={target_masks}, t_m={target_timestep}",
                "TFLOP": cost.flops / 1e12,
                "predicted s": cost.seconds(machine, dtype),
                "seconds": slack * cost.seconds(machine, dtype),
            }
        )
    return pd.DataFrame(rows).set_index("run")
