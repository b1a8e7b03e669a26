"""Images segmented into files, a folder for each: what notebook 04 does."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..datasets.images import ImageSample
from ..export import check_formats, save_output, write_formats
from ..files import folder_path
from ..pipeline import EmerDiffOutput, EmerDiffPipeline
from .cached_map import cached_map
from .keys import image_key, model_key, versions
from .results import Results


def segment_all(
    pipe: EmerDiffPipeline,
    samples: Sequence[ImageSample],
    output_dir: Path | str,
    seed: int = 0,
    *,
    output_difference_maps: bool = False,
    mask_batch_size: int | None = None,
    formats: Sequence[str] = (),
    execution: Mapping[str, Any] | None = None,
    **settings: Any,
) -> tuple[dict[str, Path], Results]:
    """Segment every image into a folder of its own below ``output_dir``; what is there already, of exactly this, is kept.

    The files of an image that was asked for by itself go into ``output_dir`` itself.

    Args:
        mask_batch_size: as for the pipeline; no part of a result's key.
        formats: names of :data:`~emerdiff_lib.export.FORMATS`, written besides this library's own files.
        execution: ``workers``, ``engine`` and ``shard`` of :func:`~.cached_map.cached_map`.
        **settings: of the pipeline, by flat name.

    Returns:
        {name: folder} of every image that this run has a result of, and what it did.

    Raises:
        ValueError: settings or options that are not possible; every image failed.
        FolderError: ``output_dir`` cannot be made or written to.
    """
    check_formats(formats)
    chosen = {sample.record: sample for sample in samples}
    path = chosen[""].path if "" in chosen else None  # one image by itself
    if path and os.path.realpath(path.parent) == os.path.realpath(folder_path("output_dir", output_dir)):
        raise ValueError(f"output_dir={str(output_dir)!r} holds the image itself; choose another folder.")
    key = {
        "model": model_key(pipe),
        "settings": pipe.resolve(**settings).to_dict(),
        "seed": seed,
        "output_difference_maps": output_difference_maps,
        "formats": sorted(formats),
        "versions": versions(),
    }

    def segment(sample: ImageSample) -> tuple[EmerDiffOutput, Image.Image]:
        generator = torch.Generator().manual_seed(seed)
        options = {"output_difference_maps": output_difference_maps, "mask_batch_size": mask_batch_size}
        return pipe(sample.image, generator=generator, **options, **settings), sample.image

    def write(result: tuple[EmerDiffOutput, Image.Image], folder: Path) -> None:
        save_output(*result, folder)
        write_formats(*result, folder, formats)

    results = cached_map(segment, chosen, output_dir, key, image_key, write=write, **execution or {})
    return {chosen[record].name: results.folder(record) for record in results.names}, results
