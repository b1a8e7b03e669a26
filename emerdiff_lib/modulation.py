"""Modulated denoising: which pixels of the image depend on a coarse mask (Sec. 3.2, Eq. 2–4), exactly or with shortcuts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from accelerate.utils.memory import should_reduce_batch_size

from .attention import Modulation, branching, layer_grid, lockstep
from .coding import code_matrix, neighbourhoods
from .denoiser import Denoiser
from .inversion import Trajectory, reverse_coefficients, reverse_mean_and_std
from .memory import pages_kept
from .upsampling import guided_upsample

Decode = Callable[[torch.Tensor], torch.Tensor]
READOUTS = ("image", "latents", "tiny_decoder")


@dataclass(frozen=True)
class Shortcuts:
    """What modulated denoising leaves out; nothing by default. Each has a measured price (notebook 09).

    Attributes:
        denoising_steps: network evaluations from t_m to x₀, evenly spread; 1 reads x̂₀ right after the modulated one. λ is
            scaled so that the first, larger step moves the latents as far as a step of the full trajectory would. None
            keeps every inference step.
        one_sided: compare −λ with the unmodulated image instead of with +λ: half of the rows.
        readout: "image" decodes every row; "tiny_decoder" does so with the pipeline's AutoencoderTiny; "latents" compares
            latents: no decoding at all.
        coded_passes: a power of two: where there are more masks than this, as many rows carry all of them at once, with
            signs ±1; a mask's response is told from the others' by its signs and its neighbourhood. None: a row per mask.
        guide_radius: radius, in heights of a coarse cell, of a filter that brings the maps to pixels with the image as guide;
            0 leaves it out. Not a saving but a refinement, which comparing latents needs.
    """

    denoising_steps: int | None = None
    one_sided: bool = False
    readout: str = "image"
    coded_passes: int | None = None
    guide_radius: float = 0.0


EXACT = Shortcuts()


def modulated_latents(
    denoiser: Denoiser,
    trajectory: Trajectory | list[Trajectory],
    offsets: torch.Tensor,
    layer: str,
    timestep: int,
    injection: bool = True,
    placement: str = "after_projection",
    callback: Callable[[int, torch.Tensor], None] | None = None,
    timesteps: list[int] | None = None,
) -> torch.Tensor:
    """Replay trajectories from ``timestep`` once per row of ``offsets``, all rows in lockstep.

    Row 0 of an image recomputes its unmodulated trajectory, so what the recorded noise adds, σₜzₜ = xₜ₋Δ − μₜ(xₜ), is read
    off that row: noise maps are not needed, and steps of any size stay exact for it.

    Args:
        trajectory: one, or G of the same size and timesteps.
        offsets: (B, h, w) float, what is added to every channel of ``layer``'s output at ``timestep`` (and only then);
            the B / G rows of the first image, then of the second … Each image's first row must be zero: it is the
            unmodulated trajectory whose attention its others follow.
        layer: a cross-attention layer; (h, w) is resized (nearest) to its grid.
        timestep: t_m, one of the trajectory's timesteps.
        injection: hold every attention map at its unmodulated value.
        placement: see :class:`~emerdiff_lib.attention.Modulation`.
        callback: called with (t, latents after the step) at every step.
        timesteps: t_m and those visited after it, descending; by default all that the trajectory has.

    Returns:
        (B, C, h', w') float32 latents x₀ of every row.
    """
    trajectories = trajectory if isinstance(trajectory, list) else [trajectory]
    images, rows, method = len(trajectories), len(offsets) // len(trajectories), trajectories[0].method
    if timesteps is None:
        timesteps = [t for t in trajectories[0].timesteps if t <= timestep]
    start = torch.cat([one.latents[timestep] for one in trajectories])
    offsets = resize_offsets(offsets, layer_grid(denoiser.unet, layer, *start.shape[2:])).to(start.device)

    for t, previous in zip(timesteps, [*timesteps[1:], None if method == "ddim" else -1], strict=True):
        if t == timestep:  # the rows of an image do not differ before the modulated layer
            outputs = []
            for x, offset in zip(start.split(1), offsets.split(rows), strict=True):
                modulation = Modulation(layer, offset, placement)
                with branching(denoiser.unet, layer), lockstep(denoiser.unet, injection, 1, modulation):
                    outputs.append(denoiser.unet_output(x, t))
            latents, output = start.repeat_interleave(rows, 0), torch.cat(outputs)
        else:
            with lockstep(denoiser.unet, injection, images):
                output = denoiser.unet_output(latents, t)
        latents, _ = reverse_mean_and_std(denoiser, latents, denoiser.convert(output, latents, t), t, method, previous)
        if method == "ddpm":
            recorded = torch.cat([one.latents_at(previous) for one in trajectories])
            latents = latents + (recorded - latents[::rows]).repeat_interleave(rows, 0)
        if callback is not None:
            callback(t, latents)
    return latents


def resize_offsets(offsets: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """(B, h, w) → (B, grid[0]·grid[1]), nearest neighbour."""
    if tuple(offsets.shape[1:]) != tuple(grid):
        offsets = F.interpolate(offsets[:, None], size=grid, mode="nearest-exact")[:, 0]
    return offsets.flatten(1)


def signed_offsets(patterns: torch.Tensor, strength: float, one_sided: bool = False) -> torch.Tensor:
    """(P, h, w) masks or patterns → (1 + P or 2P, h, w): zero, then +λ·M of every mask unless one-sided, then −λ·M."""
    positive = strength * patterns.float()
    return torch.cat([torch.zeros_like(positive[:1]), *([] if one_sided else [positive]), -positive])


def shortened(trajectory: Trajectory, timestep: int, steps: int | None) -> list[int]:
    """The timesteps visited from t_m on: all, or ``steps`` of them, the i-th nearest to t_m·(1 − i/(steps+1))."""
    available = [t for t in trajectory.timesteps if t <= timestep]
    if steps is None or steps >= len(available):
        return available
    nearest = lambda wanted: min(available, key=lambda t: (abs(t - wanted), -t))
    return sorted({nearest(timestep * (1 - i / (steps + 1))) for i in range(steps)}, reverse=True)


def scaled_strength(denoiser: Denoiser, strength: float, timesteps: list[int], method: str) -> float:
    """λ for a first step to ``timesteps[1]`` that moves the latents as far as λ does in one step of the full trajectory."""

    def moved(previous: int | None) -> float:  # |∂xₛ/∂ε|
        to_clean, to_noise, _ = reverse_coefficients(denoiser, timesteps[0], method, previous)
        alpha_bar = denoiser.alpha_bar(timesteps[0]).item()
        return abs(to_noise - to_clean * ((1 - alpha_bar) / alpha_bar) ** 0.5)

    return strength * moved(None) / moved(timesteps[1] if len(timesteps) > 1 else -1)


def difference_maps(
    denoiser: Denoiser,
    decode: Decode,
    trajectory: Trajectory | list[Trajectory],
    masks: torch.Tensor | list[torch.Tensor],
    layer: str,
    timestep: int,
    strength: float,
    injection: bool = True,
    placement: str = "after_projection",
    chunk_size: int = 8,
    progress: Callable | None = None,
    shortcuts: Shortcuts = EXACT,
    guide: torch.Tensor | list[torch.Tensor] | None = None,
) -> torch.Tensor | list[torch.Tensor]:
    """dᵏ(x, y) = ‖I⁻ᵏ(x, y) − I⁺ᵏ(x, y)‖₂ over RGB, for every mask (Eq. 4).

    Args:
        decode: latents (B, C, h, w) → images (B, 3, H, W) in [0, 1].
        trajectory, masks: an image's trajectory and its (K, h, w) bool coarse masks; or lists of them, one per image, with
            trajectories of one size and the same K, to be modulated together.
        layer, timestep, strength: where (layer, t_m) and how strongly (λ) the output is shifted.
        injection, placement: see :func:`modulated_latents`.
        chunk_size: masks of each image per batch, halved whenever memory runs out; the result does not depend on it.
        progress: a ``tqdm`` factory, called with ``total`` = number of masks (or coded passes).
        shortcuts: what to leave out.
        guide: (3, H, W) image in [0, 1] (or a list), where ``shortcuts`` ask for one.

    Returns:
        (K, H, W) float32 on the CPU, unfiltered, or a list of them; in [0, √3] for images without a guide, and at the size of
        the latents for latents without one.
    """
    if single := isinstance(trajectory, Trajectory):
        trajectory, masks, guide = [trajectory], [masks], [guide]
    timesteps = shortened(trajectory[0], timestep, shortcuts.denoising_steps)
    if shortcuts.denoising_steps is not None:
        strength = scaled_strength(denoiser, strength, timesteps, trajectory[0].method)
    passes = shortcuts.coded_passes or math.inf
    codes = [code_matrix(m, passes) if passes < len(m) else None for m in masks]
    patterns = [
        m if c is None else torch.einsum("pk,khw->phw", c, m.float()) for m, c in zip(masks, codes, strict=True)
    ]
    read = (lambda latents: latents) if shortcuts.readout == "latents" else decode

    def responses(part: slice) -> list[torch.Tensor]:
        """I⁻ − I⁺ (or I⁻ − I) of every pattern in this part, (P, channels, H, W), image by image."""
        offsets = torch.cat([signed_offsets(p[part], strength, shortcuts.one_sided) for p in patterns])
        latents = modulated_latents(
            denoiser, trajectory, offsets, layer, timestep, injection, placement, timesteps=timesteps
        )
        found = []
        for rows in latents.chunk(len(trajectory)):
            if shortcuts.one_sided:
                seen = read(rows)
                found.append(seen[1:] - seen[:1])
            else:
                positive, negative = rows[1:].chunk(2)
                found.append(read(negative) - read(positive))
        return found

    magnitude = lambda response: torch.linalg.vector_norm(response, dim=1).cpu()
    device, bar = denoiser.unet.device, progress(total=len(patterns[0])) if progress is not None else nullcontext()
    with pages_kept(device), bar as bar:
        parts: list[list[torch.Tensor]] = []
        for found in _chunked(responses, len(patterns[0]), chunk_size):
            # a mask's own response shrinks to its magnitude at once; coded ones are needed whole
            parts.append([magnitude(r) if c is None else r.cpu() for r, c in zip(found, codes, strict=True)])
            if bar is not None:
                bar.update(len(found[0]))
    results = []
    for whole, code, mask, image in zip(map(torch.cat, zip(*parts, strict=True)), codes, masks, guide, strict=True):
        if code is not None:
            whole = magnitude(torch.einsum("pk,pchw->kchw", code, whole) / len(code))
            whole = whole * neighbourhoods(mask, tuple(whole.shape[1:]))
        if shortcuts.guide_radius > 0:
            radius = max(1, round(shortcuts.guide_radius * image.shape[1] / mask.shape[1]))
            whole = guided_upsample(whole, image, radius)
        results.append(whole)
    return results[0] if single else results


def _chunked(run: Callable[[slice], list], count: int, size: int) -> Iterator[list]:
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
