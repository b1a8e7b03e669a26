"""Images of every kind come in upright, in RGB, at their size; what is no image gets one sentence that names it."""

import io
import os
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from emerdiff_lib.images import image_files, load_image, processing_size

from .conftest import refusal, seeded

RAMP = np.arange(12 * 20, dtype=np.uint8).reshape(12, 20)
RGB = np.stack([RAMP, RAMP[::-1], 255 - RAMP], -1)


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, kind, **options)
    return stream.getvalue()


# -- what is an image -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "image",
    [
        RGB,
        RGB / 255.0,
        RGB.astype(np.int64),
        RGB.astype(np.uint16) * 257,
        RGB.astype(">i4"),
        torch.from_numpy(RGB).permute(2, 0, 1),
        torch.from_numpy(RGB).permute(2, 0, 1) / 255.0,
        Image.fromarray(RGB),
    ],
)
def test_kinds_of_input_agree(image):
    assert np.array_equal(np.asarray(load_image(image)), RGB)


@pytest.mark.parametrize(
    "image",
    [RAMP, RAMP[..., None], RAMP.astype(np.uint16) * 257, RAMP.astype(">u2") * 257, RAMP.astype(np.int32)],
)
def test_grey_of_any_depth_spreads_to_three_channels(tmp_path, image):
    expected = np.repeat(RAMP[..., None], 3, -1)
    assert np.array_equal(np.asarray(load_image(image)), expected)
    if image.ndim == 2 and image.dtype.isnative:
        Image.fromarray(image).save(tmp_path / "a.tif")
        for one in (tmp_path / "a.tif", Image.fromarray(image)):
            assert np.array_equal(np.asarray(load_image(one)), expected)


def test_transparency_lies_over_white(tmp_path):
    alpha = np.dstack([RGB, np.where(RAMP % 2, 255, 0)]).astype(np.uint8)
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    expected = np.where((RAMP % 2 == 1)[..., None], RGB, 255)
    for image in (tmp_path / "alpha.png", alpha, Image.fromarray(alpha)):
        assert np.array_equal(np.asarray(load_image(image)), expected)
    Image.fromarray(RAMP).save(tmp_path / "grey.png", transparency=90)
    assert np.array_equal(
        np.asarray(load_image(tmp_path / "grey.png"))[..., 0], np.where(RAMP == 90, 255, RAMP)
    )


def test_a_camera_s_orientation_is_followed_unless_labels_keep_the_pixels(tmp_path):
    turned = {1: RGB, 2: RGB[:, ::-1], 3: RGB[::-1, ::-1], 6: np.rot90(RGB, -1), 8: np.rot90(RGB)}
    for number, expected in turned.items():
        exif = Image.Exif()
        exif[0x0112] = number
        (tmp_path / "a").write_bytes(encoded(RGB, exif=exif))
        assert np.array_equal(np.asarray(load_image(tmp_path / "a")), expected), number
        assert np.array_equal(np.asarray(load_image(tmp_path / "a", upright=False)), RGB)


# -- what is none -----------------------------------------------------------------------------------------------------

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


# -- files and folders ------------------------------------------------------------------------------------------------


def test_what_is_no_regular_file_is_never_waited_for(tmp_path):
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for name in ("folder.png", "pipe.png", "loop.png", "gone.png", "pipe.png/x.png", "x" * 300, "a\0b.png"):
        said = refusal(lambda name=name: load_image(tmp_path / name), FileNotFoundError)
        assert "no image file at" in said and repr(name)[1:-1] in said
    assert image_files(tmp_path) == []


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
    named = lambda **options: [str(file.relative_to(inside)) for file in image_files(inside, **options)]
    everything = ["b.png", "d.png", "linked/c.png", "out/result.png", "sub/a.JPG"]
    assert named() == everything == named(exclude=inside / "nowhere")
    assert named(exclude=inside / "sub/../out") == [name for name in everything if "out" not in name]
    for nowhere in (tmp_path / "nowhere", inside / "b.png"):
        assert "There is no" in refusal(lambda nowhere=nowhere: image_files(nowhere), FileNotFoundError)


# -- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (5000, 1)])
def test_images_of_all_shapes_go_through_the_pipeline(pipe, size):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    output = pipe(
        noise, 2, generator=seeded(), noise_ensemble_size=1, denoising_steps=1, modulation_timestep=101
    )
    assert output.labels.shape == output.baseline_labels.shape == noise.shape[:2]
    height, width = output.settings["processing_size"]
    assert min(height, width) >= 32 and height * width <= 4 * 128**2


# -- properties -------------------------------------------------------------------------------------------------------

quick = lambda examples: settings(max_examples=examples, deadline=None, derandomize=True, database=None)
DTYPES = arrays.scalar_dtypes() | arrays.byte_string_dtypes() | st.just(np.dtype(object))


@quick(200)
@given(st.data())
def test_any_array_is_an_image_of_its_size_or_refused_in_a_line(data):
    shape = data.draw(arrays.array_shapes(min_dims=1, max_dims=4, max_side=5) | st.just((0, 3)), "shape")
    dtype = data.draw(DTYPES, "dtype")
    elements = st.integers(0, 255) | st.floats() if dtype.kind == "O" else None
    array = data.draw(arrays.arrays(dtype, shape, elements=elements), "array")
    if dtype.kind in "iuf":
        array = array % dtype.type(2 if dtype.kind == "f" else 127)  # often enough within range
    try:
        image = load_image(array)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1
        return
    assert image.mode == "RGB" and (image.height, image.width) == array.shape[:2] and array.size
    values = np.asarray(array, float).reshape(*array.shape[:2], -1)
    if values.shape[2] != 4:
        top = {"b": 1, "f": 1, "u": 65535 if dtype.itemsize == 2 else 255, "i": 255}[dtype.kind]
        assert np.abs(np.asarray(image) - values / top * 255).max() <= 1


@quick(300)
@given(
    st.integers(1, 10**6), st.integers(1, 10**6), st.integers(1, 1024), st.sampled_from([1, 8, 32, 64, 128])
)
def test_processing_sizes_are_multiples_of_bounded_area_and_keep_the_shape(
    height, width, resolution, multiple
):
    tall, wide = processing_size((height, width), resolution, multiple)
    assert tall % multiple == wide % multiple == 0 and min(tall, wide) >= multiple
    assert tall * wide <= 4 * max(resolution, multiple) ** 2
    assert (tall - wide) * (height - width) >= 0  # what is wider stays wider
    if min(tall, wide) > multiple:  # as near as multiples allow
        scale = resolution / (height * width) ** 0.5
        assert max(abs(tall - height * scale), abs(wide - width * scale)) <= multiple / 2


FILES = [
    encoded(RGB),
    encoded(Image.fromarray(RGB).quantize(16), transparency=3),
    encoded(RGB, "JPEG", progressive=True),
    encoded(RGB, "TIFF", compression="tiff_lzw"),
    encoded(RGB, "WEBP"),
    encoded(RGB, "AVIF"),
]
change = st.tuples(st.integers(0, 2**16), st.binary(min_size=1, max_size=4))


@quick(300)
@given(st.sampled_from(FILES), st.lists(change, max_size=4), st.none() | st.floats(0, 1))
def test_damaged_files_are_images_or_refused_in_a_line(tmp_path_factory, content, changes, kept):
    damaged = bytearray(content)
    for place, value in changes:
        place %= 64 if place % 2 else len(content)  # half of them hit the head, which says most
        damaged[place : place + len(value)] = value
    if kept is not None:
        del damaged[round(kept * len(damaged)) :]
    file = tmp_path_factory.getbasetemp() / "damaged.png"
    file.write_bytes(damaged)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert load_image(file).mode == "RGB"
        except ValueError as error:
            assert str(file) in str(error) and len(str(error).splitlines()) == 1
