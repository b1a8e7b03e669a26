"""PASCAL-Context, whose 59 classes are numbered in two ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.io import loadmat

from ..images import reading, shown
from . import class_names as names
from .base import FileDataset, listed_name, lookup_table, text_lines

CLASS_ORDERS = {"alphabetical": names.PASCAL_CONTEXT, "voc-first": names.PASCAL_CONTEXT_VOC_FIRST}


class PascalContext(FileDataset):
    """VOC 2010 with context labels: the 59 frequent classes, or all 459 where the official files are.

    The first of these that is there is read:

    - ``SegmentationClassContext/*.png``, listed in ``ImageSets/SegmentationContext/{train,val}.txt``, as mmsegmentation's
      converter writes them, which numbers the 59 classes alphabetically;
    - ``59_context_labels/*.png``, the authors' archive of that name, in the order of their ``59_labels.txt`` and of FCN:
      VOC's 20 objects first. Pictures are listed in ``ImageSets/Main/{train,val}.txt``;
    - ``trainval/*.mat`` (variable LabelMap, official) with ``labels.txt``, which says what the numbers mean, and the same
      lists. All 459 classes are only there.

    Whatever is read, class indices are alphabetical, and label 0 is ignored.

    Args:
        all_classes: 459 classes.
        class_order: how PNGs of your own are numbered, "alphabetical" or "voc-first", where it is not as said above.

    Raises:
        ValueError: for an unknown split or order, or an order given for ``.mat`` files, which have their own.
    """

    class_names = names.PASCAL_CONTEXT
    splits = ("val", "train")
    source = (
        "VOC 2010 is at host.robots.ox.ac.uk/pascal/VOC/voc2010, the context labels at "
        "cs.stanford.edu/~roozbeh/pascal-context."
    )
    layout = (
        "JPEGImages/*.jpg with SegmentationClassContext/*.png and ImageSets/SegmentationContext/{train,val}.txt, or with "
        "59_context_labels/*.png or trainval/*.mat and labels.txt, and ImageSets/Main/{train,val}.txt"
    )

    def __init__(
        self, root: Path | str, split: str = "val", all_classes: bool = False, class_order: str | None = None
    ):
        self.check_split(split)
        if class_order not in (None, *CLASS_ORDERS):
            raise ValueError(
                f"class_order={class_order!r} is unknown; choose one of {', '.join(map(repr, CLASS_ORDERS))}."
            )
        root = Path(root)
        images = self.expect_folder(root / "JPEGImages", self.layout)
        converted, archive = root / "SegmentationClassContext", root / "59_context_labels"
        listing = root / "ImageSets" / "Main" / f"{split}.txt"
        if all_classes or not (converted.is_dir() or archive.is_dir()):
            if class_order is not None:
                raise ValueError(
                    f"class_order={class_order!r} is for PNGs; labels.txt says how .mat files are numbered."
                )
            labels, suffix = self.expect_folder(root / "trainval", self.layout), ".mat"
            self.table, self.note = self._official(root / "labels.txt", all_classes), "official .mat files"
        else:
            labels, suffix = (converted if converted.is_dir() else archive), ".png"
            if converted.is_dir():
                listing = root / "ImageSets" / "SegmentationContext" / f"{split}.txt"
            order = class_order or ("alphabetical" if converted.is_dir() else "voc-first")
            numbers = {n: self.class_names.index(name) for n, name in enumerate(CLASS_ORDERS[order], start=1)}
            self.table, self.note = lookup_table(numbers, ignored=[0]), f"{labels.name}, read as {order}"
        found = [listed_name(line.split()[0], listing) for line in text_lines(self.expect_file(listing))]
        if (
            not converted.is_dir() or suffix == ".mat"
        ):  # VOC's own lists: not every picture has context labels
            found = [name for name in found if (labels / f"{name}{suffix}").exists()]
        pairs = [(name, images / f"{name}.jpg", labels / f"{name}{suffix}") for name in found]
        super().__init__(split, pairs)

    def _official(self, listing: Path, all_classes: bool) -> np.ndarray:
        """From the numbers of the official files to class indices; ``class_names`` become all 459 if asked for."""
        known: dict[int, str] = {}
        for line in text_lines(self.expect_file(listing)):
            number, name = (part.strip() for part in line.partition(":")[::2])
            if not (number.isdecimal() and len(number) < 6 and name) or int(number) in known:
                raise ValueError(
                    f'{shown(listing)} has "number: name" per line, each number once; {line!r} is not so.'
                )
            known[int(number)] = name
        if all_classes:
            self.class_names, self.ignore_index = tuple(name for n, name in known.items() if n > 0), 65535
        index = {name: i for i, name in enumerate(self.class_names)}
        numbers = {number: index[name] for number, name in known.items() if name in index}
        return lookup_table(numbers, ignored=[0, *known], ignore_index=self.ignore_index)

    def read_labels(self, file: Path) -> np.ndarray:
        if file.suffix != ".mat":
            return super().read_labels(file)
        with reading(file):
            numbers = loadmat(file)["LabelMap"]
        if (
            numbers.ndim != 2
            or numbers.dtype.kind not in "uif"
            or not ((numbers >= 0) & (numbers < 65536)).all()
        ):
            raise ValueError(
                f"{shown(file)} holds no LabelMap of numbers from 0 to 65535; download it again."
            )
        return self.translate(numbers.astype(np.int64), file)
