"""A labelled data set at another size."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ..settings import whole
from .base import LabelledDataset, Sample


class Resized(LabelledDataset):
    """Pictures (Lanczos) and label maps (nearest) of a data set at one width, each at its own aspect.

    Scores are of that size then: what a boundary's two pixels are, and which objects are small, follows it.

    Args:
        data: any data set; it is read when it is asked for.
        width: in pixels.

    Raises:
        ValueError: for a width that is no whole number from 8 on.
    """

    def __init__(self, data: LabelledDataset, width: int):
        self.data, self.width = data, whole(8)("width", width)
        self.class_names, self.ignore_index, self.splits = data.class_names, data.ignore_index, data.splits
        self.source, self.root, self.split = data.source, data.root, data.split
        if hasattr(data, "scenes"):  # drawn ones have captions of their own
            self.scenes = data.scenes
        self.note = ", ".join(filter(None, [data.note, f"{width} pixels wide"]))

    @property
    def palette(self) -> np.ndarray:
        return self.data.palette

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Sample:
        sample = self.data[index]
        size = self.width, max(1, round(self.width * sample.image.height / sample.image.width))
        labels = Image.fromarray(sample.labels).resize(size, Image.Resampling.NEAREST)
        picture = sample.image.resize(size, Image.Resampling.LANCZOS)
        return Sample(sample.name, picture, np.asarray(labels).astype(sample.labels.dtype), sample.seed)
