"""Reading and writing the model as a diffusers folder of fp16 safetensors, with a model card."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import torch

from ..backbones import find_backbone
from ..files import write_atomically
from ..frozen_model import FrozenModel
from ..loading import load_component, quietly
from .architecture import Model
from .config import Config, flag
from .loop import Progress
from .sources import Source

UNLISTED = {"images", "output", "workers", "checkpoint_every", "cpu"}


def load_weights(folder: Path, **modules: torch.nn.Module) -> None:
    """Copy a diffusers folder's weights into freshly built modules (float32); a text encoder of other words starts anew.

    Raises:
        FileNotFoundError, ValueError: as :func:`~emerdiff_lib.loading.load_component`, or weights of another architecture.
    """
    for name, module in modules.items():
        with quietly():
            weights = load_component(type(module), folder, subfolder=name).state_dict()
        shapes = lambda state: {(key, value.shape) for key, value in state.items()}
        here, there = shapes(module.state_dict()), shapes(weights)
        if here == there:
            module.load_state_dict(weights)
        elif name.startswith("text_encoder"):
            print(f"The captions' words are not those of {folder}: the text encoder starts anew.")
        else:
            raise ValueError(
                f"The {name} of {folder} is of another architecture ({min(here ^ there)[0]}); --init-from takes models of this "
                "trainer."
            )


def export(folder: Path, model: Model) -> Path:
    """Write what diffusers' own pipeline loads ``from_pretrained(folder)``, with its EmerDiff defaults; returns the folder."""
    pipeline = model.pipeline(torch.float16)
    FrozenModel(pipeline, find_backbone(pipeline).defaults()).save_pretrained(folder)
    # transformers loads a model in the dtype that its config names, diffusers in float32: let both be float32 by default
    file = folder / "text_encoder" / "config.json"
    write_atomically(file, json.dumps(json.loads(file.read_text()) | {"dtype": "float32"}, indent=2) + "\n")
    return folder


def write_card(
    folder: Path, config: Config, source: Source, precision: str, stages: dict[str, Progress]
) -> None:
    """``README.md``: data, training, compute, and the losses that it came to.

    Args:
        stages: of the training, by name.
    """
    options = []
    for name in (field.name for field in fields(config) if field.name not in UNLISTED):
        if (value := getattr(config, name)) is not None:
            options.append(f"{flag(name)} {' '.join(map(str, value)) if isinstance(value, list) else value}")
    lines = []
    for name, stage in stages.items():
        trained = f"{stage.step} steps, {stage.seconds / 60:.0f} minutes, loss {stage.loss or 0:.4f}"
        measures = "".join(f", {measure} {value}" for measure, value in stage.measures.items())
        lines.append(f"- {name}: {trained}{measures}")
    text = f"""---
license: other
library_name: diffusers
pipeline_tag: text-to-image
---

# A small latent diffusion model

Stable Diffusion 1's components, small, trained by `python -m emerdiff_lib.train` for use with EmerDiff.

## Data

{source.title}, at {config.size} × {config.size} pixels; {len(source.words)} words in their captions.
No label, mask or segmentation loss took part, beyond what captions say.

## Training

{precision} precision, {" ".join(options)}

{chr(10).join(lines)}

Reconstructions are of 16 images, held-out ones where there are such. Minutes are of wall time, whatever else the machine did.
"""
    write_atomically(folder / "README.md", text)
