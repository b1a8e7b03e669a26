"""Labelled data sets as items of a run: their names, and what each picture and the whole set are identified by."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets import LabelledDataset
from ..datasets.base import FileDataset
from ..toyscapes import Toyscapes
from .identity import array_digest, digest, file_digest
from .task import Item


def sample_items(data: LabelledDataset, positions: Iterable[int]) -> list[Item]:
    """An item per position, named as its picture is; nothing is read."""
    if isinstance(data, FileDataset):
        return [Item(data.pairs[position][0], position) for position in positions]
    return [Item(f"{data.split}-{position:06}", position) for position in positions]


def dataset_identity(data: LabelledDataset) -> dict[str, Any]:
    """Which data set, where, which part of it, and how its label maps are read; its pictures are not looked at."""
    encoding = getattr(data, "table", None)
    options = {
        name: value
        for name, value in vars(data).items()
        if isinstance(value, str | int | bool | Path) and name != "split"
    }
    return {
        "reader": type(data).__name__,
        "split": data.split,
        "classes": digest(list(data.class_names)),
        "ignored label": data.ignore_index,
        "label encoding": None if encoding is None else array_digest(np.asarray(encoding)),
        "options": {name: str(value) for name, value in sorted(options.items())},
    }


def sample_identity(data: LabelledDataset, position: int) -> dict[str, str]:
    """One labelled picture: its files by content, or its pixels where a program draws them.

    Raises:
        OSError: a file is missing or cannot be read.
    """
    if isinstance(data, FileDataset):
        _, image, labels = data.pairs[position]
        return {
            "image": file_digest(data.expect_file(image)),
            "label map": file_digest(data.expect_file(labels)),
        }
    sample = data[position]
    return {"image": array_digest(np.asarray(sample.image)), "label map": array_digest(sample.labels)}


@lru_cache(4096)  # a scene is a function of its seed, and studies ask for the same ones many times
def scene_identity(seed: int, *shift: str) -> dict[str, str]:
    """A Toyscapes scene by its pixels and its label maps."""
    scene = Toyscapes.from_seed(seed, *shift)
    labels = np.stack([scene.labels, scene.coarse_labels])
    return {"image": array_digest(np.asarray(scene.image)), "label map": array_digest(labels)}
