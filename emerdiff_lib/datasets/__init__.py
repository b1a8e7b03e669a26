"""Labelled data sets behind one small interface: length, image, label map, class names, ignored label, palette."""

import inspect
from functools import partial
from pathlib import Path
from typing import Any

from ..settings import check_known
from .base import LabelledDataset, Sample
from .readers import (
    ADE20K,
    VOC2012,
    CamVid,
    Cityscapes,
    Cityscapes27,
    COCOObject,
    COCOStuff,
    COCOStuff27,
    LabelledFolder,
    PascalContext,
    ToyscapesDataset,
)

DATASETS = {
    "toyscapes": ToyscapesDataset,
    "toyscapes-18": partial(ToyscapesDataset, fine=True),
    "ade20k": ADE20K,
    "coco-stuff-171": COCOStuff,
    "coco-stuff-27": COCOStuff27,
    "coco-object": COCOObject,
    "voc-2012": VOC2012,
    "pascal-context-59": PascalContext,
    "cityscapes": Cityscapes,
    "cityscapes-27": Cityscapes27,
    "camvid": CamVid,
    "folder": LabelledFolder,
}


def open_dataset(name: str, root: Path | str = "", split: str = "", **options: Any) -> LabelledDataset:
    """A data set by name; without a ``split``, that which papers report.

    Args:
        root: the folder that holds its official layout.
        options: what its reader takes besides, such as ``class_order`` of :class:`PascalContext`.

    Raises:
        ValueError: for an unknown name, split or option, or a data set that needs a ``root`` and got none.
        FileNotFoundError: if its files are not there, saying which are expected and where to get them.
    """
    check_known("dataset", name, DATASETS)
    if not root and not name.startswith("toyscapes"):
        raise ValueError(f"Data set {name!r} needs a root: the folder that holds its official layout.")
    if unknown := options.keys() - inspect.signature(DATASETS[name]).parameters:
        raise ValueError(f"Data set {name!r} has no option {min(unknown)!r}.")
    folder = Path(root).expanduser().absolute()  # other processes may stand elsewhere
    data = DATASETS[name](folder, split or None, **options)
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
