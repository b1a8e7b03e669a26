"""Pictures and label maps of one's own."""

from __future__ import annotations

from pathlib import Path

from ..images import image_files, picture_name, reading, shown
from .base import IGNORE, FileDataset, lookup_table, stored_numbers, text_lines


class LabelledFolder(FileDataset):
    """Pictures of one's own: ``images/*`` and ``labels/*.png`` with the same names; 255 is ignored.

    With a split, both are in a folder of that name. ``classes.txt``, one name per line, is optional: without it, classes are
    numbered up to the largest label found below ``root``, in whichever split.
    """

    source = "Put pictures into images/ and label maps (PNG, one channel, class numbers) of the same names into labels/."

    def __init__(self, root: Path | str, split: str = ""):
        top = Path(root)
        with reading(top):
            parts = sorted(folder.parent.name for folder in top.glob("*/images") if folder.is_dir())
            self.splits = ("", *parts) if (top / "images").is_dir() else tuple(parts)
        if self.splits:
            self.check_split(split)
        folder = top / split
        images, labels = (
            self.expect_folder(folder / part, "images/* and labels/*.png") for part in ("images", "labels")
        )
        files = image_files(images)
        if not files:
            raise FileNotFoundError(f"There is no image in {shown(images)}. {self.source}")
        if named := [place / "classes.txt" for place in (folder, top) if (place / "classes.txt").exists()]:
            self.class_names = tuple(text_lines(self.expect_file(named[0])))
            if len(set(self.class_names)) != len(self.class_names) or not self.class_names:
                raise ValueError(f"{shown(named[0])} names no class, or one twice; it has one name per line.")
        else:
            self.class_names = tuple(f"class {i}" for i in range(_largest_label(top) + 1))
        self.table = lookup_table({i: i for i in range(len(self.class_names)) if i != IGNORE}, [IGNORE])
        label = lambda file: (labels / file.relative_to(images)).with_suffix(".png")
        pairs = [(picture_name(file.relative_to(images)), file, label(file)) for file in files]
        super().__init__(split, pairs)


def _largest_label(top: Path) -> int:
    """The largest class number in any label map below a folder."""
    largest = 0
    for file in image_files(top):
        if file.suffix == ".png" and "labels" in file.relative_to(top).parts[:-1]:
            numbers = stored_numbers(file)
            largest = max(largest, int(numbers[numbers != IGNORE].max(initial=0)))
    return largest
