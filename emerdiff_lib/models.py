"""Which checkpoint wants which settings: one table, and how to load one by name, folder or hub id."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

TOYSCAPES_FOLDER = Path(__file__).parent / "toyscapes" / "checkpoint"


@dataclass(frozen=True)
class Defaults:
    """What a family of checkpoints is used with unless the caller says otherwise (paper, Sec. 4 and App. A).

    Attributes:
        resolution: images are processed at about resolution² pixels, as the model was trained.
        num_masks: K.
        feature_layer: cross-attention layer whose queries are clustered: the first of its block.
        modulation_layer: cross-attention layer whose output is modulated: the last of the same block.
        feature_timestep: t_f.
        modulation_timestep: t_m.
        modulation_strength: λ.
        num_inference_steps: N.
        noise_ensemble_size: noise draws over which the queries are averaged.
        filter_sigma: Gaussian filter of the difference maps, in pixels at the processing resolution.
    """

    resolution: int
    num_masks: int
    feature_layer: str
    modulation_layer: str
    feature_timestep: int = 1
    modulation_timestep: int = 281
    modulation_strength: float = 10.0
    num_inference_steps: int = 50
    noise_ensemble_size: int = 1
    filter_sigma: float = 1.0


@dataclass(frozen=True)
class Family:
    """A row of the table: U-Nets whose config has these values get these defaults."""

    name: str
    unet_config: dict
    defaults: Defaults


_ATTN2 = "up_blocks.{}.attentions.{}.transformer_blocks.0.attn2"
FAMILIES = (
    Family(
        "Toyscapes",
        dict(in_channels=8, cross_attention_dim=64),
        Defaults(  # t_f, ensemble, t_m and filter were chosen on validation scenes
            resolution=128,
            num_masks=12,
            feature_layer=_ATTN2.format(2, 0),
            modulation_layer=_ATTN2.format(2, 1),
            feature_timestep=281,
            modulation_timestep=481,
            noise_ensemble_size=8,
            filter_sigma=0.5,
        ),
    ),
    Family(
        "Stable Diffusion 1.x",
        dict(in_channels=4, cross_attention_dim=768, block_out_channels=[320, 640, 1280, 1280]),
        Defaults(resolution=512, num_masks=30, feature_layer=_ATTN2.format(1, 0), modulation_layer=_ATTN2.format(1, 2)),
    ),
)


def family_of(unet_config) -> Family | None:
    """The row whose values the U-Net config has, or None for an architecture that the table does not know."""
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in dict(unet_config).items()}
    matches = (f for f in FAMILIES if all(plain.get(key) == value for key, value in f.unet_config.items()))
    return next(matches, None)


def resolve_settings(unet_config, **given) -> dict:
    """Defaults of the checkpoint, overridden by every given value that is not None.

    Raises:
        ValueError: for an unknown architecture unless every setting without a default of its own is given.
    """
    family = family_of(unet_config)
    given = {key: value for key, value in given.items() if value is not None}
    settings = (asdict(family.defaults) if family else {}) | given
    if missing := [key for key in Defaults.__dataclass_fields__ if key not in settings]:
        raise ValueError(
            f"There are no defaults for this architecture (known: {', '.join(f.name for f in FAMILIES)}); "
            f"pass {', '.join(missing)} yourself."
        )
    return settings


def locate(name: str | Path) -> str:
    """The folder or hub id that a model name stands for: "toyscapes" is the bundled model.

    Raises:
        FileNotFoundError: the bundled weights are missing, or a path does not hold a diffusers folder.
    """
    if str(name) == "toyscapes":
        if not (TOYSCAPES_FOLDER / "model_index.json").exists():
            raise FileNotFoundError(
                f"The bundled model is missing from {TOYSCAPES_FOLDER}; reinstall the package, or train one with "
                "`python -m emerdiff_lib.toyscapes.train` and pass its folder."
            )
        return str(TOYSCAPES_FOLDER)
    folder = Path(name).expanduser()
    if folder.is_dir() and not (folder / "model_index.json").exists():
        raise FileNotFoundError(
            f"{folder} is no diffusers folder (it has no model_index.json); convert a single-file checkpoint with "
            "`StableDiffusionPipeline.from_single_file(file).save_pretrained(folder)`."
        )
    if not folder.exists() and (folder.is_absolute() or str(name).count("/") != 1 or str(name).startswith(".")):
        raise FileNotFoundError(_how_to_get(name))
    return str(name) if not folder.exists() else str(folder)


def _how_to_get(name: str | Path) -> str:
    return (
        f'There is no model {str(name)!r}; use "toyscapes" (bundled), a diffusers folder on disk, or a hub id such as '
        '"CompVis/stable-diffusion-v1-4" (download it once with `hf download CompVis/stable-diffusion-v1-4 --local-dir '
        "sd-v1-4` where there is a network, then pass the folder)."
    )


def missing_model(name: str | Path) -> FileNotFoundError:
    return FileNotFoundError(_how_to_get(name))
