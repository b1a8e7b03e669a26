"""Labelled data sets behind one small interface: length, image, label map, class names, ignored label, palette."""

from pathlib import Path

from .base import LabelledDataset, Sample
from .readers import (
    ADE20K,
    CamVid,
    Cityscapes,
    COCOStuff,
    COCOStuff27,
    LabelledFolder,
    PascalContext,
    ToyscapesDataset,
)

DATASETS = {
    "toyscapes": ToyscapesDataset,
    "toyscapes-18": lambda root, split="test": ToyscapesDataset(root, split, fine=True),
    "ade20k": ADE20K,
    "coco-stuff-171": COCOStuff,
    "coco-stuff-27": COCOStuff27,
    "pascal-context-59": PascalContext,
    "pascal-context-459": lambda root, split="val": PascalContext(root, split, all_classes=True),
    "cityscapes": Cityscapes,
    "camvid": CamVid,
    "folder": LabelledFolder,
}


def open_dataset(name: str, root: Path | str = "", split: str | None = None) -> LabelledDataset:
    """A data set by name; ``split`` defaults to the one that papers report.

    Raises:
        ValueError: for an unknown name, or a data set that needs a ``root`` and got none.
        FileNotFoundError: if its files are not there, saying which are expected and where to get them.
    """
    if name not in DATASETS:
        raise ValueError(f"Data set {name!r} is unknown; choose one of {', '.join(map(repr, DATASETS))}.")
    if not root and not name.startswith("toyscapes"):
        raise ValueError(f"Data set {name!r} needs a root: the folder that holds its official layout.")
    return DATASETS[name](root, **({} if split is None else {"split": split}))


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
