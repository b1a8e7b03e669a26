"""The naive implementation: the paper's description taken literally, which the library must equal and beats in speed.

One mask and one sign at a time, with the attention maps of the unmodulated trajectory stored for every layer and step and
put in place of the run's own. The network's layers are its authors'; only the product of attention itself is written out
here, so that its probabilities can be kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from ..interventions import OwnAttention, hooked, masked
from ..inversion import Trajectory, reverse_step
from ..pipeline import EmerDiffPipeline
from ..predictor import Predictor
from ..stages import CoarseMasks, Responses

# Of every timestep, each layer's probabilities in the order of the network
Maps = dict[int, list[torch.Tensor]]


@contextmanager
def written_out_attention(stored: list[torch.Tensor] | None = None) -> Iterator[list[torch.Tensor]]:
    """Within the context, softmax(QKᵀ/√d)·V is computed step by step; with ``stored`` probabilities, those are used.

    Yields the list of the (B, heads, tokens, tokens or words) probabilities of every call so far.
    """
    probabilities: list[torch.Tensor] = []

    def attend(given: dict[str, Any]) -> torch.Tensor:
        query, key = given["query"], given["key"]
        if stored:
            probabilities.append(stored[len(probabilities)])
        else:
            scores = query @ key.transpose(-2, -1) * (given.get("scale") or query.shape[-1] ** -0.5)
            probabilities.append(masked(scores, given.get("attn_mask")).softmax(-1))
        return probabilities[-1] @ given["value"]

    with OwnAttention(attend):
        yield probabilities


def stored_maps(predictor: Predictor, trajectory: Trajectory, timestep: int) -> Maps:
    """The attention probabilities of the unmodulated trajectory from ``timestep`` on."""
    latents, maps = trajectory.latents[timestep], {}
    for t in (t for t in trajectory.timesteps if t <= timestep):
        with written_out_attention() as maps[t]:
            latents = reverse_step(predictor, trajectory, latents, t)
    return maps


def modulated_latents(
    predictor: Predictor,
    trajectory: Trajectory,
    maps: Maps,
    mask: torch.Tensor,
    strength: float,
    layer: str,
    timestep: int,
    placement: str = "after_projection",
) -> torch.Tensor:
    """x₀ of a single run in which ``strength`` · ``mask`` is added at ``timestep``; mask (h, w) on the layer's own grid.

    ``maps`` come from :func:`stored_maps`; without any for a timestep, the run attends by itself.
    """
    latents = trajectory.latents[timestep]
    offset = strength * mask.to(latents).reshape(1, -1, 1)
    projection = predictor.denoiser.get_submodule(layer).to_out[0]

    def added(tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens.clone()
        predictor.backbone.image_tokens(layer, tokens, mask.numel()).add_(offset)
        return tokens

    for t in (t for t in trajectory.timesteps if t <= timestep):
        hooks = []
        if t == timestep and placement == "after_projection":
            hooks = [projection.register_forward_hook(lambda _, args, output: added(output))]
        elif t == timestep:
            hooks = [projection.register_forward_pre_hook(lambda _, args: added(args[0]))]
        with hooked(hooks), written_out_attention(maps.get(t)):
            latents = reverse_step(predictor, trajectory, latents, t)
    return latents


@torch.no_grad()
def modulate(pipe: EmerDiffPipeline, coarse: CoarseMasks) -> Responses:
    """As ``pipe.modulate(coarse)`` in exact mode, every run and every decoding on its own: (K, H, W) ‖I⁻ᵏ − I⁺ᵏ‖₂.

    ``coarse`` is of a trajectory with noise maps (``pipe.invert``).
    """
    settings = coarse.settings
    predictor = pipe.predictor(settings.num_inference_steps, settings.prompt, settings.processing_resolution)
    where = {"layer": settings.modulation_layer, "timestep": settings.modulation_timestep}
    maps, differences = stored_maps(predictor, coarse.trajectory, where["timestep"]), []
    for mask in coarse.masks:
        run = partial(modulated_latents, predictor, coarse.trajectory, maps, mask, **where)
        plus, minus = (pipe.decode(run(sign * settings.modulation_strength)) for sign in (1, -1))
        differences.append(torch.linalg.vector_norm(minus - plus, dim=1)[0].cpu())
    return Responses(**vars(coarse) | {"seconds": {}}, difference_maps=torch.stack(differences))
