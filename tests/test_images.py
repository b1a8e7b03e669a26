"""Images of every kind come in upright, in RGB, at their size; what is no image gets one clear sentence."""

import numpy as np
import pytest
import torch
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
