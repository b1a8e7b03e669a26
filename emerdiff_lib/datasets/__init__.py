"""Labelled data sets behind one small interface: length, image, label map, class names, ignored label, palette."""

import inspect
from functools import partial
from pathlib import Path

from .base import LabelledDataset, Sample
from .folder import LabelledFolder
from .pascal_context import PascalContext
from .readers import ADE20K, CamVid, Cityscapes, COCOStuff, COCOStuff27, ToyscapesDataset

DATASETS = {
    "toyscapes": ToyscapesDataset,
    "toyscapes-18": partial(ToyscapesDataset, fine=True),
    "ade20k": ADE20K,
    "coco-stuff-171": COCOStuff,
    "coco-stuff-27": COCOStuff27,
    "pascal-context-59": PascalContext,
    "pascal-context-459": partial(PascalContext, all_classes=True),
    "cityscapes": Cityscapes,
    "camvid": CamVid,
    "folder": LabelledFolder,
}


def open_dataset(name: str, root: Path | str = "", split: str | None = None, **options) -> LabelledDataset:
    """A data set by name; ``split`` defaults to the one that papers report.

    Args:
        root: the folder that holds its official layout.
        options: what its reader takes besides, such as ``class_order`` of :class:`PascalContext`.

    Raises:
        ValueError: for an unknown name, split or option, or a data set that needs a ``root`` and got none.
        FileNotFoundError: if its files are not there, saying which are expected and where to get them.
    """
    if name not in DATASETS:
        raise ValueError(f"Data set {name!r} is unknown; choose one of {', '.join(map(repr, DATASETS))}.")
    if not root and not name.startswith("toyscapes"):
        raise ValueError(f"Data set {name!r} needs a root: the folder that holds its official layout.")
    known = [
        option for option in inspect.signature(DATASETS[name]).parameters if option not in ("root", "split")
    ]
    if unknown := [option for option in options if option not in known]:
        raise ValueError(
            f"Data set {name!r} has no option {unknown[0]!r}; it has {', '.join(map(repr, known)) or 'none'}."
        )
    where = Path(root).expanduser().absolute() if root else root  # other processes may stand elsewhere
    data = DATASETS[name](where, **({} if split is None else {"split": split}), **options)
    data.root = str(where)
    return data


__all__ = [
    "ADE20K",
    "COCOStuff",
    "COCOStuff27",
    "CamVid",
    "Cityscapes",
    "DATASETS",
    "LabelledDataset",
    "LabelledFolder",
    "PascalContext",
    "Sample",
    "ToyscapesDataset",
    "open_dataset",
]
