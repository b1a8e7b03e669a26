"""Images of every kind come in upright, in RGB, at their size; what is no image gets one sentence that names it."""

import io
import os
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from emerdiff_lib.images import image_files, load_image, processing_size, reading

from .conftest import refusal

RAMP = np.arange(12 * 20, dtype=np.uint8).reshape(12, 20)
RGB = np.stack([RAMP, RAMP[::-1], 255 - RAMP], -1)
GREY = np.repeat(RAMP[..., None], 3, -1)


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (RGB, RGB),
        (RGB / 255.0, RGB),
        (RGB.astype(np.int64), RGB),
        (RGB.astype(np.uint16) * 257, RGB),
        (torch.from_numpy(RGB).permute(2, 0, 1), RGB),
        (torch.from_numpy(RGB).permute(2, 0, 1) / 255.0, RGB),
        (Image.fromarray(RGB), RGB),
        (RAMP, GREY),
        (RAMP[..., None], GREY),
        (RAMP.astype(">u2") * 257, GREY),
        (Image.fromarray(RAMP.astype(np.uint16) * 257), GREY),
        (Image.fromarray(RAMP.astype(np.int32)), GREY),
    ],
)
def test_kinds_of_input_agree(tmp_path, image, expected):
    assert np.array_equal(np.asarray(load_image(image)), expected)
    if isinstance(image, Image.Image):
        image.save(tmp_path / "a.tif")
        assert np.array_equal(np.asarray(load_image(tmp_path / "a.tif")), expected)


def test_transparency_lies_over_white(tmp_path):
    alpha = np.dstack([RGB, np.where(RAMP % 2, 255, 0)]).astype(np.uint8)
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    expected = np.where((RAMP % 2 == 1)[..., None], RGB, 255)
    for image in (tmp_path / "alpha.png", alpha, Image.fromarray(alpha)):
        assert np.array_equal(np.asarray(load_image(image)), expected)
    Image.fromarray(RAMP).save(tmp_path / "grey.png", transparency=90)
    grey = np.asarray(load_image(tmp_path / "grey.png"))[..., 0]
    assert np.array_equal(grey, np.where(RAMP == 90, 255, RAMP))


def test_a_camera_s_orientation_is_followed_unless_labels_keep_the_pixels(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a").write_bytes(encoded(RGB, exif=exif))
    assert np.array_equal(load_image(tmp_path / "a"), np.rot90(RGB, -1))
    assert np.array_equal(load_image(tmp_path / "a", upright=False), RGB)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) run\n%%EOF\n"
REFUSED = {
    "text": (b"not a picture\n" * 50, "none of PNG, JPEG"),
    "a program for Ghostscript": (EPS, "none of PNG, JPEG"),
    "truncated png": (encoded(RGB)[:-40], "cannot be read"),
    "float tiff in 0–255": (encoded(RAMP.astype(np.float32), "TIFF"), "lies in 0–1, not in 0–239"),
    "32-bit tiff": (encoded(RAMP.astype(np.int32) * 1000, "TIFF"), "lies in 0–255, not in 0–239000"),
}


@pytest.mark.parametrize("row", REFUSED)
def test_files_that_are_refused(tmp_path, row):
    content, message = REFUSED[row]
    (tmp_path / "x.png").write_bytes(content)
    said = refusal(lambda: load_image(tmp_path / "x.png"))
    assert str(tmp_path / "x.png") in said and message in said


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(4), "not (4,)"),
        (np.zeros((0, 3)), "not (0, 3)"),
        (np.zeros((4, 4, 2)), "not (4, 4, 2)"),
        (np.zeros((4, 4), object), "values of type object"),
        (np.full((4, 4), np.nan), "not in nan"),
        (np.full((4, 4), -1), "lies in 0–255, not in -1"),
        (RGB / 100.0, "lies in 0–1, not in 0–2.55"),
        (np.ma.masked_equal(np.full((4, 4), -9999, np.int16), -9999), "not in -9999"),
        (torch.zeros(4, 4), "(C, H, W) with C = 1, 3 or 4, not (4, 4)"),
    ],
)
def test_arrays_that_are_refused(array, message):
    assert message in refusal(lambda: load_image(array))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (RAMP.astype(np.uint16) * 17, "comes out dark"),  # 12 bits of 16
        (np.dstack([RGB, np.zeros_like(RAMP)]), "nearly one colour"),
        (np.full((9, 9), 200, np.uint8), "nearly one colour"),
        (RGB // 16, "comes out dark"),
        (RGB, None),
    ],
)
def test_images_that_come_out_empty_are_warned_of(tmp_path, image, message):
    Image.fromarray(image).save(tmp_path / "a.png")
    for one in (image, tmp_path / "a.png"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            load_image(one)
        assert [message in str(warning.message) for warning in caught] == ([True] if message else [])


def test_what_is_no_regular_file_is_never_waited_for(tmp_path):
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for name in ("folder.png", "pipe.png", "loop.png", "gone.png", "pipe.png/x.png", "x" * 300, "a\0b.png"):
        said = refusal(lambda name=name: load_image(tmp_path / name), FileNotFoundError)
        assert "no image file at" in said and repr(name)[1:-1] in said
    assert image_files(tmp_path) == []
    refusal(reading(tmp_path / "pipe.png")(lambda: None), FileNotFoundError)


def test_links_are_followed_once_and_what_is_left_out_stays_out(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "elsewhere"
    for file in (inside / "b.png", inside / "sub/a.JPG", inside / "out/result.png", outside / "c.png"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    (inside / "notes.txt").write_text("x")
    (inside / "sub/up").symlink_to(inside)
    (inside / "linked").symlink_to(outside)
    (outside / "back").symlink_to(inside)
    (inside / "d.png").symlink_to(outside / "c.png")
    named = lambda: [str(file.relative_to(inside)) for file in image_files(inside)]
    everything = ["b.png", "d.png", "linked/c.png", "out/result.png", "sub/a.JPG"]
    assert named() == everything
    for nowhere in (tmp_path / "nowhere", inside / "b.png"):
        assert "There is no" in refusal(lambda nowhere=nowhere: image_files(nowhere), FileNotFoundError)


SIDES = st.integers(1, 10**6)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(SIDES, SIDES, st.integers(1, 1024), st.sampled_from([1, 8, 32, 64, 128]))
def test_processing_sizes_are_multiples_and_keep_area_and_shape(height, width, resolution, multiple):
    tall, wide = processing_size((height, width), resolution, multiple)
    assert tall % multiple == wide % multiple == 0 and min(tall, wide) >= multiple
    assert tall * wide <= 4 * max(resolution, multiple) ** 2
    assert (tall - wide) * (height - width) >= 0  # what is wider stays wider
    if min(tall, wide) >= 4 * multiple:  # one side as near to the aspect as multiples allow
        ratio = max(height, width) / min(height, width)
        assert abs(max(tall, wide) - min(tall, wide) * ratio) <= multiple / 2
        assert 1 / 2 < tall * wide / resolution**2 < 2


def test_common_aspects_are_kept_exactly():
    for size, resolution, multiple, expected in (
        ((360, 480), 166, 8, (144, 192)),
        ((360, 480), 512, 32, (480, 640)),
        ((96, 160), 128, 8, (96, 160)),
        ((512, 512), 512, 64, (512, 512)),
    ):
        assert processing_size(size, resolution, multiple) == expected
        assert processing_size(size[::-1], resolution, multiple) == expected[::-1]


def test_what_opens_is_found_and_what_is_hidden_is_not(tmp_path):
    names = ["a.jfif", "b.JPE", "c.avif", "d.jp2", "e.heic", "f.pbm", "g.png", "h.txt"]
    hidden = ["._g.png", ".ipynb_checkpoints/g.png", "@eaDir/g.jpg", "__MACOSX/._g.png", ".emerdiff/g.png"]
    for name in names + hidden:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(RGB, "JPEG"))  # content decides
    found = image_files(tmp_path)
    assert [file.name for file in found] == names[:-1]
    assert {load_image(file).size for file in found} == {(20, 12)}
