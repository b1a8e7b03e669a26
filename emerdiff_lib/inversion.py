"""From an image's latents x₀ into the model's noise space and back: edit-friendly DDPM and DDIM inversion.

References: Huberman-Spiegelglas et al., "An Edit Friendly DDPM Noise Space" (arXiv 2304.06140), Alg. 1, for DDPM;
Song et al., "Denoising Diffusion Implicit Models" (arXiv 2010.02502), through diffusers' ``DDIMInverseScheduler``.

The DDPM inversion differs from its authors' code at the last step alone: there, ᾱ before the first timestep is taken as 1
and the residual is kept, so that the replay is exact; theirs takes the schedule's first ᾱ and replays with a small error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from diffusers import DDIMInverseScheduler
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from .images import ImageInput, load_image
from .predictor import Predictor

Progress = Callable[[Sequence[Any]], Iterable[Any]]


@dataclass(repr=False)
class Trajectory:
    """An inverted image: everything that replaying it needs.

    Attributes:
        method: "ddpm" or "ddim".
        timesteps: inference timesteps from the start of the trajectory down to the last one, descending.
        latents: xₜ of every timestep, (1, C, h, w) float32.
        noise_maps: zₜ of every timestep, (1, C, h, w) float32; on the Markov path, standard normal where the model is
            right. At the last timestep, where σₜ = 0, the residual itself. Empty for DDIM, which is deterministic, and
            where only the latents were drawn.
        clean_latents: x₀, (1, C, h, w) float32.
        num_inference_steps: N, which fixes the distance between timesteps.
        image: the image that was inverted, at its own size; None where latents came from elsewhere.
        prompt: the text condition that it was inverted under; ``processing_resolution``: the image's size then.
        latent_space: what the latents mean (:meth:`.FrozenModel.latent_space`); None where they came from elsewhere.
        seconds: spent in "encode" and "invert".
    """

    method: str
    timesteps: list[int]
    latents: dict[int, torch.Tensor]
    clean_latents: torch.Tensor
    num_inference_steps: int
    noise_maps: dict[int, torch.Tensor] = field(default_factory=dict)
    image: Image.Image | None = None
    prompt: str = ""
    processing_resolution: int | None = None
    latent_space: torch.Tensor | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def start(self) -> int:
        """The timestep that it was inverted to."""
        return self.timesteps[0]

    def settings(self, given: dict[str, Any]) -> dict[str, Any]:
        """``given`` flat settings, with those that were settled by inverting.

        Raises:
            ValueError: a given one contradicts the trajectory.
        """
        names = ("num_inference_steps", "prompt", "processing_resolution")
        own = {"inversion": self.method} | {name: getattr(self, name) for name in names}
        for name, value in own.items():
            if given.get(name) is not None and value is not None and given[name] != value:
                raise ValueError(
                    f"{name}={given[name]!r} contradicts the trajectory, which was inverted with {name}={value!r}; leave "
                    "it out, or invert again."
                )
        return given | own

    def check_image(self, image: ImageInput) -> Trajectory:
        """Returns this trajectory if it is one of ``image``, else raises a ValueError."""
        if self.image is None:
            self.image = load_image(image)
        elif not np.array_equal(np.asarray(self.image), np.asarray(load_image(image))):
            raise ValueError("The trajectory belongs to another image; invert this one: pipe.invert(image).")
        return self

    def __repr__(self) -> str:
        shape = " × ".join(map(str, self.clean_latents.shape[1:]))
        return f"Trajectory({self.method}, t = {self.start} … {self.timesteps[-1]}, latents {shape})"


def reverse_mean_and_std(
    predictor: Predictor,
    predictions: tuple[torch.Tensor, torch.Tensor],
    timestep: int,
    method: str,
    previous: int | None = None,
) -> tuple[torch.Tensor, float]:
    """μₜ = √ᾱₜ₋Δ x̂₀ + √(1−ᾱₜ₋Δ−σₜ²) ε and σₜ; a step of another size goes to timestep ``previous`` instead of t−Δ."""
    clean, noise = predictions
    to_clean, to_noise, std = reverse_coefficients(predictor, timestep, method, previous)
    return to_clean * clean + to_noise * noise, std


def reverse_coefficients(
    predictor: Predictor, timestep: int, method: str, previous: int | None = None
) -> tuple[float, float, float]:
    """(√ᾱₜ₋Δ, √(1−ᾱₜ₋Δ−σₜ²), σₜ), where σₜ² = (1−ᾱₜ₋Δ)/(1−ᾱₜ)·(1−ᾱₜ/ᾱₜ₋Δ) for DDPM and 0 for DDIM."""
    alpha_bar, before = predictor.alpha_bars(timestep, previous)
    variance = (1 - before) / (1 - alpha_bar) * (1 - alpha_bar / before)
    variance = variance if method == "ddpm" else torch.zeros(())
    direction = (1 - before - variance).clamp(min=0)
    return before.sqrt().item(), direction.sqrt().item(), variance.sqrt().item()


def reverse_step(
    predictor: Predictor, trajectory: Trajectory, latents: torch.Tensor, timestep: int
) -> torch.Tensor:
    """xₜ₋Δ = μₜ(xₜ) + σₜ zₜ for any rows (B, C, h, w) at ``timestep``, with the trajectory's recorded noise."""
    predictions = predictor.predict(latents, timestep)
    mean, std = reverse_mean_and_std(predictor, predictions, timestep, trajectory.method)
    if trajectory.method == "ddim":
        return mean
    return mean + (std if std > 0 else 1.0) * trajectory.noise_maps[timestep]


def replay(predictor: Predictor, trajectory: Trajectory, progress: Progress = iter) -> torch.Tensor:
    """Walk the trajectory back to x₀, (1, C, h, w). Exact for DDPM, approximate for DDIM.

    Raises:
        ValueError: for a DDPM trajectory without noise maps.
    """
    if trajectory.method == "ddpm" and not trajectory.noise_maps:
        raise ValueError("This trajectory has no noise maps to replay; invert with noise_maps=True.")
    latents = trajectory.latents[trajectory.start]
    for timestep in progress(trajectory.timesteps):
        latents = reverse_step(predictor, trajectory, latents, timestep)
    return latents


def draw_noise(latents: torch.Tensor, count: int, generator: torch.Generator | None) -> torch.Tensor:
    """(count, C, h, w) standard normal noises for latents (1, C, h, w), one draw after the other."""
    draws = [randn_tensor(latents.shape, generator, latents.device, latents.dtype) for _ in range(count)]
    return torch.cat([latents[:0], *draws])


def draw_latents(
    predictor: Predictor,
    clean_latents: torch.Tensor,
    timesteps: list[int],
    generator: torch.Generator | None = None,
    independent_noise: bool = True,
) -> dict[int, torch.Tensor]:
    """The first half of edit-friendly inversion, which needs no network: an xₜ for every timestep; see :func:`invert_ddpm`."""
    latents: dict[int, torch.Tensor] = {}
    previous, level = clean_latents, 1.0
    for t in timesteps[::-1]:
        noise = randn_tensor(clean_latents.shape, generator, clean_latents.device, clean_latents.dtype)
        if independent_noise:
            latents[t] = predictor.add_noise(clean_latents, noise, t)
        else:
            ratio = predictor.alpha_bar(t).item() / level
            latents[t] = ratio**0.5 * previous + (1 - ratio) ** 0.5 * noise
            previous, level = latents[t], predictor.alpha_bar(t).item()
    return latents


def invert_ddpm(
    predictor: Predictor,
    clean_latents: torch.Tensor,
    timesteps: list[int],
    generator: torch.Generator | None = None,
    batch_size: int = 16,
    independent_noise: bool = True,
    progress: Progress = iter,
) -> Trajectory:
    """Edit-friendly DDPM inversion (arXiv 2304.06140, Alg. 1).

    Every xₜ gets a noise of its own, so all network calls are independent and run in batches. With zₜ = (xₜ₋Δ − μₜ)/σₜ,
    replaying μₜ + σₜ zₜ returns to x₀ exactly; where σₜ = 0 the residual xₜ₋Δ − μₜ is kept instead.

    Args:
        clean_latents: x₀, (1, C, h, w) float32.
        timesteps: descending inference timesteps; the last of them must be the schedule's last.
        generator: source of the noises.
        batch_size: timesteps per network call.
        independent_noise: False samples the forward process as a Markov chain instead, the classical path, on which zₜ is
            close to N(0, 1) but carries little of the image (their Sec. 3).
    """
    latents = draw_latents(predictor, clean_latents, timesteps, generator, independent_noise)
    chunks = [timesteps[i : i + batch_size] for i in range(0, len(timesteps), batch_size)]
    noise_maps = {}
    for chunk in progress(chunks):
        outputs = predictor.network_output(torch.cat([latents[t] for t in chunk]), chunk)
        for t, output in zip(chunk, outputs.split(1), strict=True):
            predictions = predictor.convert(output, latents[t], t)
            mean, std = reverse_mean_and_std(predictor, predictions, t, "ddpm")
            residual = latents.get(t - predictor.stride, clean_latents) - mean
            noise_maps[t] = residual / std if std > 0 else residual
    return Trajectory("ddpm", list(timesteps), latents, clean_latents, len(predictor.timesteps), noise_maps)


def invert_ddim(
    predictor: Predictor, clean_latents: torch.Tensor, timesteps: list[int], progress: Progress = iter
) -> Trajectory:
    """DDIM inversion: the deterministic sampler run backwards, one step after the other, with diffusers' scheduler.

    Each step takes ε(xₜ, t) ≈ ε(xₜ₋Δ, t), which is where its error comes from.
    """
    scheduler = DDIMInverseScheduler.from_config(predictor.scheduler.config)
    scheduler.set_timesteps(len(predictor.timesteps))
    latents, current = {}, clean_latents
    for t in progress(sorted(timesteps)):
        current = scheduler.step(predictor.network_output(current, t), t, current).prev_sample
        latents[t] = current
    return Trajectory("ddim", list(timesteps), latents, clean_latents, len(predictor.timesteps))
