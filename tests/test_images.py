"""Images of every kind come in upright, in RGB, at their size; what is no image gets one clear sentence."""

import io
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from emerdiff_lib.images import load_image, processing_size, to_images, to_tensor

RAMP = np.arange(12 * 20, dtype=np.uint8).reshape(12, 20)
RGB = np.stack([RAMP, RAMP[::-1], 255 - RAMP], -1)


@pytest.mark.parametrize(
    "image",
    [
        RGB,
        RGB / 255.0,
        RGB.astype(np.int64),
        RGB.astype(np.uint16) * 257,
        torch.from_numpy(RGB).permute(2, 0, 1),
        torch.from_numpy(RGB).permute(2, 0, 1) / 255.0,
        Image.fromarray(RGB),
    ],
)
def test_kinds_of_input_agree(image):
    assert np.array_equal(np.asarray(load_image(image)), RGB)


@pytest.mark.parametrize(
    "image", [RAMP, RAMP[..., None], Image.fromarray(RAMP), RAMP.astype(np.uint16) * 257]
)
def test_grey_spreads_to_three_channels(image):
    assert np.array_equal(np.asarray(load_image(image)), np.repeat(RAMP[..., None], 3, -1))


def test_sixteen_bit_file_is_scaled_not_clipped(tmp_path):
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert np.array_equal(np.asarray(load_image(tmp_path / "deep.png"))[..., 0], RAMP)


def test_transparency_lies_over_white(tmp_path):
    alpha = np.dstack([RGB, np.where(RAMP % 2, 255, 0)]).astype(np.uint8)
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    expected = np.where((RAMP % 2 == 1)[..., None], RGB, 255)
    for image in (tmp_path / "alpha.png", alpha, Image.fromarray(alpha)):
        assert np.array_equal(np.asarray(load_image(image)), expected)


def test_palette_with_transparency(tmp_path):
    Image.fromarray(RGB).quantize(8).save(tmp_path / "palette.png", transparency=0)
    assert load_image(tmp_path / "palette.png").mode == "RGB"


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned a quarter
    Image.fromarray(RGB).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(np.asarray(load_image(tmp_path / "turned.png")), np.rot90(RGB, -1))


@pytest.mark.parametrize(
    "content,message",
    [(b"", "is empty"), (b"not a picture", "is no image"), (None, "There is no image file")],
)
def test_unreadable_files(tmp_path, content, message):
    path = tmp_path / "broken.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FileNotFoundError if content is None else ValueError, match=message):
        load_image(path)


def test_truncated_file(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(
        tmp_path / "whole.png"
    )
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:3000])
    with pytest.raises(
        ValueError, match=r"cut.png cannot be read \(.*truncated.*\); save or download it again"
    ):
        load_image(tmp_path / "cut.png")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 2)),
        np.zeros(5),
        np.zeros((0, 4)),
        np.full((4, 4), 2.0),
        np.full((4, 4), np.nan),
        np.full((4, 4), 300),
        torch.zeros(4, 4),
    ],
)
def test_what_is_no_image(array):
    with pytest.raises(ValueError):
        load_image(array)


def test_wrong_type():
    with pytest.raises(TypeError, match="not dict"):
        load_image({})


@pytest.mark.parametrize(
    "size,expected",
    [
        ((128, 128), (128, 128)),
        ((100, 300), (64, 224)),
        ((300, 100), (224, 64)),
        ((1, 1), (128, 128)),
        ((3000, 4000), (96, 160)),
        ((10, 2000), (32, 1824)),
    ],
)
def test_processing_size_keeps_area_and_aspect(size, expected):
    assert processing_size(size, 128, 32) == expected


def test_tensor_round_trip():
    image = Image.fromarray(RGB)
    tensor = to_tensor(image, (12, 20))
    assert tensor.shape == (1, 3, 12, 20) and tensor.min() >= -1 and tensor.max() <= 1
    assert np.array_equal(np.asarray(to_images(tensor)[0]), RGB)


# -- properties -------------------------------------------------------------------------------------------------------

quick = lambda examples: settings(max_examples=examples, deadline=None, derandomize=True, database=None)
DTYPES = arrays.scalar_dtypes() | arrays.byte_string_dtypes() | st.just(np.dtype(object))


@quick(300)
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


@quick(500)
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
    assert (wide, tall) == processing_size((width, height), resolution, multiple)
    if min(tall, wide) > multiple:  # as near as multiples allow
        scale = resolution / (height * width) ** 0.5
        assert max(abs(tall - height * scale), abs(wide - width * scale)) <= multiple / 2


def _files():
    """Whole files of all formats, with a palette, transparency, EXIF, several frames."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 4), np.uint8)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    colour, palette = Image.fromarray(noise[..., :3]), Image.fromarray(noise[..., :3]).quantize(16)
    deep = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    wanted = [
        (colour, "PNG", {"exif": exif}),
        (Image.fromarray(noise), "PNG", {}),
        (palette, "PNG", {"transparency": 3}),
        (deep, "PNG", {}),
        (colour, "JPEG", {"exif": exif}),
        (colour, "JPEG", {"progressive": True}),
        (palette, "GIF", {"save_all": True, "append_images": [palette.rotate(180)]}),
        (colour, "TIFF", {"exif": exif}),
        (deep, "TIFF", {"compression": "tiff_lzw"}),
        (colour, "TIFF", {"compression": "jpeg"}),
        (Image.fromarray(noise), "WEBP", {}),
        (colour, "BMP", {}),
        (deep, "PPM", {}),
        (colour, "JPEG2000", {}),
        (colour, "AVIF", {}),
    ]
    for image, kind, options in wanted:
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        yield stream.getvalue()


FILES = list(_files())
change = st.tuples(
    st.integers(0, 2**16), st.binary(min_size=1, max_size=4), st.sampled_from(["set", "insert"])
)


@quick(600)
@given(st.sampled_from(FILES), st.lists(change, max_size=4), st.none() | st.floats(0, 1))
def test_damaged_files_are_pictures_or_refused_in_a_line(tmp_path_factory, content, changes, kept):
    damaged = bytearray(content)
    for place, value, how in changes:
        place %= len(content)
        if place % 2:  # half of the changes hit the head, where most that can go wrong is written
            place %= 64
        damaged[place : place + len(value) * (how == "set")] = value
    if kept is not None:
        del damaged[round(kept * len(damaged)) :]
    file = tmp_path_factory.getbasetemp() / "damaged.png"
    file.write_bytes(damaged)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = load_image(file)
        except ValueError as error:
            assert str(file) in str(error) and len(str(error).splitlines()) == 1
            return
    assert image.mode == "RGB" and image.width * image.height <= Image.MAX_IMAGE_PIXELS
