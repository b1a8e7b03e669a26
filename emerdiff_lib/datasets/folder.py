"""Images and label maps of one's own."""

from __future__ import annotations

from pathlib import Path

from ..images import image_files, picture_name, reading, shown
from .base import IGNORE, FileDataset, lookup_table, stored_numbers, text_lines


class LabelledFolder(FileDataset):
    """Images of one's own: ``images/*`` and ``labels/*.png`` with the same names; 255 is ignored.

    With a split, both are in a folder of that name. ``classes.txt``, one name per line, is optional: without it, classes are
    numbered up to the largest label below ``root``, in whichever split.
    """

    layout = "images/* and labels/*.png"
    source = "Put images into images/ and label maps (PNG, one channel, class numbers) of the same names into labels/."

    def __init__(self, root: Path, split: str | None = None):
        with reading(root):
            parts = sorted(folder.parent.name for folder in root.glob("*/images") if folder.is_dir())
        self.splits = ("", *parts) if (root / "images").is_dir() else tuple(parts) or (split or "",)
        super().__init__(root, split or "")

    def find_pairs(self, root: Path) -> list[tuple[str, Path, Path]]:
        images, labels = (self.expect_folder(root / self.split / part) for part in ("images", "labels"))
        if named := [
            file for file in (root / self.split / "classes.txt", root / "classes.txt") if file.exists()
        ]:
            self.class_names = tuple(text_lines(named[0]))
            if len(set(self.class_names)) != len(self.class_names) or not self.class_names:
                raise ValueError(f"{shown(named[0])} names no class, or one twice; it has one name per line.")
        else:
            self.class_names = tuple(f"class {i}" for i in range(_largest_label(root) + 1))
        self.table = lookup_table({i: i for i in range(len(self.class_names)) if i != IGNORE}, [IGNORE])
        pairs = []
        for file in image_files(images):
            relative = file.relative_to(images)
            pairs.append((picture_name(relative), file, (labels / relative).with_suffix(".png")))
        return pairs


def _largest_label(root: Path) -> int:
    """The largest class number in any label map below a folder."""
    largest = 0
    for file in image_files(root):
        if file.suffix == ".png" and "labels" in file.relative_to(root).parts[:-1]:
            numbers = stored_numbers(file)
            largest = max(largest, int(numbers[numbers != IGNORE].max(initial=0)))
    return largest
