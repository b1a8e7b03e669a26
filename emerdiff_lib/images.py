"""Any image in, tensors for the model, results back out at the size of the input."""

from __future__ import annotations

import importlib
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from .settings import check_known

# Formats that are decoded here and now: among Pillow's others are some that start programs (EPS) or accept any bytes (TGA)
FORMATS: tuple[str, ...] = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF", "JPEG2000")
if find_spec("pillow_heif") is not None:  # an extra
    importlib.import_module("pillow_heif").register_heif_opener()
    FORMATS = (*FORMATS, "HEIF")
LOSSLESS = ("PNG", "TIFF", "BMP", "GIF", "PPM")  # what label maps are kept in
Image.init()
_KNOWN = {suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS}
IMAGE_SUFFIXES = tuple(sorted(_KNOWN | {".heic", ".heif"}))  # phones' JPEGs have these, too: content decides
# Folders of systems and not of people, besides hidden ones
SYSTEM_FOLDERS = {
    "__MACOSX",
    "@eaDir",
    "#recycle",
    "@Recycle",
    "$RECYCLE.BIN",
    "lost+found",
    "System Volume Information",
}
ImageInput = str | Path | bytes | Image.Image | np.ndarray | torch.Tensor
# Photographs that come with scikit-learn and scikit-image, and who took them; "sample:temple" is an image wherever one is taken
SAMPLES = {
    "temple": ("sklearn.datasets:china.jpg", "danielbuechele, CC BY 2.0"),
    "flower": ("sklearn.datasets:flower.jpg", "vultilion, CC BY 2.0"),
    "coffee": ("skimage.data:coffee", "Rachel Michetti, CC0"),
    "rocket": ("skimage.data:rocket", "SpaceX, public domain"),
    "cat": ("skimage.data:chelsea", "Stéfan van der Walt, CC0"),
    "astronaut": ("skimage.data:astronaut", "NASA, public domain"),
    "motorcycle": ("skimage.data:stereo_motorcycle", "Daniel Scharstein, CC0"),
    "camera": ("skimage.data:camera", "Lav Varshney, CC0"),
    "coins": ("skimage.data:coins", "Brooklyn Museum, no known restrictions"),
}
SAMPLE = "sample:"


# -- files ----------------------------------------------------------------------------------------------------------


def shown(path: str | Path) -> str:
    """A path as it stands in a sentence: printable and on one line, whatever characters a file's name has."""
    text = str(path)
    return text if text.isprintable() else ascii(text)


@contextmanager
def reading(path: str | Path, formats: tuple[str, ...] = FORMATS) -> Iterator[None]:
    """Within the context, whatever goes wrong with a file becomes one sentence that names it.

    Raises:
        FileNotFoundError: it is not there, or neither a file nor a folder.
        ValueError: it may not be read, is damaged, too large or of no known format.
    """
    try:
        if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
            raise FileNotFoundError  # but a pipe or device, whose reading may never end
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"There is no {shown(os.path.abspath(path))}; check the path.") from error
    except Exception as error:  # what a broken file makes a parser raise is no closed list
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = f"it is none of {', '.join(formats)}"
            if str(path).lower().endswith((".heic", ".heif")) and "HEIF" not in formats:
                reason += "; HEIC needs pip install 'emerdiff-workbook[heif]'"
        raise ValueError(
            f"{shown(path)} cannot be read ({reason.rstrip('.')}); save or download it again."
        ) from error


def image_files(folder: Path | str) -> list[Path]:
    """All image files below a folder, sorted by path: regular files, or links to such, with one of ``IMAGE_SUFFIXES``.

    Hidden ones (macOS' ``._a.png``) and those in hidden or system folders are left out. Links to folders are followed, each
    folder once, so that circles end.

    Raises:
        FileNotFoundError: ``folder`` is none.
        ValueError: it, or a folder below it, may not be read: its images would be missing in silence.
    """

    def refuse(error: OSError) -> None:
        raise error

    left_out = lambda name: name.startswith(".") or name in SYSTEM_FOLDERS
    seen = {os.path.realpath(folder)}
    files: list[Path] = []
    with reading(folder):
        for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
            targets = {os.path.realpath(os.path.join(place, name)): name for name in sorted(folders)}
            fresh = [name for target, name in targets.items() if target not in seen]
            seen.update(targets)
            folders[:] = [name for name in fresh if not left_out(name)]
            images = [name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES]
            files += [Path(place, name) for name in images if not left_out(name)]
    return sorted(file for file in files if os.path.isfile(file))


def plain_name(text: str) -> str:
    """The text as the name of one file: slashes and what cannot be printed become "_", and so do dots alone (".." leads up)."""
    name = "".join(letter if letter.isprintable() and letter not in "/\\" else "_" for letter in text)
    return name if name.strip(".") else "_" * max(1, len(name))


# -- one image out of many kinds --------------------------------------------------------------------------------------


def load_image(image: ImageInput, upright: bool = True) -> Image.Image:
    """Turn an image of any kind into an upright 8-bit RGB :class:`PIL.Image.Image`.

    Args:
        image: a path, or "sample:temple" (:data:`SAMPLES`); the content of a file; a PIL image of any mode; an array (H, W),
            (H, W, 1), (H, W, 3) or (H, W, 4); or a tensor (C, H, W). Values are 0–65535 where the type is uint16, in either byte
            order, and 0–255 in every other integer type, PIL's 32-bit mode "I" among them; floating-point values lie in [0, 1].
        upright: False leaves the EXIF rotation out, for pixels that have to stay where a label map has them.

    EXIF rotation is applied, transparency is laid over white, grey is spread to three channels, 16 bits become 8. Of an
    animation or a file of several pages, the first image is taken. How large a file may be is Pillow's rule: it warns above
    ``PIL.Image.MAX_IMAGE_PIXELS`` (89 million pixels unless set otherwise) and refuses twice as many. An image that comes out
    dark or of one colour, as 12-bit data in 16 bits or a fully transparent one does, is warned of.

    Raises:
        FileNotFoundError: the path does not exist, or is no file.
        ValueError: the file is no readable image or too large, or the image has a shape, type or range that none has.
        TypeError: ``image`` is none of the above.
    """
    if isinstance(image, str) and image.startswith(SAMPLE):
        place, _ = SAMPLES[check_known("sample", image.removeprefix(SAMPLE), SAMPLES)]
        package, name = place.split(":")
        library = importlib.import_module(package)  # here, as that takes a second
        sample = library.load_sample_image(name) if "sklearn" in package else getattr(library, name)()
        return _from_array(sample[0] if isinstance(sample, tuple) else sample, image)  # of two eyes, the left
    if isinstance(image, str | Path):
        path = os.path.expanduser(image)
        if not os.path.isfile(path):  # no folder, pipe or device, whose reading may never end
            raise FileNotFoundError(
                f"There is no image file at {shown(os.path.abspath(path))}; check the path and its permissions."
            )
        with reading(path):
            opened = Image.open(path, formats=FORMATS)
        with opened:
            return _to_rgb(opened, shown(image), upright)
    if isinstance(image, bytes):
        with reading("The image"):
            image = Image.open(BytesIO(image), formats=FORMATS)
    if isinstance(image, Image.Image):
        return _to_rgb(image, shown(getattr(image, "filename", "") or "The image"), upright)
    if isinstance(image, torch.Tensor):
        if image.ndim != 3 or image.shape[0] not in (1, 3, 4):
            raise ValueError(
                f"A tensor image has shape (C, H, W) with C = 1, 3 or 4, not {tuple(image.shape)}."
            )
        image = image.detach().cpu().permute(1, 2, 0)
        image = (image.float() if image.is_floating_point() else image).numpy()
    if isinstance(image, np.ndarray):
        return _from_array(image, "The image")
    raise TypeError(f"An image is a path, a PIL image, an array or a tensor, not {type(image).__name__}.")


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    """RGB from (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); ``name`` is what messages call it."""
    array = np.asarray(array)  # a masked one as it is beneath its mask, which no image has
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or array.size == 0:
        raise ValueError(f"An image array has shape (H, W), (H, W, 3) or (H, W, 4), not {array.shape}.")
    if array.dtype.kind not in "buif":
        raise ValueError(f"{name} holds values of type {array.dtype}; pass bool, integers or floating point.")
    deep = array.dtype.kind == "u" and array.dtype.itemsize == 2  # of either byte order
    most = {"b": 1, "f": 1}.get(array.dtype.kind, 65535 if deep else 255)
    low, high = array.min(), array.max()
    slack = 1e-6 if array.dtype.kind == "f" else 0
    if not (low >= -slack and high <= most + slack):  # also refuses NaN
        raise ValueError(
            f"{name} is of type {array.dtype}, which lies in 0–{most}, not in {low:g}–{high:g}; rescale it, or pass uint8."
        )
    if array.dtype.kind in "bf":
        array = np.rint(np.clip(array, 0, 1) * 255)
    elif deep:
        array = array // 257
    return _over_white(Image.fromarray(array.astype(np.uint8)), name)


def _to_rgb(image: Image.Image, name: str, upright: bool) -> Image.Image:
    if 0 in image.size:
        raise ValueError(f"{name} is {image.width} × {image.height}: it has no pixels.")
    with reading(name):
        image = ImageOps.exif_transpose(image) if upright else image.copy()
        if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
            return _over_white(image, name)
        values = np.asarray(image)
    return _from_array(values, name)  # Pillow's convert() would clip it


def _over_white(image: Image.Image, name: str) -> Image.Image:
    """RGB from a PIL image of any mode of 8 bits; one that is dark or of one colour is warned of."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    pixels = np.asarray(image)
    if (np.ptp(pixels, axis=(0, 1)).max() < 8 and min(image.size) > 1) or pixels.max() < 32:
        warnings.warn(
            f"{name} comes out dark or of nearly one colour; if it should not, look at its transparency and its range of values.",
            stacklevel=4,
        )
    return image


# -- sizes and tensors ------------------------------------------------------------------------------------------------


def processing_size(size: tuple[int, int], resolution: int, multiple: int) -> tuple[int, int]:
    """The (height, width) at which the model works on an image of (height, width) ``size``.

    Both sides are multiples of ``multiple``, so that layer grids and pixels line up without padding. Of such sizes, one near
    the image's aspect ratio and near ``resolution`` squared pixels, 1 % of the ratio counting as much as 8 % of the pixels. An
    image that is thinner than a multiple gets more pixels than that, but at most four times as many: beyond, it is shortened,
    and memory stays bounded.
    """
    short, long = sorted(size)
    most = 4 * max(resolution, multiple) ** 2 // multiple**2
    ideal = resolution / multiple * (short / long) ** 0.5

    def distance(sides: tuple[int, int]) -> float:
        ratio, area = sides[1] * short / (sides[0] * long), sides[0] * sides[1] * (multiple / resolution) ** 2
        return 8 * abs(math.log(ratio)) + abs(math.log(area))

    candidates = range(max(1, math.floor(ideal * 3 / 4)), max(1, math.ceil(ideal * 4 / 3)) + 1)
    sides = min(((n, min(round(n * long / short), most // n)) for n in candidates), key=distance)
    height, width = sides if size[0] <= size[1] else sides[::-1]
    return height * multiple, width * multiple


def to_guide(image: np.ndarray) -> torch.Tensor:
    """(H, W, 3) uint8 → (3, H, W) float32 in [0, 1], as filters want their guide."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def to_tensor(image: Image.Image, size: tuple[int, int]) -> torch.Tensor:
    """RGB image → (1, 3, height, width) float32 in [-1, 1], resized (Lanczos) to (height, width) ``size``."""
    height, width = size
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()[None].float() / 127.5 - 1
