"""Options of a training run, checked once: a dataclass whose fields are the options of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from transformers.hf_argparser import HfArg, HfArgumentParser

from ..settings import real, whole
from ..toyscapes.world import SIZE

CHECKS = {
    **dict.fromkeys(("batch_size", "steps", "checkpoint_every", "crops", "num_scenes"), whole(1)),
    **dict.fromkeys(("autoencoder_steps", "warmup_steps", "hold_out", "workers"), whole(0)),
    **dict.fromkeys(("empty_captions", "low_timesteps", "cooldown", "dropout"), real(0, 1)),
    "zoom": real(0.01, 1),
}


@dataclass
class Config:
    """Options of ``python -m emerdiff_lib.train``.

    Raises:
        ValueError: one sentence about a value that is not possible, or about two that do not go together.
    """

    images: list[Path] | None = HfArg(default=None, help="folders of images; none: Toyscapes scenes")
    output: Path = HfArg(default=Path("runs/toyscapes"), help="holds all that a run writes")
    init_from: Path | None = HfArg(default=None, help="diffusers folder whose weights are trained on")
    fresh_unet: bool = HfArg(default=False, help="take only the autoencoder of --init-from")
    size: int = HfArg(default=SIZE, help="side of the images in pixels, a multiple of 32")
    crops: int = HfArg(default=4, help="crops of a folder's image in an epoch, each used twice")
    zoom: float = HfArg(default=0.4, help="smallest side of a crop, as a share of the image's shorter one")
    hold_out: int = HfArg(default=0, help="of so many images, one is held out and its loss logged; 0: none")
    workers: int = HfArg(default=0, help="threads that draw crops ahead; worth it beside a GPU")
    num_scenes: int = HfArg(default=24_000, help="Toyscapes scenes drawn and encoded once")
    batch_size: int = 32
    autoencoder_steps: int = HfArg(default=1300, help="0 keeps that of --init-from")
    autoencoder_learning_rate: float = 2e-3
    steps: int = HfArg(default=6000, help="training steps of the U-Net and the text encoder")
    learning_rate: float = HfArg(default=8e-4, help="1.5e-3 diverges")
    warmup_steps: int = 200
    cooldown: float = HfArg(default=0.5, help="last share of the steps, in which the rate decays")
    widths: list[int] = HfArg(default_factory=lambda: [24, 96, 128, 128], help="of the U-Net's four levels")
    dropout: float = HfArg(default=0.0, help="in the U-Net, against learning few images by heart")
    prediction_type: Literal["epsilon", "v_prediction"] = HfArg(default="epsilon", help="of the U-Net")
    empty_captions: float = HfArg(default=0.12, help="share of captions left out; 1: a model without words")
    low_timesteps: float = HfArg(default=0.3, help="share drawn from [0, 400), where features are read")
    checkpoint_every: int = HfArg(default=250, help="steps between checkpoints and sample sheets")
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = HfArg(
        default="auto", help="auto: bf16 on GPUs and on CPUs with AMX"
    )
    cpu: bool = HfArg(default=False, help="stay on the CPU even if there is a GPU")
    seed: int = 0

    def __post_init__(self):
        self.output = self.output.expanduser()
        self.images = self.images and [folder.expanduser() for folder in self.images]
        for name, check in CHECKS.items():
            check(flag(name), getattr(self, name))
        if self.size < 32 or self.size % 32:
            raise ValueError(f"--size={self.size} is not possible; choose a multiple of 32.")
        multiples = zip(self.widths, (8, 16, 16, 16), strict=False)
        if len(self.widths) != 4 or any(width < 8 or width % multiple for width, multiple in multiples):
            raise ValueError(
                f"--widths {self.widths} are not possible; give a multiple of 8, and then three of 16."
            )
        if self.init_from is None and self.autoencoder_steps == 0:
            raise ValueError("--autoencoder-steps=0 keeps the autoencoder of --init-from; give one.")
        if self.images is None and self.size != SIZE:
            raise ValueError(f"--size={self.size} needs --images; Toyscapes has a size, {SIZE}, of its own.")


def flag(name: str) -> str:
    """A field's option on the command line."""
    return "--" + name.replace("_", "-")


def parse(argv: Sequence[str] | None = None, description: str | None = None) -> Config:
    """The options of a command line (default: that of this process); ValueError: an unknown one, or an impossible value."""
    parser = HfArgumentParser(Config, prog="python -m emerdiff_lib.train", description=description)
    return parser.parse_args_into_dataclasses(argv, look_for_args_file=False)[0]
