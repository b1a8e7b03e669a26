"""What people hand in by accident or on purpose: every row is refused in one sentence, mended or survived, none in silence."""

import html
import io
import os
import re
import struct
import tempfile
import warnings
import zlib
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from emerdiff_lib import plotting
from emerdiff_lib.datasets import LabelledFolder, open_dataset
from emerdiff_lib.images import image_files, load_image, picture_name

from .conftest import seeded

RAMP = np.arange(6 * 8, dtype=np.uint8).reshape(6, 8) * 5
RGB = np.stack([RAMP, RAMP[::-1], 255 - RAMP], -1)


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, *, mode=2, depth=8, rows=b"", before=()):
    """A PNG by hand, for what Pillow writes no file of."""
    header = struct.pack(">IIBBBBB", width, height, depth, mode, 0, 0, 0)
    chunks = [(b"IHDR", header), *before, (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


def refusal(call, kind=ValueError):
    """The one sentence that a call is refused with."""
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and message.endswith(".") and message.isprintable(), message
    return message


@pytest.fixture
def forbidden():
    """open/a.png and closed/b.png, neither of which this test may read, whoever runs it."""
    if os.name != "posix":
        pytest.skip("permissions are POSIX's")
    Image.init()  # what Pillow imports later could be out of reach as well
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        folder.chmod(0o755)
        for name, file_mode, folder_mode in (("open/a.png", 0, 0o755), ("closed/b.png", 0o644, 0)):
            (folder / name).parent.mkdir()
            Image.fromarray(RGB).save(folder / name)
            (folder / name).chmod(file_mode)
            (folder / name).parent.chmod(folder_mode)
        try:
            if root:
                os.seteuid(65534)  # root is bound by no permissions, nobody by all
            yield folder
        finally:
            if root:
                os.seteuid(0)
            (folder / "closed").chmod(0o755)


# -- files that are no pictures ---------------------------------------------------------------------------------------

ROWS = b"".join(b"\0" + bytes(row) for row in RGB.reshape(6, -1))
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) run\n%%EOF\n"
REFUSED = {
    "empty": (b"", "is empty"),
    "text": (b"not a picture\n" * 50, "is no image"),
    "one byte": (b"\x89", "is no image"),
    "truncated png": (encoded(RGB)[:-40], "cannot be read"),
    "truncated jpeg": (encoded(np.tile(RGB, (20, 20, 1)), "JPEG")[:900], "cannot be read"),
    "truncated tiff": (encoded(RGB, "TIFF")[:120], "is no image|cannot be read"),
    "truncated webp": (encoded(RGB, "WEBP")[:60], "is no image|cannot be read"),
    "truncated gif": (encoded(Image.fromarray(RGB).quantize(), "GIF")[:40], "is no image|cannot be read"),
    "head without body": (png(8, 6, rows=b"")[:33], "is no image|cannot be read"),
    "zero size": (png(0, 6), "is no image|has no pixels|cannot be read"),
    "a program for Ghostscript": (EPS, "is no image"),
    "vector drawing": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "is no image"),
    "an archive": (b"PK\x03\x04" + b"\0" * 200, "is no image"),
    "bomb, 400 megapixels": (png(20_000, 20_000, rows=b"\0" * 9_000), "more than 89,478,485 pixels"),
    "where Pillow only warns": (png(12_000, 12_000, rows=b"\0" * 9_000), "more than 89,478,485 pixels"),
    "float tiff in 0–255": (encoded(RAMP.astype(np.float32), "TIFF"), r"lies in \[0, 1\], not in \[0, 235\]"),
    "float tiff with NaN": (encoded(np.full((4, 4), np.nan, np.float32), "TIFF"), r"\[nan, nan\]"),
    "32-bit tiff": (encoded(RAMP.astype(np.int32) * 1000, "TIFF"), "lies in 0–255, not in 0–235000"),
}


@pytest.mark.parametrize("row", REFUSED)
def test_files_that_are_refused(tmp_path, row):
    content, message = REFUSED[row]
    file = tmp_path / "x.png"
    file.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        said = refusal(lambda: load_image(file))
    assert str(file) in said
    with pytest.raises(ValueError, match=message):
        load_image(file)


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_where_warnings_are_errors(tmp_path):
    (tmp_path / "x.png").write_bytes(REFUSED["where Pillow only warns"][0])
    assert "more than 89,478,485 pixels" in refusal(lambda: load_image(tmp_path / "x.png"))


def test_whoever_trusts_a_large_picture_can_say_so(tmp_path, monkeypatch):
    Image.fromarray(RGB).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 47)
    for image in (tmp_path / "x.png", Image.fromarray(RGB)):
        assert "more than 47 pixels" in refusal(lambda image=image: load_image(image))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 48)
    assert load_image(tmp_path / "x.png").size == (8, 6)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert load_image(tmp_path / "x.png").size == (8, 6)


# -- things that are no files -----------------------------------------------------------------------------------------


def test_what_is_no_regular_file_is_never_waited_for(tmp_path):
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "null.png").symlink_to(os.devnull)
    (tmp_path / "file").write_text("x")
    names = [
        "folder.png",
        "pipe.png",
        "loop.png",
        "dangling.png",
        "null.png",
        "gone.png",
        "file/x.png",
        "x" * 300,
    ]
    for name in names:
        said = refusal(lambda name=name: load_image(tmp_path / name), FileNotFoundError)
        assert "no image file at" in said and name in said
    assert "null" in refusal(lambda: load_image("a\0b.png"))
    assert image_files(tmp_path) == []


def test_a_file_that_may_not_be_read_is_not_called_damaged(forbidden):
    for name in ("open/a.png", "closed/b.png"):
        said = refusal(lambda name=name: load_image(forbidden / name), PermissionError)
        assert f"{name} may not be read" in said
    assert "closed may not be read" in refusal(lambda: image_files(forbidden), PermissionError)


def test_a_file_that_vanishes_while_it_is_opened(tmp_path, monkeypatch):
    monkeypatch.setattr("emerdiff_lib.images.is_file", lambda path: True)
    assert "There is no" in refusal(lambda: load_image(tmp_path / "gone.png"), FileNotFoundError)


NAMES = [
    'it\'s "quoted".png',
    "new\nline.png",
    "..hidden.png",
    "-rf.png",
    "😀.png",
    "<img src=x>.png",
    "%s{0}.png",
    " blank .png",
    "a\\b.png",
    "name\u202egnp.png",
    "x" * 251 + ".png",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_all_kinds_are_read_and_said_in_one_line(tmp_path, name):
    Image.fromarray(RGB).save(tmp_path / name)
    assert np.array_equal(np.asarray(load_image(tmp_path / name)), RGB)
    assert image_files(tmp_path) == [tmp_path / name]
    called = picture_name(Path(name))
    assert called.isprintable() and not set(called) & set("/\\\0") and called.strip(".")
    (tmp_path / name).write_bytes(b"text")
    refusal(lambda: load_image(tmp_path / name))


def test_names_of_undecodable_bytes(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    try:
        path.write_bytes(b"text")
    except (OSError, UnicodeError):
        pytest.skip("this file system has none")
    refusal(lambda: load_image(path)).encode()
    picture_name(Path(path.name)).encode()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/b.jpg", "a__b"),
        ("..jpg", "_"),
        ("...jpg", "__"),
        ("a/...jpg", "a__.."),
        ("a\nb.png", "a_b"),
        ("ü.x.png", "ü.x"),
    ],
)
def test_picture_names(path, name):
    assert picture_name(Path(path)) == name


HOSTILE_TEXT = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "a&b",
    '"quoted"',
    "cost_$5_{$_",
    "$\\frac{$",
    "^$^$",
]


@pytest.mark.parametrize("text", HOSTILE_TEXT)
def test_names_and_captions_are_text_in_tables_and_figures(text):
    table = plotting.full_text(pd.DataFrame({text: [text]}, index=[text]))._repr_html_()
    assert text in html.unescape(table) and not re.search("<(script|img)|&b", table)
    figure = plotting.gallery([RGB], [plotting.literal(text)])
    figure.savefig(io.BytesIO())
    title = "".join(ax.get_title() for ax in figure.axes)
    assert title.replace("\\$", "$").split() == text.split()
    plt.close(figure)


# -- listing a folder -------------------------------------------------------------------------------------------------


def test_links_are_followed_once_and_what_is_left_out_stays_out(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "elsewhere"
    for file in (inside / "b.png", inside / "sub/a.JPG", inside / "out/result.png", outside / "c.png"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    (inside / "notes.txt").write_text("x")
    (inside / "sub/up").symlink_to(inside)
    (inside / "sub/self").symlink_to(inside / "sub/self")
    (inside / "linked").symlink_to(outside)
    (outside / "back").symlink_to(inside)
    (inside / "d.png").symlink_to(outside / "c.png")
    named = lambda **options: [str(file.relative_to(inside)) for file in image_files(inside, **options)]
    everything = ["b.png", "d.png", "linked/c.png", "out/result.png", "sub/a.JPG"]
    assert named() == everything == named(exclude=inside / "nowhere")
    assert named(exclude=inside / "out") == [name for name in everything if "out" not in name]
    assert named(exclude=inside / "sub/../out") == named(exclude=inside / "out")
    assert named(exclude=inside) == everything  # the folder itself is what was asked for
    assert "There is no" in refusal(lambda: image_files(tmp_path / "nowhere"), FileNotFoundError)
    assert "There is no" in refusal(lambda: image_files(inside / "b.png"), FileNotFoundError)


# -- arrays and PIL images --------------------------------------------------------------------------------------------

INTEGERS = [np.dtype(code).newbyteorder(order) for code in "bBhHiIlL" for order in "<>"]
WHOLE = RAMP // 2  # 0 to 117, which all of them hold


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_every_integer_type_and_byte_order(dtype):
    deep = dtype.kind == "u" and dtype.itemsize == 2
    array = (WHOLE.astype(np.uint16) * 257 if deep else WHOLE).astype(dtype)
    expected = np.repeat(WHOLE[..., None], 3, -1)
    assert np.array_equal(np.asarray(load_image(array)), expected)
    if dtype.isnative:
        assert np.array_equal(np.asarray(load_image(torch.from_numpy(array)[None])), expected)
    wrong = array.copy()
    wrong[0, 0] = 256 if dtype.itemsize > 1 else -1 if dtype.kind == "i" else 0
    if dtype.itemsize > 1 and not deep or dtype.kind == "i":
        assert "lies in 0–255, not in" in refusal(lambda: load_image(wrong))


@pytest.mark.parametrize("dtype", ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8", "g"])
def test_every_floating_type_and_byte_order(dtype):
    array = np.linspace(0, 1, 12).reshape(3, 4).astype(dtype)
    expected = np.rint(array.astype(np.float64) * 255)
    assert np.abs(np.asarray(load_image(array))[..., 0] - expected).max() <= 1
    for wrong in (np.nan, np.inf, -np.inf, 1.5, -0.5):
        array[1, 1] = wrong
        assert "floating point, which lies in [0, 1]" in refusal(lambda: load_image(array))


NO_IMAGES = {
    "object": np.full((4, 4), 0.5, object),
    "complex": np.full((4, 4), 0.5 + 0j),
    "text": np.full((4, 4), "x"),
    "dates": np.zeros((4, 4), "datetime64[s]"),
    "records": np.zeros((4, 4), [("r", "u1"), ("g", "u1")]),
    "scalar": np.zeros(()),
    "channels first": np.zeros((3, 6, 8), np.uint8),
    "a batch": np.zeros((1, 6, 8, 3), np.uint8),
    "two channels": np.zeros((6, 8, 2), np.uint8),
    "no rows": np.zeros((0, 8, 3), np.uint8),
    "no columns": np.zeros((6, 0), np.uint8),
    "batch of tensors": torch.zeros(1, 3, 6, 8),
    "channels last": torch.zeros(6, 8, 3),
    "empty tensor": torch.zeros(3, 0, 8),
    "complex tensor": torch.zeros(3, 6, 8, dtype=torch.complex64),
    "sparse tensor": torch.zeros(3, 6, 8).to_sparse(),
    "tensor without numbers": torch.zeros(3, 6, 8, device="meta"),
    "tensor of NaN": torch.full((3, 6, 8), torch.nan),
    "PIL without pixels": Image.new("RGB", (0, 0)),
    "PIL without columns": Image.new("L", (0, 5)),
    "PIL of 32 bits": Image.fromarray(RAMP.astype(np.int32) * 256),
    "PIL below zero": Image.fromarray(RAMP.astype(np.int32) - 1),
    "PIL of floats": Image.fromarray(RAMP.astype(np.float32)),
    "empty name": "",
}


@pytest.mark.parametrize("row", NO_IMAGES)
def test_arrays_tensors_and_pil_images_that_are_none(row):
    refusal(lambda: load_image(NO_IMAGES[row]), FileNotFoundError if row == "empty name" else ValueError)


@pytest.mark.parametrize("wrong", [None, 3, b"x.png", [RAMP], {}, io.BytesIO()], ids=repr)
def test_types_that_are_none(wrong):
    assert "An image is a path" in refusal(lambda: load_image(wrong), TypeError)


def test_pil_images_that_are_read_late(tmp_path):
    (tmp_path / "cut.png").write_bytes(encoded(np.tile(RGB, (3, 3, 1)))[:-60])
    with Image.open(tmp_path / "cut.png") as lazy:
        assert "cut.png cannot be read" in refusal(lambda: load_image(lazy))
    with Image.open(io.BytesIO(encoded(np.tile(RGB, (3, 3, 1)))[:-60])) as lazy:
        assert "The image cannot be read" in refusal(lambda: load_image(lazy))
    Image.fromarray(RGB).save(tmp_path / "closed.png")
    with Image.open(tmp_path / "closed.png") as lazy:
        pass
    assert "closed.png cannot be read" in refusal(lambda: load_image(lazy))


def test_integers_by_way_of_pil_are_what_they_are_as_arrays():
    for dtype in (np.int32, np.uint16, np.uint8, bool):
        array = RAMP.astype(dtype) * dtype(257 if dtype == np.uint16 else 1)
        assert np.array_equal(np.asarray(load_image(Image.fromarray(array))), np.asarray(load_image(array)))


# -- modes ------------------------------------------------------------------------------------------------------------

COLOUR, GREY = (200, 100, 50), (90, 90, 90)


def palette(alpha=None):
    image = Image.new("P", (4, 3), 1)
    image.putpalette([9, 9, 9, *COLOUR])
    if alpha is not None:
        image.info["transparency"] = alpha
    return image


half = lambda colour: tuple(round(c * 128 / 255 + 255 * 127 / 255) for c in colour)
deep = lambda code: Image.fromarray(np.full((3, 4), 90 * 257, code))
MODES = {
    "1": (Image.new("1", (4, 3), 1), (255,) * 3),
    "L": (Image.new("L", (4, 3), 90), GREY),
    "LA": (Image.new("LA", (4, 3), (90, 128)), half(GREY)),
    "La": (Image.new("LA", (4, 3), (90, 128)).convert("La"), half(GREY)),
    "P": (palette(), COLOUR),
    "P, clear": (palette(bytes([255, 0])), (255,) * 3),
    "P, half": (palette(bytes([255, 128])), half(COLOUR)),
    "P, another is clear": (palette(0), COLOUR),
    "PA": (palette().convert("PA"), COLOUR),
    "RGB": (Image.new("RGB", (4, 3), COLOUR), COLOUR),
    "RGBX": (Image.new("RGBX", (4, 3), (*COLOUR, 0)), COLOUR),
    "RGBA": (Image.new("RGBA", (4, 3), (*COLOUR, 128)), half(COLOUR)),
    "RGBa": (Image.new("RGBA", (4, 3), (*COLOUR, 128)).convert("RGBa"), half(COLOUR)),
    "CMYK": (Image.new("CMYK", (4, 3), (55, 155, 205, 0)), COLOUR),
    "YCbCr": (Image.new("RGB", (4, 3), COLOUR).convert("YCbCr"), COLOUR),
    "HSV": (Image.new("RGB", (4, 3), COLOUR).convert("HSV"), COLOUR),
    "LAB": (Image.new("LAB", (4, 3), (255, 128, 128)), (255,) * 3),
    "I": (Image.new("I", (4, 3), 90), GREY),
    "F": (Image.new("F", (4, 3), 90 / 255), GREY),
    "I;16": (deep("<u2"), GREY),
    "I;16B": (deep(">u2"), GREY),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode(mode):
    image, colour = MODES[mode]
    loaded = load_image(image)
    assert loaded.mode == "RGB" and loaded.size == (4, 3)
    assert np.abs(np.asarray(loaded, int) - colour).max() <= 3, loaded.getpixel((0, 0))


FILES = {
    f"{mode}, {kind}": encoded(image, kind)
    for mode, (image, _) in MODES.items()
    for kind, modes in {
        "PNG": "1 L LA P RGB RGBA I;16",
        "TIFF": "1 L LA P PA RGB RGBX RGBA CMYK YCbCr LAB I F I;16 I;16B",
        "GIF": "1 L P RGB",
        "WEBP": "RGB RGBA",
        "BMP": "1 L P RGB",
        "PPM": "1 L RGB I;16",
        "JPEG": "1 L RGB CMYK YCbCr",
        "AVIF": "RGB RGBA",
        "JPEG2000": "L LA RGB RGBA",
    }.items()
    if mode.partition(",")[0] in modes.split() and (kind == "PNG" or mode not in ("P, clear", "P, half"))
}


@pytest.mark.parametrize("row", FILES)
def test_data_sets_read_pictures_as_load_image_does(tmp_path, row):
    mode = row.rpartition(", ")[0]
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    file = tmp_path / "images/a.png"
    file.write_bytes(FILES[row])
    Image.new("L", (4, 3)).save(tmp_path / "labels/a.png")
    alone, member = np.asarray(load_image(file), int), np.asarray(LabelledFolder(tmp_path)[0].image, int)
    assert np.array_equal(alone, member)
    assert np.abs(alone - MODES[mode][1]).max() <= 6, alone[0, 0]


GREY16 = struct.pack(">8H", *[0, 90 * 257, 65535, 300, 0, 1, 2, 3])
CLEAR = {
    "grey of 16 bits": (
        png(8, 1, mode=0, depth=16, rows=b"\0" + GREY16, before=[(b"tRNS", b"\0\0")]),
        [255, 90, 255, 1],
    ),
    "grey": (encoded(Image.new("L", (4, 1), 90), transparency=90), [255] * 4),
    "grey of 2 bits": (
        png(4, 1, mode=0, depth=2, rows=b"\0\x1b", before=[(b"tRNS", b"\0\1")]),
        [0, 255, 170, 255],
    ),
    "grey of 4 bits": (
        png(4, 1, mode=0, depth=4, rows=b"\0\x01\x23", before=[(b"tRNS", b"\0\1")]),
        [0, 255, 34, 51],
    ),
    "colour of 16 bits": (
        png(
            2,
            1,
            depth=16,
            rows=b"\0" + struct.pack(">6H", *[25700] * 3, *[99] * 3),
            before=[(b"tRNS", struct.pack(">3H", *[25700] * 3))],
        ),
        [255, 0],
    ),
    "one bit": (encoded(Image.new("1", (4, 1), 0), transparency=0), [255] * 4),
    "colour": (encoded(Image.new("RGB", (4, 1), COLOUR), transparency=COLOUR), [255] * 4),
}


@pytest.mark.parametrize("row", CLEAR)
def test_a_colour_that_stands_for_nothing_is_white(tmp_path, row):
    (tmp_path / "a.png").write_bytes(CLEAR[row][0])
    assert np.asarray(load_image(tmp_path / "a.png"))[0, :4, 0].tolist() == CLEAR[row][1]


def test_a_camera_s_orientations_agree_with_pillow_s_and_data_sets_keep_the_pixels(tmp_path):
    turned = {
        1: RGB,
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.swapaxes(0, 1),
        6: np.rot90(RGB, -1),
        7: RGB[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(RGB),
    }
    for number, expected in turned.items():
        exif = Image.Exif()
        exif[0x0112] = number
        file = tmp_path / f"{number}.png"
        file.write_bytes(encoded(RGB, exif=exif))
        assert np.array_equal(np.asarray(load_image(file)), expected), number
        assert np.array_equal(np.asarray(load_image(file, upright=False)), RGB)
        file.write_bytes(encoded(RGB, "TIFF", exif=exif))
        assert np.array_equal(np.asarray(load_image(file)), expected), number
        if number > 1:
            assert "is turned away from its label map" in refusal(lambda: load_image(file, upright=False))  # noqa: B023


@pytest.mark.parametrize(
    "content", [b"", b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"garbage" * 9, b"II*\0" * 4]
)
def test_broken_exif_is_survived_or_refused(tmp_path, content):
    (tmp_path / "a.png").write_bytes(encoded(RGB, exif=content))
    try:
        assert np.array_equal(np.asarray(load_image(tmp_path / "a.png")), RGB)
    except ValueError:
        refusal(lambda: load_image(tmp_path / "a.png"))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_of_an_animation_the_first_picture_is_taken(tmp_path, kind):
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(tmp_path / "a.png", kind, save_all=True, append_images=frames[1:], **options)
    assert (np.asarray(load_image(tmp_path / "a.png")) == (255, 0, 0)).all()


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "BMP", "WEBP"])
def test_a_wrong_ending_does_not_matter(tmp_path, kind):
    (tmp_path / "a.png").write_bytes(encoded(Image.new("RGB", (4, 3), "white"), kind))
    assert (np.asarray(load_image(tmp_path / "a.png")) == 255).all()


# -- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (5000, 1), (1, 5000), (20_000, 20), (3, 7)])
def test_pictures_of_all_shapes_go_through_the_pipeline(pipe, size):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    options = dict(noise_ensemble_size=1, denoising_steps=1, modulation_timestep=101, mode="exact")
    output = pipe(noise, 2, generator=seeded(), **options)
    assert output.labels.shape == output.baseline_labels.shape == noise.shape[:2]
    height, width = output.settings["processing_size"]
    assert min(height, width) >= 32 and height * width <= 4 * 128**2


# -- data sets --------------------------------------------------------------------------------------------------------


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
    "minus one": (dict(labels=[0, -1], dtype=np.int32, format="TIFF"), "labels from -1 to 0"),
    "32 bits": (dict(labels=[0, 70_000], dtype=np.int32, format="TIFF"), "to 70000"),
    "all void": (dict(labels=[255]), "labels no pixel: all are ignored"),
    "another size": (dict(size=(9, 6)), "is 8 × 6, its image 9 × 6"),
    "colours": (dict(labels=Image.fromarray(RGB)), "is a RGB picture; label maps have a single channel"),
    "colours and transparency": (dict(labels=Image.fromarray(RGB).convert("RGBA")), "is a RGBA picture"),
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
    "cityscapes": (
        "leftImg8bit/val/x/a_leftImg8bit.png",
        "gtFine/val/x/a_gtFine_labelIds.png",
        [34, 250, 255, 256],
    ),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_numbers_that_a_data_set_does_not_know(tmp_path, name):
    image, labels, unknown = OFFICIAL[name]
    for file in (image, labels):
        (tmp_path / file).parent.mkdir(parents=True)
    Image.fromarray(RGB).save(tmp_path / image)
    for number in unknown:
        Image.fromarray(np.resize(np.array([7, number], np.uint16), (6, 8))).save(tmp_path / labels)
        said = refusal(lambda: open_dataset(name, tmp_path)[0])
        assert f"{labels} has the label {number}; " in said


def test_faulty_files_of_a_data_set_are_named(tmp_path):
    pair(tmp_path)
    data = LabelledFolder(tmp_path)
    for part in ("images", "labels"):
        file = tmp_path / part / "a.png"
        whole = file.read_bytes()
        for content in (b"", whole[:50], whole[:-25], b"text", REFUSED["bomb, 400 megapixels"][0]):
            file.write_bytes(content)
            assert str(file) in refusal(lambda: data[0])
        file.unlink()
        assert str(file) in refusal(lambda: data[0], FileNotFoundError)
        os.mkfifo(file)
        assert str(file) in refusal(lambda: data[0], FileNotFoundError)
        file.unlink()
        file.write_bytes(whole)


def test_a_data_set_that_may_not_be_read(forbidden):
    assert "closed may not be read" in refusal(lambda: LabelledFolder(forbidden / "closed"), PermissionError)


@pytest.mark.parametrize("second", ["a.png", "x__a.jpg"])
def test_two_pictures_of_one_name_are_refused(tmp_path, second):
    pair(tmp_path, name="a" if second == "a.png" else "x/a")
    name = "a.jpg" if second == "a.png" else "x__a.png"
    Image.fromarray(RGB).save(tmp_path / "images" / name)
    said = refusal(lambda: LabelledFolder(tmp_path))
    assert "Two pictures would be called" in said and said.count(str(tmp_path)) == 2


@pytest.mark.parametrize("name", [name[:-4] for name in NAMES] + [".."])
def test_sample_names_are_file_names(tmp_path, name):
    data = LabelledFolder(pair(tmp_path, name=name))
    called = data[0].name
    (tmp_path / called).write_text("x")
    assert (tmp_path / called).parent == tmp_path and called.isprintable()


def test_seeds_are_the_pictures_own(tmp_path):
    for name in "abc":
        pair(tmp_path, name=name)
    seeds = {sample.name: sample.seed for sample in LabelledFolder(tmp_path)}
    assert len(set(seeds.values())) == 3 and seeds["b"] == zlib.crc32(b"b")
    (tmp_path / "images/a.png").unlink()
    assert {sample.name: sample.seed for sample in LabelledFolder(tmp_path)} == {n: seeds[n] for n in "bc"}


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
    "no end of line": GOOD.strip().encode(),
    "relative": b"test/a.png testannot/a.png",
}
UNREAD = {
    "one column": (b"test/a.png\n", "names an image and its annotation per line"),
    "three columns": (b"a b c\n", "names an image and its annotation per line"),
    "latin 1": ("test/ä.png testannot/ä.png".encode("latin-1"), "is no text in UTF-8|it is no text in UTF-8"),
    "UTF-16": (GOOD.encode("utf-16"), "it is no text in UTF-8"),
    "UTF-16, no mark": (GOOD.encode("utf-16-le"), "it is no text in UTF-8"),
    "upwards": (b"/x/../a.png /x/../b.png\n", "names '..', which is no plain file name"),
    "twice": ((GOOD * 2).encode(), "Two pictures would be called 'a'"),
}


@pytest.mark.parametrize("row", READ)
def test_lists_that_are_read(tmp_path, row):
    data = camvid(tmp_path, READ[row])()
    assert [sample.name for sample in data] == ["a"]


@pytest.mark.parametrize("row", UNREAD)
def test_lists_that_are_refused(tmp_path, row):
    content, message = UNREAD[row]
    said = refusal(camvid(tmp_path, content))
    assert str(tmp_path) in said
    with pytest.raises(ValueError, match=message):
        camvid(tmp_path, content)()


def test_an_empty_list_is_no_data_set(tmp_path):
    for content in (b"", b"\n# nothing\n"):
        assert "found no picture" in refusal(camvid(tmp_path, content), FileNotFoundError)


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
@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "/etc/passwd", "..", ".", "a/../../b", "a/b", "..\\b", "C:\\b", "C:b", "b\x1bc"],
)
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


def test_a_link_to_data_elsewhere_is_followed(tmp_path):
    pair(tmp_path / "elsewhere")
    (tmp_path / "root").mkdir()
    for part in ("images", "labels", "classes.txt"):
        (tmp_path / "root" / part).symlink_to(tmp_path / "elsewhere" / part)
    assert [sample.name for sample in LabelledFolder(tmp_path / "root")] == ["a"]


@pytest.mark.parametrize("content", ["", "# nothing\n", "sea\nsea\n"])
def test_class_names_are_some_and_each_one_class_s(tmp_path, content):
    assert "classes.txt names no class, or one twice" in refusal(
        lambda: LabelledFolder(pair(tmp_path, classes=content))
    )


MAPS = {
    "three axes": np.zeros((6, 8, 2)),
    "below zero": np.full((6, 8), -1),
    "NaN": np.full((6, 8), np.nan),
    "infinite": np.full((6, 8), np.inf),
    "text": np.full((6, 8), "x"),
    "unknown": np.full((6, 8), 7),
    "all void": np.zeros((6, 8), np.uint16),
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


@pytest.mark.parametrize(
    "line", ["accordion", "x: y", "²: bag", "-1: bag", "1:", "9" * 5000 + ": bag", "1: twice"]
)
def test_lists_of_numbers_and_names_that_are_refused(tmp_path, line):
    for folder in ("JPEGImages", "trainval"):
        (tmp_path / folder).mkdir()
    (tmp_path / "labels.txt").write_text(f"1: bag\n{line}\n")
    assert "labels.txt has" in refusal(lambda: open_dataset("pascal-context-459", tmp_path))
