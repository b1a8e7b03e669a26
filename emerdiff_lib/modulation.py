"""Modulated denoising: which pixels of the image depend on a coarse mask (Sec. 3.2, Eq. 2–4)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from accelerate.utils.memory import should_reduce_batch_size

from .attention import Modulation, layer_grid, lockstep
from .denoiser import Denoiser
from .inversion import Trajectory, reverse_step

Decode = Callable[[torch.Tensor], torch.Tensor]


def modulated_latents(
    denoiser: Denoiser,
    trajectory: Trajectory,
    offsets: torch.Tensor,
    layer: str,
    timestep: int,
    injection: bool = True,
    placement: str = "after_projection",
    callback: Callable[[int, torch.Tensor], None] | None = None,
) -> torch.Tensor:
    """Replay the trajectory from ``timestep`` once per row of ``offsets``, all rows in lockstep.

    Args:
        offsets: (B, h, w) float, what is added to every channel of ``layer``'s output at ``timestep`` (and only then);
            row 0 must be zero: it is the unmodulated trajectory whose attention the others follow.
        layer: a cross-attention layer; (h, w) is resized (nearest) to its grid.
        timestep: t_m, one of the trajectory's timesteps.
        injection: hold every attention map at its unmodulated value.
        placement: see :class:`~emerdiff_lib.attention.Modulation`.
        callback: called with (t, latents after the step) at every step.

    Returns:
        (B, C, h', w') float32 latents x₀ of every row.
    """
    latents = trajectory.latents[timestep]
    offsets = resize_offsets(offsets, layer_grid(denoiser.unet, layer, *latents.shape[2:])).to(latents.device)
    latents = latents.expand(len(offsets), -1, -1, -1)
    for t in trajectory.timesteps[trajectory.timesteps.index(timestep) :]:
        modulation = Modulation(layer, offsets, placement) if t == timestep else None
        with lockstep(denoiser.unet, injection, modulation):
            latents = reverse_step(denoiser, trajectory, latents, t)
        if callback is not None:
            callback(t, latents)
    return latents


def resize_offsets(offsets: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """(B, h, w) → (B, grid[0]·grid[1]), nearest neighbour."""
    if tuple(offsets.shape[1:]) != tuple(grid):
        offsets = F.interpolate(offsets[:, None], size=grid, mode="nearest-exact")[:, 0]
    return offsets.flatten(1)


def signed_offsets(masks: torch.Tensor, strength: float) -> torch.Tensor:
    """(K, h, w) masks → (1 + 2K, h, w): zero, then +λ·M of every mask, then −λ·M of every mask."""
    positive = strength * masks.float()
    return torch.cat([torch.zeros_like(positive[:1]), positive, -positive])


def difference_maps(
    denoiser: Denoiser,
    decode: Decode,
    trajectory: Trajectory,
    masks: torch.Tensor,
    layer: str,
    timestep: int,
    strength: float,
    injection: bool = True,
    placement: str = "after_projection",
    chunk_size: int = 8,
    progress: Callable | None = None,
) -> torch.Tensor:
    """dᵏ(x, y) = ‖I⁻ᵏ(x, y) − I⁺ᵏ(x, y)‖₂ over RGB, for every mask (Eq. 4).

    Args:
        decode: latents (B, C, h, w) → images (B, 3, H, W) in [0, 1].
        masks: (K, h, w) bool coarse masks.
        layer, timestep, strength: where (layer, t_m) and how strongly (λ) the output is shifted.
        injection, placement: see :func:`modulated_latents`.
        chunk_size: masks per batch, halved whenever memory runs out; the result does not depend on it.
        progress: a ``tqdm`` factory, called with ``total=K``.

    Returns:
        (K, H, W) float32 on the CPU, in [0, √3], unfiltered.
    """
    maps: list[torch.Tensor] = []
    with progress(total=len(masks)) if progress is not None else nullcontext() as bar:
        while len(maps) < len(masks):
            chunk = masks[len(maps) : len(maps) + chunk_size]
            try:
                offsets = signed_offsets(chunk, strength)
                latents = modulated_latents(denoiser, trajectory, offsets, layer, timestep, injection, placement)
                positive, negative = latents[1:].chunk(2)
                maps += torch.linalg.vector_norm(decode(negative) - decode(positive), dim=1).cpu()
            except RuntimeError as error:
                if chunk_size == 1 or not should_reduce_batch_size(error):
                    raise
                chunk_size = (chunk_size + 1) // 2
                continue
            if bar is not None:
                bar.update(len(chunk))
    return torch.stack(maps)
