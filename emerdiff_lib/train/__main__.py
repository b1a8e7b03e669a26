"""Train a small latent diffusion model: ``python -m emerdiff_lib.train --images FOLDER --output runs/mine``.

One command: train the autoencoder, encode, train the U-Net together with the text encoder, export a diffusers folder that
carries its own EmerDiff defaults and a model card. Every stage resumes after a kill. Without ``--images``, the model is of
Toyscapes scenes, which are drawn first. No label takes part, beyond what a caption says.

Runs on whatever ``accelerate`` finds: a GPU, or the CPU.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import torch
from accelerate import Accelerator

from ..files import write_atomically
from .architecture import Model
from .config import Config, parse
from .packaging import export, load_weights, write_card
from .sources import folder_crops, toyscapes
from .stages import train_autoencoder, train_denoiser

# What a run that goes on must have in common with its beginning
FIXED = (
    *("images", "size", "crops", "zoom", "num_scenes", "batch_size", "seed", "low_timesteps"),
    *("widths", "prediction_type", "empty_captions", "dropout", "hold_out"),
)


def kept_precision(config: Config, words: Sequence[str] = ()) -> str:
    """The precision of this run, chosen when it began; ``run.json`` keeps it, with the options that are fixed.

    Raises:
        ValueError: the output folder holds a run on other images or of other settings.
    """
    path, options = config.output / "run.json", {name: str(getattr(config, name)) for name in FIXED}
    options["words"] = " ".join(words)  # of captions
    if path.exists():
        before = json.loads(path.read_text())
        if changed := [name for name, value in options.items() if before.get(name, value) != value]:
            raise ValueError(
                f"{config.output} holds a run with other {changed[0]} (run.json); choose another --output."
            )
        return before["precision"]
    precision = config.mixed_precision
    if precision == "auto":  # bfloat16 is twice as fast there, and up to four times slower on other CPUs
        on_gpu = torch.accelerator.is_available() and not config.cpu
        precision = "bf16" if on_gpu or torch.cpu.get_capabilities().get("amx_bf16") else "no"
    config.output.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(options | {"precision": precision}, indent=1) + "\n")
    return precision


def main(argv: Sequence[str] | None = None) -> None:
    config = parse(argv, __doc__)
    # what is wrong with images is said before anything is written
    source = folder_crops(config) if config.images else None
    precision = kept_precision(config, source.words if source else ())
    accelerator = Accelerator(mixed_precision=precision, cpu=config.cpu)
    if accelerator.num_processes > 1:
        raise ValueError("One process trains these small models; start it without `accelerate launch`.")
    torch.manual_seed(config.seed)
    source = source or toyscapes(config.output, config.num_scenes)
    model = Model(config, source.words)
    if config.init_from is not None:
        load_weights(config.init_from, vae=model.vae, **({} if config.fresh_unet else model.networks))

    stages = {"autoencoder": train_autoencoder(config, accelerator, model.vae, source)}
    stages["denoiser and text encoders"] = train_denoiser(config, accelerator, model, source)
    folder = export(config.output / "model", model)
    write_card(folder, config, source, precision, stages)
    print(f"exported {folder}")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(str(error))
