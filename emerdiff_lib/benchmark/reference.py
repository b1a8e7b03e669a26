"""The straightforward implementation of the paper's description, which the library's must equal and beats in speed.

One mask and one sign at a time, with the attention maps of the unmodulated trajectory stored for every layer and step and
put in place of the run's own.
"""

from __future__ import annotations

import torch

from ..attention import attention_layers, attention_processors, layer_grid
from ..denoiser import Denoiser
from ..inversion import Trajectory, reverse_step


class StoredMaps:
    """Explicit softmax attention that records its probabilities, or uses recorded ones."""

    def __init__(self, maps: dict, name: str, recording: bool):
        self.maps, self.name, self.recording = maps, name, recording
        self.offset, self.placement = None, "after_projection"

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **kwargs):
        if self.name.startswith("transformer_blocks"):
            return self._of_transformer(attn, hidden_states, encoder_hidden_states)
        joint, given = attn.added_kv_proj_dim is not None, hidden_states
        if joint:  # feature maps, of which the layer attends to places and words at once
            hidden_states = attn.group_norm(given.flatten(2)).transpose(1, 2)
        context = hidden_states if joint or encoder_hidden_states is None else encoder_hidden_states
        key, value = attn.to_k(context), attn.to_v(context)
        if joint:
            words = encoder_hidden_states
            if attn.norm_cross:
                words = attn.norm_encoder_hidden_states(words)
            key = torch.cat([attn.add_k_proj(words), key], 1)
            value = torch.cat([attn.add_v_proj(words), value], 1)
        value = attn.head_to_batch_dim(value)
        if self.recording or self.name not in self.maps:
            query, key = attn.head_to_batch_dim(attn.to_q(hidden_states)), attn.head_to_batch_dim(key)
            probabilities = attn.get_attention_scores(query, key)
        else:
            probabilities = self.maps[self.name]
        if self.recording:
            self.maps[self.name] = probabilities
        output = attn.batch_to_head_dim(probabilities @ value)
        if self.offset is not None and self.placement == "before_projection":
            output = output + self.offset
        output = attn.to_out[1](attn.to_out[0](output))
        if self.offset is not None and self.placement == "after_projection":
            output = output + self.offset
        return given + output.transpose(1, 2).reshape(given.shape) if joint else output

    def _of_transformer(self, attn, places, words):
        """Both streams of Stable Diffusion 3's joint attention, places first; or self-attention of places, which 3.5 adds."""

        def heads(project, norm, tokens):
            found = project(tokens).view(len(tokens), tokens.shape[1], attn.heads, -1).transpose(1, 2)
            return found if norm is None else norm(found)

        query, key = heads(attn.to_q, attn.norm_q, places), heads(attn.to_k, attn.norm_k, places)
        value = heads(attn.to_v, None, places)
        if words is not None:
            query = torch.cat([query, heads(attn.add_q_proj, attn.norm_added_q, words)], 2)
            key = torch.cat([key, heads(attn.add_k_proj, attn.norm_added_k, words)], 2)
            value = torch.cat([value, heads(attn.add_v_proj, None, words)], 2)
        if self.recording or self.name not in self.maps:
            probabilities = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).softmax(-1)
        else:
            probabilities = self.maps[self.name]
        if self.recording:
            self.maps[self.name] = probabilities
        both = (probabilities @ value).transpose(1, 2).flatten(2)
        output = both[:, : places.shape[1]]
        if self.offset is not None and self.placement == "before_projection":
            output = output + self.offset
        output = attn.to_out[0](output)
        if self.offset is not None and self.placement == "after_projection":
            output = output + self.offset
        if words is None:
            return output
        told = both[:, places.shape[1] :]
        return output, told if attn.context_pre_only else attn.to_add_out(told)


def stored_maps(
    denoiser: Denoiser, trajectory: Trajectory, timestep: int
) -> dict[int, dict[str, torch.Tensor]]:
    """The attention probabilities of the unmodulated trajectory, {t: {layer: (heads, tokens, tokens or words)}}."""
    latents, maps = trajectory.latents[timestep], {}
    for t in (t for t in trajectory.timesteps if t <= timestep):
        maps[t] = {}
        recorders = {
            name: StoredMaps(maps[t], name, recording=True) for name in attention_layers(denoiser.unet)
        }
        with attention_processors(denoiser.unet, recorders):
            latents = reverse_step(denoiser, trajectory, latents, t)
    return maps


def modulated_latents(
    denoiser: Denoiser,
    trajectory: Trajectory,
    maps: dict[int, dict[str, torch.Tensor]],
    mask: torch.Tensor,
    strength: float,
    layer: str,
    timestep: int,
    placement: str = "after_projection",
) -> torch.Tensor:
    """x₀ of a single run in which ``strength`` · ``mask`` is added at ``timestep``; mask (h, w) on the layer's own grid.

    ``maps`` come from :func:`stored_maps`; an empty dictionary for each timestep leaves attention free.
    """
    latents = trajectory.latents[timestep]
    height, width = layer_grid(denoiser.unet, layer, *latents.shape[2:])
    assert mask.shape == (height, width)
    for t in (t for t in trajectory.timesteps if t <= timestep):
        processors = {
            name: StoredMaps(maps[t], name, recording=False) for name in attention_layers(denoiser.unet)
        }
        if t == timestep:
            processors[layer].offset = strength * mask.to(latents).reshape(1, -1, 1)
            processors[layer].placement = placement
        with attention_processors(denoiser.unet, processors):
            latents = reverse_step(denoiser, trajectory, latents, t)
    return latents


def difference_maps(
    denoiser: Denoiser,
    decode,
    trajectory: Trajectory,
    masks: torch.Tensor,
    layer: str,
    timestep: int,
    strength: float,
) -> torch.Tensor:
    """(K, H, W) ‖I⁻ᵏ − I⁺ᵏ‖₂, every run and every decoding on its own. The trajectory needs its noise maps."""
    maps = stored_maps(denoiser, trajectory, timestep)
    differences = []
    for mask in masks:
        plus, minus = (
            decode(modulated_latents(denoiser, trajectory, maps, mask, sign * strength, layer, timestep))
            for sign in (1, -1)
        )
        differences.append(torch.linalg.vector_norm(minus - plus, dim=1)[0].cpu())
    return torch.stack(differences)
