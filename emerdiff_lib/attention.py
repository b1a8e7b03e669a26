"""Reading and changing attention inside a frozen U-Net, as processors that are always taken out again.

Three interventions of the paper (Sec. 3): *capture* of query vectors, *injection* of the unmodulated trajectory's
attention maps, and *modulation* of one cross-attention output inside a mask.

Injection never stores an attention map. All trajectories run in lockstep, with the unmodulated one as row 0 of every
image's rows, and every other row attends with row 0's queries and keys: the attention probabilities are the original ones,
only the values are a row's own. Cross-attention values come from the prompt, so its output is row 0's for everybody; joint
attention, to words and places at once, has both kinds of values.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention

_SUFFIX = ".processor"


def attention_layers(unet: UNet2DConditionModel, kind: str | None = None) -> list[str]:
    """Names of the attention layers in the order of the forward pass; ``kind`` "attn1" (self) or "attn2" (cross).

    Joint attention (:func:`is_joint`) is both.
    """
    names = [name.removesuffix(_SUFFIX) for name in unet.attn_processors]
    joint = lambda name: is_joint(unet.get_submodule(name))
    names = [name for name in names if kind is None or name.endswith(kind) or joint(name)]
    stage = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2}
    return sorted(names, key=lambda name: stage[name.split(".")[0]])


def check_layer(unet: UNet2DConditionModel, argument: str, name: str) -> str:
    """Returns ``name`` if it is a cross-attention layer of ``unet``, else raises ValueError listing those there are."""
    valid = attention_layers(unet, "attn2")
    if name not in valid:
        near = difflib.get_close_matches(name, valid, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(
            f"{argument}={name!r} is not a cross-attention layer of this model{hint}; choose one of {', '.join(valid)}."
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
def attention_processors(unet: UNet2DConditionModel, processors: Mapping[str, object]) -> Iterator[None]:
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
        self.queries = attn.to_q(places_of(attn, hidden_states))
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
        offsets: (B, tokens) float, c·M of every row; zero for the unmodulated trajectories.
        placement: "after_projection" for f(softmax(QKᵀ/√d)·V) + c·M, "before_projection" for f(softmax(QKᵀ/√d)·V + c·M),
            where f is the output projection.
    """

    layer: str
    offsets: torch.Tensor
    placement: str = "after_projection"


class LockstepAttention:
    """Attention over the rows of one or several images, the first row of each image being its unmodulated trajectory.

    Args:
        injection: every row uses the attention probabilities of its image's first row.
        images: number of images; B rows are B / images rows of the first, then those of the second …
        modulation: offsets to add, or None.
    """

    def __init__(self, injection: bool, images: int = 1, modulation: Modulation | None = None):
        self.injection, self.images, self.modulation = injection, images, modulation

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states=None,
        attention_mask=None,
        **kwargs,
    ) -> torch.Tensor:
        joint = is_joint(attn)
        if (
            attention_mask is not None
            or attn.spatial_norm is not None
            or (attn.only_cross_attention if joint else attn.norm_cross or attn.group_norm is not None)
        ):
            raise NotImplementedError(
                "This attention layer has masks or norms of its own: EmerDiff does not handle it."
            )
        places, rows = places_of(attn, hidden_states), len(hidden_states) // self.images
        # rows that queries, and keys of places, are taken from
        source = places[::rows] if self.injection else places
        heads = lambda a: a.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        query = heads(attn.to_q(source))
        words = None if encoder_hidden_states is None else encoder_hidden_states[:1]  # one prompt for all
        key, value = (heads(a) for a in keys_and_values(attn, source, places, words))
        if len(value) == len(query):
            output = F.scaled_dot_product_attention(query, key, value, scale=attn.scale)
        else:
            output = shared_attention(query, key, value, attn.scale)
        output = output.transpose(1, 2).flatten(2)

        modulation = self.modulation
        if modulation is not None and modulation.placement == "before_projection":
            output = self._all_rows(output, rows) + modulation.offsets[..., None].to(output.dtype)
        output = self._all_rows(attn.to_out[1](attn.to_out[0](output)), rows)
        if modulation is not None and modulation.placement == "after_projection":
            output = output + modulation.offsets[..., None].to(output.dtype)
        return hidden_states + output.transpose(1, 2).reshape(hidden_states.shape) if joint else output

    def _all_rows(self, output: torch.Tensor, rows: int) -> torch.Tensor:
        return output if len(output) == self.images * rows else output.repeat_interleave(rows, 0)


def is_joint(attn: Attention) -> bool:
    """Whether a layer attends to the picture's own places and to words at once, as in unCLIP and DeepFloyd IF."""
    return attn.added_kv_proj_dim is not None


def places_of(attn: Attention, hidden_states: torch.Tensor) -> torch.Tensor:
    """(B, tokens, d) that queries are made of; a joint layer is given feature maps (B, d, h, w) and normalises them itself."""
    return attn.group_norm(hidden_states.flatten(2)).transpose(1, 2) if is_joint(attn) else hidden_states


def keys_and_values(
    attn: Attention, source: torch.Tensor, places: torch.Tensor, words: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, tokens, d) each, before the split into heads: of the words alone, of places alone, or of words and then places.

    Args:
        source, places: (B, places, d) that keys and values are made of.
        words: (1, words, d), for all rows; None in self-attention.
    """
    if words is None:
        return attn.to_k(source), attn.to_v(places)
    if not is_joint(attn):
        return attn.to_k(words).expand(len(source), -1, -1), attn.to_v(words).expand(len(source), -1, -1)
    if attn.norm_cross:
        words = attn.norm_encoder_hidden_states(words)
    key = attn.add_k_proj(words).expand(len(source), -1, -1)
    value = attn.add_v_proj(words).expand(len(places), -1, -1)
    return torch.cat([key, attn.to_k(source)], 1), torch.cat([value, attn.to_v(places)], 1)


def shared_attention(
    query: torch.Tensor, key: torch.Tensor, values: torch.Tensor, scale: float, max_bytes: int = 2**28
) -> torch.Tensor:
    """softmax(QKᵀ/√d)·V for many V that share one softmax: a single matrix product with all values side by side.

    Half the arithmetic of attending row by row, and one softmax instead of one per row. The probabilities of a block of
    queries exist for as long as its product takes.

    Args:
        query, key: (G, heads, tokens, d), one per image.
        values: (G·R, heads, tokens, d), R rows of every image.
        max_bytes: size of a block of probabilities.

    Returns:
        (G·R, heads, tokens, d).
    """
    wide = values.unflatten(0, (len(query), -1)).permute(0, 2, 3, 1, 4).flatten(3)  # (G, heads, tokens, R·d)
    key = key.transpose(-2, -1)
    block = max(1, max_bytes // max(1, key.shape[0] * key.shape[1] * key.shape[3] * key.element_size()))
    parts = [
        torch.softmax(part * scale @ key, dim=-1).to(wide.dtype) @ wide for part in query.split(block, dim=2)
    ]
    output = torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]
    return output.unflatten(-1, (-1, values.shape[-1])).permute(0, 3, 1, 2, 4).flatten(0, 1)


@contextmanager
def lockstep(
    unet: UNet2DConditionModel, injection: bool, images: int = 1, modulation: Modulation | None = None
) -> Iterator[None]:
    """Within the context, rows follow the attention of their image's first row (``injection``); ``modulation`` is applied."""
    everywhere = injection or modulation is not None
    processors = (
        {name: LockstepAttention(injection, images) for name in attention_layers(unet)} if everywhere else {}
    )
    if modulation is not None:
        processors[modulation.layer] = LockstepAttention(injection, images, modulation)
    with attention_processors(unet, processors):
        yield


@contextmanager
def branching(unet: UNet2DConditionModel, layer: str, rows: int) -> Iterator[None]:
    """Within the context, a U-Net given one row returns ``rows``: they part at the block of ``layer``.

    Everything before that block is computed once. It, and the blocks behind it, are handed what is still a single row
    (features, skip connections) as many times, by forward pre-hooks that are always taken out again.
    """
    blocks = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
    first = blocks.index(
        unet.get_submodule(".".join(layer.split(".")[: 1 if layer.startswith("mid") else 2]))
    )

    def spread(value):
        if isinstance(value, tuple):
            return tuple(map(spread, value))
        single = isinstance(value, torch.Tensor) and value.ndim == 4 and len(value) == 1
        return (
            value.expand(rows, -1, -1, -1).contiguous(memory_format=torch.channels_last) if single else value
        )

    def hook(block, args, kwargs):
        return spread(args), {name: spread(value) for name, value in kwargs.items()}

    handles = [b.register_forward_pre_hook(hook, with_kwargs=True) for b in blocks[first:] if b is not None]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
