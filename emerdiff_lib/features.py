"""What the frozen network knows about each place: queries of cross-attention layers, and other activations (Sec. 3.1)."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from diffusers.models.attention import JointTransformerBlock
from diffusers.utils.torch_utils import randn_tensor

from .attention import capture_queries, layer_grid
from .denoiser import Denoiser
from .inversion import Trajectory


def extract_queries(
    denoiser: Denoiser, noisy_latents: torch.Tensor, timestep: int, layers: list[str]
) -> dict[str, torch.Tensor]:
    """Query vectors of cross-attention ``layers`` at ``timestep``, {layer: (h, w, d) float32}.

    ``noisy_latents`` is (B, C, h, w); queries are averaged over the rows (a noise ensemble as in DIFT, arXiv 2306.03881).
    """
    with capture_queries(denoiser.unet, layers) as captures:
        denoiser.unet_output(noisy_latents, timestep)
    return {
        layer: capture.queries.mean(0)
        .float()
        .cpu()
        .unflatten(0, layer_grid(denoiser.unet, layer, *noisy_latents.shape[2:]))
        for layer, capture in captures.items()
    }


def extract_activations(
    denoiser: Denoiser, noisy_latents: torch.Tensor, timestep: int, modules: list[str]
) -> dict[str, torch.Tensor]:
    """Output feature maps of any ``modules`` of the network by name, {module: (h, w, d) float32}, averaged over the rows.

    Raises:
        AttributeError: for a name that is not among ``denoiser.unet.named_modules()``.
        RuntimeError: for a module that has no output for every place.
    """
    outputs: dict[str, torch.Tensor] = {}

    def keep(name: str, module: torch.nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(
            output, tuple
        ):  # a transformer's blocks give words first, its attention gives them last
            output = output[-1 if isinstance(module, JointTransformerBlock) else 0]
        if output.ndim == 3:  # (B, tokens, d)
            grid = layer_grid(denoiser.unet, name, *noisy_latents.shape[2:])
            output = output.transpose(1, 2).unflatten(2, grid)
        outputs[name] = output

    with ExitStack() as hooks:
        for name in modules:
            hook = denoiser.unet.get_submodule(name).register_forward_hook(partial(keep, name))
            hooks.callback(hook.remove)
        denoiser.unet_output(noisy_latents, timestep)
    return {name: output.mean(0).permute(1, 2, 0).float().cpu() for name, output in outputs.items()}


def draw_noise(latents: torch.Tensor, count: int, generator: torch.Generator | None) -> torch.Tensor:
    """(count, C, h, w) standard normal noises for latents (1, C, h, w), one draw after the other."""
    draws = [randn_tensor(latents.shape, generator, latents.device, latents.dtype) for _ in range(count)]
    return torch.cat([latents[:0], *draws])


def noise_ensemble(
    denoiser: Denoiser, trajectory: Trajectory, timestep: int, size: int, generator: torch.Generator | None
) -> torch.Tensor:
    """(size, C, h, w) noisy latents at ``timestep``: the trajectory's own xₜ first, then fresh draws."""
    clean = trajectory.clean_latents
    fresh = denoiser.add_noise(clean, draw_noise(clean, size - 1, generator), timestep)
    return torch.cat([trajectory.latents[timestep], fresh])
