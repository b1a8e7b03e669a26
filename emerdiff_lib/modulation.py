"""Modulated denoising: which pixels of the image depend on a coarse mask (Sec. 3.2, Eq. 2–4), exactly or with shortcuts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils.memory import should_reduce_batch_size
from tqdm.auto import tqdm

from .interventions import exclusive, injecting, modulating, sharing
from .inversion import Trajectory, reverse_coefficients, reverse_mean_and_std
from .predictor import Predictor
from .settings import Settings

Decode = Callable[[torch.Tensor], torch.Tensor]
_NO_BAR = partial(tqdm, disable=True)


def modulated_latents(
    predictor: Predictor,
    trajectory: Trajectory,
    offsets: torch.Tensor,
    settings: Settings,
    timesteps: list[int] | None = None,
) -> torch.Tensor:
    """Replay a trajectory from t_m once per row of ``offsets``, all rows in lockstep.

    Row 0 recomputes the unmodulated trajectory, so what the recorded noise adds, σₜzₜ = xₜ₋Δ − μₜ(xₜ), is read off that
    row: noise maps are not needed, and steps of any size stay exact for it.

    Args:
        offsets: (B, h, w) float, what is added to every channel of the layer's output at t_m (and only then). The first
            must be zero: it is the unmodulated trajectory whose attention the others follow. (h, w) is resized
            (nearest) to the layer's grid.
        settings: where (layer, t_m, placement), and whether attention is injected; λ is not used here.
        timesteps: t_m and those visited after it, descending; by default all that the trajectory has.

    Returns:
        (B, C, h', w') float32 latents x₀ of every row.
    """
    t_m, layer, placement = settings.modulation_timestep, settings.modulation_layer, settings.offset_placement
    denoiser, backbone, method = predictor.denoiser, predictor.backbone, trajectory.method
    timesteps = timesteps or [t for t in trajectory.timesteps if t <= t_m]
    rows = len(offsets)
    latents = trajectory.latents[t_m].repeat_interleave(rows, 0)
    offsets = resize_offsets(offsets, backbone.grid(layer, *latents.shape[2:])).to(latents.device)
    of_image = partial(backbone.image_tokens, layer, count=offsets.shape[1])

    for t, previous in zip(timesteps, [*timesteps[1:], None if method == "ddim" else -1], strict=True):
        alike = backbone.modules_before(layer) if t == t_m else ()  # rows do not differ before the layer
        injected = injecting(denoiser, rows) if settings.attention_injection else nullcontext()
        added = modulating(denoiser, layer, offsets, placement, of_image) if t == t_m else nullcontext()
        with exclusive(denoiser), sharing(alike, rows), injected, added:
            output = predictor.network_output(latents, t)
        predictions = predictor.convert(output, latents, t)
        latents, _ = reverse_mean_and_std(predictor, predictions, t, method, previous)
        if method == "ddpm" and previous is not None:
            latents = latents + (trajectory.latents.get(previous, trajectory.clean_latents) - latents[:1])
    return latents


def resize_offsets(offsets: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """(B, h, w) → (B, grid[0]·grid[1]), nearest neighbour; a mask too small for that takes every cell that it touches."""
    if tuple(offsets.shape[1:]) != tuple(grid):
        resized = F.interpolate(offsets[:, None], size=grid, mode="nearest-exact")[:, 0]
        lost = (offsets != 0).flatten(1).any(1) & ~(resized != 0).flatten(1).any(1)
        touched = F.adaptive_max_pool2d(offsets.abs(), grid) * offsets.sum((1, 2), keepdim=True).sign()
        offsets = torch.where(lost[:, None, None], touched, resized)
    return offsets.flatten(1)


def signed_offsets(masks: torch.Tensor, strength: float, one_sided: bool = False) -> torch.Tensor:
    """(P, h, w) masks → (1 + P or 2P, h, w): zero, then +λ·M of every mask unless one-sided, then −λ·M."""
    positive = strength * masks.float()
    return torch.cat([torch.zeros_like(positive[:1]), *([] if one_sided else [positive]), -positive])


def shortened(timesteps: list[int], start: int, steps: int | None) -> list[int]:
    """The timesteps visited from ``start`` on: all, or exactly ``steps``, the i-th near start·(1 − i/(steps+1)).

    ``timesteps`` are the trajectory's, descending. More steps than there are timesteps are as many as there are.
    """
    available = [t for t in timesteps if t <= start]
    if steps is None or steps >= len(available):
        return available
    chosen: list[int] = []
    for i in range(steps):
        wanted = start * (1 - i / (steps + 1))
        left = [t for t in available if t not in chosen]
        chosen.append(min(left, key=lambda t: (abs(t - wanted), -t)))
    return sorted(chosen, reverse=True)


def scaled_strength(predictor: Predictor, strength: float, timesteps: list[int], method: str) -> float:
    """λ for a first step to ``timesteps[1]`` that moves the latents as far as λ does in one step of the full trajectory."""

    def moved(previous: int | None) -> float:  # |∂xₛ/∂ε|
        to_clean, to_noise, _ = reverse_coefficients(predictor, timesteps[0], method, previous)
        alpha_bar = predictor.alpha_bar(timesteps[0]).item()
        return abs(to_noise - to_clean * ((1 - alpha_bar) / alpha_bar) ** 0.5)

    return strength * moved(None) / moved(timesteps[1] if len(timesteps) > 1 else -1)


def difference_maps(responses: Iterable[torch.Tensor]) -> torch.Tensor:
    """dᵏ(x, y) = ‖I⁻ᵏ(x, y) − I⁺ᵏ(x, y)‖₂ over RGB (Eq. 4) of what :func:`signed_responses` yields.

    Returns:
        (K, H, W) float32 on the CPU, unfiltered: in [0, √3] from images, at the size of the latents (and in their units)
        where latents are compared.
    """
    return torch.cat([torch.linalg.vector_norm(some, dim=1).cpu() for some in responses])


def signed_responses(
    predictor: Predictor,
    decode: Decode,
    trajectory: Trajectory,
    masks: torch.Tensor,
    settings: Settings,
    chunk_size: int = 8,
    progress: Callable[..., Any] = _NO_BAR,
) -> Iterator[torch.Tensor]:
    """I⁻ − I⁺ (or I⁻ − I, one-sided) of every mask, some at a time.

    Args:
        decode: latents (B, C, h, w) → images (B, 3, H, W) in [0, 1]; not used where the settings compare latents.
        masks: (K, h, w).
        settings: what is done, where and how strongly, and what is left out.
        chunk_size: masks per batch, halved whenever memory runs out; the result does not depend on it.
        progress: a ``tqdm`` factory, called with ``total`` = number of masks.

    Yields:
        (n, channels, H, W) float32 on the model's device.

    Raises:
        ValueError: they are not finite, or all zero.
    """
    strength, steps = settings.modulation_strength, settings.denoising_steps
    timesteps = shortened(trajectory.timesteps, settings.modulation_timestep, steps)
    if steps is not None:
        strength = scaled_strength(predictor, strength, timesteps, trajectory.method)

    with progress(total=len(masks)) as bar:
        done, largest = 0, 0.0
        while done < len(masks):
            try:
                offsets = signed_offsets(masks[done : done + chunk_size], strength, settings.one_sided)
                given = predictor, trajectory, offsets, settings, timesteps
                responses = image_differences(modulated_latents(*given), decode, settings)
                finite = bool(torch.isfinite(responses).all())
            except RuntimeError as error:
                if chunk_size == 1 or not should_reduce_batch_size(error):
                    raise
                chunk_size = (chunk_size + 1) // 2
                continue
            if not finite:
                raise ValueError(
                    f"The difference maps are not finite at modulation_strength={settings.modulation_strength:g} in "
                    f"{str(predictor.denoiser.dtype).removeprefix('torch.')}; lower it, use dtype float32, or check the weights."
                )
            yield responses
            done, largest = done + len(responses), max(largest, float(responses.abs().max()))
            bar.update(len(responses))
        if largest < 2e-5:  # what rounding makes
            raise ValueError(
                f"No pixel responds at modulation_strength={settings.modulation_strength:g} and modulation_timestep="
                f"{settings.modulation_timestep}; raise one of them."
            )


def image_differences(latents: torch.Tensor, decode: Decode, settings: Settings) -> torch.Tensor:
    """I⁻ − I⁺ of every mask (or I⁻ − I, one-sided), (P, channels, H, W), from the rows of :func:`signed_offsets` at x₀."""
    read = (lambda latents: latents) if settings.readout == "latents" else decode
    if settings.one_sided:
        images = read(latents)
        return images[1:] - images[:1]
    positive, negative = latents[1:].chunk(2)
    return read(negative) - read(positive)
