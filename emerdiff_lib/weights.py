"""A model's components out of its folder, read whole or refused: safetensors only, known classes only, every number finite."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    SchedulerMixin,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    VQModel,
)
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionModelWithProjection,
    PreTrainedTokenizerBase,
    T5EncoderModel,
)

from .checkpoints import FAMILIES

NETWORKS: dict[str, tuple[type, ...]] = {
    "vae": (AutoencoderKL, VQModel),
    "text_encoder": (CLIPTextModel, CLIPTextModelWithProjection, T5EncoderModel),
    "text_encoder_2": (CLIPTextModelWithProjection,),
    "text_encoder_3": (T5EncoderModel,),
    "image_encoder": (CLIPVisionModelWithProjection,),
    "unet": (UNet2DConditionModel, SD3Transformer2DModel),
}
COMPONENTS = NETWORKS | {
    "tokenizer": (PreTrainedTokenizerBase,),
    "tokenizer_2": (PreTrainedTokenizerBase,),
    "tokenizer_3": (PreTrainedTokenizerBase,),
    "scheduler": (SchedulerMixin,),
}
FOLDERS = {"vae": ("vae", "movq"), "unet": ("unet", "transformer")}  # Kandinsky's name, Stable Diffusion 3's


@dataclass(frozen=True)
class Entry:
    """Where a component is, and its class: ``folder`` in the model's, ``kind`` in ``library``."""

    folder: str
    library: str
    kind: str


def read_index(source: str, **options: Any) -> dict[str, Entry]:
    """{component: where it is} of a diffusers folder or hub id.

    Raises:
        ValueError: the index belongs to another kind of pipeline, or names code of the model's own.
    """
    index = DiffusionPipeline.load_config(source, **options)
    kind, named = index.get("_class_name", "no pipeline"), {}
    for name in COMPONENTS:
        for folder in FOLDERS.get(name, (name,)):
            match index.get(folder):
                case [str(library), str(found)]:
                    named[name] = Entry(folder, library, found)
    if absent := [name for name in _needed(index, named) if name not in named]:
        raise ValueError(
            f"{source} is a {kind} that lacks {', '.join(absent)}; EmerDiff reads diffusion models of these families: "
            f"{'; '.join(FAMILIES)}."
        )
    own = [f"{n} from {e.library}.{e.kind}" for n, e in named.items() if not _is_known(n, e)]
    if own or not isinstance(kind, str):
        raise ValueError(
            f"{source} takes its {own[0] if own else f'pipeline from {kind}'}, which is not run; EmerDiff takes it from "
            "diffusers or transformers, in a class that it knows, and runs no code that comes with a model."
        )
    return named


def _needed(index: Mapping[str, Any], named: Mapping[str, Entry]) -> list[str]:
    """What a model has to have: an autoencoder unless it is of pixels, a text encoder unless its autoencoder is Kandinsky's."""
    pixels = str(index.get("_class_name")).startswith("IF") or index.get("vae") == [None, None]
    unclip = "vae" in named and named["vae"].kind == VQModel.__name__
    needed = {"vae": not pixels, "text_encoder": not unclip, "tokenizer": not unclip}
    return [*(name for name, is_needed in needed.items() if is_needed), "unet", "scheduler"]


def _is_known(name: str, entry: Entry) -> bool:
    """Whether a component's class is what it has to be; only then is its library imported and its class used."""
    if entry.library not in ("diffusers", "transformers"):
        return False
    try:
        found = getattr(importlib.import_module(entry.library), entry.kind, None)
    except ImportError:  # a class whose own requirements are missing here
        return False
    return isinstance(found, type) and issubclass(found, COMPONENTS[name])


def load_components(
    source: str, dtype: torch.dtype, given: Mapping[str, Any], **options: Any
) -> dict[str, Any]:
    """All that is there of a model, without what is in ``given``; None for a VAE or text encoder that it does not need.

    Raises:
        ValueError: a component is damaged, pickled, brought as code, not finite, or short of tensors (which the libraries
            would fill with random numbers).
        OSError: nothing is there.
    """
    plain = {key: value for key, value in options.items() if key != "variant"}
    parts: dict[str, Any] = {}
    for name, entry in read_index(source, **plain).items():
        if name in given:
            continue
        load = getattr(importlib.import_module(entry.library), entry.kind).from_pretrained
        if name in NETWORKS:
            parts[name] = _load_network(load, source, entry.folder, dtype, **options)
        else:
            with _reading(source, name):
                parts[name] = load(source, subfolder=entry.folder, **plain)
    if (
        dtype == torch.float16
        and "text_encoder_2" in parts
        and "vae" in parts
        and parts["vae"].config.force_upcast
    ):
        parts["vae"].float()  # Stable Diffusion XL's autoencoder overflows in float16
    return {name: None for name in ("vae", "text_encoder", "tokenizer") if name not in given} | parts


def _load_network(load: Any, source: str, name: str, dtype: torch.dtype, **options: Any) -> torch.nn.Module:
    where = f"The {name} of {source}"
    with _reading(source, name):
        network, report = load(
            source, subfolder=name, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
        )
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"{where} is short of {len(missing)} tensors, {missing[0]} for one; download the folder {name}/ again."
        )
    for tensor, values in network.named_parameters():
        if not torch.isfinite(values).all():
            raise ValueError(
                f"{where} has NaN or infinite values in {tensor}, read as {values.dtype}; download the folder {name}/ again."
            )
    return network.eval()


@contextmanager
def _reading(source: str, name: str) -> Iterator[None]:
    """What a broken folder makes three libraries raise is no closed list; it becomes one sentence that names the component.

    A folder with pickled weights alone is one: they run code when they are read, and are not looked at.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and not Path(source).exists():
            raise  # no such hub id, or no network
        reason = next(iter(str(error).strip().splitlines()), "").rstrip(".:") or type(error).__name__
        raise ValueError(
            f"The {name} of {source} cannot be read ({reason}); download the folder {name}/ again, with its safetensors."
        ) from error
