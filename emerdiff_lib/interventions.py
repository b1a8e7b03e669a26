"""Interventions inside a frozen network (paper, Sec. 3) as hooks that always come off again: injection, modulation, capture.

Attention probabilities are a function of queries and keys alone. All trajectories run in lockstep as the rows of a batch,
the unmodulated one first, so *injection* only lets the first row into the projections of queries and keys and hands the
result to all rows: whatever norm, rotary position and kernel follow, every row then attends exactly as the unmodulated one,
and only its values are its own. Cross-attention has values of the prompt, which rows share; the whole layer is computed for
the first row. *Modulation* and *capture* are hooks on the projections of outputs and queries.

None of this knows an architecture: a layer is a module with ``to_q``, ``to_k`` and ``to_v``, as all of diffusers' are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

_LOCKS: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()  # one per network, whoever wraps it
_MAX_BYTES = 2**28  # of a block of attention probabilities


@contextmanager
def exclusive(denoiser: nn.Module) -> Iterator[None]:
    """Within the context no other thread calls this network through this library, and what is compiled of it runs as written.

    Hooks belong to a network, not to a thread; and graphs that were compiled without them would leave them out.
    """
    lock = _LOCKS.setdefault(denoiser, threading.RLock())
    compiled = any(module._compiled_call_impl is not None for module in denoiser.modules())
    with lock, torch.compiler.set_stance("force_eager") if compiled else nullcontext():
        yield


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Within the context nothing drops out, whatever mode a training has left the network in; it has that again afterwards."""
    training = [module for module in network.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def hooked(handles: Iterable[torch.utils.hooks.RemovableHandle]) -> Iterator[None]:
    """Takes hooks off on leaving, those of ``handles`` that were registered before an interruption too."""
    with ExitStack() as stack:
        for handle in handles:
            stack.callback(handle.remove)
        yield


class ChannelsLast(TorchFunctionMode):
    """Convolutions of channels-last maps run about a third faster, whatever order their weights are in."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is F.conv2d:
            args = (args[0].contiguous(memory_format=torch.channels_last), *args[1:])
        return function(*args, **(kwargs or {}))


# -- attention layers -----------------------------------------------------------------------------------------------------


def attention_modules(denoiser: nn.Module) -> dict[str, nn.Module]:
    """All attention layers of a network by name.

    Raises:
        ValueError: their projections are fused into one.
    """
    attends = lambda module: all(hasattr(module, name) for name in ("to_q", "to_k", "to_v"))
    modules = {name: module for name, module in denoiser.named_modules() if attends(module)}
    if any(map(_is_fused, modules.values())):
        raise ValueError(
            "The projections of queries, keys and values are fused, so that none can be read by itself; undo "
            "fuse_qkv_projections()."
        )
    return modules


def _is_fused(attention: nn.Module) -> bool:
    """``Attention`` leaves its flag up after ``unfuse_qkv_projections``, and takes another processor."""
    flag = getattr(attention, "fused_projections", False)
    return flag and (not isinstance(attention, Attention) or "Fused" in type(attention.processor).__name__)


def is_joint(attention: nn.Module) -> bool:
    """Whether a layer attends to image tokens and text tokens at once."""
    return getattr(attention, "added_kv_proj_dim", None) is not None


def is_cross(attention: nn.Module) -> bool:
    """Whether a layer attends to text tokens alone."""
    return not is_joint(attention) and getattr(attention, "is_cross_attention", False)


# -- injection ------------------------------------------------------------------------------------------------------------


@contextmanager
def injecting(denoiser: nn.Module, rows: int) -> Iterator[None]:
    """Within the context, every row of a call of so many has the attention probabilities of the first.

    Where all rows attend alike, one softmax serves them: a single product with all values side by side, half the arithmetic of
    attending row by row. Other kernels than ``F.scaled_dot_product_attention`` stay as they are, and so do masks that are no
    additive bias, grouped queries and dropout: nothing is gained there, and nothing changes.
    """
    shared: list[nn.Module] = []
    for attention in attention_modules(denoiser).values():
        if is_cross(attention):
            shared.append(attention)
        else:
            names = ("to_q", "to_k", "add_q_proj", "add_k_proj")
            shared += [p for name in names if (p := getattr(attention, name, None)) is not None]

    def attend(given: dict[str, Any]) -> torch.Tensor:
        query, key, values, mask = given["query"], given["key"], given["value"], given.get("attn_mask")
        plain = not given.get("dropout_p") and not given.get("is_causal") and query.shape[1] == key.shape[1]
        if rows == 1 or len(query) != rows or not plain:
            return F.scaled_dot_product_attention(**given)
        mask = None if mask is None else mask[:1]
        return shared_attention(query[:1], key[:1], values, given.get("scale"), mask)

    with sharing(shared, rows), OwnAttention(attend):
        yield


@contextmanager
def sharing(modules: Iterable[nn.Module], rows: int) -> Iterator[None]:
    """Within the context, these modules compute the first row of a call of so many and return it for all.

    One that is inside another is given the first row alone, and leaves it as it is.
    """
    reduced: list[bool] = []  # of the calls that are under way

    def first_row(tensor: torch.Tensor) -> torch.Tensor:
        if len(tensor) != rows:
            return tensor
        reduced[-1] = True
        return tensor[:1]

    def all_rows(tensor: torch.Tensor) -> torch.Tensor:
        if len(tensor) != 1:
            return tensor
        repeated = tensor.expand(rows, *tensor.shape[1:])  # no memory; convolutions want their order
        return repeated.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else repeated

    def before(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        reduced.append(False)
        positions = {name: value for name, value in kwargs.items() if "rotary" in name}  # have no rows
        return nested(first_row, args), nested(first_row, kwargs) | positions

    def after(module: nn.Module, args: Any, output: Any) -> Any:
        return nested(all_rows, output) if reduced.pop() else output

    def register() -> Iterator[torch.utils.hooks.RemovableHandle]:
        for module in modules if rows > 1 else ():
            yield module.register_forward_pre_hook(before, with_kwargs=True)
            yield module.register_forward_hook(after)

    with hooked(register()):
        yield


def nested(function: Callable[[torch.Tensor], torch.Tensor], value: Any) -> Any:
    """``function`` of every tensor that has rows, within tuples, lists and dictionaries."""
    return tree_map_only(torch.Tensor, lambda each: function(each) if each.ndim > 0 else each, value)


class OwnAttention(TorchFunctionMode):
    """Within the context, ``attend`` is called in place of ``F.scaled_dot_product_attention``, with its arguments by name."""

    def __init__(self, attend: Callable[[dict[str, Any]], torch.Tensor]):
        super().__init__()
        self.attend = attend

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is not F.scaled_dot_product_attention:
            return function(*args, **(kwargs or {}))
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        return self.attend(dict(zip(names, args, strict=False)) | (kwargs or {}))


def masked(scores: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """QKᵀ/√d under an additive mask, or one of what may be attended to."""
    if mask is None:
        return scores
    return scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask


def shared_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    values: torch.Tensor,
    scale: float | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """softmax(QKᵀ/√d)·V for many V that share one softmax. The probabilities exist for one block of queries at a time.

    Args:
        query, key: (1, heads, tokens, d).
        values: (R, heads, tokens, d).
        scale: 1/√d unless given.
        mask: (1, …, tokens or 1, tokens), as ``F.scaled_dot_product_attention`` takes it.

    Returns:
        (R, heads, tokens, d).
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    wide = values.permute(1, 2, 0, 3).flatten(2)[None]  # (1, heads, tokens, R·d)
    transposed = key.transpose(-2, -1)
    row = transposed.shape[1] * transposed.shape[3] * transposed.element_size()
    block, parts = max(1, _MAX_BYTES // max(1, row)), []
    for start in range(0, query.shape[2], block):
        scores = query[:, :, start : start + block] * scale @ transposed
        some = mask if mask is None or mask.shape[-2] == 1 else mask[..., start : start + block, :]
        parts.append(torch.softmax(masked(scores, some), dim=-1).to(wide.dtype) @ wide)
    output = torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]
    return output[0].unflatten(-1, (-1, values.shape[-1])).permute(2, 0, 1, 3)


# -- modulation -----------------------------------------------------------------------------------------------------------


@contextmanager
def modulating(
    denoiser: nn.Module,
    layer: str,
    offsets: torch.Tensor,
    placement: str,
    image_tokens: Callable[[torch.Tensor], torch.Tensor],
) -> Iterator[None]:
    """Within the context, offsets are added to every channel of a layer's output (Sec. 3.2; Fig. 14 for the placement).

    Args:
        layer: name of the attention layer; f is its output projection.
        offsets: (B, image tokens) float, c·M of every row; zero for unmodulated trajectories.
        placement: "after_projection" for f(softmax(QKᵀ/√d)·V) + c·M, "before_projection" for f(softmax(QKᵀ/√d)·V + c·M).
        image_tokens: a view of those among the tokens that f takes or gives; nothing is added to others.
    """
    projection = denoiser.get_submodule(f"{layer}.to_out.0")

    def added(tokens: torch.Tensor) -> torch.Tensor:
        everywhere = offsets.new_zeros(len(offsets), tokens.shape[1])
        image_tokens(everywhere).copy_(offsets)
        return tokens + everywhere[..., None].to(tokens.dtype)  # tokens may be one row for all

    if placement == "after_projection":
        handle = projection.register_forward_hook(lambda module, args, output: added(output))
    else:
        handle = projection.register_forward_pre_hook(lambda module, args: (added(args[0]), *args[1:]))
    with hooked([handle]):
        yield


# -- capture --------------------------------------------------------------------------------------------------------------


@contextmanager
def capturing(denoiser: nn.Module, layers: Iterable[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Within the context, the dictionary holds the image tokens' query vectors of the latest call, {layer: (B, tokens, d)}.

    All heads' vectors side by side, as the layer normalises them, before rotary positions.
    """
    queries: dict[str, torch.Tensor] = {}

    def keep(name: str, module: nn.Module, args: Any, output: torch.Tensor) -> None:
        queries[name] = _normalised(denoiser.get_submodule(name), output)

    projections = ((name, denoiser.get_submodule(f"{name}.to_q")) for name in layers)
    with hooked(to_q.register_forward_hook(partial(keep, name)) for name, to_q in projections):
        yield queries


def _normalised(attention: nn.Module, queries: torch.Tensor) -> torch.Tensor:
    """(B, tokens, d) after the layer's norm of queries, which is of each head or of all heads together."""
    norm = getattr(attention, "norm_q", None)
    if norm is None:
        return queries
    across_heads = getattr(norm, "weight", None) is not None and norm.weight.numel() == queries.shape[-1]
    return norm(queries) if across_heads else norm(queries.unflatten(-1, (attention.heads, -1))).flatten(2)


@contextmanager
def capturing_attention(denoiser: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Within the context, the dictionary holds softmax(QKᵀ/√d) of the latest call, {layer: (queries, keys) float32}.

    The mean over rows and heads, of all tokens in the layer's own order, as the network computes it.

    Raises:
        ValueError: on leaving, for a layer without a softmax, or with one that is not of ``F.scaled_dot_product_attention``.
    """
    maps: dict[str, torch.Tensor] = {}
    running: list[str] = []

    def attend(given: dict[str, Any]) -> torch.Tensor:
        if running:
            query, key, mask = given["query"].float(), given["key"].float(), given.get("attn_mask")
            scale, rows = given.get("scale") or query.shape[-1] ** -0.5, []
            for i in range(len(query)):  # one at a time: (heads, queries, keys) is large by itself
                some = None if mask is None else mask[i if len(mask) > 1 else 0]
                rows.append(masked(query[i] * scale @ key[i].transpose(-2, -1), some).softmax(-1).mean(0))
            maps[running[-1]] = torch.stack(rows).mean(0).cpu()
        return F.scaled_dot_product_attention(**given)

    def register() -> Iterator[torch.utils.hooks.RemovableHandle]:
        for name in layers:
            module = denoiser.get_submodule(name)
            yield module.register_forward_pre_hook(lambda module, args, name=name: running.append(name))
            yield module.register_forward_hook(lambda module, args, output: running.pop() and None)

    with hooked(register()), OwnAttention(attend):
        yield maps
    if hidden := [name for name in layers if name not in maps]:
        raise ValueError(
            f"The attention probabilities of {hidden[0]} cannot be read: it has none, as linear attention, or computes them "
            "in slices; undo enable_attention_slicing()."
        )
