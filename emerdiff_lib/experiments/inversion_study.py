"""How exactly does an inverted image come back, and what do the noise maps that bring it back look like? (Notebook 01.)

Method and closed form after Huberman-Spiegelglas et al., "An Edit Friendly DDPM Noise Space" (arXiv 2304.06140), Sec. 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import UNet2DConditionModel
from PIL import Image

from .. import plotting
from ..attention import Network, attention_layers, layer_grid
from ..denoiser import Denoiser
from ..inversion import Trajectory, invert_ddim, invert_ddpm, replay, reverse_step
from ..pipeline import EmerDiffPipeline


def unet_levels(
    unet: UNet2DConditionModel, height: int, width: int, roles: Mapping[str, str]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The levels of a U-Net on (height, width) latents, and the block at its bottom, as ``plotting.unet_diagram`` draws them.

    Args:
        roles: {what is done there: name of a layer}; becomes the notes of the blocks on the way up.
    """
    cross = attention_layers(unet, "attn2")
    layers = lambda block: sum(name.startswith(f"{block}.") for name in cross)
    channels, levels = unet.config.block_out_channels, []
    for level, count in enumerate(channels):
        down, up = f"down_blocks.{level}", f"up_blocks.{len(channels) - 1 - level}"
        found = {"grid": layer_grid(unet, down, height, width), "channels": count, "down": down, "up": up}
        found |= {"down_attention": layers(down), "up_attention": layers(up)}
        found["note"] = ", ".join(what for what, layer in roles.items() if layer.startswith(f"{up}."))
        levels.append(found)
    return levels, {"name": "mid_block", "attention": layers("mid_block")}


def draw_network(ax: Any, unet: Network, height: int, width: int, roles: Mapping[str, str]) -> Any:
    """A network on (height, width) latents, and what is done where: a U-Net's levels, or a transformer's blocks.

    Args:
        ax: axes of matplotlib, which are given back.
        roles: {what is done there: name of a layer}.
    """
    if isinstance(unet, UNet2DConditionModel):
        return plotting.unet_diagram(ax, *unet_levels(unet, height, width, roles))
    places: dict[int, list[str]] = {}
    for what, layer in roles.items():
        places.setdefault(int(layer.split(".")[1]), []).append(what)
    grid, notes = (
        layer_grid(unet, "transformer_blocks.0", height, width),
        {i: ", ".join(what) for i, what in places.items()},
    )
    return plotting.transformer_diagram(ax, len(unet.transformer_blocks), grid, unet.inner_dim, notes)


def spread(timesteps: Sequence[int], count: int) -> list[int]:
    """``count`` of the ``timesteps`` (fewer where there are fewer), evenly spread from the first to the last."""
    indices = np.linspace(0, len(timesteps) - 1, min(count, len(timesteps))).round().astype(int)
    return [timesteps[i] for i in indices]


def nearest(timesteps: Iterable[int], wanted: int) -> int:
    """The timestep nearest to a wanted one, for schedules that do not have it; the later of two."""
    return min(timesteps, key=lambda t: (abs(t - wanted), t))


def relative_error(latents: torch.Tensor, reference: torch.Tensor) -> float:
    """‖latents − reference‖₂ / ‖reference‖₂."""
    return ((latents - reference).norm() / reference.norm()).item()


@torch.no_grad()
def replay_errors(
    pipe: EmerDiffPipeline,
    images: Sequence[Image.Image],
    step_counts: Iterable[int],
    seed: int = 0,
    starts: int = 4,
    progress: Callable[[Iterable], Iterable] = iter,
) -> pd.DataFrame:
    """Relative error of x₀ after inverting and replaying, for both methods, numbers of steps N and several starts.

    Returns:
        a row per picture, method, N and start: ``picture``, ``method`` ("DDPM" or "DDIM"), ``steps``, ``start``
        (timestep) and ``error`` (at least 1e-9, so that it has a logarithm).
    """
    records = []
    points = [(steps, number) for steps in step_counts for number in range(len(images))]
    for steps, number in progress(points):
        denoiser, clean = pipe.denoiser(steps), pipe.encode(images[number])
        for start in spread(denoiser.timesteps, starts + 1)[:starts]:
            timesteps = [t for t in denoiser.timesteps if t <= start]
            generator = torch.Generator().manual_seed(seed + number)
            inverted = {
                "DDPM": invert_ddpm(denoiser, clean, timesteps, generator),
                "DDIM": invert_ddim(denoiser, clean, timesteps),
            }
            for method, trajectory in inverted.items():
                error = max(relative_error(replay(denoiser, trajectory), clean), 1e-9)
                record = {"picture": number, "method": method, "steps": steps, "start": start, "error": error}
                records.append(record)
    return pd.DataFrame(records)


def noise_map_statistics(denoiser: Denoiser, trajectory: Trajectory) -> pd.DataFrame:
    """What a trajectory's zₜ are like at every timestep but the last, where σₜ = 0.

    Returns:
        a row per timestep, descending: ``timestep``, ``std`` of zₜ, ``correlation`` of zₜ with the next (smaller)
        timestep's noise map (NaN for the last of them), and ``closed_form``, the standard deviation that independent
        noises give where the network knows x₀: √(2(1−ᾱₜ) / (1−ᾱₜ/ᾱₜ₋Δ) − 1).
    """
    inner, maps = trajectory.timesteps[:-1], trajectory.noise_maps
    flat = {t: maps[t].flatten().cpu().numpy() for t in inner}
    correlations = [np.corrcoef(flat[a], flat[b])[0, 1] for a, b in zip(inner, inner[1:], strict=False)]
    closed_form = []
    for t in inner:
        alpha_bar, before = denoiser.alpha_bars(t)
        closed_form.append((2 * (1 - alpha_bar) / (1 - alpha_bar / before) - 1).sqrt().item())
    return pd.DataFrame(
        {
            "timestep": inner,
            "std": [flat[t].std() for t in inner],
            "correlation": [*correlations, np.nan][: len(inner)],
            "closed_form": closed_form,
        }
    )


@torch.no_grad()
def replay_another_start(
    denoiser: Denoiser, trajectory: Trajectory, intruder: torch.Tensor, start: int, generator: torch.Generator
) -> torch.Tensor:
    """Replay a trajectory's noise maps from ``start``, beginning with the noisy latents of *another* picture.

    Args:
        intruder: x₀ of the other picture, of the same shape.
        start: one of the trajectory's timesteps.
        generator: source of the intruder's noise.

    Returns:
        x₀, (1, C, h, w): near the trajectory's own picture if its noise maps carry it, near the intruder if xₜ did.
    """
    noise = torch.randn(intruder.shape, generator=generator).to(intruder.device)
    latents = denoiser.add_noise(intruder, noise, start)
    for timestep in (t for t in trajectory.timesteps if t <= start):
        latents = reverse_step(denoiser, trajectory, latents, timestep)
    return latents
