"""Every reader on small files made in the official layout, with the official label numbers."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from emerdiff_lib.datasets import DATASETS, LabelledFolder, ToyscapesDataset, open_dataset
from emerdiff_lib.datasets import class_names as names


def picture(path, size=(8, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)).save(path)


def label_map(path, numbers, size=(8, 6)):
    """The given numbers in turn over all pixels; returns the array written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.resize(np.array(numbers, np.uint8), (size[1], size[0]))
    Image.fromarray(array).save(path)
    return array


def test_ade20k(tmp_path):
    picture(tmp_path / "images/validation/ADE_val_00000001.jpg")
    raw = label_map(tmp_path / "annotations/validation/ADE_val_00000001.png", [0, 1, 2, 150])
    data = open_dataset("ade20k", tmp_path)
    assert (
        len(data) == 1
        and len(data.class_names) == 150
        and data.class_names[:3] == ("wall", "building", "sky")
    )
    sample = data[0]
    assert sample.name == "ADE_val_00000001" and sample.image.size == (8, 6)
    assert (sample.labels[raw == 0] == 255).all() and (sample.labels[raw == 1] == 0).all()
    assert (sample.labels[raw == 150] == 149).all() and data.class_names[149] == "flag"
    np.testing.assert_allclose(data.class_shares()[[0, 1, 149, -1]], 0.25)


@pytest.mark.parametrize("name", ["coco-stuff-171", "coco-stuff-27"])
def test_coco_stuff(tmp_path, name):
    picture(tmp_path / "images/val2017/000000000139.jpg")
    raw = label_map(tmp_path / "annotations/val2017/000000000139.png", [0, 1, 12, 91, 181, 255])
    data = open_dataset(name, tmp_path, "val")
    labels = data[0].labels
    named = lambda number: {data.class_names[i] if i != 255 else None for i in labels[raw == number]}
    expected = {
        "coco-stuff-171": {0: "person", 1: "bicycle", 12: "stop sign", 91: "banner", 181: "wood", 255: None},
        "coco-stuff-27": {0: "person", 1: "vehicle", 12: "outdoor", 91: "textile", 181: "solid", 255: None},
    }[name]
    assert len(data.class_names) == int(name[-3:].strip("-")) and {n: named(n) for n in expected} == {
        n: {name} for n, name in expected.items()
    }


def test_coco_groups_are_sensible():
    """An id's group agrees with its name where the name says it: wall-brick is a wall, food-other is food …"""
    groups = [names.COCO_STUFF_COARSE[g] for g in names.COCO_STUFF_GROUP]
    for prefix in (
        "wall",
        "floor",
        "ceiling",
        "window",
        "food",
        "furniture",
        "solid",
        "structural",
        "water",
        "building",
    ):
        found = {
            g for name, g in zip(names.COCO_STUFF_IDS, groups, strict=True) if name.startswith(prefix + "-")
        }
        assert {g.removesuffix(" (stuff)") for g in found} == {prefix}
    assert len(groups) == 182 and set(groups) == set(names.COCO_STUFF_COARSE)


def test_coco_stuff_27_of_the_papers_and_of_all_pictures(tmp_path):
    """The curated list, each picture cut to the square in its middle; and everything, uncut. Both say what they are."""
    for name, size in (("000000000139", (9, 4)), ("000000000285", (4, 8)), ("000000000632", (8, 6))):
        picture(tmp_path / f"images/val2017/{name}.jpg", size)
        label_map(tmp_path / f"annotations/val2017/{name}.png", range(size[0]), size)
    with pytest.raises(FileNotFoundError, match="Coco164kFull_Stuff_Coarse_7.txt, which is missing.*PiCIE"):
        open_dataset("coco-stuff-27", tmp_path)
    listing = tmp_path / "curated/val2017/Coco164kFull_Stuff_Coarse_7.txt"
    listing.parent.mkdir(parents=True)
    listing.write_text("000000000285\n000000000139\n")
    curated, full = open_dataset("coco-stuff-27", tmp_path), open_dataset("coco-stuff-27", tmp_path, "val")
    assert [sample.name for sample in curated] == ["000000000285", "000000000139"] and len(full) == 3
    assert "split 'curated-val'" in repr(curated) and "centre squares" in repr(curated)
    assert "split 'val'" in repr(full) and "not the split of published" in repr(full)
    whole = {sample.name: sample for sample in full}
    for sample, left, top in zip(curated, (0, 2), (2, 0), strict=True):
        assert sample.image.size == (4, 4)  # 9 × 4: columns 2 to 5; 4 × 8: rows 2 to 5
        box = (slice(top, top + 4), slice(left, left + 4))
        assert np.array_equal(np.array(sample.image), np.array(whole[sample.name].image)[box])
        assert np.array_equal(sample.labels, whole[sample.name].labels[box])


def pascal_context(tmp_path, folder, numbers):
    picture(tmp_path / "JPEGImages/2008_000002.jpg")
    listing = "SegmentationContext" if folder == "SegmentationClassContext" else "Main"
    (tmp_path / "ImageSets" / listing).mkdir(parents=True, exist_ok=True)
    (tmp_path / "ImageSets" / listing / "val.txt").write_text("2008_000002\n")
    return label_map(tmp_path / folder / "2008_000002.png", numbers)


ALPHABETICAL = {1: "aeroplane", 2: "bag", 15: "cat", 16: "ceiling", 37: "person", 59: "wood"}
VOC_FIRST = {1: "aeroplane", 2: "bicycle", 15: "person", 21: "bag", 52: "bedclothes", 59: "wood"}


@pytest.mark.parametrize(
    ("folder", "order", "expected"),
    [
        ("SegmentationClassContext", None, ALPHABETICAL),  # as mmsegmentation's converter writes
        ("SegmentationClassContext", "voc-first", VOC_FIRST),
        ("59_context_labels", None, VOC_FIRST),  # the authors' archive
        ("59_context_labels", "alphabetical", ALPHABETICAL),
    ],
)
def test_pascal_context_has_two_class_orders(tmp_path, folder, order, expected):
    raw = pascal_context(tmp_path, folder, [0, *expected])
    data = open_dataset("pascal-context-59", tmp_path, **({"class_order": order} if order else {}))
    labels = data[0].labels
    assert (labels[raw == 0] == 255).all()
    assert {n: {data.class_names[i] for i in labels[raw == n]} for n in expected} == {
        n: {name} for n, name in expected.items()
    }
    assert f"{folder}, read as {'voc-first' if expected is VOC_FIRST else 'alphabetical'}" in repr(data)
    assert list(data.class_names) == sorted(data.class_names)  # whatever the files' order


def test_pascal_context_says_what_it_cannot_read(tmp_path):
    pascal_context(tmp_path, "SegmentationClassContext", [0, 60])
    with pytest.raises(ValueError, match="2008_000002.png has the label 60; PascalContext knows 0 to 59"):
        open_dataset("pascal-context-59", tmp_path)[0]
    with pytest.raises(
        ValueError, match="class_order='fcn' is unknown; choose one of 'alphabetical', 'voc-first'"
    ):
        open_dataset("pascal-context-59", tmp_path, class_order="fcn")
    with pytest.raises(ValueError, match="is for PNGs"):
        open_dataset("pascal-context-459", tmp_path, class_order="voc-first")
    with pytest.raises(ValueError, match="'ade20k' has no option 'class_order'; it has none"):
        open_dataset("ade20k", tmp_path, class_order="voc-first")


def test_class_orders_name_the_same_classes():
    assert sorted(names.PASCAL_CONTEXT_VOC_FIRST) == list(names.PASCAL_CONTEXT)
    voc = "aeroplane bicycle bird boat bottle bus car cat chair cow table dog horse motorbike person pottedplant sheep "
    assert names.PASCAL_CONTEXT_VOC_FIRST[:20] == tuple((voc + "sofa train tvmonitor").split())


def test_pascal_context_official(tmp_path):
    picture(tmp_path / "JPEGImages/2008_000002.jpg")
    (tmp_path / "trainval").mkdir()
    raw = np.resize(np.array([0, 1, 2, 9], np.uint16), (6, 8))
    savemat(tmp_path / "trainval/2008_000002.mat", {"LabelMap": raw})
    (tmp_path / "labels.txt").write_text("1: accordion\n2: aeroplane\n3: airconditioner\n9: bag\n")
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/val.txt").write_text(
        "2008_000002\n2008_000003\n"
    )  # not every VOC picture has context labels
    few, many = (open_dataset(name, tmp_path) for name in ("pascal-context-59", "pascal-context-459"))
    assert len(few) == len(many) == 1
    labels = few[0].labels
    assert (labels[raw == 0] == 255).all() and (labels[raw == 1] == 255).all()  # accordion is none of the 59
    assert {few.class_names[i] for i in labels[raw == 2]} == {"aeroplane"} and {
        few.class_names[i] for i in labels[raw == 9]
    } == {"bag"}
    labels = many[0].labels
    assert (labels[raw == 0] == many.ignore_index).all() and {
        many.class_names[i] for i in labels[raw == 1]
    } == {"accordion"}
    assert many.class_shares()[-1] == pytest.approx(0.25)


def test_cityscapes(tmp_path):
    stem = "frankfurt_000000_000294"
    picture(tmp_path / f"leftImg8bit/val/frankfurt/{stem}_leftImg8bit.png")
    raw = label_map(tmp_path / f"gtFine/val/frankfurt/{stem}_gtFine_labelIds.png", [0, 4, 7, 11, 33])
    data = open_dataset("cityscapes", tmp_path)
    sample = data[0]
    assert sample.name == stem and (sample.labels[(raw == 0) | (raw == 4)] == 255).all()
    assert [data.class_names[sample.labels[raw == n][0]] for n in (7, 11, 33)] == [
        "road",
        "building",
        "bicycle",
    ]


def test_camvid(tmp_path):
    for split, name in (("train", "0001TP_006690"), ("test", "0001TP_008550")):
        picture(tmp_path / f"{split}/{name}.png", (480, 360))
        label_map(tmp_path / f"{split}annot/{name}.png", range(12), (480, 360))
        (tmp_path / f"{split}.txt").write_text(
            f"/SegNet/CamVid/{split}/{name}.png /SegNet/CamVid/{split}annot/{name}.png\n"
        )
    data = open_dataset("camvid", tmp_path)
    sample = data[0]
    assert (len(data), sample.name, sample.image.size) == (1, "0001TP_008550", (480, 360))
    assert (
        set(np.unique(sample.labels)) == set(range(12))
        and data.ignore_index == 11
        and len(data.class_names) == 11
    )
    np.testing.assert_allclose(data.class_shares(), 1 / 12)
    assert open_dataset("camvid", tmp_path, "train")[0].name == "0001TP_006690" and data.palette.shape == (
        11,
        3,
    )


def test_a_folder_of_ones_own(tmp_path):
    picture(tmp_path / "images/a/b.jpg")
    label_map(tmp_path / "labels/a/b.png", [0, 3, 255])
    data = LabelledFolder(tmp_path)
    assert data[0].name == "a__b" and set(np.unique(data[0].labels)) == {0, 3, 255}
    (tmp_path / "classes.txt").write_text("sea\nland\n")
    with pytest.raises(ValueError, match="a/b.png has the label 3; LabelledFolder knows 0 to 1, 255"):
        LabelledFolder(tmp_path)[0]


def test_splits_of_a_folder_agree_on_the_classes(tmp_path):
    for split, largest in (("train", 4), ("test", 2)):
        picture(tmp_path / split / "images/a.png")
        label_map(tmp_path / split / "labels/a.png", range(largest + 1))
    assert all(len(LabelledFolder(tmp_path, split).class_names) == 5 for split in ("train", "test"))
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\ne\n")
    assert LabelledFolder(tmp_path, "test").class_names == tuple("abcde")


def test_toyscapes_behind_the_interface():
    data = ToyscapesDataset(split="validation")
    assert len(data) == 1000 and len(data.class_names) == 10 == len(data.palette) and data[3].seed == 1003
    assert len(open_dataset("toyscapes-18").class_names) == 18 and data.class_shares(
        2
    ).sum() == pytest.approx(1)


@pytest.mark.parametrize("name", DATASETS)
def test_unknown_splits_are_one_sentence(tmp_path, name):
    for split in ("train", "test"):
        picture(tmp_path / split / "images/a.png")
        label_map(tmp_path / split / "labels/a.png", [0, 1])
    with pytest.raises(ValueError, match="split='tset' is unknown to .*; choose one of '[^']+', '[^']+'.*"):
        open_dataset(name, tmp_path, "tset")


@pytest.mark.parametrize("name", [name for name in DATASETS if not name.startswith("toyscapes")])
def test_what_is_missing_is_said(tmp_path, name):
    with pytest.raises(
        FileNotFoundError, match="(?s)(Expected|expects).*( is at | are at | is in |Put pictures)"
    ):
        open_dataset(name, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="needs a root"):
        open_dataset(name)


def test_faulty_files_are_named(tmp_path):
    picture(tmp_path / "images/a.jpg")
    label_map(tmp_path / "labels/a.png", [0, 1], size=(4, 4))
    with pytest.raises(ValueError, match="they must be of one size"):
        LabelledFolder(tmp_path)[0]
    picture(tmp_path / "labels/a.png")
    with pytest.raises(ValueError, match="single channel"):
        (tmp_path / "classes.txt").write_text("one\n")
        LabelledFolder(tmp_path)[0]
    with pytest.raises(ValueError, match="choose one of"):
        open_dataset("imagenet")


def png_that_declares(width, height):
    """The first bytes of a PNG of that size, without its pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


HOSTILE = {
    "text": b"not a picture",
    "empty": b"",
    "a bomb": png_that_declares(60_000, 60_000),
    "cut off": png_that_declares(8, 6) + struct.pack(">I", 100) + b"IDAT" + b"x" * 20,
}


@pytest.mark.parametrize("content", HOSTILE)
@pytest.mark.parametrize("part", ["images", "labels"])
def test_a_hostile_file_is_one_sentence_that_names_it(tmp_path, part, content):
    (tmp_path / "classes.txt").write_text("one\ntwo\n")
    picture(tmp_path / "images/a.png")
    label_map(tmp_path / "labels/a.png", [0, 1])
    (tmp_path / part / "a.png").write_bytes(HOSTILE[content])
    with pytest.raises(
        ValueError, match=rf"{part}/a.png (cannot be read|is no image) \(.+\).*; .+ it again\.$"
    ):
        LabelledFolder(tmp_path)[0]


def test_a_hostile_mat_file_is_one_sentence_that_names_it(tmp_path):
    picture(tmp_path / "JPEGImages/2008_000002.jpg")
    (tmp_path / "trainval").mkdir()
    (tmp_path / "labels.txt").write_text("1: accordion\n")
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/val.txt").write_text("2008_000002\n")
    for content in (b"", b"x" * 300):
        (tmp_path / "trainval/2008_000002.mat").write_bytes(content)
        with pytest.raises(ValueError, match="2008_000002.mat cannot be read"):
            open_dataset("pascal-context-59", tmp_path)[0]
    savemat(tmp_path / "trainval/2008_000002.mat", {"Other": np.zeros((6, 8))})
    with pytest.raises(ValueError, match="2008_000002.mat cannot be read .*LabelMap"):
        open_dataset("pascal-context-59", tmp_path)[0]


def test_pictures_stay_where_their_labels_are(tmp_path):
    """Label maps follow the stored pixels: a camera's note to turn the picture is not obeyed."""
    array = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90°
    (tmp_path / "images").mkdir()
    Image.fromarray(array).save(tmp_path / "images/a.png", exif=exif)
    label_map(tmp_path / "labels/a.png", [0, 1])
    assert np.array_equal(np.array(LabelledFolder(tmp_path)[0].image), array)


def test_folders_named_like_pictures_are_none(tmp_path):
    picture(tmp_path / "images/a.gif")
    (tmp_path / "images/b.png").mkdir()
    label_map(tmp_path / "labels/a.png", [0, 1])
    assert [sample.name for sample in LabelledFolder(tmp_path)] == ["a"]
