"""PASCAL-Context, whose 59 classes are numbered in two ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..images import shown
from ..settings import check_known
from . import class_names as names
from .base import FileDataset, listed_name, lookup_table, text_lines

CLASS_ORDERS = {"alphabetical": names.PASCAL_CONTEXT, "voc-first": names.PASCAL_CONTEXT_VOC_FIRST}


class PascalContext(FileDataset):
    """VOC 2010 with context labels: the 59 frequent classes, or all 459 where the official files are.

    The first of these that is there is read:

    - ``SegmentationClassContext/*.png``, listed in ``ImageSets/SegmentationContext/{train,val}.txt``, as mmsegmentation's
      converter writes them, which numbers the 59 classes alphabetically;
    - ``59_context_labels/*.png``, the authors' archive of that name, in the order of their ``59_labels.txt`` and of FCN:
      VOC's 20 objects first. Images are listed in ``ImageSets/Main/{train,val}.txt``;
    - ``trainval/*.mat`` (variable LabelMap, official) with ``labels.txt``, which says what the numbers mean, and the same
      lists. All 459 classes are only there.

    Whatever is read, class indices are alphabetical, and label 0 is ignored. ``ImageSets/Main`` lists images without context
    labels as well, which are left out.

    Args:
        all_classes: 459 classes.
        class_order: how PNGs of your own are numbered, "alphabetical" or "voc-first", where it is not as said above.
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
        self, root: Path, split: str | None = None, all_classes: bool = False, class_order: str = ""
    ):
        self.all_classes = all_classes
        self.class_order = check_known("class_order", class_order, ("", *CLASS_ORDERS))
        super().__init__(root, split)

    def find_pairs(self, root: Path) -> list[tuple[str, Path, Path]]:
        images, listing = (
            self.expect_folder(root / "JPEGImages"),
            root / "ImageSets" / "Main" / f"{self.split}.txt",
        )
        converted, archive = root / "SegmentationClassContext", root / "59_context_labels"
        if self.all_classes or not (converted.is_dir() or archive.is_dir()):
            labels, suffix, self.note = self.expect_folder(root / "trainval"), ".mat", "official .mat files"
            self.table = self._official(root / "labels.txt")
        else:
            labels, suffix, order = archive, ".png", names.PASCAL_CONTEXT_VOC_FIRST
            if converted.is_dir():
                labels, order = converted, self.class_names
                listing = root / "ImageSets" / "SegmentationContext" / f"{self.split}.txt"
            order = CLASS_ORDERS.get(self.class_order, order)
            numbers = {number: self.class_names.index(name) for number, name in enumerate(order, start=1)}
            self.table, self.note = lookup_table(numbers, ignored=[0]), labels.name
        listed = [listed_name(line.split()[0], listing) for line in text_lines(self.expect_file(listing))]
        if labels != converted:
            listed = [name for name in listed if (labels / f"{name}{suffix}").exists()]
        return [(name, images / f"{name}.jpg", labels / f"{name}{suffix}") for name in listed]

    def _official(self, listing: Path) -> np.ndarray:
        """From the numbers of the official files to class indices; ``class_names`` become all 459 if asked for."""
        known: dict[int, str] = {}
        for line in text_lines(self.expect_file(listing)):
            number, name = (part.strip() for part in line.partition(":")[::2])
            if not (number.isdecimal() and len(number) < 6 and name) or int(number) in known:
                raise ValueError(
                    f'{shown(listing)} has "number: name" per line, each number once; {line!r} is not so.'
                )
            known[int(number)] = name
        if self.all_classes:
            self.class_names, self.ignore_index = tuple(name for n, name in known.items() if n > 0), 65535
        index = {name: i for i, name in enumerate(self.class_names)}
        numbers = {number: index[name] for number, name in known.items() if name in index}
        return lookup_table(numbers, ignored=[0, *known], ignore_index=self.ignore_index)
