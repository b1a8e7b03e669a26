"""What suits which checkpoint: its own defaults first, the table of families as fallback; where it is."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import SD3Transformer2DModel
from diffusers.utils import logging as diffusers_logging
from transformers import CLIPTextModelWithProjection
from transformers.utils import logging as transformers_logging

from .attention import Network, attention_layers
from .flow import is_flow
from .settings import REQUIRED, Settings, check_known, layered

TOYSCAPES_FOLDER = Path(__file__).parent / "toyscapes" / "checkpoint"
# Small models that differ from the first in one thing (notebook 10); they share the bundled model's autoencoder
RELATIVES = (
    "toyscapes-reference",
    "toyscapes-no-captions",
    "toyscapes-v-prediction",
    "toyscapes-other-seed",
    "toyscapes-wide-top",
    "toyscapes-half-training",
    "toyscapes-transformer",
)
# A small CLIP of the same scenes (notebook 11), by the name "toyscapes-clip"
CLIP_FOLDER = TOYSCAPES_FOLDER.parent / "clip"
# A model of photographs, under terms of its own (its LICENSE); a packager may leave the folder out
STREETS_FOLDER = Path(__file__).parent / "streets"
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle")
DTYPES = ("float32", "bfloat16", "float16")


# -- families: what a layout is used with ---------------------------------------------------------------------------


PAPERS = {"num_masks": 30, "feature_timestep": 1, "modulation_timestep": 281}  # Sec. 4 and App. A
CELLS = 16  # on a side of the paper's grid
# What a U-Net is conditioned on, by its addition_embed_type and encoder_hid_dim_type
CONDITIONS = {
    (None, None): "text",
    ("text_time", None): "text and sizes",
    ("image", "image_proj"): "images",
    ("text", "text_proj"): "projected text",
}


@dataclass(frozen=True)
class Family:
    """A row of the table: networks of this layout, whatever their widths and depths, get these settings.

    Attributes:
        name: as people call it.
        level: which of a U-Net's levels takes the place of the paper's 16 × 16 one; level i halves the latents' grid i times.
        modulation: which layer of that level's upward block is modulated, by index; queries are the first one's.
        settings: the other defaults, by flat name.
    """

    name: str
    level: int = 2
    modulation: int = -1
    settings: Mapping[str, Any] = field(default_factory=PAPERS.copy)

    def defaults(self, unet: Network, vae_scale_factor: int) -> dict[str, Any]:
        """Flat settings for one checkpoint of the family; images are processed at the size it was trained at."""
        feature, modulation = self.layers(unet)
        chosen: dict[str, Any] = {"feature_layer": feature, "modulation_layer": modulation}
        if (sides := unet.config["sample_size"]) is not None:
            side = sides if isinstance(sides, int) else round((sides[0] * sides[1]) ** 0.5)
            chosen["processing_resolution"] = side * vae_scale_factor
        return {**self.settings, **chosen}

    def layers(self, unet: Network) -> tuple[str, str]:
        """The layer whose queries are clustered, and the one that is modulated.

        A transformer's tokens all have one grid, so that depth takes the place of levels: half-way and the last block, the best
        of all for the only transformer that was measured, a small one (notebook 10).
        """
        names = attention_layers(unet, "attn2")
        if _is_transformer(unet.config):
            return names[len(names) // 2], names[-1]
        block = len(unet.config["block_out_channels"]) - 1 - self.level
        names = [name for name in names if name.startswith(f"up_blocks.{block}.")]
        return names[0], names[self.modulation]


# Chosen on validation scenes (notebooks/results/defaults.json and transformer_*.json)
_TOYSCAPES = {"num_masks": 12, "feature_timestep": 281, "noise_ensemble_size": 8}
_FAMILIES = (
    Family("Toyscapes", 1, 0, _TOYSCAPES | {"modulation_timestep": 481, "filter_sigma": 0.5}),
    Family("Toyscapes, transformer", settings=_TOYSCAPES | {"modulation_timestep": 681, "filter_sigma": 0.0}),
    # also LCM checkpoints, and distilled ones of fewer layers (tiny-sd)
    Family("Stable Diffusion 1.x"),
    # also SD-Turbo; the 768-pixel model has 24 × 24 cells at that level
    Family("Stable Diffusion 2.x"),
    # also SDXL-Turbo, and SSD-1B; its coarsest grid is 32 × 32 for a megapixel
    Family("Stable Diffusion XL"),
    # unCLIP: joint attention to image tokens and to those of an image's embedding
    Family("Kandinsky 2.2"),
    # the first stage, of 64 × 64 pixels: joint attention to image and text tokens, no VAE
    Family("DeepFloyd IF"),
    # also 3.5; the paper's noise levels, which its flow has at other timesteps
    Family("Stable Diffusion 3", settings=PAPERS | {"feature_timestep": 21, "modulation_timestep": 201}),
)
FAMILIES = {family.name: family for family in _FAMILIES}


def family_of(config: Mapping[str, Any]) -> Family | None:
    """The family whose layout a network has, by its config, or None for one that the table does not know."""
    if config["sample_size"] is None:
        return None
    channels, levels = config["in_channels"], _attending_levels(config)
    match _condition(config):
        case "joint":
            return FAMILIES["Toyscapes, transformer" if channels == 8 else "Stable Diffusion 3"]
        case "text" if channels == 8 and levels[:1] == [1]:
            return FAMILIES["Toyscapes"]
        case "text" if channels == 4 and levels[:3] == [0, 1, 2]:
            return FAMILIES[f"Stable Diffusion {2 if config.get('use_linear_projection') else 1}.x"]
        case "text and sizes" if channels == 4 and 2 in levels and 0 not in levels:
            return FAMILIES["Stable Diffusion XL"]
        case "images" if 2 in levels:
            return FAMILIES["Kandinsky 2.2"]
        case "projected text" if 2 in levels:
            return FAMILIES["DeepFloyd IF"]
    return None


def _is_transformer(config: Mapping[str, Any]) -> bool:
    return "joint_attention_dim" in config


def _condition(config: Mapping[str, Any]) -> str | None:
    """What a network is conditioned on; None for what EmerDiff cannot give it."""
    if _is_transformer(config):
        return "joint"
    if config.get("class_embed_type") is not None or config.get("num_class_embeds") is not None:
        return None
    return CONDITIONS.get((config.get("addition_embed_type"), config.get("encoder_hid_dim_type")))


def _attending_levels(config: Mapping[str, Any]) -> list[int]:
    """Levels of a U-Net whose upward blocks have cross-attention; none of a transformer."""
    kinds = ("CrossAttnUpBlock2D", "SimpleCrossAttnUpBlock2D")
    return [i for i, kind in enumerate(reversed(config.get("up_block_types", ()))) if kind in kinds]


def best_guess(config: Mapping[str, Any]) -> Family | None:
    """A row for a U-Net that the table does not know: the paper's settings, on the upward block whose grid is nearest to the
    paper's; None where no upward block has cross-attention."""
    sides = config["sample_size"]
    side = min(sides) if isinstance(sides, list | tuple) else sides or 4 * CELLS
    distance = lambda level: abs(math.log(side / 2**level / CELLS))
    levels = _attending_levels(config)
    return Family("none of those known", min(levels, key=distance)) if levels else None


def describe_guess(guess: Family, unet: Network) -> str:
    """What is taken of a U-Net that no family matches; ``guess`` is from :func:`best_guess`."""
    feature, modulation = guess.layers(unet)
    return (
        f"This U-Net is of no family that is known ({', '.join(FAMILIES)}). Queries are taken from {feature}, and {modulation} "
        "is modulated, where the grid is nearest to the paper's; set feature_layer and modulation_layer to choose others."
    )


def resolve(
    unet: Network, vae_scale_factor: int, own: Mapping[str, Any] | None = None, **given: Any
) -> Settings:
    """The given settings (None: not given) over the checkpoint's own over its family's over the paper's.

    Raises:
        ValueError: a name or value that is not possible, or a setting that none of these has.
    """
    family = family_of(unet.config) or best_guess(unet.config)
    flat = layered(given, own or {}, family.defaults(unet, vae_scale_factor) if family else {})
    if missing := [name for name in REQUIRED if name not in flat]:
        raise ValueError(
            f"This U-Net's size or layers are not known, so that not all settings have a default; pass {', '.join(missing)} "
            "yourself, or keep them with the checkpoint: pipe.register_to_config(default_settings={...}), then "
            "pipe.save_pretrained(folder)."
        )
    return Settings.from_dict(flat)


# -- finding and using --------------------------------------------------------------------------------------------


def locate(name: str | Path) -> str:
    """The folder or hub id that a model name stands for: "toyscapes", "streets" and :data:`RELATIVES` are bundled.

    Raises:
        FileNotFoundError: bundled weights are missing, or a path does not hold a diffusers folder.
        ValueError: the path is a single file.
    """
    relatives = TOYSCAPES_FOLDER.parent / "relatives"
    bundled = {model: relatives / model.removeprefix("toyscapes-") for model in RELATIVES}
    bundled |= {"toyscapes": TOYSCAPES_FOLDER, "streets": STREETS_FOLDER}
    folder = bundled.get(str(name), Path(name).expanduser())
    convert = "StableDiffusionPipeline.from_single_file(file).save_pretrained(folder)"
    if (folder / "model_index.json").exists():
        return str(folder)
    if str(name) in bundled:
        raise FileNotFoundError(
            f"{name} is not in this installation ({folder}), which the terms of streets allow to leave out; take that folder "
            "from the source repository."
        )
    if folder.is_file():
        trust = "if you trust who made it, for a pickle runs code; " if folder.suffix in PICKLES else ""
        raise ValueError(
            f"{folder} is a single file, and EmerDiff reads diffusers folders with weights in safetensors only; convert it "
            f"({trust}`{convert}`)."
        )
    if folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is no diffusers folder (it has no model_index.json); convert a single-file checkpoint with `{convert}`."
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


def check_networks(
    unet: torch.nn.Module,
    vae: torch.nn.Module | None,
    text_encoder: torch.nn.Module | None,
    text_encoder_2: torch.nn.Module | None = None,
) -> None:
    """Raises a ValueError for networks that do not belong together, and for conditions that EmerDiff cannot give."""
    config: Any = unet.config
    condition = _condition(config)
    if condition is None:
        names = ("addition_embed_type", "encoder_hid_dim_type", "class_embed_type", "num_class_embeds")
        given = ", ".join(f"{name}={config[name]!r}" for name in names if config[name] is not None)
        raise ValueError(
            f"This U-Net is conditioned on what EmerDiff does not know how to give it ({given})."
        )
    if condition == "joint":
        encoders = (text_encoder, text_encoder_2)
        complete = vae is not None and all(isinstance(e, CLIPTextModelWithProjection) for e in encoders)
    else:
        channels = config.in_channels
        if config.out_channels not in (channels, 2 * channels):  # some learn variances besides
            raise ValueError(
                f"This U-Net takes {channels} channels and gives {config.out_channels} (an inpainting or depth model?); use the "
                "text-to-image checkpoint that it was made from."
            )
        complete = vae is not None or channels == 3  # three: of pixels
        complete &= (text_encoder is None) == (condition == "images")
        complete &= (text_encoder_2 is not None) == (condition == "text and sizes")
    if not complete:
        raise ValueError(
            "A VAE or text encoder is missing or does not belong to this network (Stable Diffusion XL and 3 have two text "
            "encoders, unCLIP has none); download the whole model again."
        )


def check_scheduler(config: Mapping[str, Any], unet: torch.nn.Module) -> None:
    """Raises a ValueError for schedulers of another kind of noise than the network's (DDPM's, or a transformer's rectified flow),
    and for flows whose shift depends on the image's size."""
    kind = config.get("_class_name", "its scheduler")
    has_betas = any(config.get(name) is not None for name in ("beta_schedule", "trained_betas"))
    noise = "a flow's" if is_flow(config) else "DDPM's" if has_betas else "neither DDPM's nor a flow's"
    needed = "a flow's" if isinstance(unet, SD3Transformer2DModel) else "DDPM's"
    if noise != needed:
        raise ValueError(
            f"The noise of {kind} is {noise}, and this network needs {needed}; take the scheduler of the model's own folder, or "
            "another model."
        )
    if is_flow(config) and config.get("use_dynamic_shifting"):
        raise ValueError(
            f"{kind} shifts its noise by the image's size (use_dynamic_shifting), as Flux does; EmerDiff reads flows of a fixed "
            "shift, as Stable Diffusion 3's."
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
    logs = (diffusers_logging, transformers_logging)
    before = [(log, log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    for log in logs:
        log.set_verbosity_error()
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, verbosity, bars in before:
            log.set_verbosity(verbosity)
            (log.enable_progress_bar if bars else log.disable_progress_bar)()
