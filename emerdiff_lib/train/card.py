"""The model card of a freshly trained folder."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..files import write_atomically
from .sources import Source
from .stage import Stage

DENOISERS = {"unet": "U-Net and text encoder", "transformer": "transformer and text encoders"}
SAMPLING = """
Pictures: `StableDiffusion3Pipeline.from_pretrained(folder, text_encoder_3=None, tokenizer_3=None)`, called with
`max_sequence_length=0`: there is no T5, and no zeros stood in its place.
"""


def write_card(
    folder: Path,
    args: argparse.Namespace,
    source: Source,
    precision: str,
    autoencoder: Stage,
    denoiser: Stage,
) -> None:
    """``README.md``: data, terms, training, compute, and the losses that it came to."""
    options = {
        "init-from": args.init_from,
        "autoencoder-steps": args.autoencoder_steps,
        "steps": args.steps,
        "batch-size": args.batch_size,
        "learning-rate": args.learning_rate,
        "autoencoder-learning-rate": args.autoencoder_learning_rate,
        "low-timesteps": args.low_timesteps,
        "empty-captions": args.empty_captions,
        **(_transformer(args) if args.backbone == "transformer" else _unet(args)),
        "seed": args.seed,
    }
    given = " ".join(f"--{name} {value}" for name, value in options.items() if value is not None)
    given += " --fresh-unet" if args.fresh_unet else ""
    sheets = sorted((autoencoder.folder).glob("reconstructions-*.png"))
    psnr = sheets[-1].stem.rsplit("-", 1)[-1] if sheets else "not measured"
    rows = [_row("autoencoder", autoencoder, args), _row(DENOISERS[args.backbone], denoiser, args)]
    table = "\n".join(["| | steps | samples | minutes | loss |", "|---|---|---|---|---|", *rows])
    apart = _held_out(denoiser)
    like = f"Stable Diffusion {3 if args.backbone == 'transformer' else 1}"
    text = f"""---
license: {args.license}
library_name: diffusers
pipeline_tag: text-to-image
---

# A small latent diffusion model

{like}'s components, small, trained by `python -m emerdiff_lib.train` for use with EmerDiff.

## Data

{source.title}, at {source.size} × {source.size} pixels; {len(source.words)} words in their captions.
No label, mask or segmentation loss took part, beyond what captions say. {args.terms}

## Training

{precision} precision, {given}

{table}

Reconstruction of the first 16 pictures (held-out ones, where there are such): {psnr}.{apart}
Minutes are of wall time, whatever else the machine did.
{SAMPLING if args.backbone == "transformer" else ""}"""
    write_atomically(folder / "README.md", text)


def _unet(args: argparse.Namespace) -> dict[str, object]:
    return {
        "widths": " ".join(map(str, args.widths)),
        "prediction-type": args.prediction_type,
        "dropout": args.dropout or None,
    }


def _transformer(args: argparse.Namespace) -> dict[str, object]:
    return {"backbone": args.backbone, "width": args.width, "depth": args.depth}


def _held_out(denoiser: Stage) -> str:
    log = denoiser.folder / "held-out.jsonl"
    if not log.exists():
        return ""
    last = json.loads(log.read_text().splitlines()[-1])
    return f" Loss of held-out pictures: {last['held_out']:.4f}, of as many others: {last['trained_on']:.4f}."


def _row(name: str, stage: Stage, args: argparse.Namespace) -> str:
    loss = "" if stage.loss is None else f"{stage.loss:.4f}"
    return f"| {name} | {stage.step} | {stage.step * args.batch_size} | {stage.seconds / 60:.0f} | {loss} |"
