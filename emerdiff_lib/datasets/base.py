"""The small interface that every labelled data set has here, and what their readers share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

IGNORE = 255
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Sample:
    """One labelled picture.

    Attributes:
        name: unique within the data set, usable as a file name.
        image: RGB picture of size (H, W).
        labels: (H, W) uint8 or int32, indices into ``class_names``, or ``ignore_index``.
        seed: what randomness about this picture starts from; the same on every machine.
    """

    name: str
    image: Image.Image
    labels: np.ndarray
    seed: int


class LabelledDataset(ABC):
    """Pictures with label maps: ``len(data)``, ``data[i]`` is a :class:`Sample`.

    Attributes:
        class_names: one per class index.
        ignore_index: label of pixels that belong to no class, or None.
        palette: (C, 3) uint8 colours.
        source: where the data are to be had, one sentence.
    """

    class_names: tuple[str, ...]
    ignore_index: int | None = IGNORE
    source: str = ""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample: ...

    @property
    def palette(self) -> np.ndarray:
        return spread_palette(len(self.class_names))

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {len(self):,} images, {len(self.class_names)} classes"

    def class_shares(self, limit: int | None = None) -> np.ndarray:
        """(C + 1,) share of all pixels that each class has, and, last, those ignored; over the first ``limit`` images."""
        counts = np.zeros(len(self.class_names) + 1, np.int64)
        for index in range(len(self) if limit is None else min(limit, len(self))):
            labels = self[index].labels.astype(np.int64)
            if self.ignore_index is not None:
                labels = np.where(labels == self.ignore_index, len(self.class_names), labels)
            counts += np.bincount(labels.ravel(), minlength=len(counts))
        return counts / max(1, counts.sum())


class FileDataset(LabelledDataset):
    """Pairs of an image file and a label file.

    Args:
        pairs: (name, image file, label file) in a fixed order.
    """

    def __init__(self, pairs: list[tuple[str, Path, Path]]):
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        name, image_file, label_file = self.pairs[index]
        for file in (image_file, label_file):
            if not file.exists():
                raise FileNotFoundError(
                    f"{type(self).__name__} expects {file}, which is missing. {self.source}"
                )
        with Image.open(image_file) as image:
            picture = image.convert("RGB")
        labels = self.read_labels(label_file)
        if labels.shape != (picture.height, picture.width):
            raise ValueError(
                f"{label_file} is {labels.shape[1]} × {labels.shape[0]}, its image {picture.width} × {picture.height}: "
                "they must be of one size."
            )
        return Sample(name, picture, labels, index)

    def read_labels(self, file: Path) -> np.ndarray:
        """(H, W) labels in this data set's own numbering, translated to class indices and ``ignore_index``."""
        with Image.open(file) as image:
            if image.mode not in ("L", "P", "I", "I;16", "1"):
                raise ValueError(
                    f"{file} is a {image.mode} picture; label maps have a single channel of class numbers."
                )
            return self.translate(np.array(image))

    def translate(self, numbers: np.ndarray) -> np.ndarray:
        """From the file's numbers to class indices; the identity unless a data set says otherwise."""
        known = (numbers < len(self.class_names)) | (numbers == self.ignore_index)
        if not known.all():
            raise ValueError(
                f"{type(self).__name__} knows the labels 0 to {len(self.class_names) - 1} and {self.ignore_index} for "
                f"ignored pixels, not {numbers[~known].flat[0]}."
            )
        return numbers.astype(np.int32 if len(self.class_names) > 255 else np.uint8)


def expect_folder(folder: Path, data: str, layout: str, source: str) -> Path:
    """Returns ``folder`` if it is there, else raises FileNotFoundError saying which files are expected and where to get them."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{data} is not at {folder.parent}: no folder {folder}. Expected: {layout}. {source}"
        )
    return folder


def image_files(folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[Path]:
    """All images below a folder, sorted by path."""
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in suffixes)


def lookup_table(numbers: dict[int, int], size: int = 65536, default: int = IGNORE) -> np.ndarray:
    """An array that translates file numbers to class indices."""
    table = np.full(size, default, np.int32)
    for number, index in numbers.items():
        table[number] = index
    return table


def spread_palette(count: int) -> np.ndarray:
    """(count, 3) uint8 colours, well apart, by the bit pattern of the index as PASCAL VOC does it."""
    index = np.arange(1, count + 1)
    colours = np.zeros((count, 3), int)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours.astype(np.uint8)
