"""Train a small latent diffusion model: ``python -m emerdiff_lib.train --images FOLDER --output runs/mine``.

One command: train the autoencoder, encode, train the U-Net together with the text encoder, export a diffusers folder that
carries its own EmerDiff defaults and a model card. Every stage resumes after a kill. Without ``--images``, the model is of
Toyscapes scenes, which are drawn first. No label takes part, beyond what a caption says.

Runs on whatever ``accelerate`` finds: a GPU, or the CPU.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator

from ..settings import real, whole
from . import architecture
from .autoencoder import train_autoencoder
from .backbones import BACKBONES
from .card import write_card
from .denoiser import train_denoiser
from .packaging import export, load_weights
from .precision import PRECISIONS, fastest
from .sources import FolderCrops, Latents, Source, ToyscapesScenes
from .stage import keep_run, same_run

# What a run that goes on must have in common with its beginning
_FIXED = (
    *("images", "captions", "size", "crops", "zoom", "num_scenes", "batch_size", "seed", "low_timesteps"),
    *("widths", "prediction_type", "empty_captions", "dropout", "hold_out", "backbone", "width", "depth"),
)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m emerdiff_lib.train",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--images", type=Path, nargs="+", help="folders of pictures, of any size; none: Toyscapes scenes")
    add(
        "--captions",
        type=Path,
        help='JSON lines with "file_name" and "text"; default: metadata.jsonl in a folder',
    )
    add("--output", type=Path, default=Path("runs/toyscapes"), help="holds all that a run writes")
    add("--init-from", type=Path, help="diffusers folder to start from: fresh optimiser, short warm-up")
    add("--fresh-unet", action="store_true", help="take only the autoencoder of --init-from")
    add("--size", type=int, default=128, help="side of the pictures in pixels, a multiple of 32")
    add("--crops", type=int, default=4, help="crops of a folder's picture in an epoch, each used twice")
    add(
        "--zoom",
        type=float,
        default=0.4,
        help="smallest side of a crop, as a share of the picture's shorter one",
    )
    add(
        "--hold-out",
        type=int,
        default=0,
        help="every so many pictures of the folders, one is not trained on and its loss is logged; 0: none",
    )
    add("--workers", type=int, default=0, help="processes that draw crops ahead; worth it beside a GPU")
    add("--num-scenes", type=int, default=24_000, help="Toyscapes scenes drawn and encoded once")
    add("--batch-size", type=int, default=32)
    add("--autoencoder-steps", type=int, default=1300, help="0 keeps that of --init-from")
    add("--autoencoder-learning-rate", type=float, default=2e-3)
    add("--steps", type=int, default=6000, help="training steps of the U-Net and the text encoder")
    add("--learning-rate", type=float, default=8e-4, help="1.5e-3 diverges")
    add("--warmup-steps", type=int, default=200)
    add("--cooldown", type=float, default=0.5, help="last share of the steps, in which the rate decays")
    add("--widths", type=int, nargs=4, default=list(architecture.WIDTHS), help="of the U-Net's levels")
    add(
        "--backbone",
        choices=tuple(BACKBONES),
        default="unet",
        help="what denoises: a U-Net as Stable Diffusion 1's, or a transformer with joint attention as Stable Diffusion 3's",
    )
    add("--width", type=int, default=96, help="of the transformer's tokens, a multiple of 32")
    add("--depth", type=int, default=5, help="blocks of the transformer")
    add("--dropout", type=float, default=0.0, help="in the U-Net, against learning few pictures by heart")
    add("--prediction-type", choices=architecture.PREDICTIONS, default="epsilon", help="of the U-Net")
    add(
        "--empty-captions",
        type=float,
        default=0.12,
        help="share of captions that are left out; 1: a model without words",
    )
    add(
        "--low-timesteps",
        type=float,
        default=0.3,
        help="share drawn from [0, 400), where features are read; the others from all",
    )
    add("--checkpoint-every", type=int, default=250, help="steps between checkpoints and sample sheets")
    add(
        "--mixed-precision",
        choices=("auto", *PRECISIONS),
        default="auto",
        help="auto: what a few steps find fastest",
    )
    add("--license", default="other", help="of the weights, for the model card")
    add("--terms", default="", help="a sentence on the data's terms, for the model card")
    add("--cpu", action="store_true", help="stay on the CPU even if there is a GPU")
    add("--seed", type=int, default=0)
    return parser.parse_args(argv)


def check(args: argparse.Namespace) -> argparse.Namespace:
    """Returns arguments that can be used, else raises a ValueError of one sentence."""
    for name in ("batch_size", "steps", "checkpoint_every", "crops", "num_scenes"):
        whole(1)(f"--{name.replace('_', '-')}", getattr(args, name))
    for name in ("autoencoder_steps", "hold_out", "workers"):
        whole(0)(f"--{name.replace('_', '-')}", getattr(args, name))
    real(0, 1, above=True)("--zoom", args.zoom)
    for name in ("empty_captions", "low_timesteps", "cooldown", "dropout"):
        real(0, 1)(f"--{name.replace('_', '-')}", getattr(args, name))
    if args.size < 32 or args.size % 32:
        raise ValueError(f"--size={args.size} is not possible; choose a multiple of 32: 128, 160, 192 …")
    if any(width < 8 or width % (8 if level == 0 else 16) for level, width in enumerate(args.widths)):
        raise ValueError(
            f"--widths {args.widths} are not possible; give multiples of 8, and then three of 16."
        )
    whole(1)("--depth", args.depth)
    if args.width < 32 or args.width % 32:
        raise ValueError(f"--width={args.width} is not possible; choose a multiple of 32.")
    own = {"unet": ("widths", "dropout", "prediction_type"), "transformer": ("width", "depth")}
    usual = vars(arguments([]))
    for backbone, names in own.items():
        changed = [name for name in names if getattr(args, name) != usual[name]]
        if backbone != args.backbone and changed:
            raise ValueError(
                f"--{changed[0].replace('_', '-')} is for --backbone {backbone}; this one is {args.backbone}."
            )
    if args.fresh_unet and args.init_from is None:
        raise ValueError("--fresh-unet takes the autoencoder of --init-from; give one.")
    if args.captions is not None and args.images is None:
        raise ValueError("--captions belong to pictures; give their folder with --images.")
    if args.images is None and args.size != ToyscapesScenes.size:
        raise ValueError(
            f"--size={args.size} needs --images; Toyscapes scenes are {ToyscapesScenes.size} pixels wide."
        )
    if args.autoencoder_steps == 0 and args.init_from is None:
        raise ValueError("--autoencoder-steps=0 keeps the autoencoder of --init-from; give one.")
    return args


def source_of(args: argparse.Namespace) -> Source:
    """What the arguments name."""
    if args.images is None:
        return ToyscapesScenes(args.output, args.num_scenes)
    options = dict(zoom=args.zoom, seed=args.seed, hold_out=args.hold_out, workers=args.workers)
    return FolderCrops(args.images, args.captions, args.size, args.crops, **options)


def remembered(args: argparse.Namespace) -> str:
    """The precision of this run, chosen when it began; a run that goes on has to be the same one.

    Raises:
        ValueError: the output folder holds a run on other pictures or of other settings.
    """
    now = {name: str(getattr(args, name)) for name in _FIXED}
    before = same_run(args.output, now, {name: str(value) for name, value in vars(arguments([])).items()})
    if before is not None:
        return before["precision"]
    precision = args.mixed_precision
    if precision == "auto":
        precision, rates = fastest(BACKBONES[args.backbone](args, 8), args.size, args.batch_size, args.cpu)
        print("Pictures a second: " + ", ".join(f"{name} {rate:.1f}" for name, rate in rates.items()))
    keep_run(args.output, now | {"precision": precision})
    return precision


def main(argv: list[str] | None = None) -> None:
    args = check(arguments(argv))
    args.output = args.output.expanduser()
    if args.images is not None:
        args.images = [folder.expanduser() for folder in args.images]
    precision = remembered(args)
    accelerator = Accelerator(mixed_precision=precision, cpu=args.cpu)
    torch.manual_seed(args.seed)
    with accelerator.main_process_first():
        source = source_of(args)

    tokenizer = architecture.build_tokenizer(source.words, BACKBONES[args.backbone].special_tokens)
    vae = architecture.build_autoencoder(args.size).to(memory_format=torch.channels_last)
    backbone = BACKBONES[args.backbone](args, len(tokenizer))
    if args.init_from is not None:
        load_weights(args.init_from, vae=vae, **({} if args.fresh_unet else backbone.networks))

    vae, first = train_autoencoder(args, accelerator, vae, source)
    latents = Latents(source, vae, accelerator, args.output / "latents.pt")
    vae.register_to_config(scaling_factor=latents.scaling_factor())
    accelerator.free_memory()
    networks, second = train_denoiser(args, accelerator, vae, backbone, tokenizer, latents)
    source.close()
    if accelerator.is_main_process:
        folder = export(args.output / "model", backbone, vae, tokenizer, networks)
        write_card(folder, args, source, precision, first, second)
        size = sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 1e6
        accelerator.print(f"exported {folder} ({size:.1f} MB of fp16 safetensors)")


if __name__ == "__main__":
    main()
