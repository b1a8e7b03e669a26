"""The small interface that every labelled data set has here, and what their readers share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..images import IMAGE_SUFFIXES, load_image

IGNORE = 255


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
        splits: the names that ``split`` can have, the one that papers report first.
        source: where the data are to be had, one sentence.
        split, note: which part this is, and what a reader of a number from it has to know; both are in its ``repr``.
    """

    class_names: tuple[str, ...]
    ignore_index: int | None = IGNORE
    splits: tuple[str, ...]
    source: str = ""
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
    """

    def __init__(self, split: str, pairs: list[tuple[str, Path, Path]]):
        self.split, self.pairs = split, pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Picture and labels as they are stored: label maps follow the pixels, not the EXIF rotation.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file cannot be read, sizes differ, or a label is none of the data set's.
        """
        name, image_file, label_file = self.pairs[index]
        for file in (image_file, label_file):
            self.expect_file(file)
        picture, labels = load_image(stored_picture(image_file)), self.read_labels(label_file)
        if labels.shape != (picture.height, picture.width):
            raise ValueError(
                f"{label_file} is {labels.shape[1]} × {labels.shape[0]}, its image {picture.width} × {picture.height}: "
                "they must be of one size."
            )
        return Sample(name, picture, labels, index)

    def read_labels(self, file: Path) -> np.ndarray:
        """(H, W) labels in this data set's own numbering, translated to class indices and ``ignore_index``."""
        return self.translate(stored_numbers(file))

    def translate(self, numbers: np.ndarray) -> np.ndarray:
        """From the file's numbers to class indices; the identity unless a data set says otherwise."""
        known = (numbers < len(self.class_names)) | (numbers == self.ignore_index)
        if not known.all():
            raise ValueError(
                f"{type(self).__name__} knows the labels 0 to {len(self.class_names) - 1} and {self.ignore_index} for "
                f"ignored pixels, not {numbers[~known].flat[0]}."
            )
        return numbers.astype(np.int32 if len(self.class_names) > 255 else np.uint8)

    def expect_file(self, file: Path) -> Path:
        """Returns ``file`` if it is there, else raises FileNotFoundError saying where to get the data."""
        if not file.is_file():
            raise FileNotFoundError(f"{type(self).__name__} expects {file}, which is missing. {self.source}")
        return file

    def expect_folder(self, folder: Path, layout: str) -> Path:
        """Returns ``folder`` if it is there, else raises FileNotFoundError saying what is expected and where to get it."""
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{type(self).__name__} is not at {folder.parent}: no folder {folder}. Expected: {layout}. {self.source}"
            )
        return folder


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Within the context, whatever goes wrong becomes a ValueError of one sentence that names the file."""
    try:
        yield
    except Exception as error:  # what a broken file makes a parser raise is no closed list
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise ValueError(f"{file} cannot be read ({reason}); save or download it again.") from error


def stored_picture(file: Path) -> Image.Image:
    """A picture without what would turn it (EXIF, XMP), so that its pixels stay where its label map has them."""
    with reading(file), Image.open(file) as opened:
        opened.load()
        picture = opened.copy()
    picture.info = {key: value for key, value in picture.info.items() if key == "transparency"}
    return picture


def stored_numbers(file: Path) -> np.ndarray:
    """(H, W) numbers of a label map with a single channel, palette or not."""
    with reading(file), Image.open(file) as opened:
        mode, numbers = opened.mode, np.array(opened)
    if mode not in ("L", "P", "I", "I;16", "1"):
        raise ValueError(f"{file} is a {mode} picture; label maps have a single channel of class numbers.")
    return numbers


def image_files(folder: Path) -> list[Path]:
    """All images below a folder, sorted by path."""
    return sorted(f for f in folder.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES and f.is_file())


def text_lines(file: Path) -> list[str]:
    """The lines of a list that are not empty."""
    with reading(file):
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


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
