"""Reading and changing attention inside a frozen network, as processors that are always taken out again.

Three interventions of the paper (Sec. 3): *capture* of query vectors, *injection* of the unmodulated trajectory's
attention maps, and *modulation* of one cross-attention output inside a mask.

Injection never stores an attention map. All trajectories run in lockstep, with the unmodulated one as row 0 of every
image's rows, and every other row attends with row 0's queries and keys: the attention probabilities are the original ones,
only the values are a row's own. Cross-attention values come from the prompt, so its output is row 0's for everybody; joint
attention, to words and places at once, has both kinds of values.

A transformer's joint attention (Stable Diffusion 3) is the same with one more twist: words ask as well as answer, so that
what words know of the picture travels on beside it. Queries of *places* are what is clustered, and outputs of *places* are
what is pushed; injection holds the attention of words, too, and their values are each row's own from the push on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from diffusers import SD3Transformer2DModel, UNet2DConditionModel
from diffusers.models.attention_processor import Attention

Network: TypeAlias = UNet2DConditionModel | SD3Transformer2DModel
Project = Callable[[torch.Tensor], torch.Tensor]  # tokens to all heads' queries, keys or values
_SUFFIX = ".processor"


def attention_layers(unet: Network, kind: str | None = None) -> list[str]:
    """Names of the attention layers in the order of the forward pass; ``kind`` "attn1" (self) or "attn2" (cross).

    Joint attention (:func:`is_joint`) is both.
    """

    def is_of_kind(name: str) -> bool:
        layer = unet.get_submodule(name)
        return is_joint(layer) or layer.is_cross_attention == (kind == "attn2")

    names = [name.removesuffix(_SUFFIX) for name in unet.attn_processors]
    stage = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2, "transformer_blocks": 0}
    names = sorted(names, key=lambda name: stage[name.split(".")[0]])
    return [name for name in names if kind is None or is_of_kind(name)]


def layer_grid(unet: Network, layer: str, height: int, width: int) -> tuple[int, int]:
    """(h, w) of a layer's positions in a network on (height, width) latents: level i of a U-Net halves i times, all of a
    transformer works on its patches."""
    if isinstance(unet, SD3Transformer2DModel):
        return height // unet.config.patch_size, width // unet.config.patch_size
    block, index = layer.split(".")[:2]
    levels = len(unet.config.block_out_channels)
    level = {
        "down_blocks": lambda: int(index),
        "mid_block": lambda: levels - 1,
        "up_blocks": lambda: levels - 1 - int(index),
    }
    reduction = 2 ** level[block]()
    return -(-height // reduction), -(-width // reduction)


def coarsest_reduction(unet: Network) -> int:
    """Latents on a side of what is the network's coarsest cell; their height and width have to be multiples of it."""
    if isinstance(unet, SD3Transformer2DModel):
        return unet.config.patch_size
    return 2 ** (len(unet.config.block_out_channels) - 1)


@contextmanager
def attention_processors(unet: Network, processors: Mapping[str, object]) -> Iterator[None]:
    """Install processors by layer name and put the former ones back on leaving, whatever happened inside."""
    former = dict(unet.attn_processors)
    unet.set_attn_processor(former | {name + _SUFFIX: processor for name, processor in processors.items()})
    try:
        yield
    finally:
        unet.set_attn_processor(former)


class QueryCapture:
    """Runs another processor and keeps the layer's query vectors of places, (B, tokens, d): all heads' side by side."""

    queries: torch.Tensor

    def __init__(self, processor: Callable[..., Any]):
        self.processor = processor

    def __call__(self, attn: Attention, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        self.queries = queries(attn, places_of(attn, hidden_states), None).transpose(1, 2).flatten(2)
        return self.processor(attn, hidden_states, *args, **kwargs)


@contextmanager
def capture_queries(unet: Network, layers: list[str]) -> Iterator[dict[str, QueryCapture]]:
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
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        if attention_mask is not None or attn.spatial_norm is not None or _is_unknown(attn):
            raise NotImplementedError(
                "This attention layer has masks or norms of its own: EmerDiff does not handle it."
            )
        places, words, rows = (
            places_of(attn, hidden_states),
            encoder_hidden_states,
            len(hidden_states) // self.images,
        )
        if words is not None and not asks_in_words(attn):
            words = words[:1]  # one prompt for all
        # rows that queries, and keys, are taken from
        source = places[::rows] if self.injection else places
        asked = words[::rows] if self.injection and words is not None else words
        query, key = queries(attn, source, asked), keys(attn, source, asked)
        of_places = words is None or is_joint(attn)
        value = values(attn, places if of_places else source, words)
        if len(value) == len(query):
            output = F.scaled_dot_product_attention(query, key, value, scale=attn.scale)
        else:
            output = shared_attention(query, key, value, attn.scale)
        output, told = split_streams(attn, output.transpose(1, 2).flatten(2), words)

        modulation = self.modulation
        if modulation is not None and modulation.placement == "before_projection":
            output = self._all_rows(output, rows) + modulation.offsets[..., None].to(output.dtype)
        output = self._all_rows(attn.to_out[1](attn.to_out[0](output)), rows)
        if modulation is not None and modulation.placement == "after_projection":
            output = output + modulation.offsets[..., None].to(output.dtype)
        return given_back(attn, hidden_states, output, told)

    def _all_rows(self, output: torch.Tensor, rows: int) -> torch.Tensor:
        return output if len(output) == self.images * rows else output.repeat_interleave(rows, 0)


# -- what a layer makes of places and words, whatever its kind ------------------------------------------------------


def is_joint(attn: Attention) -> bool:
    """Whether a layer attends to the picture's own places and to words at once: unCLIP, DeepFloyd IF, Stable Diffusion 3."""
    return attn.added_kv_proj_dim is not None


def asks_in_words(attn: Attention) -> bool:
    """Whether words have queries, too, and are given back beside places: Stable Diffusion 3's joint attention."""
    return is_joint(attn) and getattr(attn, "add_q_proj", None) is not None


def _is_unknown(attn: Attention) -> bool:
    if asks_in_words(attn):
        return attn.group_norm is not None
    return bool(
        attn.only_cross_attention if is_joint(attn) else attn.norm_cross or attn.group_norm is not None
    )


def places_of(attn: Attention, hidden_states: torch.Tensor) -> torch.Tensor:
    """(B, tokens, d) that queries are made of; a U-Net's joint layer is given maps (B, d, h, w) and normalises them itself."""
    if is_joint(attn) and not asks_in_words(attn):
        return attn.group_norm(hidden_states.flatten(2)).transpose(1, 2)
    return hidden_states


def queries(attn: Attention, places: torch.Tensor, words: torch.Tensor | None) -> torch.Tensor:
    """(B, heads, tokens, d): of places, and before them of words where these ask as well (and are given)."""
    own = _normed(attn.norm_q, _split(attn, attn.to_q(places)))
    if words is None or not asks_in_words(attn):
        return own
    return torch.cat([_normed(attn.norm_added_q, _split(attn, attn.add_q_proj(words))), own], 2)


def keys(attn: Attention, places: torch.Tensor, words: torch.Tensor | None) -> torch.Tensor:
    """(B, heads, tokens, d) of places alone, of words alone, or of words and then places; B is that of ``places``.

    Args:
        places: (B, places, d); ``words``: (B, words, d), or (1, words, d) for all rows; None in self-attention.
    """
    own = lambda tokens: _normed(attn.norm_k, _split(attn, attn.to_k(tokens)))
    added = lambda tokens: _normed(attn.norm_added_k, _split(attn, attn.add_k_proj(tokens)))
    return _answers(attn, places, words, own, added)


def values(attn: Attention, places: torch.Tensor, words: torch.Tensor | None) -> torch.Tensor:
    """As :func:`keys`."""
    own = lambda tokens: _split(attn, attn.to_v(tokens))
    added = lambda tokens: _split(attn, attn.add_v_proj(tokens))
    return _answers(attn, places, words, own, added)


def _answers(
    attn: Attention, places: torch.Tensor, words: torch.Tensor | None, own: Project, added: Project
) -> torch.Tensor:
    if words is None:
        return own(places)
    if not is_joint(attn):
        return own(words).expand(len(places), -1, -1, -1)
    if attn.norm_cross:
        words = attn.norm_encoder_hidden_states(words)
    return torch.cat([added(words).expand(len(places), -1, -1, -1), own(places)], 2)


def _split(attn: Attention, tokens: torch.Tensor) -> torch.Tensor:
    return tokens.unflatten(-1, (attn.heads, -1)).transpose(1, 2)


def _normed(norm: torch.nn.Module | None, heads: torch.Tensor) -> torch.Tensor:
    return heads if norm is None else norm(heads)


def split_streams(
    attn: Attention, output: torch.Tensor, words: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention's output (B, tokens, d), in the order of :func:`queries`, as (that of places, that of words, projected).

    The latter is None where words do not ask.
    """
    if words is None or not asks_in_words(attn):
        return output, None
    told, output = output.split([words.shape[1], output.shape[1] - words.shape[1]], 1)
    return output, told if attn.context_pre_only else attn.to_add_out(told)


def given_back(
    attn: Attention, hidden_states: torch.Tensor, output: torch.Tensor, told: torch.Tensor | None
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """What a processor returns: tokens, a U-Net's joint layer's maps with what it was given added, or both streams."""
    if told is not None:
        return output, told
    if hidden_states.ndim == 4:
        return hidden_states + output.transpose(1, 2).reshape(hidden_states.shape)
    return output


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
    unet: Network, injection: bool, images: int = 1, modulation: Modulation | None = None
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
def branching(unet: Network, layer: str, rows: int) -> Iterator[None]:
    """Within the context, a network given one row returns ``rows``: they part at the block of ``layer``.

    Everything before that block is computed once. It, and the blocks behind it, are handed what is still a single row
    (features, skip connections) as many times, by forward pre-hooks that are always taken out again.
    """
    if isinstance(unet, SD3Transformer2DModel):
        blocks = list(unet.transformer_blocks)
    else:
        blocks = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
    first = blocks.index(
        unet.get_submodule(".".join(layer.split(".")[: 1 if layer.startswith("mid") else 2]))
    )

    def spread(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(spread, value))
        if not isinstance(value, torch.Tensor) or len(value) > 1 or value.ndim < 3:
            return value
        if value.ndim == 3:  # tokens; a U-Net's are words, of which every layer takes the first row's
            return value.expand(rows, -1, -1) if isinstance(unet, SD3Transformer2DModel) else value
        return value.expand(rows, -1, -1, -1).contiguous(memory_format=torch.channels_last)

    def hook(block: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return spread(args), {name: spread(value) for name, value in kwargs.items()}

    handles = [b.register_forward_pre_hook(hook, with_kwargs=True) for b in blocks[first:] if b is not None]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
