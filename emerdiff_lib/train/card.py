"""The model card of a freshly trained folder."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from ..files import write_atomically
from .config import OF_BACKBONE, Config, flag
from .loop import Progress
from .sources import Source

UNLISTED = {"images", "captions", "output", "workers", "checkpoint_every", "license", "terms", "cpu"}
LIKE = {"unet": "Stable Diffusion 1", "transformer": "Stable Diffusion 3"}
SAMPLING = """
Images: `StableDiffusion3Pipeline.from_pretrained(folder, text_encoder_3=None, tokenizer_3=None)`, called with
`max_sequence_length=0`: there is no T5, and no zeros stood in its place.
"""


def write_card(
    folder: Path, config: Config, source: Source, precision: str, stages: dict[str, Progress]
) -> None:
    """``README.md``: data, terms, training, compute, and the losses that it came to.

    Args:
        stages: of the training, by name.
    """
    others = {
        name for backbone, names in OF_BACKBONE.items() if backbone != config.backbone for name in names
    }
    options = []
    for name in (field.name for field in fields(config) if field.name not in UNLISTED | others):
        if (value := getattr(config, name)) is not None:
            options.append(f"{flag(name)} {' '.join(map(str, value)) if isinstance(value, list) else value}")
    rows = [
        f"| {name} | {stage.step} | {stage.step * config.batch_size} | {stage.seconds / 60:.0f} | {stage.loss or 0:.4f} | "
        + ", ".join(f"{measure} {value}" for measure, value in stage.measures.items())
        + " |"
        for name, stage in stages.items()
    ]
    text = f"""---
license: {config.license}
library_name: diffusers
pipeline_tag: text-to-image
---

# A small latent diffusion model

{LIKE[config.backbone]}'s components, small, trained by `python -m emerdiff_lib.train` for use with EmerDiff.

## Data

{source.title}, at {config.size} × {config.size} pixels; {len(source.words)} words in their captions.
No label, mask or segmentation loss took part, beyond what captions say. {config.terms}

## Training

{precision} precision, {" ".join(options)}

| | steps | samples | minutes | loss | measured at the end |
|---|---|---|---|---|---|
{chr(10).join(rows)}

Reconstructions are of 16 images, held-out ones where there are such. Minutes are of wall time, whatever else the machine did.
{SAMPLING if config.backbone == "transformer" else ""}"""
    write_atomically(folder / "README.md", text)
