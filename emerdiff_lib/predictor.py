"""The frozen network as the method sees it: noisy latents and a timestep in, the predictions x̂₀ and ε out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DDIMScheduler

from .backbones import Backbone, Condition
from .interventions import ChannelsLast, evaluating, exclusive
from .settings import whole


class Predictor:
    """A network, its condition, and a noise schedule with N inference steps.

    Timesteps follow Stable Diffusion's spacing (leading, offset 1): 981, 961, …, 1 for N = 50. ε-, v- and x₀-prediction
    all go through the scheduler's own conversion; a flow is turned into ε (:meth:`network_output`). Latents stay in float32
    whatever the network computes in.

    Args:
        backbone: the pipeline that the network and its scheduler's config are taken from.
        condition: of :meth:`.Backbone.condition`; None where only the schedule is needed.
        num_inference_steps: N.
        processing_resolution: of the images, for schedules that depend on it.

    Raises:
        ValueError: if N is not between 1 and the number of training timesteps.
    """

    def __init__(
        self,
        backbone: Backbone,
        condition: Condition | None,
        num_inference_steps: int,
        processing_resolution: int = 512,
    ):
        self.backbone, self.condition = backbone, condition
        config: Mapping[str, Any] = backbone.pipe.scheduler.config
        if backbone.is_flow:
            count, shift = config["num_train_timesteps"], backbone.noise_shift(processing_resolution)
            config = {"num_train_timesteps": count, "trained_betas": flow_betas(count, shift)}
        spacing = {"timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": True}
        as_it_is = {"clip_sample": False, "thresholding": False}
        self.scheduler = DDIMScheduler.from_config(config, **spacing, **as_it_is)
        limit = self.scheduler.config.num_train_timesteps
        whole(1, limit - 1)("num_inference_steps", num_inference_steps)
        self.scheduler.set_timesteps(num_inference_steps)
        self.timesteps: list[int] = self.scheduler.timesteps.tolist()
        self.stride = self.scheduler.config.num_train_timesteps // num_inference_steps  # Δ

    @property
    def denoiser(self) -> Any:
        """The network."""
        return self.backbone.denoiser

    def check_timestep(self, name: str, timestep: int) -> None:
        """Raises a ValueError that lists the inference timesteps if ``timestep`` is none of them."""
        whole(0)(name, timestep)
        if timestep not in self.timesteps:
            raise ValueError(
                f"{name}={timestep} is not an inference timestep; with {len(self.timesteps)} steps choose one of "
                f"{', '.join(map(str, self.timesteps[::-1]))}."
            )

    def alpha_bar(self, timestep: int) -> torch.Tensor:
        """ᾱₜ, a 0-d float64 tensor; 1 before the first timestep, where the latents are clean."""
        if timestep < 0:
            return torch.ones((), dtype=torch.float64)
        return self.scheduler.alphas_cumprod[timestep].double()

    def alpha_bars(self, timestep: int, previous: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """(ᾱₜ, ᾱₜ₋Δ), or (ᾱₜ, ᾱₛ) for a step of another size, to ``previous`` = s; s = −1 stands for clean latents."""
        previous = timestep - self.stride if previous is None else previous
        return self.alpha_bar(timestep), self.alpha_bar(previous)

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timestep: int) -> torch.Tensor:
        """xₜ = √ᾱₜ x₀ + √(1−ᾱₜ) ε."""
        alpha_bar = self.alpha_bar(timestep)
        return alpha_bar.sqrt().item() * latents + (1 - alpha_bar).sqrt().item() * noise

    @torch.no_grad()
    def network_output(self, latents: torch.Tensor, timesteps: int | list[int]) -> torch.Tensor:
        """The network's output for (B, C, h, w) latents at one timestep, or at one per row, in the latents' dtype.

        Of a flow, which predicts ε − x₀ from (1 − σ) x₀ + σ ε, ε: scaled to unit variance a flow is the diffusion with
        ᾱ = (1−σ)²/((1−σ)² + σ²) (Kingma and Gao, arXiv 2303.00848).
        """
        assert self.condition is not None, "a schedule alone predicts nothing"
        steps = torch.as_tensor(timesteps, device=latents.device).expand(len(latents))
        dtype = self.denoiser.dtype
        with exclusive(self.denoiser), evaluating(self.denoiser), ChannelsLast():
            if not self.backbone.is_flow:
                output = self.backbone.call(latents.to(dtype), steps, self.condition)
                return output.to(latents.dtype)
            alpha_bar = self.scheduler.alphas_cumprod.to(latents)[steps][:, None, None, None]
            signal, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
            scaled, sigma = latents / (signal + noise), noise / (signal + noise)
            steps = sigma.flatten() * self.scheduler.config.num_train_timesteps
            flow = self.backbone.call(scaled.to(dtype), steps, self.condition).to(latents.dtype)
            return scaled + (1 - sigma) * flow

    def predict(self, latents: torch.Tensor, timestep: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(x̂₀, ε) for (B, C, h, w) latents at one timestep."""
        return self.convert(self.network_output(latents, timestep), latents, timestep)

    def convert(
        self, output: torch.Tensor, latents: torch.Tensor, timestep: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The network's output as (x̂₀, ε), by the scheduler's conversion for its prediction type."""
        clean = self.scheduler.step(output, timestep, latents, eta=0.0).pred_original_sample
        if self.scheduler.config.prediction_type == "epsilon":
            return clean, output
        alpha_bar = self.alpha_bar(timestep)
        return clean, (latents - alpha_bar.sqrt().item() * clean) / (1 - alpha_bar).sqrt().item()


def flow_betas(count: int, shift: float) -> list[float]:
    """The βₜ that give a rectified flow's (arXiv 2209.03003) signal-to-noise ratios at ``count`` timesteps.

    Timestep t has σ = s·τ/(1 + (s−1)·τ) with τ = t/T and the checkpoint's shift s (arXiv 2403.03206, Sec. 5.3.2).
    """
    time = torch.arange(count, dtype=torch.float64) / count
    sigma = shift * time / (1 + (shift - 1) * time)
    alpha_bar = (1 - sigma) ** 2 / ((1 - sigma) ** 2 + sigma**2)
    return (1 - alpha_bar / torch.cat([alpha_bar[:1], alpha_bar[:-1]])).tolist()
