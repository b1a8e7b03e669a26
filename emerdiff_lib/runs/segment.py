"""Pictures segmented into files, a folder for each: what notebook 04 does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..export import check_formats, save_output, write_formats
from ..pipeline import EmerDiffOutput, EmerDiffPipeline
from ..settings import flag, whole
from .harness import Execution, Report, run
from .identity import model_identity, versions
from .names import expanded
from .pictures import Source
from .store import FolderStore
from .task import Item, Task


class Segmentation(Task):
    """Every picture through the whole method, from the same seed.

    Args:
        batches: ``mask_batch_size``, which is no part of a result's identity.
        formats: :data:`~emerdiff_lib.export.FORMATS` to write besides this library's own files.
        **settings: of the pipeline, by flat name.
    """

    def __init__(
        self,
        pipe: EmerDiffPipeline,
        output_dir: Path | str,
        seed: int = 0,
        output_difference_maps: bool = False,
        batches: dict[str, Any] | None = None,
        formats: Sequence[str] = (),
        **settings: Any,
    ):
        self.pipe, self.seed, self.batches, self.settings = pipe, seed, batches or {}, settings
        self.output_difference_maps = output_difference_maps
        identity = {
            "model": model_identity(pipe),
            "settings": pipe.resolve(**settings).to_dict(),
            "seed": seed,
            "output_difference_maps": output_difference_maps,
            "formats": sorted(check_formats(formats)),
            "versions": versions(),
        }
        self.store: FolderStore = FolderStore(output_dir, identity, partial(write, formats=tuple(formats)))

    def picture(self, item: Item) -> dict[str, Any]:
        return item.what.identity()

    def compute(self, item: Item) -> tuple[EmerDiffOutput, Image.Image]:
        image, generator = item.what.load(), torch.Generator().manual_seed(self.seed)
        maps = {"output_difference_maps": self.output_difference_maps}
        return self.pipe(image, generator=generator, **self.settings, **maps, **self.batches), image


def write(result: tuple[EmerDiffOutput, Image.Image], folder: Path, formats: Sequence[str] = ()) -> None:
    """A segmentation and its picture as files."""
    save_output(*result, folder)
    write_formats(*result, folder, formats)


def segment_all(
    pipe: EmerDiffPipeline,
    sources: Sequence[Source],
    output_dir: Path | str,
    seed: int = 0,
    *,
    output_difference_maps: bool = False,
    mask_batch_size: int | None = None,
    formats: Sequence[str] = (),
    execution: Execution | None = None,
    **settings: Any,
) -> tuple[dict[str, Path], Report]:
    """Segment every source into a folder of its own below ``output_dir``; what is there already, of exactly this, is kept.

    The files of a picture that was asked for by itself go into ``output_dir`` itself.

    Args:
        formats: names of :data:`~emerdiff_lib.export.FORMATS`, written besides this library's own files.
        execution: how the run is carried out.

    Returns:
        {name: folder} of every source that this run has a result of, and what it did.

    Raises:
        ValueError: settings or options that are not possible; a picture asked for by itself that failed.
        StoreError: ``output_dir`` cannot be made or written to.
    """
    seed, batches = whole(0, 2**63 - 1)("seed", seed), {"mask_batch_size": mask_batch_size}
    flag("output_difference_maps", output_difference_maps)
    inputs = {os.path.realpath(source.path.parent) for source in sources if source.path and not source.record}
    if os.path.realpath(expanded("output_dir", output_dir)) in inputs:
        raise ValueError(f"output_dir={str(output_dir)!r} holds the picture itself; choose another folder.")
    task = Segmentation(pipe, output_dir, seed, output_difference_maps, batches, formats, **settings)
    items = [Item(source.record, source) for source in sources]
    report = run(task, items, execution, label="images")
    if report.failures and not sources[0].record:
        raise ValueError(report.failures[""])
    return {item.what.name: task.store.path(item.name) for item in report.usable()}, report
