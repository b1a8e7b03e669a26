"""The small interface that every labelled data set has here, and what their readers share."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from zlib import crc32

import numpy as np
from PIL import Image
from scipy.io import loadmat

from ..images import load_image, open_image, plain_name, reading, shown

IGNORE = 255
UNKNOWN = -1  # in a table: the data set has no such number


@dataclass(frozen=True)
class Sample:
    """One labelled image.

    Attributes:
        name: unique within the data set, usable as a file name.
        image: RGB image of size (H, W).
        labels: (H, W) uint8 or int32, indices into ``class_names``, or ``ignore_index``.
        seed: what randomness about this image starts from; the image's own, whatever its place in the data set.
    """

    name: str
    image: Image.Image
    labels: np.ndarray
    seed: int


class LabelledDataset(ABC):
    """Images with label maps: ``len(data)``, ``data[i]`` is a :class:`Sample`.

    Attributes:
        class_names: one per class index.
        ignore_index: label of pixels that belong to no class, or None.
        palette: (C, 3) uint8 colours.
        splits: the names that ``split`` can have, the one that papers report first.
        layout, source: what is expected on disk, and where the data are to be had, a sentence.
        root: the folder that it was opened in, "" for none.
        split, note: which part this is, and what a reader of a number from it has to know; both are in its ``repr``.
    """

    class_names: tuple[str, ...]
    ignore_index: int | None = IGNORE
    splits: tuple[str, ...]
    layout: str = ""
    source: str = ""
    root: str | Path = ""
    split: str
    note: str = ""

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
        facts = f"{len(self):,} images, {len(self.class_names)} classes, split {self.split!r}"
        return f"{type(self).__name__}: {facts}" + (f", {self.note}" if self.note else "")

    def check_split(self, split: str) -> str:
        """Returns ``split`` if there is one of that name, else raises ValueError listing those there are."""
        if split not in self.splits:
            raise ValueError(
                f"split={split!r} is unknown to {type(self).__name__}; choose one of {', '.join(map(repr, self.splits))}."
            )
        return split

    def class_shares(self, limit: int) -> np.ndarray:
        """(C + 1,) share of all pixels that each class has, and, last, those ignored; over the first ``limit`` images."""
        ignored, counts = len(self.class_names), np.zeros(len(self.class_names) + 1, np.int64)
        for index in range(min(len(self), limit)):
            labels = self[index].labels
            labels = np.where(
                labels == (-1 if self.ignore_index is None else self.ignore_index), ignored, labels
            )
            counts += np.bincount(labels.ravel(), minlength=len(counts))
        return counts / counts.sum()


class FileDataset(LabelledDataset):
    """Pairs of an image file and a label file.

    Args:
        root: the folder that holds the official layout.
        split: the part's name; by default the one that papers report.

    Attributes:
        pairs: (name, image file, label file) in a fixed order.
        table: (N,) int32, from the numbers in label files to class indices, ``ignore_index`` or ``UNKNOWN``.

    Raises:
        ValueError: an unknown split, or two images of one name.
        FileNotFoundError: a folder or a list is missing, or there is no image.
    """

    table: np.ndarray

    def __init__(self, root: Path, split: str | None = None):
        self.split = self.check_split(self.splits[0] if split is None else split)
        self.pairs = [(plain_name(name), *files) for name, *files in self.find_pairs(root)]
        if not self.pairs:
            raise FileNotFoundError(
                f"{type(self).__name__} has no image of split {self.split!r}. {self.source}"
            )
        name, count = Counter(name for name, _, _ in self.pairs).most_common(1)[0]
        if count > 1:
            files = [shown(file) for other, file, _ in self.pairs if other == name]
            raise ValueError(
                f"Two images would be called {name!r}, {files[0]} and {files[1]}; rename one, or name it once if it is in "
                "a list."
            )

    @abstractmethod
    def find_pairs(self, root: Path) -> list[tuple[str, Path, Path]]:
        """:attr:`pairs` of the split, by names that may hold any characters."""

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Image and labels as they are stored: label maps follow the pixels, not the EXIF rotation.

        Raises:
            FileNotFoundError: a file is missing.
            PermissionError: a file may not be read.
            ValueError: a file cannot be read, sizes differ, a label is none of the data set's, or all are ignored.
        """
        name, image_file, label_file = self.pairs[index]
        image = load_image(self.expect_file(image_file), upright=False)
        numbers = stored_numbers(self.expect_file(label_file))
        if numbers.shape != (image.height, image.width):
            raise ValueError(
                f"{shown(label_file)} is {numbers.shape[1]} × {numbers.shape[0]}, its image {image.width} × "
                f"{image.height}: they must be of one size."
            )
        table = np.append(self.table, np.int32(UNKNOWN))
        labels = np.take(table, np.minimum(numbers, len(self.table)))
        if (unknown := numbers[labels == UNKNOWN]).size:
            raise ValueError(
                f"{shown(label_file)} has the label {unknown[0]}; {type(self).__name__} has no class of that number."
            )
        image, labels = self.cut(image, labels)
        if (labels == self.ignore_index).all():
            raise ValueError(f"{shown(label_file)} labels no pixel: all are ignored; leave this image out.")
        return Sample(name, image, labels, crc32(name.encode()))

    def cut(self, image: Image.Image, labels: np.ndarray) -> tuple[Image.Image, np.ndarray]:
        """The part of image and labels that counts; all, unless a data set says otherwise."""
        return image, labels

    def expect_file(self, file: Path) -> Path:
        """Returns ``file`` if it is there, else raises FileNotFoundError saying where to get the data."""
        if not os.path.isfile(file):
            raise FileNotFoundError(
                f"{type(self).__name__} expects {shown(file)}, which is missing. {self.source}"
            )
        return file

    def expect_folder(self, folder: Path) -> Path:
        """Returns ``folder`` if it is there, else raises FileNotFoundError saying what is expected and where to get it."""
        if not os.path.isdir(folder):
            raise FileNotFoundError(
                f"{type(self).__name__} is not at {shown(folder.parent)}: no folder {shown(folder)}. Expected: "
                f"{self.layout}. {self.source}"
            )
        return folder


def stored_numbers(file: Path) -> np.ndarray:
    """(H, W) int32 numbers of a label map: an image with a single channel, palette or not, or MATLAB's variable LabelMap.

    Raises:
        FileNotFoundError, PermissionError, ValueError: it cannot be read, has colours, was compressed with losses, or has
            numbers outside 0–65535.
    """
    with reading(file):
        if file.suffix == ".mat":
            numbers = loadmat(file)["LabelMap"]
        else:
            with open_image(file) as opened:
                if opened.mode.partition(";")[0] not in ("1", "L", "P", "I"):
                    raise ValueError(
                        f"its mode is {opened.mode}; a label map has one channel of class numbers"
                    )
                if opened.format == "JPEG":
                    raise ValueError("a JPEG changes numbers; label maps are stored as PNG")
                numbers = np.array(opened)
        if numbers.ndim != 2 or not ((numbers >= 0) & (numbers < 65536)).all():
            raise ValueError("a label map holds a number from 0 to 65535 for every pixel")
    return numbers.astype(np.int32)


def text_lines(file: Path) -> list[str]:
    """The lines of a list in UTF-8, with a byte order mark or none, that are neither empty nor comments (#)."""
    with reading(file):
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def listed_name(name: str, listing: Path) -> str:
    """Returns a name from a list if it is a file name, else raises ValueError: lists lead nowhere but into their data set."""
    if PureWindowsPath(name).name != name or name in (".", "..") or not name.isprintable():
        raise ValueError(
            f"{shown(listing)} names {name!r}, which is no plain file name; lists hold no paths to other places."
        )
    return name


def lookup_table(
    numbers: dict[int, int], ignored: Iterable[int] = (), ignore_index: int = IGNORE
) -> np.ndarray:
    """An array that translates a file's numbers to class indices; those in ``ignored`` that are no class to ``ignore_index``."""
    known = dict.fromkeys(ignored, ignore_index) | numbers
    table = np.full(max(known) + 1, UNKNOWN, np.int32)
    table[list(known)] = list(known.values())
    return table


def spread_palette(count: int) -> np.ndarray:
    """(count, 3) uint8 colours, well apart, by the bit pattern of the index as PASCAL VOC does it."""
    place = np.arange(8)[:, None]
    bits = np.arange(1, count + 1)[:, None, None] >> (3 * place + np.arange(3)) & 1
    return (bits << (7 - place)).sum(1).astype(np.uint8)
