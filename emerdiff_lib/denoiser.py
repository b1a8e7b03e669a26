"""The frozen network as the method sees it: noisy latents and a timestep in, the predictions x̂₀ and ε out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DDIMScheduler, SD3Transformer2DModel, UNet2DConditionModel

from .conditioning import Conditioning
from .flow import flow_betas, is_flow
from .settings import whole


def schedule(scheduler_config: Mapping[str, Any], num_inference_steps: int) -> DDIMScheduler:
    """The checkpoint's noise schedule with N inference steps: leading spacing, offset 1, ᾱ = 1 at the end.

    Raises:
        ValueError: if N is not between 1 and the number of training timesteps.
    """
    usual = dict(
        timestep_spacing="leading",
        steps_offset=1,
        set_alpha_to_one=True,
        clip_sample=False,
        thresholding=False,
    )
    if is_flow(scheduler_config):
        count, betas = scheduler_config["num_train_timesteps"], flow_betas(scheduler_config)
        scheduler = DDIMScheduler(count, trained_betas=betas, **usual)
    else:
        scheduler = DDIMScheduler.from_config(scheduler_config, **usual)
    limit = scheduler.config.num_train_timesteps
    if not 1 <= num_inference_steps < limit:
        raise ValueError(
            f"num_inference_steps={num_inference_steps} is not possible; choose 1 to {limit - 1}."
        )
    scheduler.set_timesteps(num_inference_steps)
    return scheduler


def inference_timesteps(scheduler_config: Mapping[str, Any], num_inference_steps: int) -> list[int]:
    """981, 961, …, 1 for Stable Diffusion and N = 50."""
    return schedule(scheduler_config, num_inference_steps).timesteps.tolist()


class Denoiser:
    """A network, a prompt and a noise schedule with N inference steps.

    Timesteps follow Stable Diffusion's spacing (leading, offset 1): 981, 961, …, 1 for N = 50. ε-, v- and x₀-prediction
    all go through the scheduler's own conversion; a flow is turned into ε (:meth:`unet_output`). Latents stay in float32
    whatever the network computes in.

    Args:
        unet: the network, a U-Net or a transformer; its dtype and device are used.
        scheduler_config: the checkpoint's scheduler config (noise schedule and prediction type are read from it).
        conditioning: a prompt and whatever else the U-Net is told; None where only the schedule is needed.
        num_inference_steps: N.

    Raises:
        ValueError: if N is not between 1 and the number of training timesteps.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel | SD3Transformer2DModel,
        scheduler_config: Mapping[str, Any],
        conditioning: Conditioning | None,
        num_inference_steps: int,
    ):
        self.unet, self.conditioning = unet, conditioning
        self.is_flow = is_flow(scheduler_config)
        self.scheduler = schedule(scheduler_config, num_inference_steps)
        self.timesteps: list[int] = self.scheduler.timesteps.tolist()
        self.stride = self.scheduler.config.num_train_timesteps // num_inference_steps  # Δ

    def check_timestep(self, name: str, timestep: int) -> int:
        """Returns ``timestep`` if it is one of the inference timesteps, else raises ValueError listing them."""
        whole(0)(name, timestep)
        if timestep not in self.timesteps:
            raise ValueError(
                f"{name}={timestep} is not an inference timestep; with {len(self.timesteps)} steps choose one of "
                f"{', '.join(map(str, self.timesteps[::-1]))}."
            )
        return int(timestep)

    def alpha_bar(self, timestep: int) -> torch.Tensor:
        """ᾱₜ, a 0-d float64 tensor; 1 before the first timestep, where the latents are clean."""
        return (
            self.scheduler.alphas_cumprod[timestep].double()
            if timestep >= 0
            else torch.ones((), dtype=torch.float64)
        )

    def alpha_bars(self, timestep: int, previous: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """(ᾱₜ, ᾱₜ₋Δ), or (ᾱₜ, ᾱₛ) for a step of another size, to ``previous`` = s; s = −1 stands for clean latents."""
        return self.alpha_bar(timestep), self.alpha_bar(
            timestep - self.stride if previous is None else previous
        )

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timestep: int) -> torch.Tensor:
        """xₜ = √ᾱₜ x₀ + √(1−ᾱₜ) ε."""
        alpha_bar = self.alpha_bar(timestep)
        return alpha_bar.sqrt().item() * latents + (1 - alpha_bar).sqrt().item() * noise

    def unet_output(self, latents: torch.Tensor, timesteps: int | list[int]) -> torch.Tensor:
        """The network's output for (B, C, h, w) latents at one timestep, or at one per row, in the latents' dtype; without the
        variances that some learn besides. Of a flow model, which gives ε − x₀ for latents of its own scale, ε."""
        assert self.conditioning is not None, "a schedule alone predicts nothing"
        steps = torch.as_tensor(timesteps, device=self.unet.device).expand(len(latents))
        told = self.conditioning.keywords(latents)
        if self.is_flow:
            alpha_bar = self.scheduler.alphas_cumprod.to(latents)[steps][:, None, None, None]
            signal, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
            scaled = latents / (signal + noise)
            sigma = noise / (signal + noise)
            steps = sigma.flatten() * self.scheduler.config.num_train_timesteps
            flow = self.unet(scaled.to(self.unet.dtype), timestep=steps, **told).sample.to(latents.dtype)
            return scaled + (1 - sigma) * flow
        output = self.unet(latents.to(self.unet.dtype), steps, **told).sample
        return output[:, : latents.shape[1]].to(latents.dtype)

    def predict(self, latents: torch.Tensor, timestep: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(x̂₀, ε) for (B, C, h, w) latents at one timestep."""
        return self.convert(self.unet_output(latents, timestep), latents, timestep)

    def convert(
        self, output: torch.Tensor, latents: torch.Tensor, timestep: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The network's output as (x̂₀, ε), by the scheduler's conversion for its prediction type."""
        clean = self.scheduler.step(output, timestep, latents, eta=0.0).pred_original_sample
        if self.scheduler.config.prediction_type == "epsilon":
            return clean, output
        alpha_bar = self.alpha_bar(timestep)
        return clean, (latents - alpha_bar.sqrt().item() * clean) / (1 - alpha_bar).sqrt().item()
