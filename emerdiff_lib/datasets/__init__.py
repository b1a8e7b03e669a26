"""Labelled data sets behind one small interface: length, image, label map, class names, ignored label, palette."""

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


def open_dataset(name: str, root: Path | str = "", split: str | None = None) -> LabelledDataset:
    """A data set by name; ``split`` defaults to the one that papers report.

    Args:
        root: the folder that holds its official layout.

    Raises:
        ValueError: for an unknown name or split, or a data set that needs a ``root`` and got none.
        FileNotFoundError: if its files are not there, saying which are expected and where to get them.
    """
    if name not in DATASETS:
        raise ValueError(f"Data set {name!r} is unknown; choose one of {', '.join(map(repr, DATASETS))}.")
    if not root and not name.startswith("toyscapes"):
        raise ValueError(f"Data set {name!r} needs a root: the folder that holds its official layout.")
    folder = Path(root).expanduser().absolute()  # other processes may stand elsewhere
    data = DATASETS[name](folder, split)
    data.root = str(folder) if root else ""
    return data


__all__ = ["DATASETS", "LabelledDataset", "LabelledFolder", "Sample", "ToyscapesDataset", "open_dataset"]
