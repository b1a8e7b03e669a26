"""Labelled data sets behind one small interface: length, image, label map, class names, ignored label, palette."""

import inspect
from functools import partial
from pathlib import Path
from typing import Any

from ..files import folder_path
from ..settings import check_known
from . import readers
from .base import LabelledDataset, Sample

DATASETS = {
    "toyscapes": readers.ToyscapesDataset,
    "toyscapes-18": partial(readers.ToyscapesDataset, fine=True),
    "ade20k": readers.ADE20K,
    "coco-stuff-171": readers.COCOStuff,
    "coco-stuff-27": readers.COCOStuff27,
    "coco-object": readers.COCOObject,
    "voc-2012": readers.VOC2012,
    "pascal-context-59": readers.PascalContext,
    "cityscapes": readers.Cityscapes,
    "cityscapes-27": readers.Cityscapes27,
    "camvid": readers.CamVid,
    "folder": readers.LabelledFolder,
}


def open_dataset(name: str, root: Path | str = "", split: str = "", **options: Any) -> LabelledDataset:
    """A data set by name; without a ``split``, that which papers report.

    Args:
        root: the folder that holds its official layout.
        options: what its reader takes besides, such as ``class_order`` of :class:`~.readers.PascalContext`.

    Raises:
        ValueError: for an unknown name, split or option, or a data set that needs a ``root`` and got none.
        FileNotFoundError: if its files are not there, saying which are expected and where to get them.
    """
    check_known("dataset", name, DATASETS)
    if not root and not name.startswith("toyscapes"):
        raise ValueError(f"Data set {name!r} needs a root: the folder that holds its official layout.")
    if unknown := options.keys() - inspect.signature(DATASETS[name]).parameters:
        raise ValueError(f"Data set {name!r} has no option {min(unknown)!r}.")
    folder = folder_path("root", str(root) or ".")
    data = DATASETS[name](folder, split, **options)
    data.root = str(folder) if root else ""
    return data


def open_splits(
    name: str, root: Path | str = "", split: str = "", fit_split: str = "", **options: Any
) -> tuple[LabelledDataset, LabelledDataset]:
    """The part of a data set that is reported, and the part that is fitted on: the second of its splits if none is named.

    Raises:
        ValueError, FileNotFoundError: as :func:`open_dataset`, and for an unknown ``fit_split``.
    """
    data = open_dataset(name, root, split, **options)
    part = fit_split or data.splits[:2][-1]
    check_known(f"{type(data).__name__}: fit_split", part, data.splits)
    return data, open_dataset(name, root, part, **options)
