"""The derivative of the image with respect to λ, in place of a difference of two images: does it segment better?

With injected attention the maps are constants, so one forward pass of tangents per mask gives ∂I/∂λ at λ = 0 exactly: through
self-attention it is softmax(QKᵀ/√d)·dV, injected cross-attention has none, and ``torch.func.jvp`` knows everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch.func import jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..attention import attention_layers, attention_processors, layer_grid
from ..denoiser import Denoiser
from ..inversion import Trajectory, reverse_mean_and_std
from ..modulation import resize_offsets
from ..settings import Perturbation

Decode = Callable[[torch.Tensor], torch.Tensor]


class TangentAttention:
    """Attention whose probabilities are constants of the unmodulated trajectory; only values carry tangents.

    Args:
        offset: (1, tokens) added to the output after or before the projection, as
            :class:`~emerdiff_lib.attention.Modulation` has it; None for layers that are not modulated.
    """

    def __init__(self, offset: torch.Tensor | None = None, placement: str = "after_projection"):
        self.offset, self.placement = offset, placement

    def __call__(
        self, attn: Attention, hidden_states: torch.Tensor, encoder_hidden_states=None, *args, **kwargs
    ) -> torch.Tensor:
        heads = lambda a: a.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        own = hidden_states.detach()  # no tangents
        context = own if encoder_hidden_states is None else encoder_hidden_states
        values = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        scores = heads(attn.to_q(own)) * attn.scale @ heads(attn.to_k(context)).transpose(-2, -1)
        output = (scores.softmax(-1) @ heads(attn.to_v(values))).transpose(1, 2).flatten(2)
        if self.offset is not None and self.placement == "before_projection":
            output = output + self.offset[..., None].to(output.dtype)
        output = attn.to_out[1](attn.to_out[0](output))
        if self.offset is not None and self.placement == "after_projection":
            output = output + self.offset[..., None].to(output.dtype)
        return output


@contextmanager
def _tangents(unet: UNet2DConditionModel, modulated: dict[str, TangentAttention]) -> Iterator[None]:
    plain = {name: TangentAttention() for name in attention_layers(unet)}
    with attention_processors(unet, plain | modulated), sdpa_kernel(SDPBackend.MATH):
        yield


def image_tangents(
    denoiser: Denoiser,
    decode: Decode,
    trajectory: Trajectory,
    masks: torch.Tensor,
    perturbation: Perturbation,
    timesteps: list[int] | None = None,
    chunk_size: int = 16,
) -> torch.Tensor:
    """∂I/∂λ of every mask at λ = 0, through all remaining steps and the decoder.

    Args:
        decode: latents → images, differentiable and without a clamp, whose derivative would be zero at black and white.
        masks: (K, h, w) bool.
        perturbation: the layer, t_m and placement; attention is injected whatever it says.
        timesteps: t_m and those visited after it, descending; by default all that the trajectory has.

    Returns:
        (K, 3, H, W) float32 on the CPU.
    """
    t_m = perturbation.modulation_timestep
    visited = timesteps or [t for t in trajectory.timesteps if t <= t_m]
    grid = layer_grid(denoiser.unet, perturbation.modulation_layer, *trajectory.clean_latents.shape[2:])
    offsets = resize_offsets(masks.to(trajectory.clean_latents.dtype), grid).to(denoiser.unet.device)

    def image(offset: torch.Tensor) -> torch.Tensor:
        """I as a function of one mask's offset (1, tokens); the recorded trajectory, which is where its value stays."""
        latents = trajectory.latents[t_m]
        last = None if trajectory.method == "ddim" else -1
        for t, previous in zip(visited, [*visited[1:], last], strict=True):
            modulated = TangentAttention(offset, perturbation.offset_placement)
            with _tangents(denoiser.unet, {perturbation.modulation_layer: modulated} if t == t_m else {}):
                output = denoiser.unet_output(latents, t)
            predictions = denoiser.convert(output, latents, t)
            latents, _ = reverse_mean_and_std(denoiser, latents, predictions, t, trajectory.method, previous)
            if trajectory.method == "ddpm" and previous is not None:  # the recorded noise: a constant
                latents = latents + (trajectory.latents_at(previous) - latents.detach())
        with sdpa_kernel(SDPBackend.MATH):
            return decode(latents)

    def derivative(direction: torch.Tensor) -> torch.Tensor:
        _, tangent = jvp(image, (torch.zeros_like(direction),), (direction,))
        return tangent[0]

    parts = [vmap(derivative)(part[:, None]).float().cpu() for part in offsets.split(chunk_size)]
    return torch.cat(parts)
