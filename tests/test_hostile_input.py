"""Data sets that are wrong by accident or on purpose: refused in one sentence that names the file, or read as meant."""

from zlib import crc32

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from emerdiff_lib.datasets import LabelledFolder, open_dataset

from .conftest import refusal

RAMP = np.arange(6 * 8, dtype=np.uint8).reshape(6, 8) * 5
RGB = np.stack([RAMP, RAMP[::-1], 255 - RAMP], -1)


def pair(root, labels=(0, 1), name="a", size=(8, 6), classes="one\ntwo\nthree\n", **options):
    """images/a.png and labels/a.png below a folder, with classes.txt."""
    for part in ("images", "labels"):
        (root / part / name).parent.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text(classes)
    Image.fromarray(np.resize(RGB, (size[1], size[0], 3))).save(root / f"images/{name}.png", "PNG")
    if not isinstance(labels, Image.Image):
        labels = Image.fromarray(np.resize(np.array(labels, options.pop("dtype", np.uint8)), (6, 8)))
    labels.save(root / f"labels/{name}.png", options.get("format", "PNG"))
    return root


LABELS = {
    "a number that is no class": (dict(labels=[0, 3]), "has the label 3; LabelledFolder knows 0 to 2, 255"),
    "16 bits, out of range": (dict(labels=[0, 300], dtype=np.uint16), "has the label 300"),
    "32 bits": (dict(labels=[0, 70_000], dtype=np.int32, format="TIFF"), "to 70000"),
    "all void": (dict(labels=[255]), "labels no pixel: all are ignored"),
    "another size": (dict(size=(9, 6)), "is 8 × 6, its image 9 × 6"),
    "colours": (dict(labels=Image.fromarray(RGB)), "is a RGB picture; label maps have a single channel"),
    "floats": (dict(labels=[0, 1], dtype=np.float32, format="TIFF"), "is a F picture"),
    "a JPEG": (dict(format="JPEG"), "is a JPEG, which changes numbers"),
}


@pytest.mark.parametrize("row", LABELS)
def test_label_maps_that_are_refused(tmp_path, row):
    options, message = LABELS[row]
    data = LabelledFolder(pair(tmp_path, **options))
    said = refusal(lambda: data[0])
    assert message in said and str(tmp_path / "labels/a.png") in said


@pytest.mark.parametrize("code", [bool, np.uint8, np.uint16, np.int32])
def test_label_maps_of_all_depths(tmp_path, code):
    data = LabelledFolder(pair(tmp_path, np.array([0, 1]), dtype=code, format="TIFF"))
    assert np.array_equal(data[0].labels, np.resize([0, 1], (6, 8)))


OFFICIAL = {
    "ade20k": ("images/validation/a.png", "annotations/validation/a.png", [151, 255, 256]),
    "coco-stuff-171": ("images/val2017/a.png", "annotations/val2017/a.png", [11, 182, 200, 256]),
    "cityscapes": ("leftImg8bit/val/x/a_leftImg8bit.png", "gtFine/val/x/a_gtFine_labelIds.png", [34, 256]),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_numbers_that_a_data_set_does_not_know(tmp_path, name):
    image, labels, unknown = OFFICIAL[name]
    for file in (image, labels):
        (tmp_path / file).parent.mkdir(parents=True)
    Image.fromarray(RGB).save(tmp_path / image)
    for number in unknown:
        Image.fromarray(np.resize(np.array([7, number], np.uint16), (6, 8))).save(tmp_path / labels)
        assert f"{labels} has the label {number}; " in refusal(lambda: open_dataset(name, tmp_path)[0])


def test_a_file_that_has_gone_is_named(tmp_path):
    data = LabelledFolder(pair(tmp_path))
    (tmp_path / "labels/a.png").unlink()
    assert str(tmp_path / "labels/a.png") in refusal(lambda: data[0], FileNotFoundError)


@pytest.mark.parametrize(("first", "second"), [("a", "a.jpg"), ("x/a", "x__a.png")])
def test_two_pictures_of_one_name_are_refused(tmp_path, first, second):
    pair(tmp_path, name=first)
    Image.fromarray(RGB).save(tmp_path / "images" / second)
    said = refusal(lambda: LabelledFolder(tmp_path))
    assert "Two pictures would be called" in said and said.count(str(tmp_path)) == 2


@pytest.mark.parametrize("name", ["new\nline", "a\\b", ".."])
def test_sample_names_are_file_names(tmp_path, name):
    called = LabelledFolder(pair(tmp_path, name=name))[0].name
    (tmp_path / called).write_text("x")
    assert (tmp_path / called).parent == tmp_path and called.isprintable()


def test_seeds_are_the_pictures_own(tmp_path):
    for name in "abc":
        pair(tmp_path, name=name)
    (tmp_path / "images/a.png").unlink()
    seeds = {sample.name: sample.seed for sample in LabelledFolder(tmp_path)}
    assert seeds == {"b": crc32(b"b"), "c": crc32(b"c")}


# -- lists ------------------------------------------------------------------------------------------------------------


def camvid(root, content):
    for part in ("test", "testannot"):
        (root / part).mkdir(exist_ok=True)
    Image.fromarray(RGB).save(root / "test/a.png")
    Image.fromarray(RAMP % 12).save(root / "testannot/a.png")
    (root / "test.txt").write_bytes(content)
    return lambda: open_dataset("camvid", root)


GOOD = "/SegNet/CamVid/test/a.png /SegNet/CamVid/testannot/a.png\n"
READ = {
    "byte order mark": GOOD.encode("utf-8-sig"),
    "CRLF": GOOD.replace("\n", "\r\n").encode(),
    "blank lines and comments": f"\n# pictures\n\n  {GOOD}\n\t\n".encode(),
    "relative": b"test/a.png testannot/a.png",
}
UNREAD = {
    "one column": (b"test/a.png\n", "names an image and its annotation per line"),
    "UTF-16": (GOOD.encode("utf-16"), "it is no text in UTF-8"),
    "upwards": (b"/x/../a.png /x/../b.png\n", "names '..', which is no plain file name"),
    "twice": ((GOOD * 2).encode(), "Two pictures would be called 'a'"),
}


@pytest.mark.parametrize("row", READ)
def test_lists_that_are_read(tmp_path, row):
    assert [sample.name for sample in camvid(tmp_path, READ[row])()] == ["a"]


@pytest.mark.parametrize("row", UNREAD)
def test_lists_that_are_refused(tmp_path, row):
    content, message = UNREAD[row]
    said = refusal(camvid(tmp_path, content))
    assert str(tmp_path) in said and message in said


def test_an_empty_list_is_no_data_set(tmp_path):
    assert "found no picture" in refusal(camvid(tmp_path, b"\n# nothing\n"), FileNotFoundError)


def voc(root, name):
    for folder in ("JPEGImages", "SegmentationClassContext", "ImageSets/SegmentationContext"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "ImageSets/SegmentationContext/val.txt").write_text(f"{name}\n")
    return lambda: open_dataset("pascal-context-59", root)


def curated(root, name):
    for folder in ("images/val2017", "annotations/val2017", "curated/val2017"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "curated/val2017/Coco164kFull_Stuff_Coarse_7.txt").write_text(f"{name}\n")
    return lambda: open_dataset("coco-stuff-27", root)


@pytest.mark.parametrize("listed", [voc, curated])
@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..", "a/b", "C:\\b", "b\x1bc"])
def test_lists_lead_nowhere_else(tmp_path, listed, name):
    said = refusal(listed(tmp_path / "data", name))
    assert "is no plain file name" in said and str(tmp_path) in said


def test_lists_of_camvid_stay_below_its_root_wherever_they_point(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(RAMP % 12).save(tmp_path / name)
    data = camvid(root, f"{tmp_path}/a.png {tmp_path}/b.png".encode())()
    assert str(root) in refusal(lambda: data[0], FileNotFoundError)


@pytest.mark.parametrize("content", ["# nothing\n", "sea\nsea\n"])
def test_class_names_are_some_and_each_one_class_s(tmp_path, content):
    said = refusal(lambda: LabelledFolder(pair(tmp_path, classes=content)))
    assert "classes.txt names no class, or one twice" in said


MAPS = {
    "three axes": np.zeros((6, 8, 2)),
    "below zero": np.full((6, 8), -1),
    "NaN": np.full((6, 8), np.nan),
    "unknown": np.full((6, 8), 7),
}


@pytest.mark.parametrize("row", MAPS)
def test_mat_files_that_are_refused(tmp_path, row):
    for folder in ("JPEGImages", "trainval", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    Image.fromarray(RGB).save(tmp_path / "JPEGImages/a.jpg")
    (tmp_path / "ImageSets/Main/val.txt").write_text("a\n")
    (tmp_path / "labels.txt").write_text("1: aeroplane\n2: bag\n")
    savemat(tmp_path / "trainval/a.mat", {"LabelMap": MAPS[row]})
    assert "trainval/a.mat" in refusal(lambda: open_dataset("pascal-context-59", tmp_path)[0])


@pytest.mark.parametrize("line", ["accordion", "x: y", "-1: bag", "1: twice"])
def test_lists_of_numbers_and_names_that_are_refused(tmp_path, line):
    for folder in ("JPEGImages", "trainval"):
        (tmp_path / folder).mkdir()
    (tmp_path / "labels.txt").write_text(f"1: bag\n{line}\n")
    assert "labels.txt has" in refusal(lambda: open_dataset("pascal-context-459", tmp_path))
