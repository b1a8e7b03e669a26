"""What the frozen network knows about each place: queries of cross-attention layers, and other activations (Sec. 3.1)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from .interventions import capturing, exclusive, hooked
from .inversion import Trajectory, draw_noise
from .predictor import Predictor


def extract_queries(
    predictor: Predictor, noisy_latents: torch.Tensor, timestep: int, layers: list[str]
) -> dict[str, torch.Tensor]:
    """Query vectors of attention ``layers`` at ``timestep``, {layer: (h, w, d) float32}.

    ``noisy_latents`` is (B, C, h, w); queries are averaged over the rows (a noise ensemble as in DIFT, arXiv 2306.03881).
    """
    denoiser, backbone, maps = predictor.denoiser, predictor.backbone, {}
    with exclusive(denoiser), capturing(denoiser, layers) as queries:
        predictor.network_output(noisy_latents, timestep)
    for layer in layers:
        grid = backbone.grid(layer, *noisy_latents.shape[2:])
        of_image = backbone.image_tokens(layer, queries[layer], grid[0] * grid[1])
        maps[layer] = of_image.mean(0).float().cpu().unflatten(0, grid)
    return maps


def extract_activations(
    predictor: Predictor, noisy_latents: torch.Tensor, timestep: int, modules: list[str]
) -> dict[str, torch.Tensor]:
    """Output feature maps of any ``modules`` of the network by name, {module: (h, w, d) float32}, averaged over the rows.

    Raises:
        AttributeError: for a name that is not among ``predictor.denoiser.named_modules()``.
        RuntimeError: for a module that has no output for every image token.
    """
    outputs: dict[str, torch.Tensor] = {}
    denoiser, backbone = predictor.denoiser, predictor.backbone

    def keep(name: str, module: torch.nn.Module, inputs: Any, output: Any) -> None:
        output = backbone.feature_map(name, output)
        if output.ndim == 3:  # (B, tokens, d)
            grid = backbone.grid(name, *noisy_latents.shape[2:])
            output = backbone.image_tokens(name, output, grid[0] * grid[1])
            output = output.transpose(1, 2).unflatten(2, grid)
        outputs[name] = output

    handles = (denoiser.get_submodule(name).register_forward_hook(partial(keep, name)) for name in modules)
    with exclusive(denoiser), hooked(handles):
        predictor.network_output(noisy_latents, timestep)
    return {name: output.mean(0).permute(1, 2, 0).float().cpu() for name, output in outputs.items()}


def noise_ensemble(
    predictor: Predictor, trajectory: Trajectory, timestep: int, size: int, generator: torch.Generator | None
) -> torch.Tensor:
    """(size, C, h, w) noisy latents at ``timestep``: the trajectory's own xₜ first, then fresh draws."""
    clean = trajectory.clean_latents
    fresh = predictor.add_noise(clean, draw_noise(clean, size - 1, generator), timestep)
    return torch.cat([trajectory.latents[timestep], fresh])
