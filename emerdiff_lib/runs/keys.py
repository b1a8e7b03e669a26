"""Cache keys: what a result depends on. Two results are the same thing only if their keys are the same.

Left out, as they change no more than the last digits: the device, the processor, the number of threads, batch sizes.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import secrets
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from .._version import __version__
from ..datasets import LabelledDataset
from ..datasets.base import FileDataset
from ..datasets.images import ImageSample
from ..files import file_digest
from ..frozen_model import network_state, replaced_methods
from ..images import reading
from ..pipeline import EmerDiffPipeline
from ..toyscapes import Toyscapes

_LIBRARIES = "torch diffusers transformers tokenizers numpy scipy scikit-learn scikit-image Pillow"
_LIBRARIES += " pandas pyarrow pycocotools"  # what files are written with


def digest(value: Any) -> str:
    """16 hex digits of anything that JSON knows."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def array_digest(array: np.ndarray) -> str:
    """16 hex digits of an array's values, shape and dtype."""
    content = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    content.update(np.ascontiguousarray(array))
    return content.hexdigest()[:16]


def network_digest(module: torch.nn.Module) -> str:
    """16 hex digits that change with any weight, its name, shape and dtype, as they are in memory now."""
    content = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return content.hexdigest()[:16]


def versions() -> dict[str, str]:
    """The releases of what computes, without their builds ("+cpu")."""
    release = lambda name: importlib.metadata.version(name).split("+")[0]
    return {"emerdiff_lib": __version__} | {name: release(name) for name in _LIBRARIES.split()}


def model_key(pipe: EmerDiffPipeline) -> dict[str, Any]:
    """Every network by weights (dtypes among them) and configuration, the tokenizers, the scheduler, and autocast."""
    parts = {name: part for name, part in pipe.components.items() if part is not None}
    networks = {name: part for name, part in parts.items() if isinstance(part, torch.nn.Module)}
    of_network = lambda network: f"{network_digest(network)}-{digest(_config(network))}"
    key: dict[str, Any] = {name: of_network(network) for name, network in networks.items()}
    key |= {name: _tokenizer(part) for name, part in parts.items() if name.startswith("tokenizer")}
    key["scheduler"] = digest([type(pipe.scheduler).__name__, _config(pipe.scheduler)])
    key["pipeline"] = digest([_config(pipe), pipe.own_settings])  # how an empty prompt is encoded, for one
    if replaced_methods(pipe.pipe):  # which may do anything
        key["pipeline's methods"] = secrets.token_hex()
    key |= {f"{name} as it is": digest(network_state(network)) for name, network in networks.items()}
    return key | {"autocast": pipe.autocast}


def _tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    text = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else tokenizer.get_vocab()
    text = {k: v for k, v in text.items() if k not in ("truncation", "padding")}  # of the latest call
    sides = [tokenizer.padding_side, tokenizer.truncation_side]
    return digest([text, tokenizer.model_max_length, tokenizer.special_tokens_map, sides])


def _config(part: Any) -> dict[str, Any]:
    """A configuration without where it came from and which release wrote it."""
    config = part.config.to_dict() if hasattr(part.config, "to_dict") else dict(part.config)
    left_out = ("transformers_version", "dtype", "torch_dtype")
    return {str(k): str(v) for k, v in config.items() if not k.startswith("_") and k not in left_out}


def dataset_key(data: LabelledDataset) -> dict[str, Any]:
    """Which data set, where, which part of it, and how its label maps are read; its images are not looked at."""
    options = {k: str(v) for k, v in vars(data).items() if isinstance(v, str | int | bool | Path)}
    return {
        "reader": type(data).__name__,
        "classes": digest(list(data.class_names)),
        "ignored label": data.ignore_index,
        "label encoding": array_digest(data.table) if isinstance(data, FileDataset) else None,
        "options": dict(sorted(options.items())),  # the split among them
    }


def sample_key(data: LabelledDataset, position: int) -> dict[str, str]:
    """One labelled image: its files by content, or its pixels where a program draws them; raises OSError."""
    if isinstance(data, FileDataset):
        _, image, labels = data.pairs[position]
        return {"image": file_digest(data.expect(image)), "labels": file_digest(data.expect(labels))}
    sample = data[position]
    return {"image": array_digest(np.asarray(sample.image)), "labels": array_digest(sample.labels)}


def image_key(sample: ImageSample) -> dict[str, str]:
    """An image by content, wherever it lies; raises OSError or ValueError for a file that cannot be read."""
    if not isinstance(sample.source, Path):
        return {"image": array_digest(np.asarray(sample.image))}
    with reading(sample.source):
        return {"image": file_digest(sample.source)}


def scene_key(seed: int, *shift: str) -> dict[str, str]:
    """A Toyscapes scene by its pixels and its label maps."""
    scene = Toyscapes.from_seed(seed, *shift)
    labels = np.stack([scene.labels, scene.coarse_labels])
    return {"image": array_digest(np.asarray(scene.image)), "labels": array_digest(labels)}
