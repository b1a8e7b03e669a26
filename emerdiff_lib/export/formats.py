"""Files that others read: palette PNGs, COCO, polygons, tables, cut-outs, arrays and prompts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import numpy as np
import torch
import zarr
from PIL import Image
from pycocotools import mask as coco_masks

from ..files import write_atomically
from ..images import ImageInput, load_image
from ..plotting import segment_palette
from ..settings import check_known
from ..stages import EmerDiffOutput
from .shapes import boxes, polygons, prompts, segment_table

PALETTE_SIZE = 256  # of an 8-bit PNG


def _palette_png(output: EmerDiffOutput, image: np.ndarray, folder: Path) -> None:
    """``labels_palette.png``: 8-bit, pixel value = segment, that viewers show in colours."""
    count = len(output.coarse_masks)
    picture = Image.fromarray(output.labels.astype(np.uint8))
    picture.putpalette(segment_palette(count).astype(np.uint8).tobytes())
    picture.save(folder / "labels_palette.png")


def _coco(output: EmerDiffOutput, image: np.ndarray, folder: Path) -> None:
    """``coco.json``: COCO's object annotations with run-length masks, one category per segment; ``panoptic.png`` and
    ``panoptic.json``: COCO's panoptic format."""
    (height, width), areas = output.labels.shape, np.bincount(output.labels.ravel())
    found = boxes(output.labels)
    picture = {"id": 1, "file_name": "image.png", "height": height, "width": width}
    categories = [
        {"id": segment + 1, "name": f"segment {segment}", "supercategory": "segment", "isthing": 0}
        for segment in found
    ]
    shared = {"images": [picture], "categories": categories}
    annotations, segments = [], []
    for segment, box in found.items():
        known = {
            "id": segment + 1,
            "category_id": segment + 1,
            "bbox": list(box),
            "area": int(areas[segment]),
            "iscrowd": 0,
        }
        runs = coco_masks.encode(np.asfortranarray(output.labels == segment, dtype=np.uint8))
        runs = {"size": [int(side) for side in runs["size"]], "counts": runs["counts"].decode("ascii")}
        annotations.append(known | {"image_id": 1, "segmentation": runs})
        segments.append(known)
    panoptic = {"image_id": 1, "file_name": "panoptic.png", "segments_info": segments}
    _write_json(folder / "coco.json", shared | {"annotations": annotations})
    _write_json(folder / "panoptic.json", shared | {"annotations": [panoptic]})
    ids = (output.labels + 1).astype(np.uint32)  # 0 is void; id = R + 256 G + 256² B
    Image.fromarray(np.stack([ids >> shift & 255 for shift in (0, 8, 16)], -1).astype(np.uint8)).save(
        folder / "panoptic.png"
    )


def _polygons(output: EmerDiffOutput, image: np.ndarray, folder: Path) -> None:
    """``polygons.geojson``: :func:`~.shapes.polygons`."""
    _write_json(folder / "polygons.geojson", polygons(output.labels))


def _table(output: EmerDiffOutput, image: np.ndarray, folder: Path) -> None:
    """``segments.csv`` and ``segments.parquet``: :func:`~.shapes.segment_table`."""
    table = segment_table(output, image)
    table.to_csv(folder / "segments.csv")
    table.to_parquet(folder / "segments.parquet")


def _crops(output: EmerDiffOutput, image: np.ndarray, folder: Path) -> None:
    """``crop_0000.png`` …: every segment cut out of the picture, transparent around it."""
    for segment, (x, y, width, height) in boxes(output.labels).items():
        window = slice(y, y + height), slice(x, x + width)
        alpha = np.where(output.labels[window] == segment, 255, 0).astype(np.uint8)
        crop = np.concatenate([image[window], alpha[..., None]], -1)
        Image.fromarray(crop).save(folder / f"crop_{segment:04}.png")


def _arrays(output: EmerDiffOutput) -> dict[str, np.ndarray]:
    found = {
        name: getattr(output, name)
        for name in ("labels", "baseline_labels", "coarse_masks", "mask_embeddings")
    }
    return found if output.difference_maps is None else found | {"difference_maps": output.difference_maps}


def _npz(output: EmerDiffOutput, image: np.ndarray, folder: Path) -> None:
    """``arrays.npz``: every array of the output, compressed."""
    members = {}
    for name, array in _arrays(output).items():
        buffer = BytesIO()
        np.save(buffer, array)
        members[f"{name}.npy"] = buffer.getvalue()
    _write_zip(folder / "arrays.npz", members, ZIP_DEFLATED)


def _zarr(output: EmerDiffOutput, image: np.ndarray, folder: Path) -> None:
    """``arrays.zarr.zip``: the same as a zipped Zarr group, which can be read in pieces."""
    with TemporaryDirectory() as scratch:
        group = zarr.open_group(scratch, mode="w")
        for name, array in _arrays(output).items():
            group.create_array(name, data=array)
        paths = [path for path in sorted(Path(scratch).rglob("*")) if path.is_file()]
        members = {path.relative_to(scratch).as_posix(): path.read_bytes() for path in paths}
    _write_zip(folder / "arrays.zarr.zip", members, ZIP_STORED)


def _prompts(output: EmerDiffOutput, image: np.ndarray, folder: Path) -> None:
    """``prompts.json``: points and boxes for SAM and its like, :func:`~.shapes.prompts`."""
    _write_json(folder / "prompts.json", prompts(output.labels))


FORMATS: dict[str, Callable[[EmerDiffOutput, np.ndarray, Path], None]] = {
    "palette": _palette_png,
    "coco": _coco,
    "polygons": _polygons,
    "table": _table,
    "crops": _crops,
    "npz": _npz,
    "zarr": _zarr,
    "prompts": _prompts,
}


def check_formats(formats: Iterable[str]) -> list[str]:
    """Names of :data:`FORMATS`, each once; raises a ValueError for any other."""
    if isinstance(formats, str):
        raise ValueError(
            f"formats={formats!r} is one string; give a list of {', '.join(map(repr, FORMATS))}."
        )
    return list(dict.fromkeys(check_known("format", name, FORMATS) for name in formats))


def write_formats(
    output: EmerDiffOutput, image: ImageInput, folder: Path | str, formats: Iterable[str]
) -> None:
    """Write a segmentation into ``folder`` (made if missing) in each of the ``formats``.

    Args:
        image: the picture that was segmented, at its own size.

    Raises:
        ValueError: an unknown format, a picture of another size, or more segments than a format can hold.
    """
    names, folder, pixels = check_formats(formats), Path(folder).expanduser(), np.asarray(load_image(image))
    if pixels.shape[:2] != output.labels.shape:
        raise ValueError(
            f"The picture is {pixels.shape[:2]}, the labels are {output.labels.shape}; pass the one that was segmented."
        )
    if "palette" in names and len(output.coarse_masks) > PALETTE_SIZE:
        count = len(output.coarse_masks)
        raise ValueError(
            f"A palette has {PALETTE_SIZE} colours, and there are {count} segments; leave 'palette' out."
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        FORMATS[name](output, pixels, folder)


def to_transformers(output: EmerDiffOutput) -> dict[str, Any]:
    """What ``transformers``' ``post_process_panoptic_segmentation`` gives: "segmentation" (H, W) int32 tensor of segment ids, and
    "segments_info", whose "label_id" is the segment's own number, as segments have no names, and whose "score" is 1."""
    info = [
        {"id": segment + 1, "label_id": segment, "was_fused": False, "score": 1.0}
        for segment in boxes(output.labels)
    ]
    return {"segmentation": torch.from_numpy(output.labels.astype(np.int32) + 1), "segments_info": info}


def _write_zip(path: Path, members: dict[str, bytes], compression: int) -> None:
    """Without the hour, so that equal arrays make equal files."""
    with ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(ZipInfo(name), content, compression)


def _write_json(path: Path, content: Any) -> None:
    write_atomically(path, json.dumps(content) + "\n")
