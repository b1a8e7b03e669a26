"""A rectified flow (arXiv 2209.03003) as the diffusion that it is at another scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def is_flow(scheduler_config: Mapping[str, Any]) -> bool:
    """Whether a schedule mixes picture and noise as rectified flow does, (1−σ) x₀ + σ ε, instead of √ᾱ x₀ + √(1−ᾱ) ε."""
    betas = ("beta_schedule", "trained_betas")
    return "shift" in scheduler_config and all(scheduler_config.get(name) is None for name in betas)


def flow_betas(scheduler_config: Mapping[str, Any]) -> list[float]:
    """The βₜ that give a rectified flow's signal-to-noise ratios.

    Scaled to unit variance, (1−σ) x₀ + σ ε is √ᾱ x₀ + √(1−ᾱ) ε with ᾱ = (1−σ)²/((1−σ)² + σ²), so that all that is said of
    diffusion holds for flows (Kingma and Gao, arXiv 2303.00848). Timestep t has σ = s·τ/(1 + (s−1)·τ) with τ = t/T and
    the checkpoint's shift s (arXiv 2403.03206, Sec. 5.3.2).
    """
    count, shift = scheduler_config["num_train_timesteps"], scheduler_config["shift"]
    time = torch.arange(count, dtype=torch.float64) / count
    sigma = shift * time / (1 + (shift - 1) * time)
    alpha_bar = (1 - sigma) ** 2 / ((1 - sigma) ** 2 + sigma**2)
    return (1 - alpha_bar / torch.cat([alpha_bar[:1], alpha_bar[:-1]])).tolist()
