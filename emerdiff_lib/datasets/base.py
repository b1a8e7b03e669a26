"""The small interface that every labelled data set has here, and what their readers share."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from zlib import crc32

import numpy as np
from PIL import Image

from ..images import load_image, open_image, plain_name, reading, shown

IGNORE = 255
UNKNOWN = -1  # in a table: the data set has no such number


@dataclass(frozen=True)
class Sample:
    """One labelled picture.

    Attributes:
        name: unique within the data set, usable as a file name.
        image: RGB picture of size (H, W).
        labels: (H, W) uint8 or int32, indices into ``class_names``, or ``ignore_index``.
        seed: what randomness about this picture starts from; the picture's own, whatever its place in the data set.
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
        splits: the names that ``split`` can have, the one that papers report first.
        source: where the data are to be had, one sentence.
        root: the folder that it was opened in, "" for none.
        split, note: which part this is, and what a reader of a number from it has to know; both are in its ``repr``.
    """

    class_names: tuple[str, ...]
    ignore_index: int | None = IGNORE
    splits: tuple[str, ...]
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
        facts = [
            f"{len(self):,} images",
            f"{len(self.class_names)} classes",
            f"split {self.split!r}",
            self.note,
        ]
        return f"{type(self).__name__}: {', '.join(filter(None, facts))}"

    def check_split(self, split: str) -> str:
        """Returns ``split`` if there is one of that name, else raises ValueError listing those there are."""
        if split not in self.splits:
            raise ValueError(
                f"split={split!r} is unknown to {type(self).__name__}; choose one of {', '.join(map(repr, self.splits))}."
            )
        return split

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
        split: the part's name.
        pairs: (name, image file, label file) in a fixed order.

    Attributes:
        table: (N,) int32, from the numbers in label files to class indices, ``ignore_index`` or ``UNKNOWN``.

    Raises:
        ValueError: two pictures have one name.
        FileNotFoundError: there is no picture.
    """

    table: np.ndarray

    def __init__(self, split: str, pairs: list[tuple[str, Path, Path]]):
        self.split, self.pairs = split, [(plain_name(name), *files) for name, *files in pairs]
        if not pairs:
            raise FileNotFoundError(
                f"{type(self).__name__} found no picture of split {split!r}. {self.source}"
            )
        files: dict[str, Path] = {}
        for name, file, _ in self.pairs:
            if name in files:
                raise ValueError(
                    f"Two pictures would be called {name!r}, {shown(files[name])} and {shown(file)}; rename one, or name it "
                    "once if it is in a list."
                )
            files[name] = file

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Picture and labels as they are stored: label maps follow the pixels, not the EXIF rotation.

        Raises:
            FileNotFoundError: a file is missing.
            PermissionError: a file may not be read.
            ValueError: a file cannot be read, sizes differ, a label is none of the data set's, or all are ignored.
        """
        name, image_file, label_file = self.pairs[index]
        for file in (image_file, label_file):
            self.expect_file(file)
        picture, labels = load_image(image_file, upright=False), self.read_labels(label_file)
        if labels.shape != (picture.height, picture.width):
            raise ValueError(
                f"{shown(label_file)} is {labels.shape[1]} × {labels.shape[0]}, its image {picture.width} × "
                f"{picture.height}: they must be of one size."
            )
        picture, labels = self.cut(picture, labels)
        if (labels == self.ignore_index).all():
            raise ValueError(f"{shown(label_file)} labels no pixel: all are ignored; leave this picture out.")
        return Sample(name, picture, labels, crc32(name.encode()))

    def cut(self, picture: Image.Image, labels: np.ndarray) -> tuple[Image.Image, np.ndarray]:
        """The part of picture and labels that counts; all, unless a data set says otherwise."""
        return picture, labels

    def read_labels(self, file: Path) -> np.ndarray:
        """(H, W) class indices and ``ignore_index``."""
        return self.translate(stored_numbers(file), file)

    def translate(self, numbers: np.ndarray, file: Path) -> np.ndarray:
        """From a file's numbers, (H, W) int32 from 0 on, to class indices and ``ignore_index`` by the data set's table."""
        labels = np.take(np.append(self.table, UNKNOWN), np.minimum(numbers, len(self.table)))
        if (unknown := numbers[labels == UNKNOWN]).size:
            raise ValueError(
                f"{shown(file)} has the label {unknown[0]}; {type(self).__name__} knows {_ranges(self.table != UNKNOWN)}."
            )
        return labels.astype(
            np.int32 if max(len(self.class_names), self.ignore_index or 0) > 255 else np.uint8
        )

    def expect_file(self, file: Path) -> Path:
        """Returns ``file`` if it is there, else raises FileNotFoundError saying where to get the data."""
        if not os.path.isfile(file):
            raise FileNotFoundError(
                f"{type(self).__name__} expects {shown(file)}, which is missing. {self.source}"
            )
        return file

    def expect_folder(self, folder: Path, layout: str) -> Path:
        """Returns ``folder`` if it is there, else raises FileNotFoundError saying what is expected and where to get it."""
        with reading(folder):
            there = folder.is_dir()
        if not there:
            raise FileNotFoundError(
                f"{type(self).__name__} is not at {shown(folder.parent)}: no folder {shown(folder)}. Expected: {layout}. "
                f"{self.source}"
            )
        return folder


def stored_numbers(file: Path) -> np.ndarray:
    """(H, W) int32 numbers of a label map with a single channel, palette or not.

    Raises:
        FileNotFoundError, PermissionError, ValueError: it cannot be read, has colours, was compressed with losses, or has
            numbers outside 0–65535.
    """
    with open_image(file) as opened, reading(file):
        mode, kind, numbers = opened.mode, opened.format, np.array(opened)
    if mode.partition(";")[0] not in ("1", "L", "P", "I"):
        raise ValueError(
            f"{shown(file)} is a {mode} picture; label maps have a single channel of class numbers."
        )
    if kind == "JPEG":
        raise ValueError(f"{shown(file)} is a JPEG, which changes numbers; label maps are stored as PNG.")
    numbers = numbers.astype(np.int32)
    if numbers.min() < 0 or numbers.max() > 65535:
        raise ValueError(
            f"{shown(file)} has labels from {numbers.min()} to {numbers.max()}; label maps hold 0 to 65535."
        )
    return numbers


def text_lines(file: Path) -> list[str]:
    """The lines of a list in UTF-8, with a byte order mark or none, that are neither empty nor comments (#)."""
    with reading(file):
        try:
            text = file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:  # UTF-16, or no text at all
            raise ValueError("it is no text in UTF-8")
    lines = [line.strip() for line in text.splitlines()]
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
    for number, index in known.items():
        table[number] = index
    return table


def _ranges(known: np.ndarray) -> str:
    """Which entries of a row of bools are true: "0 to 3, 255"."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(np.int8)))
    pairs = zip(edges[::2], edges[1::2] - 1, strict=True)
    return ", ".join(f"{first} to {last}" if last > first else f"{first}" for first, last in pairs)


def spread_palette(count: int) -> np.ndarray:
    """(count, 3) uint8 colours, well apart, by the bit pattern of the index as PASCAL VOC does it."""
    index = np.arange(1, count + 1)
    colours = np.zeros((count, 3), int)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours.astype(np.uint8)
