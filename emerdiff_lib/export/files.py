"""A segmentation as files: label map, overlay, masks, embeddings, and a JSON of settings and timings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import load, save

from .._version import CITATION
from ..plotting import colourise, overlay, segment_palette
from ..stages import EmerDiffOutput


def save_output(output: EmerDiffOutput, image: Image.Image, folder: str | Path) -> list[Path]:
    """Write one image's segmentation into ``folder`` (made if missing; files of an earlier run are replaced).

    ============================  ===================================================================================
    ``image.png``                 the image as it was read (upright, RGB)
    ``labels.png``                label map, 8-bit (16-bit beyond 256 masks), pixel value = mask index
    ``labels_colour.png``         the same in colours
    ``overlay.png``               the image with masks and boundaries
    ``baseline_labels.png``       label map of the bilinear baseline
    ``masks.safetensors``         coarse_masks (K, h, w) uint8, mask_embeddings (K, d) float32, difference_maps if any
    ``settings.json``             every setting, pixels per mask, what to cite
    ============================  ===================================================================================

    Equal segmentations give equal files: seconds, which differ every time, are in none of them.

    Returns:
        the paths written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    count = len(output.coarse_masks)
    palette, depth = segment_palette(count), np.uint8 if count <= 256 else np.uint16
    images = {
        "image": np.asarray(image),
        "labels": output.labels.astype(depth),
        "labels_colour": colourise(output.labels, palette),
        "overlay": overlay(np.asarray(image), output.labels, palette),
        "baseline_labels": output.baseline_labels.astype(depth),
    }
    paths = [folder / f"{name}.png" for name in images]
    for path, pixels in zip(paths, images.values(), strict=True):
        Image.fromarray(pixels).save(path)
    masks = output.coarse_masks.astype(np.uint8)
    tensors = {"coarse_masks": masks, "mask_embeddings": output.mask_embeddings}
    if output.difference_maps is not None:
        tensors["difference_maps"] = output.difference_maps
    content = save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()})
    # readable as its neighbours are; save_file makes it private
    (folder / "masks.safetensors").write_bytes(content)
    areas = np.bincount(output.labels.ravel(), minlength=count).tolist()
    record = {"settings": output.settings, "pixels_per_mask": areas, "citation": CITATION}
    (folder / "settings.json").write_text(json.dumps(record, indent=2) + "\n")
    return [*paths, folder / "masks.safetensors", folder / "settings.json"]


def load_output(folder: str | Path) -> EmerDiffOutput:
    """What :func:`save_output` wrote, as the pipeline returned it but without its seconds.

    Raises:
        FileNotFoundError: if the folder holds no such files.
    """
    folder = Path(folder)
    if not (folder / "settings.json").exists():
        raise FileNotFoundError(
            f"{folder} holds no segmentation (no settings.json); run one with save_output first."
        )
    tensors = load((folder / "masks.safetensors").read_bytes())
    record = json.loads((folder / "settings.json").read_text())
    read = lambda name: np.array(Image.open(folder / f"{name}.png")).astype(np.int32)
    return EmerDiffOutput(
        labels=read("labels"),
        baseline_labels=read("baseline_labels"),
        coarse_masks=tensors["coarse_masks"].astype(bool),
        mask_embeddings=tensors["mask_embeddings"],
        difference_maps=tensors.get("difference_maps"),
        settings=record["settings"],
        timings={},
    )
