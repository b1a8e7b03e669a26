"""Modulated denoising: which pixels of the image depend on a coarse mask (Sec. 3.2, Eq. 2–4), exactly or with shortcuts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils.memory import should_reduce_batch_size

from .interventions import exclusive, injecting, modulating, sharing
from .inversion import Trajectory, reverse_coefficients, reverse_mean_and_std
from .predictor import Predictor
from .settings import Perturbation, Shortcuts

Decode = Callable[[torch.Tensor], torch.Tensor]


def modulated_latents(
    predictor: Predictor,
    trajectories: list[Trajectory],
    offsets: torch.Tensor,
    perturbation: Perturbation,
    timesteps: list[int] | None = None,
) -> torch.Tensor:
    """Replay trajectories from t_m once per row of ``offsets``, all rows in lockstep.

    Row 0 of an image recomputes its unmodulated trajectory, so what the recorded noise adds, σₜzₜ = xₜ₋Δ − μₜ(xₜ), is
    read off that row: noise maps are not needed, and steps of any size stay exact for it.

    Args:
        trajectories: G of the same size and timesteps.
        offsets: (B, h, w) float, what is added to every channel of the layer's output at t_m (and only then); the B / G
            rows of the first image, then of the second … Each image's first row must be zero: it is the unmodulated
            trajectory whose attention its others follow. (h, w) is resized (nearest) to the layer's grid.
        perturbation: where (layer, t_m, placement), and whether attention is injected; its λ is not used here.
        timesteps: t_m and those visited after it, descending; by default all that the trajectories have.

    Returns:
        (B, C, h', w') float32 latents x₀ of every row.
    """
    layer, placement = perturbation.modulation_layer, perturbation.offset_placement
    images, rows, method = len(trajectories), len(offsets) // len(trajectories), trajectories[0].method
    denoiser, backbone, t_m = predictor.denoiser, predictor.backbone, perturbation.modulation_timestep
    inject = partial(injecting, denoiser) if perturbation.attention_injection else lambda *_: nullcontext()
    if timesteps is None:
        timesteps = [t for t in trajectories[0].timesteps if t <= t_m]
    start = torch.cat([one.latents[t_m] for one in trajectories])
    offsets = resize_offsets(offsets, backbone.grid(layer, *start.shape[2:])).to(start.device)

    for t, previous in zip(timesteps, [*timesteps[1:], None if method == "ddim" else -1], strict=True):
        if t == t_m:  # the rows of an image do not differ before the modulated layer
            latents, outputs = start.repeat_interleave(rows, 0), []
            for x, offset in zip(latents.split(rows), offsets.split(rows), strict=True):
                once = sharing(backbone.modules_before(layer), 1, rows)
                modulation = modulating(denoiser, layer, offset, placement)
                with exclusive(denoiser), once, inject(1, rows), modulation:
                    outputs.append(predictor.network_output(x, t))
            output = torch.cat(outputs)
        else:
            with exclusive(denoiser), inject(images, rows):
                output = predictor.network_output(latents, t)
        predictions = predictor.convert(output, latents, t)
        latents, _ = reverse_mean_and_std(predictor, predictions, t, method, previous)
        if method == "ddpm" and previous is not None:
            recorded = torch.cat([one.latents_at(previous) for one in trajectories])
            latents = latents + (recorded - latents[::rows]).repeat_interleave(rows, 0)
    return latents


def resize_offsets(offsets: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """(B, h, w) → (B, grid[0]·grid[1]), nearest neighbour; a mask too small for that takes every cell that it touches."""
    if tuple(offsets.shape[1:]) != tuple(grid):
        resized = F.interpolate(offsets[:, None], size=grid, mode="nearest-exact")[:, 0]
        lost = (offsets != 0).flatten(1).any(1) & ~(resized != 0).flatten(1).any(1)
        for i in lost.nonzero()[:, 0].tolist():
            touched = F.adaptive_max_pool2d(offsets[i].abs()[None], grid)[0]
            resized[i] = touched * offsets[i].sum().sign()
        offsets = resized
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


def difference_maps(responses: Iterable[list[torch.Tensor]]) -> list[torch.Tensor]:
    """dᵏ(x, y) = ‖I⁻ᵏ(x, y) − I⁺ᵏ(x, y)‖₂ over RGB (Eq. 4) of what :func:`signed_responses` yields.

    Returns:
        G × (K, H, W) float32 on the CPU, unfiltered: in [0, √3] from images, at the size of the latents (and in their
        units) where latents are compared.
    """
    lengths = [[torch.linalg.vector_norm(one, dim=1).cpu() for one in chunk] for chunk in responses]
    return [torch.cat(maps) for maps in zip(*lengths, strict=True)]


def signed_responses(
    predictor: Predictor,
    decode: Decode,
    trajectories: list[Trajectory],
    masks: list[torch.Tensor],
    perturbation: Perturbation,
    shortcuts: Shortcuts = Shortcuts(),  # noqa: B008
    chunk_size: int = 8,
    progress: Callable[..., Any] | None = None,
) -> Iterator[list[torch.Tensor]]:
    """I⁻ − I⁺ (or I⁻ − I, one-sided) of every mask, some of every image at a time.

    Args:
        decode: latents (B, C, h, w) → images (B, 3, H, W) in [0, 1]; not used where ``shortcuts`` compare latents.
        trajectories, masks: G images that are modulated together: trajectories of one size, and the (K, h, w) masks of
            each, of the same K.
        perturbation: what is done, where and how strongly.
        shortcuts: what to leave out.
        chunk_size: masks of each image per batch, halved whenever memory runs out; the result does not depend on it.
        progress: a ``tqdm`` factory, called with ``total`` = number of masks.

    Yields:
        G × (n, channels, H, W) float32 on the model's device.

    Raises:
        ValueError: they are not finite.
    """
    t_m, strength = perturbation.modulation_timestep, perturbation.modulation_strength
    timesteps = shortened(trajectories[0].timesteps, t_m, shortcuts.denoising_steps)
    if shortcuts.denoising_steps is not None:
        strength = scaled_strength(predictor, strength, timesteps, trajectories[0].method)

    def respond(part: slice) -> list[torch.Tensor]:
        offsets = torch.cat([signed_offsets(m[part], strength, shortcuts.one_sided) for m in masks])
        latents = modulated_latents(predictor, trajectories, offsets, perturbation, timesteps)
        images = [image_differences(rows, decode, shortcuts) for rows in latents.chunk(len(trajectories))]
        if not all(bool(torch.isfinite(one).all()) for one in images):
            raise ValueError(
                f"The difference maps are not finite at modulation_strength={perturbation.modulation_strength:g} in "
                f"{str(predictor.denoiser.dtype).removeprefix('torch.')}; lower it, use dtype float32, or check the weights."
            )
        return images

    with progress(total=len(masks[0])) if progress else nullcontext() as bar:
        for chunk in _chunked(respond, len(masks[0]), chunk_size):
            yield chunk
            if bar is not None:
                bar.update(len(chunk[0]))


def image_differences(rows: torch.Tensor, decode: Decode, shortcuts: Shortcuts) -> torch.Tensor:
    """I⁻ − I⁺ of every mask (or I⁻ − I, one-sided), (P, channels, H, W), from one image's rows of latents x₀."""
    read = (lambda latents: latents) if shortcuts.readout == "latents" else decode
    if shortcuts.one_sided:
        seen = read(rows)
        return seen[1:] - seen[:1]
    positive, negative = rows[1:].chunk(2)
    return read(negative) - read(positive)


def _chunked(run: Callable[[slice], list[Any]], count: int, size: int) -> Iterator[list[Any]]:
    """``run`` on consecutive slices of 0 … count; a slice that runs out of memory is halved, and so are all after it."""
    done = 0
    while done < count:
        try:
            result = run(slice(done, min(done + size, count)))
        except RuntimeError as error:
            if size == 1 or not should_reduce_batch_size(error):
                raise
            size = (size + 1) // 2
            continue
        yield result
        done += size
