"""What the figures and tables of a paper are made of (notebook 12): a model's answers to pictures, and manifests."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from PIL import Image

from ..assignment import assign_bilinear
from ..pipeline import EmerDiffPipeline
from ..responses import ImageResponses
from ..stages import Responses
from .manifest import read_manifest


def segment(
    pipe: EmerDiffPipeline, image: Image.Image, seed: int = 0, placements: bool = False, **settings: Any
) -> dict[str, Any]:
    """The paper's method and pixel mode on one picture, from the same inversion.

    Returns:
        "pixels" (H, W, 3) uint8, "queries" (h, w, d), "masks" (K, h, w) bool, their difference "maps" (K, H', W'), and label
        maps (H, W): "labels" by the paper's assignment, "bilinear" of the masks enlarged, "pixel" by pixel mode.

    Args:
        placements: give {offset placement: (K, H', W') difference maps} of the same masks instead.
        settings: of the pipeline, except ``mode``.
    """
    generator = torch.Generator().manual_seed(seed)
    coarse = pipe.coarse(image, generator=generator, **(settings | {"mode": "exact"}))
    moved = lambda **more: cast(Responses, pipe.respond(coarse, **more))
    if placements:
        names = ("after_projection", "before_projection")
        return {name: moved(offset_placement=name).difference_maps.numpy() for name in names}
    responses = moved()
    pixel = cast(ImageResponses, pipe.respond(coarse, mode="pixel"))
    return {
        "pixels": np.asarray(image),
        "queries": coarse.queries.numpy(),
        "masks": coarse.masks.numpy(),
        "maps": responses.difference_maps.numpy(),
        "labels": pipe.assign(responses),
        "bilinear": assign_bilinear(coarse.masks, coarse.size),
        "pixel": pipe.assign(pixel),
    }


def result_tables(folder: Path | str, names: Iterable[str] = ()) -> dict[str, tuple[str, pd.DataFrame]]:
    """{"06_evaluation-1": (caption, table)} of the manifests in a folder.

    Args:
        names: of manifests without ".json"; empty: all that notebooks wrote (their names begin with a number).

    Raises:
        FileNotFoundError: the folder, or a manifest that is named, is not there.
    """
    folder = Path(folder)
    paths = [folder / f"{name}.json" for name in names] or sorted(folder.glob("[0-9]*.json"))
    if not paths:
        raise FileNotFoundError(
            f"{folder} holds no manifest; name the folder with a notebook's manifest.json in it."
        )
    found = {}
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(
                f"{path} does not exist; run the notebook that writes it, or leave it out."
            )
        manifest = read_manifest(path)
        for number, (caption, table) in enumerate(manifest["tables"].items(), start=1):
            found[f"{path.stem}-{number}"] = (f"{manifest['title']}: {caption}", table)
    return found
