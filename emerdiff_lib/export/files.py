"""A segmentation as files: this library's own, and those that others read.

Theirs are palette PNGs, COCO, polygons, tables, cut-outs, arrays and prompts.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_masks
from safetensors.numpy import load, save

from .._version import CITATION
from ..colours import colourise, overlay, segment_palette
from ..files import (
    STATE,
    WRITTEN,
    file_digest,
    folder_path,
    is_plain,
    read_request,
    unchanged,
    write_atomically,
)
from ..images import ImageInput, load_image, reading
from ..settings import check_known
from ..stages import EmerDiffOutput
from .shapes import boxes, polygons, prompts, segment_table

PALETTE_SIZE = 256  # of an 8-bit PNG
JOINED = "EmerDiff workbook, joined"
_READ = ("labels.png", "baseline_labels.png", "masks.safetensors")  # by load_output


@contextmanager
def _filling(folder: str | Path) -> Iterator[Path]:
    """A temporary folder, whose files take the place of what was put into ``folder`` so before, and of nothing else."""
    folder = folder_path("folder", str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        yield Path(temporary)
        new = {file.name: file_digest(file) for file in sorted(Path(temporary).iterdir())}
        old = read_request(folder).get("files", {}) | read_request(folder, WRITTEN).get("files", {})
        ours = lambda name: any(unchanged(folder / name, files.get(name, "")) for files in (old, new))
        if others := [name for name in new if os.path.lexists(folder / name) and not ours(name)]:
            raise ValueError(
                f"{folder / others[0]} is in the way, which no segmentation has written so; move it, or choose another folder."
            )
        for name in new:
            os.replace(Path(temporary) / name, folder / name)
        if any(map(_is_crop, new)):  # those of an earlier segmentation into more segments
            for name in [name for name in old if _is_crop(name) and name not in new and ours(name)]:
                (folder / name).unlink()
                del old[name]
    if STATE not in folder.parts:  # a run has a record of its own
        write_atomically(folder / WRITTEN, json.dumps({"name": "", "key": {}, "files": old | new}) + "\n")


def save_output(output: EmerDiffOutput, image: ImageInput, folder: str | Path) -> None:
    """Write the segmentation of an image into ``folder`` (made if missing; files of an earlier call are replaced).

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

    Raises:
        ValueError: an image of another size than the one that was segmented, or a file in the way that is not of such a call.
    """
    pixels, count = _pixels_of(output, image), len(output.coarse_masks)
    palette, depth = segment_palette(count), np.uint8 if count <= 256 else np.uint16
    images = {
        "image": pixels,
        "labels": output.labels.astype(depth),
        "labels_colour": colourise(output.labels, palette),
        "overlay": overlay(pixels, output.labels, palette),
        "baseline_labels": output.baseline_labels.astype(depth),
    }
    tensors = _arrays(output) | {"coarse_masks": output.coarse_masks.astype(np.uint8)}
    content = save({name: np.ascontiguousarray(t) for name, t in tensors.items() if "labels" not in name})
    areas = np.bincount(output.labels.ravel(), minlength=count).tolist()
    record = {"settings": output.settings, "pixels_per_mask": areas, "citation": CITATION}
    with _filling(folder) as new:
        for name, array in images.items():
            Image.fromarray(array).save(new / f"{name}.png")
        (new / "masks.safetensors").write_bytes(content)  # save_file would make it private
        record["files"] = {name: file_digest(new / name) for name in _READ}
        write_atomically(new / "settings.json", json.dumps(record, indent=2) + "\n")


def _pixels_of(output: EmerDiffOutput, image: ImageInput) -> np.ndarray:
    """(H, W, 3) uint8 of the image that was segmented; raises a ValueError for one of another size."""
    pixels = np.asarray(load_image(image))
    if pixels.shape[:2] != output.labels.shape:
        raise ValueError(
            f"The image is {pixels.shape[:2]}, the labels are {output.labels.shape}; pass the one that was segmented."
        )
    return pixels


def load_output(folder: str | Path) -> EmerDiffOutput:
    """What :func:`save_output` wrote, as the pipeline returned it but without its seconds.

    Raises:
        FileNotFoundError: if the folder holds no such files.
        ValueError: they are not what was written together: damaged, changed, or of two segmentations.
    """
    folder = Path(folder).expanduser()
    with reading(folder / "settings.json"):
        record = json.loads((folder / "settings.json").read_text())
        settings, checksums = record["settings"], {name: record["files"][name] for name in _READ}
    of_run = read_request(folder).get("files", {})  # a run has a checksum of the record, too
    checksums |= {name: of_run[name] for name in ("settings.json",) if name in of_run}
    if changed := [name for name, checksum in checksums.items() if not unchanged(folder / name, checksum)]:
        raise ValueError(
            f"{folder / changed[0]} is not the file that was written with {folder / 'settings.json'} (it is damaged, was changed "
            "or is of another segmentation); segment the image again."
        )
    tensors = load((folder / "masks.safetensors").read_bytes())
    read = lambda name: np.array(Image.open(folder / f"{name}.png")).astype(np.int32)
    return EmerDiffOutput(
        labels=read("labels"),
        baseline_labels=read("baseline_labels"),
        coarse_masks=tensors["coarse_masks"].astype(bool),
        mask_embeddings=tensors["mask_embeddings"],
        difference_maps=tensors.get("difference_maps"),
        settings=settings,
        timings={},
    )


# -- for others ---------------------------------------------------------------------------------------------------------


def _palette_png(output: EmerDiffOutput, image: np.ndarray, folder: Path, name: str) -> None:
    """``labels_palette.png``: 8-bit, pixel value = segment, that viewers show in colours."""
    count = len(output.coarse_masks)
    labels = Image.fromarray(output.labels.astype(np.uint8))
    labels.putpalette(segment_palette(count).tobytes())
    labels.save(folder / "labels_palette.png")


def _coco(output: EmerDiffOutput, image: np.ndarray, folder: Path, name: str) -> None:
    """``coco.json``: COCO's object annotations with run-length masks, one category per segment; ``panoptic.png`` and
    ``panoptic.json``: COCO's panoptic format. Ids are made of the image's name, so that files of several images can be joined."""
    # 40 bits, and 13 for the segment: JSON's numbers hold 53
    image_id = int(hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:10], 16)
    (height, width), areas = output.labels.shape, np.bincount(output.labels.ravel())
    categories, annotations, segments = [], [], []
    for segment, box in boxes(output.labels).items():
        called = {"name": f"segment {segment}", "supercategory": "segment", "isthing": 0}
        categories.append({"id": segment + 1} | called)
        known = {"id": segment + 1, "category_id": segment + 1, "bbox": list(box)}
        known |= {"area": int(areas[segment]), "iscrowd": 0}
        runs = coco_masks.encode(np.asfortranarray(output.labels == segment, dtype=np.uint8))
        runs = {"size": [int(side) for side in runs["size"]], "counts": runs["counts"].decode("ascii")}
        own = {"id": image_id << 13 | segment + 1, "image_id": image_id, "segmentation": runs}
        annotations.append(known | own)
        segments.append(known)
    shown_name = name.encode("utf-8", "backslashreplace").decode()
    image_record = {"id": image_id, "file_name": shown_name, "height": height, "width": width}
    shared = {"images": [image_record], "categories": categories}
    panoptic = {"image_id": image_id, "file_name": "panoptic.png", "segments_info": segments}
    for kind, records in (("coco", annotations), ("panoptic", [panoptic])):
        (folder / f"{kind}.json").write_text(json.dumps(shared | {"annotations": records}) + "\n")
    ids = (output.labels + 1).astype(np.uint32)  # 0 is void; id = R + 256 G + 256² B
    channels = np.stack([ids >> shift & 255 for shift in (0, 8, 16)], -1).astype(np.uint8)
    Image.fromarray(channels).save(folder / "panoptic.png")


def _polygons(output: EmerDiffOutput, image: np.ndarray, folder: Path, name: str) -> None:
    """``polygons.geojson``: :func:`~.shapes.polygons`."""
    (folder / "polygons.geojson").write_text(json.dumps(polygons(output.labels)) + "\n")


def _table(output: EmerDiffOutput, image: np.ndarray, folder: Path, name: str) -> None:
    """``segments.csv`` and ``segments.parquet``: :func:`~.shapes.segment_table`."""
    table = segment_table(output, image)
    table.to_csv(folder / "segments.csv")
    table.to_parquet(folder / "segments.parquet")


def _is_crop(name: str) -> bool:
    return re.fullmatch(r"crop_\d{4,}\.png", name) is not None


def _crops(output: EmerDiffOutput, image: np.ndarray, folder: Path, name: str) -> None:
    """``crop_0000.png`` …: every segment cut out of the image, transparent around it."""
    for segment, (x, y, width, height) in boxes(output.labels).items():
        window = slice(y, y + height), slice(x, x + width)
        alpha = np.where(output.labels[window] == segment, 255, 0).astype(np.uint8)
        crop = np.concatenate([image[window], alpha[..., None]], -1)
        Image.fromarray(crop).save(folder / f"crop_{segment:04}.png")


def _arrays(output: EmerDiffOutput) -> dict[str, np.ndarray]:
    names = ("labels", "baseline_labels", "coarse_masks", "mask_embeddings", "difference_maps")
    return {name: getattr(output, name) for name in names if getattr(output, name) is not None}


def _npz(output: EmerDiffOutput, image: np.ndarray, folder: Path, name: str) -> None:
    """``arrays.npz``: every array of the output, compressed."""
    np.savez_compressed(folder / "arrays.npz", **_arrays(output))  # type: ignore[arg-type]


def _prompts(output: EmerDiffOutput, image: np.ndarray, folder: Path, name: str) -> None:
    """``prompts.json``: points and boxes for SAM and its like, :func:`~.shapes.prompts`."""
    (folder / "prompts.json").write_text(json.dumps(prompts(output.labels)) + "\n")


FORMATS: dict[str, Callable[[EmerDiffOutput, np.ndarray, Path, str], None]] = {
    "palette": _palette_png,
    "coco": _coco,
    "polygons": _polygons,
    "table": _table,
    "crops": _crops,
    "npz": _npz,
    "prompts": _prompts,
}


def check_formats(formats: Iterable[str], num_masks: int = 0) -> list[str]:
    """Names of :data:`FORMATS`, each once; raises a ValueError for any other, or one that cannot hold so many segments."""
    names = list(dict.fromkeys(check_known("format", name, FORMATS) for name in formats))
    if "palette" in names and num_masks > PALETTE_SIZE:
        raise ValueError(
            f"A palette has {PALETTE_SIZE} colours, and there are {num_masks} segments; leave 'palette' out."
        )
    return names


def write_formats(
    output: EmerDiffOutput,
    image: ImageInput,
    folder: Path | str,
    formats: Iterable[str],
    name: str = "image.png",
) -> None:
    """Write a segmentation into ``folder`` (made if missing; files of an earlier call are replaced) in each of the ``formats``.

    Args:
        image: the one that was segmented, at its own size; ``name``: its file's, which COCO's files say.

    Raises:
        ValueError: an unknown format, an image of another size, more segments than a format can hold, or a file in the way.
    """
    names, pixels = check_formats(formats, len(output.coarse_masks)), _pixels_of(output, image)
    with _filling(folder) as new:
        for each in names:
            FORMATS[each](output, pixels, new, name)


def join_coco(folders: Iterable[Path], path: Path | str) -> None:
    """One ``coco.json`` of many images, from those that :func:`write_formats` wrote into a folder each.

    Raises:
        ValueError: ``path`` is another file, which is not written over.
    """
    ours = is_plain(path) and JOINED in Path(path).read_text(errors="replace")[:99]
    if os.path.lexists(path) and not ours:
        raise ValueError(
            f"{path} is in the way, which is no joined file of a run; move it, or choose another folder."
        )
    joined: dict[str, Any] = {"info": {"description": JOINED}}
    joined |= {"images": [], "categories": [], "annotations": []}
    for folder in folders:
        with reading(folder / "coco.json"):
            one = json.loads((folder / "coco.json").read_text())
            joined["images"] += one["images"]
            joined["annotations"] += one["annotations"]
            joined["categories"] += [kind for kind in one["categories"] if kind not in joined["categories"]]
    write_atomically(path, json.dumps(joined) + "\n")
