"""Reading and changing attention inside a frozen U-Net, as processors that are always taken out again.

Three interventions of the paper (Sec. 3): *capture* of query vectors, *injection* of the unmodulated trajectory's
attention maps, and *modulation* of one cross-attention output inside a mask.

Injection never stores an attention map. All trajectories run in lockstep, with the unmodulated one as row 0 of every
batch, and every other row attends with row 0's queries and keys: the attention probabilities are the original ones, only
the values are a row's own. Cross-attention values come from the prompt, so its output is row 0's for everybody.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention

PLACEMENTS = ("after_projection", "before_projection")
_SUFFIX = ".processor"


def attention_layers(unet: UNet2DConditionModel, kind: str | None = None) -> list[str]:
    """Names of the attention layers in the order of the forward pass; ``kind`` "attn1" (self) or "attn2" (cross)."""
    names = [name.removesuffix(_SUFFIX) for name in unet.attn_processors]
    names = [name for name in names if kind is None or name.endswith(kind)]
    stage = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2}
    return sorted(names, key=lambda name: stage[name.split(".")[0]])


def check_layer(unet: UNet2DConditionModel, argument: str, name: str) -> str:
    """Returns ``name`` if it is a cross-attention layer of ``unet``, else raises ValueError listing those there are."""
    valid = attention_layers(unet, "attn2")
    if name not in valid:
        raise ValueError(
            f"{argument}={name!r} is not a cross-attention layer of this model; choose one of {', '.join(valid)}."
        )
    return name


def layer_grid(unet: UNet2DConditionModel, layer: str, height: int, width: int) -> tuple[int, int]:
    """(h, w) of an attention layer's positions in a U-Net on (height, width) latents; level i of the U-Net halves i times."""
    block, index = layer.split(".")[:2]
    levels = len(unet.config.block_out_channels)
    level = {
        "down_blocks": lambda: int(index),
        "mid_block": lambda: levels - 1,
        "up_blocks": lambda: levels - 1 - int(index),
    }
    reduction = 2 ** level[block]()
    return -(-height // reduction), -(-width // reduction)


@contextmanager
def attention_processors(unet: UNet2DConditionModel, processors: dict[str, object]) -> Iterator[None]:
    """Install processors by layer name and put the former ones back on leaving, whatever happened inside."""
    former = dict(unet.attn_processors)
    unet.set_attn_processor(former | {name + _SUFFIX: processor for name, processor in processors.items()})
    try:
        yield
    finally:
        unet.set_attn_processor(former)


class QueryCapture:
    """Runs another processor and keeps the layer's query vectors, (B, tokens, d) before the split into heads."""

    def __init__(self, processor):
        self.processor, self.queries = processor, None

    def __call__(self, attn: Attention, hidden_states: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        self.queries = attn.to_q(hidden_states)
        return self.processor(attn, hidden_states, *args, **kwargs)


@contextmanager
def capture_queries(unet: UNet2DConditionModel, layers: list[str]) -> Iterator[dict[str, QueryCapture]]:
    """Within the context, ``captures[layer].queries`` holds the queries of the latest forward pass."""
    former = unet.attn_processors
    captures = {layer: QueryCapture(former[layer + _SUFFIX]) for layer in layers}
    with attention_processors(unet, captures):
        yield captures


@dataclass
class Modulation:
    """What is added to a cross-attention layer's output (Sec. 3.2; Fig. 14 for the placement).

    Attributes:
        layer: name of the cross-attention layer.
        offsets: (B, tokens) float, c·M of every row; row 0, the unmodulated trajectory, is zero.
        placement: "after_projection" for f(softmax(QKᵀ/√d)·V) + c·M, "before_projection" for f(softmax(QKᵀ/√d)·V + c·M),
            where f is the output projection.
    """

    layer: str
    offsets: torch.Tensor
    placement: str = "after_projection"


class LockstepAttention:
    """Attention over a batch whose row 0 is the unmodulated trajectory.

    Args:
        share_first_row: attention injection: every row uses row 0's attention probabilities.
        modulation: offsets to add, or None.
    """

    def __init__(self, share_first_row: bool, modulation: Modulation | None = None):
        self.share_first_row, self.modulation = share_first_row, modulation

    def __call__(
        self, attn: Attention, hidden_states: torch.Tensor, encoder_hidden_states=None, attention_mask=None, **kwargs
    ) -> torch.Tensor:
        if (
            attention_mask is not None
            or attn.norm_cross
            or attn.group_norm is not None
            or attn.spatial_norm is not None
        ):
            raise NotImplementedError(
                "This attention layer has masks or norms of its own: EmerDiff does not handle it."
            )
        rows, cross = len(hidden_states), encoder_hidden_states is not None
        # rows that queries, and in self-attention keys, are taken from
        source = hidden_states[:1] if self.share_first_row else hidden_states
        context = encoder_hidden_states[: len(source)] if cross else source
        query, key = attn.to_q(source), attn.to_k(context)
        value = attn.to_v(context if cross else hidden_states)

        heads = lambda a: a.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        query, key, value = heads(query), heads(key), heads(value)
        if len(value) != len(query):
            query, key = query.expand(rows, -1, -1, -1), key.expand(rows, -1, -1, -1)
        output = F.scaled_dot_product_attention(query, key, value, scale=attn.scale).transpose(1, 2).flatten(2)

        modulation = self.modulation
        if modulation is not None and modulation.placement == "before_projection":
            output = output + modulation.offsets[..., None].to(output.dtype)
        output = attn.to_out[1](attn.to_out[0](output))
        output = output.expand(rows, -1, -1)
        if modulation is not None and modulation.placement == "after_projection":
            output = output + modulation.offsets[..., None].to(output.dtype)
        return output


@contextmanager
def lockstep(unet: UNet2DConditionModel, injection: bool, modulation: Modulation | None = None) -> Iterator[None]:
    """Within the context, rows 1… follow row 0's attention (``injection``) and ``modulation`` is applied."""
    processors = {}
    if injection:
        processors = {name: LockstepAttention(share_first_row=True) for name in attention_layers(unet)}
    if modulation is not None:
        processors[modulation.layer] = LockstepAttention(injection, modulation)
    with attention_processors(unet, processors):
        yield
