"""Every reader on small files made in the official layout, with the official label numbers; and files that are wrong."""

import zlib

import numpy as np
import pytest
from PIL import Image

from emerdiff_lib.datasets import DATASETS, open_dataset
from emerdiff_lib.datasets.readers import COCO_STUFF_IDS, NAMES, LabelledFolder

from .conftest import refusal

RAMP = np.arange(6 * 8, dtype=np.uint8).reshape(6, 8) * 5
RGB = np.stack([RAMP, RAMP[::-1], 255 - RAMP], -1)


def write(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def image(path, size=(8, 6), **options):
    write(path, np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8), **options)


def label_map(path, numbers, size=(8, 6), dtype=np.uint8, **options):
    """The given numbers in turn over all pixels; returns the array written."""
    array = np.resize(np.array(numbers, dtype), (size[1], size[0]))
    write(path, array, **options)
    return array


def listing(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def named(data, raw, numbers):
    """{number in the file: what the pixels that have it are called}, None for ignored ones."""
    labels = data[0].labels
    assert all(len(set(labels[raw == number])) == 1 for number in numbers)
    found = {number: labels[raw == number][0] for number in numbers}
    return {n: None if i == data.ignore_index else data.class_names[i] for n, i in found.items()}


COCO = "images/val2017/000000000139.jpg", "annotations/val2017/000000000139.png"
CITY = "leftImg8bit/val/x/x_000000_000294_leftImg8bit.png", "gtFine/val/x/x_000000_000294_gtFine_labelIds.png"
ADE = "images/validation/ADE_val_00000001.jpg", "annotations/validation/ADE_val_00000001.png"
# {number in the file: class}
THINGS = {0: "person", 12: "stop sign", 89: "toothbrush", 91: "background", 255: "background"}
STUFF = {0: "person", 1: "bicycle", 12: "stop sign", 91: "banner", 181: "wood", 255: None}
GROUPS = {0: "person", 1: "vehicle", 12: "outdoor", 91: "textile", 181: "solid", 255: None}
CITY_27 = {0: None, 6: None, 7: "road", 9: "parking", 18: "polegroup", 33: "bicycle"}
OFFICIAL = {  # image and label map, how many classes, some of their numbers, numbers that mean nothing
    "ade20k": (*ADE, 150, {0: None, 1: "wall", 2: "building", 150: "flag"}, [151, 255, 256]),
    "coco-stuff-171": (*COCO, 171, STUFF, [11, 182, 256]),
    "coco-stuff-27": (*COCO, 27, GROUPS, [182, 256]),
    "coco-object": (*COCO, 81, THINGS, [11, 182, 256]),
    "cityscapes-27": (*CITY, 27, CITY_27, [34, 256]),
    "cityscapes": (*CITY, 19, {0: None, 4: None, 7: "road", 11: "building", 33: "bicycle"}, [34, 256]),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_layouts_and_numbers(tmp_path, name):
    image_file, label_file, count, classes, unknown = OFFICIAL[name]
    image(tmp_path / image_file)
    raw = label_map(tmp_path / label_file, list(classes))
    data = open_dataset(name, tmp_path, "val" if name == "coco-stuff-27" else None)
    assert len(data) == 1 and data[0].image.size == (8, 6) and named(data, raw, classes) == classes
    assert data[0].name == label_file.split("/")[-1].removesuffix("_gtFine_labelIds.png").removesuffix(".png")
    assert len(data.class_names) == len(data.palette) == count
    for number in unknown:
        label_map(tmp_path / label_file, [7, number], dtype=np.uint16)
        assert f"{label_file} has the label {number}; " in refusal(lambda: data[0])


def test_voc_2012_is_read_by_its_lists(tmp_path):
    for name in ("2007_000033", "2007_000042"):
        image(tmp_path / f"JPEGImages/{name}.jpg")
        raw = label_map(tmp_path / f"SegmentationClass/{name}.png", [0, 1, 20, 255])
    listing(tmp_path / "ImageSets/Segmentation/val.txt", "2007_000042\n" * 2)
    data = open_dataset("voc-2012", tmp_path)
    assert [sample.name for sample in data] == ["2007_000042"] and len(data.class_names) == 21
    assert named(data, raw, [0, 1, 20, 255]) == {0: "background", 1: "aeroplane", 20: "tvmonitor", 255: None}


def test_coco_groups_are_sensible():
    """An id's group agrees with its name where the name says it: wall-brick is a wall, food-other is food …"""
    group = {name: g for g, members in NAMES["coco-stuff-27"].items() for name in members}
    assert sorted(group) == sorted(COCO_STUFF_IDS) and len(group) == 182
    for prefix in ("wall", "floor", "ceiling", "window", "food", "furniture", "solid", "structural", "water"):
        found = {group[name] for name in group if name.startswith(prefix + "-")}
        assert {one.removesuffix(" (stuff)") for one in found} == {prefix}


def test_coco_stuff_27_of_the_papers_and_of_all_images(tmp_path):
    """The curated list, each image cut to the square in its middle; and everything, uncut. Both say what they are."""
    for name, size in (("000000000139", (9, 4)), ("000000000285", (4, 8)), ("000000000632", (8, 6))):
        image(tmp_path / f"images/val2017/{name}.jpg", size)
        label_map(tmp_path / f"annotations/val2017/{name}.png", range(size[0]), size)
    with pytest.raises(FileNotFoundError, match="Coco164kFull_Stuff_Coarse_7.txt, which is missing.*PiCIE"):
        open_dataset("coco-stuff-27", tmp_path)
    listing(tmp_path / "curated/val2017/Coco164kFull_Stuff_Coarse_7.txt", "000000000285\n000000000139\n")
    curated, full = open_dataset("coco-stuff-27", tmp_path), open_dataset("coco-stuff-27", tmp_path, "val")
    assert [sample.name for sample in curated] == ["000000000285", "000000000139"] and len(full) == 3
    assert len(open_dataset("coco-stuff-27", tmp_path, "curated-val")) == 2  # the one that is named by itself
    assert "split 'curated-val'" in repr(curated) and "centre squares" in repr(curated)
    assert "split 'val'" in repr(full) and "not the split of published" in repr(full)
    whole = {sample.name: sample for sample in full}
    for sample, left, top in zip(curated, (0, 2), (2, 0), strict=True):
        assert sample.image.size == (4, 4)  # 9 × 4: columns 2 to 5; 4 × 8: rows 2 to 5
        box = (slice(top, top + 4), slice(left, left + 4))
        assert np.array_equal(np.array(sample.image), np.array(whole[sample.name].image)[box])
        assert np.array_equal(sample.labels, whole[sample.name].labels[box])


@pytest.mark.parametrize(
    ("folder", "listed", "expected"),
    [  # mmsegmentation's converter, alphabetical; the authors' archive, VOC's objects first
        (
            "SegmentationClassContext",
            "SegmentationContext",
            {1: "aeroplane", 2: "bag", 15: "cat", 59: "wood"},
        ),
        ("59_context_labels", "Main", {1: "aeroplane", 2: "bicycle", 15: "person", 21: "bag", 59: "wood"}),
    ],
)
def test_pascal_context_has_two_class_orders(tmp_path, folder, listed, expected):
    image(tmp_path / "JPEGImages/2008_000002.jpg")
    others = "2008_000003\n" if listed == "Main" else ""  # which has no context labels
    listing(tmp_path / f"ImageSets/{listed}/val.txt", "2008_000002\n" + others)
    raw = label_map(tmp_path / folder / "2008_000002.png", [0, *expected])
    data = open_dataset("pascal-context-59", tmp_path)
    assert len(data) == 1 and folder in repr(data)
    assert named(data, raw, [0, *expected]) == {0: None} | expected
    assert list(data.class_names) == sorted(data.class_names)  # whatever the files' order
    told = open_dataset("pascal-context-59", tmp_path, class_order="alphabetical")
    assert named(told, raw, [2, 15]) == {2: "bag", 15: "cat"}
    label_map(tmp_path / folder / "2008_000002.png", [0, 60])
    assert "2008_000002.png has the label 60" in refusal(lambda: data[0])


def camvid(root, content):
    image(root / "test/a.png")
    label_map(root / "testannot/a.png", range(12))
    listing(root / "test.txt", content)
    return open_dataset("camvid", root)


GOOD = "/SegNet/CamVid/test/a.png /SegNet/CamVid/testannot/a.png\n"
LISTS = "test/a.png testannot/a.png".encode("utf-8-sig"), f"\n# images\n\n  {GOOD}\n\t\n"


@pytest.mark.parametrize("content", [*LISTS, GOOD.replace("\n", "\r\n"), GOOD * 2])
def test_camvid(tmp_path, content):
    data = camvid(tmp_path, content)
    assert [sample.name for sample in data] == ["a"] and data.ignore_index == 11
    np.testing.assert_array_equal(np.bincount(data[0].labels.ravel()), 4)
    assert data.class_names[3] == "road" and data.palette[3].tolist() == [128, 64, 128]  # as in Cityscapes
    assert "test.txt: 'test/a.png' is no image and its" in refusal(lambda: camvid(tmp_path, "test/a.png"))


def pair(root, labels=(0, 1), name="a", size=(8, 6), classes="one\ntwo\nthree\n", **options):
    """images/a.png and labels/a.png below a folder, with classes.txt."""
    image(root / f"images/{name}.png", size, format="PNG")
    if isinstance(labels, np.ndarray) and labels.ndim == 3:
        write(root / f"labels/{name}.png", labels, format="PNG")
    else:
        label_map(root / f"labels/{name}.png", labels, **{"format": "PNG"} | options)
    if classes is not None:
        listing(root / "classes.txt", classes)
    return root


def test_splits_of_a_folder_agree_on_the_classes(tmp_path):
    for split, largest in (("train", 4), ("test", 2)):
        image(tmp_path / split / "images/a.png")
        label_map(tmp_path / split / "labels/a.png", [*range(largest + 1), 255])
    image(tmp_path / "__MACOSX/images/a.png")
    assert LabelledFolder(tmp_path).splits == ("test", "train")
    assert all(len(LabelledFolder(tmp_path, split).class_names) == 5 for split in ("train", "test"))
    listing(tmp_path / "classes.txt", "a\nb\nc\nd\ne\n")
    assert LabelledFolder(tmp_path, "test").class_names == tuple("abcde")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(labels=[0, 3]), "has the label 3"),
        (dict(labels=[0, 70_000], dtype=np.int32, format="TIFF"), "from 0 to 65535"),
        (dict(labels=[255]), "labels no pixel: all are ignored"),
        (dict(size=(9, 6)), "is 8 × 6, its image 9 × 6"),
        (dict(labels=RGB), "and no colours"),
        (dict(labels=[0, 1], dtype=np.float32, format="TIFF"), "one whole number"),
        (dict(labels=[0, 1], format="JPEG"), "none of PNG, TIFF"),
        (dict(labels=[0, 1], format="WEBP"), "none of PNG, TIFF"),
        (dict(labels=[0, 60_000], dtype=np.uint16, classes=None), "rather an object's number"),
        (dict(labels=[0, 255]), "one class alone"),  # at which every method would be right
    ],
)
def test_label_maps_that_are_refused(tmp_path, options, message):
    said = refusal(lambda: LabelledFolder(pair(tmp_path, **options)).summary([0]))
    assert message in said and ("one class" in said or str(tmp_path / "labels/a.png") in said)


@pytest.mark.parametrize("part", ["images", "labels"])
def test_files_that_are_none_or_gone_are_named(tmp_path, part):
    data, file = LabelledFolder(pair(tmp_path)), tmp_path / part / "a.png"
    file.write_bytes(b"nothing")
    assert f"{file} cannot be read" in refusal(lambda: data[0])
    file.unlink()
    assert str(file) in refusal(lambda: data[0], FileNotFoundError)


def test_two_images_of_one_name_are_refused(tmp_path):
    pair(tmp_path, name="x/a")
    image(tmp_path / "images" / "x__a.png")
    said = refusal(lambda: LabelledFolder(tmp_path))
    assert "Two images would be called" in said and said.count(str(tmp_path)) == 2


@pytest.mark.parametrize("name", ["new\nline", "a\\b"])
def test_sample_names_are_file_names(tmp_path, name):
    sample = LabelledFolder(pair(tmp_path, name=name))[0]
    (tmp_path / sample.name).write_text("x")
    assert (tmp_path / sample.name).parent == tmp_path and sample.name.isprintable()
    assert sample.seed == zlib.crc32(sample.name.encode())  # its own, whatever its place


@pytest.mark.parametrize("content", ["# nothing\n", "sea\nsea\n", "road\n\nsky\n"])
def test_class_names_are_some_and_each_one_class_s(tmp_path, content):
    said = refusal(lambda: LabelledFolder(pair(tmp_path, classes=content)))
    assert "classes.txt names no class, or one twice" in said


def turned(root, labels):
    """A photograph that its camera says to turn by 90°, with a label map."""
    exif = Image.Exif()
    exif[0x0112] = 6
    write(root / "images/a.png", RGB, exif=exif)
    write(root / "labels/a.png", labels)
    return LabelledFolder(root)


def test_label_maps_of_one_s_own_are_of_the_upright_image(tmp_path):
    upright = np.rot90(np.arange(RGB[..., 0].size, dtype=np.uint8).reshape(RGB.shape[:2]) % 3, -1)
    (tmp_path / "images/b.png").mkdir(parents=True)  # a folder, and no image
    data = turned(tmp_path, np.ascontiguousarray(upright))
    (sample,), said = data, data.summary([0])
    assert np.array_equal(sample.image, np.rot90(RGB, -1)) and np.array_equal(sample.labels, upright)
    assert "3 classes in 1 of the 1 label maps, 0.0% of pixels ignored" in said
    assert "its image 6 × 8 (upright)" in refusal(lambda: turned(tmp_path, upright.T.copy())[0])


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_grey_label_maps_of_few_bits_keep_their_numbers(tmp_path, bits):
    numbers = np.arange(48).reshape(6, 8) % min(2**bits, 3)
    pixels = np.pad(numbers, ((0, 0), (0, -8 % (8 // bits)))).astype(np.uint8)
    packed = sum(pixels[:, i :: 8 // bits] << (8 - bits - bits * i) for i in range(8 // bits))
    part = lambda kind, data: len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)
    header = (8).to_bytes(4) + (6).to_bytes(4) + bytes([bits, 0, 0, 0, 0])
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed.astype(np.uint8)))
    image(tmp_path / "images/a.png")
    (tmp_path / "labels").mkdir()
    png = b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", rows) + part(b"IEND", b"")
    (tmp_path / "labels/a.png").write_bytes(png)
    assert np.array_equal(LabelledFolder(tmp_path)[0].labels, numbers)


@pytest.mark.parametrize("name", DATASETS)
def test_what_is_missing_or_unknown_is_said(tmp_path, name):
    for split in ("train", "test"):
        image(tmp_path / split / "images/a.png")
        label_map(tmp_path / split / "labels/a.png", [0, 1])
    with pytest.raises(ValueError, match="split='tset' is unknown.*; choose one of '[^']+', '[^']+'.*"):
        open_dataset(name, tmp_path, "tset")
    if not name.startswith("toyscapes"):
        missing = "(?s)expects.*( is at | are at | is in |Put images)"
        with pytest.raises(FileNotFoundError, match=missing):
            open_dataset(name, tmp_path / "nowhere")
        assert "needs a root" in refusal(lambda: open_dataset(name))
    assert "choose one of" in refusal(lambda: open_dataset("imagenet"))
