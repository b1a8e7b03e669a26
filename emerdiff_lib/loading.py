"""From a name to a diffusers pipeline: bundled models, folders, hub ids, single files; safetensors only, whole or refused."""

from __future__ import annotations

import importlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline
from diffusers.loaders.single_file_utils import fetch_diffusers_config, load_single_file_checkpoint
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import snapshot_download
from safetensors import safe_open
from transformers import AutoModel
from transformers.utils import logging as transformers_logging

from .settings import check_known

TOYSCAPES_FOLDER = Path(__file__).parent / "toyscapes" / "checkpoint"
# Small models that differ from the first in one thing (notebook 13); they share the bundled model's autoencoder
VARIANTS = {f"toyscapes-{each.name}": each for each in (TOYSCAPES_FOLDER.parent / "relatives").glob("*/")}
# A small CLIP of the same scenes (notebook 14), by the name "toyscapes-clip"
CLIP_FOLDER = TOYSCAPES_FOLDER.parent / "clip"
# A model of photographs, under terms of its own (its LICENSE); a packager may leave the folder out
STREETS_FOLDER = Path(__file__).parent / "streets"
DTYPES = ("float32", "bfloat16", "float16")
# Components that segmentation has no use for, and that take memory
UNUSED = ("safety_checker", "feature_extractor", "image_encoder", "watermarker")
# Keywords of DiffusionPipeline.from_pretrained that say what is downloaded of a hub id, and from where
_HUB = ("variant", "revision", "cache_dir", "local_files_only", "token", "force_download", "proxies")


def load_diffusers_pipeline(name: str | Path, **kwargs: Any) -> DiffusionPipeline:
    """``DiffusionPipeline.from_pretrained`` with ``use_safetensors=True``, and two checks that it lacks: no tensor is missing
    (which it would fill with random numbers), and all are finite.

    Args:
        name: "toyscapes" or "streets" (bundled), one of :data:`VARIANTS`, a diffusers folder, a hub id, or a single
            ``.safetensors`` file, which is read by ``from_single_file``.
        **kwargs: of either; ``torch_dtype`` (or ``dtype``) may be a name, and is float32 by default. With ``device_map`` or
            ``quantization_config``, diffusers loads all by itself, and only what is read is checked.

    Raises:
        FileNotFoundError: nothing is found under that name; the message says how to get a model.
        ValueError: weights that are damaged, incomplete, pickled or not finite, code of the model's own, or an unknown dtype.
    """
    source = locate(name)
    dtype = kwargs.pop("torch_dtype", None) or kwargs.get("dtype") or torch.float32
    kwargs["dtype"] = dtype if isinstance(dtype, dict) else check_dtype(dtype)
    try:
        with quietly():
            single = source.endswith(".safetensors")
            pipe = _from_single_file(source, kwargs) if single else _from_folder(source, str(name), kwargs)
            # others came by load_component
            if single or {"device_map", "quantization_config"} & kwargs.keys():
                for part, network in pipe.components.items():
                    if isinstance(network, torch.nn.Module):
                        _check_finite(network, f"The {part} of {source}")
            return pipe
    except OSError as error:  # huggingface_hub's "not found" and "offline" errors are OSErrors as well
        if Path(source).exists():
            raise
        raise missing_model(name) from error


def _from_folder(source: str, name: str, kwargs: dict[str, Any]) -> DiffusionPipeline:
    hub = {key: kwargs[key] for key in _HUB if key in kwargs}
    with reading_model(source):
        index = DiffusionPipeline.load_config(source, **{k: v for k, v in hub.items() if k != "variant"})
    entries = _entries(source, index)
    if not Path(source).is_dir():
        source = DiffusionPipeline.download(source, use_safetensors=True, **hub)
    _check_shards(Path(source))
    if name in VARIANTS and "vae" not in kwargs:
        given = {"subfolder": "vae", "dtype": kwargs["dtype"]}
        kwargs["vae"] = load_component(diffusers.AutoencoderKL, TOYSCAPES_FOLDER, **given)
        kwargs["vae"].register_to_config(shift_factor=0.0)  # some pipelines want a number
    absent = [name for name, entry in index.items() if name in UNUSED or entry == [None, None]]
    kwargs = {**dict.fromkeys(absent), **kwargs}
    if index.get("_class_name") == "StableDiffusionPipeline":
        kwargs = {"requires_safety_checker": False} | kwargs
    if "variant" not in kwargs and (variant := _only_variant(Path(source))):
        kwargs["variant"] = variant
    if not {"device_map", "quantization_config"} & kwargs.keys():
        kwargs |= _components(source, entries, kwargs)
    with reading_model(source):
        return DiffusionPipeline.from_pretrained(source, use_safetensors=True, **kwargs)


def _components(source: str, entries: Mapping[str, type], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Every component of an index that is not given."""
    components: dict[str, Any] = {}
    for name, kind in entries.items():
        if name not in kwargs:
            dtype = kwargs["dtype"]
            dtype = dtype.get(name, dtype.get("default", torch.float32)) if isinstance(dtype, dict) else dtype
            options: dict[str, Any] = {"dtype": dtype, "variant": kwargs.get("variant")}
            components[name] = load_component(kind, source, subfolder=name, **options)
    for name, tokenizer in components.items():  # a length that the encoder does not have would be padded to
        encoder = components.get(name.replace("tokenizer", "text_encoder"))
        longest = getattr(getattr(encoder, "config", None), "max_position_embeddings", None)
        if name.startswith("tokenizer") and longest:
            tokenizer.model_max_length = min(tokenizer.model_max_length, longest)
    return components


def load_component(
    kind: Any, source: str | Path, optional: str = "$.", subfolder: str = "", **options: Any
) -> Any:
    """The one door for a network, tokenizer or scheduler of diffusers or transformers: no code of its own; networks from
    safetensors of their folder, with all tensors, all finite.

    Args:
        kind: its class, or an ``Auto…`` of transformers.
        source: a folder, or a hub id, whose files are downloaded first.
        optional: tensors that may be missing, as a regular expression; none by default.
        options: of a network's ``from_pretrained`` (dtype, variant), and of the hub (revision, token …).

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: it is damaged, incomplete, pickled or not finite, or its configuration does not fit the weights.
    """
    what, part = f"The {subfolder} of {source}" if subfolder else str(source), {"subfolder": subfolder}
    hub = {key: options.pop(key) for key in _HUB if key in options and key != "variant"}
    if not Path(source).expanduser().is_dir():
        patterns = ["*.json", "*.safetensors", "*.txt", "*.model"]
        try:
            source = snapshot_download(str(source), allow_patterns=patterns, **hub)
        except (OSError, ValueError) as error:  # offline, not found, or no name of a repository
            raise FileNotFoundError(
                f"There is no model {str(source)!r}; name a folder, or a hub id where there is a network."
            ) from error
    folder = Path(source).expanduser()
    if not hasattr(kind, "load_config"):  # a class of transformers
        options["trust_remote_code"] = False
    _check_config(folder, subfolder)
    if kind is not AutoModel and not issubclass(kind, torch.nn.Module):
        options = {name: value for name, value in options.items() if name == "trust_remote_code"}
        with reading_model(str(folder), subfolder):
            return kind.from_pretrained(folder, **part, **options)
    _check_shards(folder)
    with reading_model(str(folder), subfolder):
        options |= {"use_safetensors": True, "output_loading_info": True}
        network, report = kind.from_pretrained(folder, **part, **options)
    if missing := [name for name in sorted(report["missing_keys"]) if not re.match(optional, name)]:
        raise ValueError(f"{what} is short of {len(missing)} tensors, say {missing[0]}; download it again.")
    unused = [name for name in report["unexpected_keys"] if "position_ids" not in name]
    if unused and kind is not AutoModel:  # a part of a larger model is asked for by that
        warnings.warn(
            f"{what} has {len(unused)} tensors that its configuration does not use, {sorted(unused)[0]} for one; they have no "
            "effect: check that both are of one model.",
            stacklevel=4,
        )
    _check_finite(network, what)
    return network


def _check_config(folder: Path, subfolder: str) -> None:
    """Raises a ValueError for a configuration that asks for what its weights do not have, before memory is asked for."""
    parts, tensors = [], 0
    with reading_model(str(folder), subfolder):
        for file in (folder / subfolder).glob("*config.json"):
            config = json.loads(file.read_text("utf-8"))
            parts.extend([(file, part) for part in (config, *config.values()) if isinstance(part, Mapping)])
        for weights in (folder / subfolder).glob("*.safetensors"):
            with safe_open(weights, "pt") as opened:
                tensors += len(opened.keys())
    numbers: Any = lambda value: sum(map(numbers, value), []) if isinstance(value, list) else [value]
    limits = {"layers|blocks|depth": max(1000, tensors), "_dim|size|channels|timesteps": 10**7}
    for file, name, value in ((file, *item) for file, part in parts for item in part.items()):
        limit = min((limits[words] for words in limits if re.search(words, name)), default=float("inf"))
        if any(isinstance(number, int) and number > limit for number in numbers(value)):
            raise ValueError(f"{file} says {name}={value}; {limit} is the most: download both again.")


def _entries(source: str, index: Any) -> dict[str, type]:
    """The classes of an index's components, without those that are absent or not used; ValueError for code of its own."""
    kind = index.get("_class_name") if isinstance(index, Mapping) else None
    if not isinstance(kind, str) or not hasattr(diffusers, kind):
        raise ValueError(
            f"{source} names the pipeline {kind!r}, which diffusers {diffusers.__version__} does not have; EmerDiff runs no code "
            "that comes with a model."
        )
    entries: dict[str, type] = {}
    is_auto = re.compile("Auto[A-Z]").match  # transformers' Auto classes would take what the model names
    for name, entry in index.items():
        if not isinstance(entry, list | tuple) or name in UNUSED or list(entry) == [None, None]:
            continue
        known = None
        match entry:
            case ["diffusers" | "transformers" as library, str(component)] if not is_auto(component):
                with reading_model(source, name):
                    known = getattr(importlib.import_module(library), component, None)
            # diffusers has it beside the pipeline
            case ["kolors", "ChatGLMModel" | "ChatGLMTokenizer" as component]:
                known = getattr(importlib.import_module("diffusers.pipelines.kolors"), component, None)
                if known is None:
                    raise ValueError(f"{source} needs sentencepiece: pip install 'emerdiff-workbook[if]'.")
        if not isinstance(known, type) or issubclass(known, diffusers.DiffusionPipeline):
            raise ValueError(
                f"{source} takes its {name} from {'.'.join(map(str, entry))}, which is not run; EmerDiff takes it from diffusers "
                "or transformers, and runs no code that comes with a model."
            )
        entries[name] = known
    return entries


def _check_shards(folder: Path) -> None:
    """Raises a ValueError for weights that are no safetensors of the folder, or an adapter's order to take another model's."""
    for file in folder.glob(f"{'*/' * (folder / 'model_index.json').exists()}adapter_config.json"):
        raise ValueError(f"{file} asks for another model; take it out, and use load_lora_weights.")
    for file in (*folder.glob("*safetensors.index*.json"), *folder.glob("*/*safetensors.index*.json")):
        with reading_model(str(folder), file.parent.name):
            shards = set(map(str, json.loads(file.read_text())["weight_map"].values()))
        if outside := [s for s in shards if not s.endswith(".safetensors") or Path(s).name != s]:
            raise ValueError(
                f"{file} names the weights {outside[0]!r}; EmerDiff reads safetensors only, and only those of the model's "
                "folder."
            )


def _only_variant(folder: Path) -> str | None:
    """The variant whose weights are the only ones of a folder: "fp16" where every file is ``….fp16.safetensors``."""
    variant = re.compile(r"\.(\w+?)(?:-\d+-of-\d+)?\.safetensors$")
    variants = {m[1] if (m := variant.search(str(f))) else None for f in folder.glob("*/*.safetensors")}
    return variants.pop() if len(variants) == 1 else None


def _from_single_file(path: str, kwargs: dict[str, Any]) -> DiffusionPipeline:
    """``config`` (a folder or hub id in diffusers' layout) says what the file holds; by default diffusers guesses."""
    with reading_model(path):
        if not (config := kwargs.get("config")):
            guess = fetch_diffusers_config(load_single_file_checkpoint(path))
            config = guess["pretrained_model_name_or_path"]
    try:
        index = DiffusionPipeline.load_config(config)
    except OSError as error:
        raise ValueError(
            f"{config}, by whose layout {path} would be read, is not on this machine; pass config=, a diffusers folder or hub id "
            "of the same architecture."
        ) from error
    _entries(str(config), index)  # refuses code of its own
    with reading_model(path):
        kind = getattr(diffusers, index["_class_name"])
        return kind.from_single_file(path, **{"safety_checker": None} | kwargs | {"config": str(config)})


def _check_finite(network: torch.nn.Module, what: str) -> None:
    """Raises a ValueError for what is not finite."""
    for name, values in network.named_parameters():
        if values.is_floating_point() and not values.is_meta and not torch.isfinite(values).all():
            raise ValueError(
                f"{what} has NaN or infinite values in {name}, read as {values.dtype}; download it again."
            )


@contextmanager
def reading_model(source: str, name: str = "") -> Iterator[None]:
    """What a broken folder makes three libraries raise is no closed list; it becomes one sentence that names the component.

    A folder with pickled weights alone is one: they run code when they are read, and are not looked at.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and not Path(source).exists():
            raise  # no such hub id, or no network
        reason = next(iter(str(error).strip().splitlines()), "").rstrip(".:") or type(error).__name__
        what, again = (f"The {name} of {source}", f"the folder {name}/") if name else (source, "it")
        raise ValueError(
            f"{what} cannot be read ({reason}); download {again} again, with its safetensors."
        ) from error


# -- names, dtypes, devices -------------------------------------------------------------------------------------------


def locate(name: str | Path) -> str:
    """The folder, file or hub id that a model name stands for.

    Raises:
        FileNotFoundError: bundled weights are missing, or a path does not hold a diffusers folder.
        ValueError: the path is a single file that is no safetensors.
    """
    bundled = VARIANTS | {"toyscapes": TOYSCAPES_FOLDER, "streets": STREETS_FOLDER}
    folder = bundled.get(str(name), Path(name).expanduser())
    if (folder / "model_index.json").exists():
        return str(folder)
    if str(name) in bundled:
        raise FileNotFoundError(
            f"{name} is not in this installation ({folder}), which the terms of streets allow to leave out; take that folder "
            "from the source repository."
        )
    if folder.is_file():
        if folder.suffix == ".safetensors":
            return str(folder)
        raise ValueError(
            f"{folder} is a single file, and EmerDiff reads weights in safetensors only; a pickle runs code. If you trust who "
            "made it, convert it: `StableDiffusionPipeline.from_single_file(file).save_pretrained(folder)`."
        )
    if folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is no diffusers folder (it has no model_index.json); a single .safetensors file can be named itself."
        )
    if re.fullmatch(r"\w[\w.-]*/[\w.-]+", str(name)):
        return str(name)
    raise missing_model(name)


def missing_model(name: str | Path) -> FileNotFoundError:
    return FileNotFoundError(
        f'There is no model {str(name)!r}; use "toyscapes" or "streets" (bundled), a diffusers folder on disk, or a hub id, '
        'say "CompVis/stable-diffusion-v1-4" (download it once with `hf download CompVis/stable-diffusion-v1-4 --local-dir '
        "sd-v1-4` where there is a network, then pass the folder)."
    )


def check_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """A floating-point dtype by its torch name; raises a ValueError that lists the possible ones."""
    return getattr(torch, check_known("dtype", str(dtype).removeprefix("torch."), DTYPES))


def check_device(device: str | torch.device | None) -> torch.device:
    """A device that this machine has; empty or None: a GPU if there is one. Raises a ValueError for any other."""
    if not device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(1, device=device).device
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"device={str(device)!r} cannot be used here ({reason}); choose 'cpu', or leave it empty for what there is."
        ) from error


@contextmanager
def quietly() -> Iterator[None]:
    """While loading: no bars, and no advice about components that EmerDiff does not use."""
    with ExitStack() as afterwards:
        for log in (diffusers_logging, transformers_logging):
            afterwards.callback(log.set_verbosity, log.get_verbosity())
            if log.is_progress_bar_enabled():
                afterwards.callback(log.enable_progress_bar)
            log.set_verbosity_error()
            log.disable_progress_bar()
        yield
