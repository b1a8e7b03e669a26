"""The small interface that every labelled data set has here, and what their readers share."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from zlib import crc32

import numpy as np
from PIL import ExifTags, Image

from ..colours import segment_palette
from ..evaluation.regions import known_pixels
from ..files import folder_path
from ..images import LOSSLESS, image_files, load_image, plain_name, reading, shown
from ..settings import check_known

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
    """Images with label maps: ``len(data)``, ``data[i]`` is a :class:`Sample`, an IndexError beyond the last.

    Attributes:
        class_names: one per class index.
        ignore_index: label of pixels that belong to no class, or None; ``background``: the class that is everything else.
        palette: (C, 3) uint8 colours.
        splits: the names that ``split`` can have: the one that papers report, the one that is usually fitted on, others.
        root: the folder that it was opened in, "" for none.
        split, note: which part this is, and what a reader of a number from it has to know; both are in its ``repr``.
    """

    class_names: tuple[str, ...]
    ignore_index: int | None = IGNORE
    background: int | None = None
    splits: tuple[str, ...]
    root: str | Path = ""
    split: str
    note: str = ""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample: ...

    @cached_property
    def palette(self) -> np.ndarray:
        return segment_palette(len(self.class_names))

    def __repr__(self) -> str:
        facts = f"{len(self):,} images, {len(self.class_names)} classes, split {self.split!r}"
        return f"{type(self).__name__}: {facts}" + (f", {self.note}" if self.note else "")

    def summary(self, positions: Iterable[int], most: int = 20) -> str:
        """What was read, in a line, before anything is scored: of some of the images, evenly from the first to the last.

        Raises:
            ValueError: their label maps have one class alone, so that every segmentation would be right.
            OSError, ValueError: as for the first image, if none of them can be used.
        """
        positions = list(positions)
        counts, ignored, seen = np.zeros(len(self.class_names), np.int64), 0, []
        for position in positions[:: -(-len(positions) // most) or 1]:
            with suppress(OSError, ValueError):  # which the run reports
                labels = self[position].labels
                known = known_pixels(labels, self.ignore_index)
                counts += np.bincount(labels[known], minlength=len(counts))
                ignored += int((~known).sum())
                seen.append(position)
        if positions and not seen:
            self[positions[0]]  # says why
        present, share = np.flatnonzero(counts), ignored / max(1, counts.sum() + ignored)
        if len(present) == 1:
            raise ValueError(
                f"{self!r}: the {len(seen)} label maps that were looked at have one class alone, "
                f"{self.class_names[present[0]]!r}, and {share:.0%} of their pixels are ignored "
                f"(label {self.ignore_index}): every method would be right everywhere. Number the classes from 0, without "
                f"{self.ignore_index}."
            )
        looked_at = f"{len(present)} classes in {len(seen)} of the {len(positions)} label maps"
        return f"{self!r}, {looked_at}, {share:.1%} of pixels ignored"


class FileDataset(LabelledDataset):
    """Pairs of an image file and a label file.

    Attributes:
        layout: folders of images and of label maps below the root, and the list of names if there is one, with {split} in them.
        endings: what their files have behind the name, but for the suffix of images, which is ".jpg" where there is a list.
        source: where the files are to be had, in sentences.
        pairs: (name, image file, label file) in a fixed order.
        table: (N,) int32, from the numbers in label files to class indices, ``ignore_index`` or ``UNKNOWN``.
        upright: whether label maps are of images as their camera says they are to be turned, or as they are stored.

    Raises:
        ValueError: an unknown split, or two images of one name.
        FileNotFoundError: a folder or a list is missing, or there is no image.
    """

    layout: tuple[str, ...]
    endings: tuple[str, str] = ("", ".png")
    source: str
    table: np.ndarray
    upright = False

    def __init__(self, root: Path | str, split: str = ""):
        self.split = check_known(f"{type(self).__name__}: split", split or self.splits[0], self.splits)
        root = folder_path("root", root)
        self.pairs = [(plain_name(name), *files) for name, *files in self.find_pairs(root)]
        if not self.pairs:
            raise FileNotFoundError(
                f"{type(self).__name__} has no image of split {self.split!r}. {self.source}"
            )
        files: dict[str, Path] = {}
        for name, file, _ in self.pairs:
            if (other := files.setdefault(name, file)) != file:
                raise ValueError(
                    f"Two images would be called {name!r}, {shown(other)} and {shown(file)}; rename one."
                )

    def find_pairs(self, root: Path) -> list[tuple[str, Path, Path]]:
        """:attr:`pairs` of the split, by names that may hold any characters."""
        images, labels, *listing = (self.expect(root / part.format(split=self.split)) for part in self.layout)
        image_end, label_end = self.endings
        if listing:
            names = dict.fromkeys(line.split()[0] for line in text_lines(listing[0]))
            pair = lambda name: (name, images / f"{name}{image_end}.jpg", labels / f"{name}{label_end}")
            return list(map(pair, names))
        pairs = []
        for file in image_files(images):
            name = file.relative_to(images).with_suffix("").as_posix().removesuffix(image_end)
            pairs.append((name.replace("/", "__"), file, labels / f"{name}{label_end}"))
        return pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Image and labels; where ``upright`` is False, as they are stored: label maps follow the pixels, not EXIF's rotation.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file cannot be read, sizes differ, a label is none of the data set's, or all are ignored.
        """
        name, image_file, label_file = self.pairs[index]
        image = load_image(self.expect(image_file), upright=self.upright)
        numbers = stored_numbers(self.expect(label_file))
        if numbers.shape != (image.height, image.width):
            way = "upright" if self.upright else "as stored"
            raise ValueError(
                f"{shown(label_file)} is {numbers.shape[1]} × {numbers.shape[0]}, its image {image.width} × {image.height} "
                f"({way}): they must be of one size."
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

    def expect(self, path: Path) -> Path:
        """Returns a file or folder that is there, else raises FileNotFoundError saying where to get the data."""
        if not (os.path.isfile(path) or os.path.isdir(path)):
            raise FileNotFoundError(
                f"{type(self).__name__} expects {shown(path)}, which is missing. {self.source}"
            )
        return path


def stored_numbers(file: Path) -> np.ndarray:
    """(H, W) int32 numbers of a label map: an image with a single channel, palette or not.

    Raises:
        FileNotFoundError, ValueError: it cannot be read, is in a lossy format, has colours, or has numbers
            outside 0–65535.
    """
    with reading(file, LOSSLESS):
        with Image.open(file, formats=LOSSLESS) as opened:
            step = {"L;2": 85, "L;4": 17}.get(opened.tile[0].args, 1)  # grey of PNGs, spread over 0–255
            if "jpeg" in str(opened.info.get("compression")):
                raise ValueError("JPEG has changed its numbers")
            if opened.getexif().get(ExifTags.Base.Orientation, 1) != 1:
                raise ValueError("its EXIF says that it is turned; store it upright")
            numbers = np.array(opened) // step
        whole = numbers.ndim == 2 and numbers.dtype.kind in "bui"
        if not whole or not 0 <= numbers.min() <= numbers.max() < 65536:
            raise ValueError(
                "a label map holds one whole number from 0 to 65535 for every pixel, and no colours"
            )
    return numbers.astype(np.int32)


def text_lines(file: Path) -> list[str]:
    """The lines of a list in UTF-8, with a byte order mark or none, that are neither empty nor comments (#)."""
    with reading(file):
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def lookup_table(numbers: dict[int, int], ignored: Iterable[int] = ()) -> np.ndarray:
    """An array that translates a file's numbers to class indices; those in ``ignored`` that are no class to :data:`IGNORE`."""
    known = dict.fromkeys(ignored, IGNORE) | numbers
    table = np.full(max(known) + 1, UNKNOWN, np.int32)
    table[list(known)] = list(known.values())
    return table
