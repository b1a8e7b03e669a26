"""What suits which checkpoint: its own defaults first, the table of families as fallback; where it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import SD3Transformer2DModel
from diffusers.utils import logging as diffusers_logging
from transformers import CLIPTextModelWithProjection
from transformers.utils import logging as transformers_logging

from .flow import is_flow
from .settings import REQUIRED, Settings, layered

TOYSCAPES_FOLDER = Path(__file__).parent / "toyscapes" / "checkpoint"
# Small models that differ from the first in one thing (notebook 10); they share the bundled model's autoencoder
RELATIVES_FOLDER = TOYSCAPES_FOLDER.parent / "relatives"
RELATIVES = tuple(
    f"toyscapes-{name}"
    for name in (
        "reference",
        "no-captions",
        "v-prediction",
        "other-seed",
        "wide-top",
        "half-training",
        "transformer",
    )
)
# A small CLIP of the same scenes (notebook 11), by the name "toyscapes-clip"
CLIP_FOLDER = TOYSCAPES_FOLDER.parent / "clip"
# A model of photographs, under terms of its own (its LICENSE); a packager may leave the folder out
STREETS_FOLDER = Path(__file__).parent / "streets"
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


# -- families: what a layout is used with ---------------------------------------------------------------------------


PAPERS = {"num_masks": 30, "feature_timestep": 1, "modulation_timestep": 281}  # Sec. 4 and App. A


@dataclass(frozen=True)
class Family:
    """A row of the table: networks of this layout, whatever their widths and depths, get these settings.

    Attributes:
        name: as people call it.
        matches: config of a U-Net → whether it has the layout.
        level: which of the U-Net's levels takes the place of the paper's 16 × 16 one; level i halves the latents' grid i times.
        modulation: which attention of that level's upward block is modulated, by index; queries are the first one's. Where an
            attention is several transformer blocks deep, queries are the first one's and modulation is the last one's.
        settings: the other defaults, by flat name.
    """

    name: str
    matches: Callable[[Mapping[str, Any]], bool]
    level: int = 2
    modulation: int = -1
    settings: Mapping[str, Any] = field(default_factory=PAPERS.copy)

    def defaults(self, unet_config: Mapping[str, Any], vae_scale_factor: int) -> dict[str, Any]:
        """Flat settings for one checkpoint of the family; images are processed at the size it was trained at."""
        feature, modulation = self.layers(unet_config)
        found: dict[str, Any] = {"feature_layer": feature, "modulation_layer": modulation}
        if (sides := unet_config["sample_size"]) is not None:
            side = sides if isinstance(sides, int) else round((sides[0] * sides[1]) ** 0.5)
            found["processing_resolution"] = side * vae_scale_factor
        return {**self.settings, **found}

    def layers(self, unet_config: Mapping[str, Any]) -> tuple[str, str]:
        """Where queries are read and where they are pushed."""
        layers = unet_config["layers_per_block"]
        layers = layers if isinstance(layers, int) else list(layers)[self.level]
        block = len(unet_config["block_out_channels"]) - 1 - self.level
        last = range(layers + 1)[self.modulation]
        depth = _transformer_blocks(unet_config, block, last)
        layer = "up_blocks.{}.attentions.{}.transformer_blocks.{}.attn2".format
        if unet_config["up_block_types"][block].startswith("Simple"):  # joint attention, on its own
            layer = "up_blocks.{}.attentions.{}".format
        return layer(block, 0, 0), layer(block, last, depth - 1)


@dataclass(frozen=True)
class TransformerFamily(Family):
    """Transformers with joint attention, whose tokens all live on one grid: there are no levels, and depth takes their place.

    Queries are read half-way, and the last block is pushed: the best of all for the only one that was measured, a small one
    (notebook 10); nothing is known of Stable Diffusion 3's own.

    Attributes:
        feature_depth, modulation_depth: which block, as a share of all.
    """

    feature_depth: float = 0.5
    modulation_depth: float = 1.0

    def layers(self, config: Mapping[str, Any]) -> tuple[str, str]:
        blocks = config["num_layers"]
        first, second = (
            f"transformer_blocks.{min(int(share * blocks), blocks - 1)}.attn"
            for share in (self.feature_depth, self.modulation_depth)
        )
        return first, second


def _transformer_blocks(config: Mapping[str, Any], block: int, attention: int) -> int:
    """How many of them an attention of an upward block is deep; by block, or by block and attention."""
    depths = config.get("transformer_layers_per_block", 1)
    if upward := config.get("reverse_transformer_layers_per_block"):
        depths = upward
    elif not isinstance(depths, int):
        depths = list(reversed(depths))
    depth = depths if isinstance(depths, int) else depths[block]
    return depth if isinstance(depth, int) else depth[attention]


def _conditioned_on_text_alone(config: Mapping[str, Any]) -> bool:
    extras = ("addition_embed_type", "encoder_hid_dim", "class_embed_type")
    return config["sample_size"] is not None and not any(config.get(name) for name in extras)


def _told_of_sizes(config: Mapping[str, Any]) -> bool:
    return config["sample_size"] is not None and config.get("addition_embed_type") == "text_time"


def _attends(config: Mapping[str, Any], level: int) -> bool:
    levels = len(config.get("block_out_channels", ()))  # a transformer has none
    kind = config["up_block_types"][levels - 1 - level] if level < levels else ""
    return kind in ("CrossAttnUpBlock2D", "SimpleCrossAttnUpBlock2D")


def _attends_at_three_levels(config: Mapping[str, Any]) -> bool:
    return (
        _conditioned_on_text_alone(config)
        and config["in_channels"] == 4
        and all(_attends(config, level) for level in range(3))
    )


def _attends_jointly(config: Mapping[str, Any]) -> bool:
    return config["sample_size"] is not None and "joint_attention_dim" in config


FAMILIES = (
    Family(
        "Toyscapes",
        lambda c: (
            _conditioned_on_text_alone(c) and c["in_channels"] == 8 and _attends(c, 1) and not _attends(c, 0)
        ),
        level=1,
        modulation=0,  # the layer of the queries; chosen with the rest on validation scenes (notebooks/results/defaults.json)
        settings={
            "num_masks": 12,
            "feature_timestep": 281,
            "noise_ensemble_size": 8,
            "modulation_timestep": 481,
            "filter_sigma": 0.5,
        },
    ),
    TransformerFamily(
        "Toyscapes, transformer",
        lambda c: _attends_jointly(c) and c["in_channels"] == 8,
        settings={  # chosen on validation scenes (notebooks/results/transformer_*.json)
            "num_masks": 12,
            "feature_timestep": 281,
            "noise_ensemble_size": 8,
            "modulation_timestep": 681,
            "filter_sigma": 0.0,
        },
    ),
    Family(  # also LCM checkpoints, and distilled ones of fewer layers (tiny-sd)
        "Stable Diffusion 1.x",
        lambda c: _attends_at_three_levels(c) and not c.get("use_linear_projection"),
    ),
    Family(  # also SD-Turbo; the 768-pixel model predicts v and has 24 × 24 cells at that level
        "Stable Diffusion 2.x",
        lambda c: _attends_at_three_levels(c) and bool(c.get("use_linear_projection")),
    ),
    Family(  # also SDXL-Turbo, and SSD-1B; attention is deep, and its coarsest grid is 32 × 32 for a megapixel
        "Stable Diffusion XL",
        lambda c: _told_of_sizes(c) and c["in_channels"] == 4 and _attends(c, 2) and not _attends(c, 0),
    ),
    Family(  # unCLIP: joint attention to places and to tokens made of an image's embedding
        "Kandinsky 2.2",
        lambda c: (
            c["sample_size"] is not None and c.get("encoder_hid_dim_type") == "image_proj" and _attends(c, 2)
        ),
    ),
    Family(  # the first stage, of 64 × 64 pixels: joint attention to places and words, no VAE
        "DeepFloyd IF",
        lambda c: (
            c["sample_size"] is not None and c.get("encoder_hid_dim_type") == "text_proj" and _attends(c, 2)
        ),
    ),
    TransformerFamily(  # and 3.5; the paper's noise levels, which its flow has at other timesteps
        "Stable Diffusion 3",
        _attends_jointly,
        settings=PAPERS | {"feature_timestep": 21, "modulation_timestep": 201},
    ),
)
CELLS = 16  # on a side of the paper's grid


def family_of(unet_config: Mapping[str, Any]) -> Family | None:
    """The first row whose layout the U-Net has, or None for an architecture that the table does not know."""
    return next((family for family in FAMILIES if family.matches(unet_config)), None)


def best_guess(unet_config: Mapping[str, Any]) -> Family | None:
    """A row for a U-Net that the table does not know: the paper's settings, on the upward block whose grid is nearest to the
    paper's; None where no upward block has cross-attention."""
    levels = [
        level
        for level in range(len(unet_config.get("block_out_channels", ())))
        if _attends(unet_config, level)
    ]
    if not levels:
        return None
    sides = unet_config["sample_size"]
    side = min(sides) if isinstance(sides, list | tuple) else sides or 4 * CELLS
    level = min(levels, key=lambda level: abs(math.log(side / 2**level / CELLS)))
    return Family("none of those known", lambda _: True, level)


def describe_guess(guess: Family, unet_config: Mapping[str, Any], layers: Sequence[str]) -> str:
    """What was found in a U-Net that no family matches, and what is taken of it.

    Args:
        guess: from :func:`best_guess`; ``layers``: the U-Net's cross-attention layers.
    """
    chosen, last = guess.defaults(unet_config, 1), len(unet_config["block_out_channels"]) - 1
    found = [
        f"level {last - block} ({len(own)} in up_blocks.{block})"
        for block in range(last + 1)
        if (own := [name for name in layers if name.startswith(f"up_blocks.{block}.")])
    ]
    return (
        f"This U-Net is of no family that is known ({', '.join(f.name for f in FAMILIES)}). Cross-attention on its way up: "
        f"{', '.join(found)}, where level i halves the latents' grid i times. Queries are taken from "
        f"{chosen['feature_layer']}, and {chosen['modulation_layer']} is modulated; set feature_layer and modulation_layer to "
        "choose others."
    )


def resolve(
    unet_config: Mapping[str, Any], vae_scale_factor: int, own: Mapping[str, Any] | None, **given: Any
) -> Settings:
    """The given settings (None: not given) over the checkpoint's own over its family's over the paper's.

    Raises:
        ValueError: a name or value that is not possible, or a setting that none of these has.
    """
    family = family_of(unet_config) or best_guess(unet_config)
    defaults = family.defaults(unet_config, vae_scale_factor) if family else {}
    flat = layered(given, layered(own or {}), defaults)
    if missing := [name for name in REQUIRED if name not in flat]:
        why = (
            "does not say at which size it was trained" if family else "has no cross-attention on its way up"
        )
        raise ValueError(
            f"This U-Net {why}, so that not all settings have a default; pass {', '.join(missing)} yourself, or keep "
            "them with the checkpoint: pipe.register_to_config(default_settings={...}), then pipe.save_pretrained(folder)."
        )
    return Settings.from_dict(flat)


# -- finding and using --------------------------------------------------------------------------------------------


def locate(name: str | Path) -> str:
    """The folder or hub id that a model name stands for: "toyscapes" and "streets" are bundled, :data:`RELATIVES` come with them.

    Raises:
        FileNotFoundError: the bundled weights are missing, or a path does not hold a diffusers folder.
        ValueError: the path is a single file.
    """
    if str(name) == "toyscapes":
        if not (TOYSCAPES_FOLDER / "model_index.json").exists():
            raise FileNotFoundError(
                f"The bundled model is missing from {TOYSCAPES_FOLDER}; reinstall the package, or train one with "
                "`python -m emerdiff_lib.train` and pass its folder."
            )
        return str(TOYSCAPES_FOLDER)
    if str(name) == "streets":
        if not (STREETS_FOLDER / "model_index.json").exists():
            raise FileNotFoundError(
                f"The model of streets is not in this installation ({STREETS_FOLDER}), which its terms allow to leave out; take "
                "that folder from the source repository."
            )
        return str(STREETS_FOLDER)
    if str(name) in RELATIVES:
        return str(RELATIVES_FOLDER / str(name).removeprefix("toyscapes-"))
    folder = Path(name).expanduser()
    if folder.is_file():
        trust = "if you trust who made it, for a pickle runs code; " if folder.suffix in PICKLES else ""
        raise ValueError(
            f"{folder} is a single file, and EmerDiff reads diffusers folders with weights in safetensors only; convert it "
            f"({trust}`StableDiffusionPipeline.from_single_file(file).save_pretrained(folder)`)."
        )
    if folder.is_dir() and not (folder / "model_index.json").exists():
        raise FileNotFoundError(
            f"{folder} is no diffusers folder (it has no model_index.json); convert a single-file checkpoint with "
            "`StableDiffusionPipeline.from_single_file(file).save_pretrained(folder)`."
        )
    if not folder.exists() and (
        folder.is_absolute() or str(name).count("/") != 1 or str(name).startswith(".")
    ):
        raise missing_model(name)
    return str(name) if not folder.exists() else str(folder)


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
    """Raises a ValueError for networks that do not belong together, and for U-Nets that are told what nothing here can tell."""
    config: Any = unet.config
    if isinstance(unet, SD3Transformer2DModel):
        pooling = [isinstance(one, CLIPTextModelWithProjection) for one in (text_encoder, text_encoder_2)]
        if vae is None or not all(pooling):
            raise ValueError(
                "A transformer with joint attention (Stable Diffusion 3) needs a VAE and two CLIP text encoders with "
                "projections, and one of them is missing; download the whole model again."
            )
        return
    if config.out_channels not in (
        config.in_channels,
        2 * config.in_channels,
    ):  # some learn variances besides
        raise ValueError(
            f"This U-Net takes {config.in_channels} channels and gives {config.out_channels} (an inpainting or depth "
            "model?); use the text-to-image checkpoint that it was made from."
        )
    kinds = (config.addition_embed_type, config.encoder_hid_dim_type)
    if kinds not in ((None, None), ("text_time", None), ("image", "image_proj"), ("text", "text_proj")):
        told = " and ".join(repr(k) for k in kinds if k)
        raise ValueError(f"This U-Net is conditioned on {told}, which EmerDiff does not know how to give it.")
    if config.class_embed_type is not None or config.num_class_embeds is not None:
        raise ValueError(
            "This U-Net is conditioned on classes (class embeddings), which EmerDiff does not give it."
        )
    if vae is None and config.in_channels != 3:
        raise ValueError(
            f"This U-Net takes {config.in_channels} channels, which are no pixels, and there is no VAE; download the whole model."
        )
    if (text_encoder is None) != (config.encoder_hid_dim_type == "image_proj"):
        raise ValueError(
            "A text encoder is missing, or does not belong here: unCLIP models are told of images, all others of words; "
            "download the whole model again."
        )
    if (config.addition_embed_type == "text_time") != (text_encoder_2 is not None):
        raise ValueError(
            "A U-Net that is told sizes (Stable Diffusion XL) and a second text encoder belong together; one of them is missing: "
            "download the whole model again."
        )


def check_scheduler(config: Mapping[str, Any], unet: torch.nn.Module) -> None:
    """Raises a ValueError for schedulers of another kind of noise than the network's (DDPM's, or a transformer's rectified flow),
    and for flows whose shift depends on the picture's size."""
    kind = config.get("_class_name", "its scheduler")
    transformer = isinstance(unet, SD3Transformer2DModel)
    if transformer and not is_flow(config):
        raise ValueError(
            f"{kind} has no flow's shift, and this transformer learnt a flow; give it FlowMatchEulerDiscreteScheduler."
        )
    if is_flow(config) and not transformer:
        raise ValueError(
            f"{kind} is a flow's, and this U-Net learnt DDPM's noise; give it the model's own scheduler."
        )
    if is_flow(config):
        if config.get("use_dynamic_shifting"):
            raise ValueError(
                f"{kind} shifts its noise by the picture's size (use_dynamic_shifting), as Flux does; EmerDiff reads flows of a "
                "fixed shift, as Stable Diffusion 3's."
            )
    elif not any(config.get(name) is not None for name in ("beta_schedule", "trained_betas")):
        raise ValueError(
            f"{kind} has neither a schedule of β (beta_schedule) nor a flow's shift, as EDM; EmerDiff inverts the noise of DDPM "
            "and of rectified flow only."
        )


def check_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """A floating-point dtype by its torch name; raises a ValueError that lists the possible ones."""
    found = dtype if isinstance(dtype, torch.dtype) else DTYPES.get(str(dtype))
    if found is None or found not in DTYPES.values():
        raise ValueError(f"dtype={dtype!r} is unknown; choose one of {', '.join(map(repr, DTYPES))}.")
    return found


def check_device(device: str | torch.device | None) -> torch.device:
    """A device that this machine has; empty or None: a GPU if there is one. Raises a ValueError for any other."""
    if not device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"device={str(device)!r} cannot be used here ({reason}); choose 'cpu', or leave it empty for what there is."
        ) from error
    return found


@contextmanager
def quietly(source: str, diffusers_too: bool = False):
    """While loading: no advice about components that EmerDiff does not use; no bar for a bundled model's half second.

    Args:
        diffusers_too: no advice of diffusers either, where what it says of has been loaded before.
    """
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    own_bars = diffusers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    own_verbosity = diffusers_logging.get_verbosity()
    if diffusers_too:
        diffusers_logging.set_verbosity_error()
    if source in (str(TOYSCAPES_FOLDER), str(STREETS_FOLDER)):
        diffusers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        diffusers_logging.set_verbosity(own_verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
        if own_bars:
            diffusers_logging.enable_progress_bar()
