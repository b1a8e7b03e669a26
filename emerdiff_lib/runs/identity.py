"""What a result depends on. Two results are the same thing only if everything here is the same.

Left out, as they move no more than the last digits: the device, the processor, the number of threads, batch sizes.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import SD3Transformer2DModel
from transformers import PreTrainedTokenizerBase

from .._version import __version__
from ..frozen_model import FrozenModel

_LIBRARIES = (
    "torch",
    "diffusers",
    "transformers",
    "tokenizers",
    "numpy",
    "scipy",
    "scikit-learn",
    "scikit-image",
    "Pillow",
)


def digest(value: Any) -> str:
    """16 hex digits of anything that JSON knows."""
    content = json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def fingerprint(module: torch.nn.Module) -> str:
    """16 hex digits that change with any weight, its name, shape and dtype."""
    found = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()[:16]


def model_identity(pipe: FrozenModel) -> dict[str, Any]:
    """Every network by weights and configuration, the tokenizer, the scheduler, and the dtypes."""
    parts = {name: part for name, part in pipe.components.items() if part is not None}
    networks = {name: part for name, part in parts.items() if isinstance(part, torch.nn.Module)}
    found = {name: f"{fingerprint(net)}-{digest(_config(net))}" for name, net in networks.items()}
    found |= {name: _tokenizer(part) for name, part in parts.items() if name.startswith("tokenizer")}
    if len([name for name in networks if name.startswith("text_encoder")]) > 1:
        found["empty prompt"] = "zeros" if pipe.config.force_zeros_for_empty_prompt else "encoded"
    if isinstance(pipe.unet, SD3Transformer2DModel):
        found["tokens of the third text encoder"] = pipe.config.max_sequence_length
    found["scheduler"] = digest([type(pipe.scheduler).__name__, _config(pipe.scheduler)])
    dtypes = {name: str(net.dtype).removeprefix("torch.") for name, net in networks.items()}
    return found | {"dtype": dtypes["unet"] if len(set(dtypes.values())) == 1 else dtypes}


def _tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    text = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else tokenizer.get_vocab()
    sides = [tokenizer.padding_side, tokenizer.truncation_side]
    return digest([text, tokenizer.model_max_length, tokenizer.special_tokens_map, sides])


def _config(part: Any) -> dict[str, Any]:
    """A configuration without where it came from and which release wrote it."""
    config = part.config.to_dict() if hasattr(part.config, "to_dict") else dict(part.config)
    left_out = ("transformers_version", "dtype", "torch_dtype")
    return {
        str(name): str(value)
        for name, value in config.items()
        if not name.startswith("_") and name not in left_out
    }


def versions() -> dict[str, str]:
    """The releases of what computes, without their builds ("+cpu")."""
    found = {name: importlib.metadata.version(name).split("+")[0] for name in _LIBRARIES}
    return {"emerdiff_lib": __version__} | found


def file_digest(path: Path | str) -> str:
    """16 hex digits of a file's content; raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def array_digest(array: np.ndarray) -> str:
    """16 hex digits of an array's values, shape and dtype."""
    found = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    found.update(np.ascontiguousarray(array))
    return found.hexdigest()[:16]


def what_changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Sentences on where two identities differ, as "dtype was 'float32', is 'bfloat16'"; digests are not shown."""
    old, new = dict(_flat(before)), dict(_flat(now))
    found = []
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) == new.get(name):
            continue
        shown = [repr(part.get(name)) for part in (old, new)]
        hidden = any(len(text) > 40 or _is_digest(text) for text in shown)
        found.append(f"{name} changed" if hidden else f"{name} was {shown[0]}, is {shown[1]}")
    return found


def _flat(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        return [(prefix, value)]
    parts = [_flat(part, f"{prefix} › {name}" if prefix else str(name)) for name, part in value.items()]
    return [pair for part in parts for pair in part]


def _is_digest(text: str) -> bool:
    word = text.strip("'").split("-")[0]
    return len(word) == 16 and all(c in "0123456789abcdef" for c in word)
