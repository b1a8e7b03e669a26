"""Any image in, tensors for the model, results back out at the size of the input."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
# Formats that are decoded here and now: among Pillow's others are some that start programs (EPS) or accept any bytes (TGA)
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF", "JPEG2000")
# A PNG's colour that stands for nothing is kept by Pillow at the file's depth; this brings it to the 8 bits of the pixels
CLEAR_COLOUR = {
    "L;2": lambda grey: grey * 85,
    "L;4": lambda grey: grey * 17,
    "RGB;16B": lambda colour: tuple(channel >> 8 for channel in colour),
}
ImageInput = str | Path | Image.Image | np.ndarray | torch.Tensor


# -- files ----------------------------------------------------------------------------------------------------------


def shown(path: str | Path) -> str:
    """A path as it stands in a sentence: printable and on one line, whatever characters a file's name has."""
    text = str(path)
    return text if text.isprintable() else ascii(text)


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Within the context, whatever goes wrong with a file (or an image of that name) becomes one sentence that names it.

    Raises:
        FileNotFoundError: it is not there, or its name cannot be one.
        PermissionError: it may not be read.
        ValueError: it is damaged, too large or of no known format.
    """
    name = shown(path)
    try:
        yield
    except PermissionError as error:
        raise PermissionError(f"{name} may not be read by this user; change its permissions.") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"There is no {shown(os.path.abspath(path))}; check the path.") from error
    except UnidentifiedImageError:
        raise ValueError(
            f"{name} is no image ({', '.join(FORMATS)}), or its beginning is damaged; convert it, or download it again."
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(name) from error
    except Exception as error:  # what a broken file makes a parser raise is no closed list
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ValueError(
            f"{name} cannot be read ({reason.rstrip('.')}); save or download it again."
        ) from error


def is_file(path: Path) -> bool:
    """Whether there is a regular file, or a link to one: no folder, pipe or device, whose reading may never end.

    Raises:
        PermissionError: a folder on the way may not be entered.
    """
    with reading(path):
        try:
            return stat.S_ISREG(os.stat(path).st_mode)
        except PermissionError:
            raise
        except OSError:  # not there, a link into nothing or in a circle, a name that is too long
            return False


def image_files(folder: Path | str, exclude: Path | str | None = None) -> list[Path]:
    """All image files below a folder, sorted by path: regular files, or links to such, with one of ``IMAGE_SUFFIXES``.

    Links to folders are followed, each folder once, so that circles end. ``exclude`` is a folder that is left out with all
    that lies below it (one that results are written to, say); it need not exist.

    Raises:
        FileNotFoundError: ``folder`` is none.
        PermissionError: it, or a folder below it, may not be read: its pictures would be missing in silence.
    """
    seen: set[tuple[int, int]] = set()

    def is_new(place: Path) -> bool:
        with reading(place):
            status = os.stat(place)
        known = len(seen)
        seen.add((status.st_dev, status.st_ino))
        return len(seen) > known

    def refuse(error: OSError):
        with reading(error.filename or folder):
            raise error

    is_new(Path(folder))
    if exclude is not None and os.path.isdir(exclude):
        is_new(Path(exclude))
    files = []
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = [name for name in sorted(folders) if is_new(Path(place, name))]
        files += [Path(place, name) for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    return sorted(filter(is_file, files))


def picture_name(path: Path) -> str:
    """What a picture is called after its path below a folder: "a/b.jpg" is "a__b". Two paths may get one name (a.jpg, a.png)."""
    return plain_name("__".join((*path.parts[:-1], path.stem)))


def plain_name(text: str) -> str:
    """The text as the name of one file: slashes and what cannot be printed become "_", and so do dots alone (".." leads up)."""
    name = "".join(letter if letter.isprintable() and letter not in "/\\" else "_" for letter in text)
    return name if name.strip(".") else "_" * max(1, len(name))


@contextmanager
def open_image(path: str | Path) -> Iterator[Image.Image]:
    """An image file within a ``with``: its format, mode and size are known, its pixels not decoded yet.

    Raises:
        FileNotFoundError, PermissionError, ValueError: as :func:`load_image`.
    """
    path = Path(path)
    if not is_file(path):
        raise FileNotFoundError(
            f"There is no image file at {shown(os.path.abspath(path))} (folders and devices are none); check the path."
        )
    with reading(path):
        if path.stat().st_size == 0:
            raise EOFError("it is empty")
        image = Image.open(path, formats=FORMATS)
    with image:
        _check_size(image, shown(path))
        yield image


# -- one image out of many kinds --------------------------------------------------------------------------------------


def load_image(image: ImageInput, upright: bool = True) -> Image.Image:
    """Turn an image of any kind into an upright 8-bit RGB :class:`PIL.Image.Image`.

    Args:
        image: a path; a PIL image of any mode; an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); or a tensor
            (C, H, W). Values are 0–65535 where the type is uint16, in either byte order, and 0–255 in every other integer
            type, PIL's 32-bit mode "I" among them; floating-point values lie in [0, 1].
        upright: False leaves the EXIF rotation out, for pixels that have to stay where a label map has them.

    EXIF rotation is applied, transparency is laid over white, grey is spread to three channels, 16 bits become 8. Of an
    animation or a file of several pages, the first picture is taken. Files and PIL images have at most
    ``PIL.Image.MAX_IMAGE_PIXELS`` pixels (89 million unless set otherwise): where Pillow only warns, they are refused too.

    Raises:
        FileNotFoundError: the path does not exist, or is no file.
        PermissionError: the file may not be read.
        ValueError: the file is no readable image or too large, or the image has a shape, type or range that none has.
        TypeError: ``image`` is none of the above.
    """
    if isinstance(image, str | Path):
        with open_image(image) as opened:
            return _to_rgb(opened, shown(image), upright)
    if isinstance(image, Image.Image):
        name = getattr(image, "filename", "")
        return _to_rgb(image, shown(name) if isinstance(name, str) and name else "The image", upright)
    if isinstance(image, torch.Tensor):
        return _from_array(_channels_last(image), "The image")
    if isinstance(image, np.ndarray):
        return _from_array(image, "The image")
    raise TypeError(f"An image is a path, a PIL image, an array or a tensor, not {type(image).__name__}.")


def _check_size(image: Image.Image, name: str) -> None:
    if 0 in image.size:
        raise ValueError(f"{name} is {image.width} × {image.height}: it has no pixels.")
    if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise _too_large(name)


def _too_large(name: str) -> ValueError:
    return ValueError(
        f"{name} has more than {Image.MAX_IMAGE_PIXELS:,} pixels; make it smaller, or set PIL.Image.MAX_IMAGE_PIXELS if "
        "you trust it."
    )


def _channels_last(tensor: torch.Tensor) -> np.ndarray:
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3, 4):
        raise ValueError(f"A tensor image has shape (C, H, W) with C = 1, 3 or 4, not {tuple(tensor.shape)}.")
    try:
        values = tensor.detach().cpu()
        return (values.float() if values.is_floating_point() else values).permute(1, 2, 0).numpy()
    except (RuntimeError, TypeError) as error:  # meta, sparse, quantized …
        raise ValueError(
            f"A tensor image holds plain numbers, not {tensor.dtype} of layout {tensor.layout} on {tensor.device}."
        ) from error


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    """RGB from (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); ``name`` is what messages call it."""
    array = np.asarray(array)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or 0 in array.shape:
        raise ValueError(f"An image array has shape (H, W), (H, W, 3) or (H, W, 4), not {array.shape}.")
    if array.dtype.kind not in "buif":
        raise ValueError(f"{name} holds values of type {array.dtype}; pass bool, integers or floating point.")
    if array.dtype.kind == "b":
        array = array * np.uint8(255)
    elif array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= -1e-6 and high <= 1 + 1e-6):  # also refuses NaN
            raise ValueError(
                f"{name} is of floating point, which lies in [0, 1], not in [{low:g}, {high:g}]; rescale it, or pass uint8."
            )
        array = np.rint(np.clip(array, 0, 1) * 255)
    elif (array.dtype.kind, array.dtype.itemsize) == ("u", 2):  # of either byte order
        array = array // 257
    elif array.min() < 0 or array.max() > 255:
        raise ValueError(
            f"{name} is of type {array.dtype}, which lies in 0–255, not in {array.min()}–{array.max()}; pass uint8, or "
            "uint16 for 0–65535."
        )
    return _over_white(Image.fromarray(array.astype(np.uint8)))


def _to_rgb(image: Image.Image, name: str, upright: bool) -> Image.Image:
    _check_size(image, name)
    with reading(name):
        turned = image.format == "TIFF" and image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    if turned and not upright:  # Pillow turns a TIFF while it decodes
        raise ValueError(f"{name} is a TIFF that is turned away from its label map; save it upright.")
    tile = getattr(image, "tile", None)
    depth = CLEAR_COLOUR.get(tile[0].args) if image.format == "PNG" and tile else None
    sixteen = image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM")
    with reading(name):
        image = ImageOps.exif_transpose(image) if upright else image.copy()
        if depth and "transparency" in image.info:
            image.info["transparency"] = depth(image.info["transparency"])
        if image.mode not in ("I", "F") and not sixteen:
            return _over_white(image)
        values = np.asarray(image)
    grey = _from_array(
        values.astype(np.uint16) if sixteen else values, name
    )  # Pillow's convert() would clip it
    if "transparency" in image.info:
        grey.paste("white", mask=Image.fromarray(values == image.info["transparency"]))
    return grey


def _over_white(image: Image.Image) -> Image.Image:
    """RGB from a PIL image of any mode of 8 bits."""
    if image.mode == "La":  # which Pillow converts to nothing else
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


# -- sizes and tensors ------------------------------------------------------------------------------------------------


def processing_size(size: tuple[int, int], resolution: int, multiple: int) -> tuple[int, int]:
    """The (height, width) at which the model works on an image of (height, width) ``size``.

    About ``resolution``² pixels at the image's aspect ratio, both sides multiples of ``multiple`` (the reduction of VAE
    and U-Net together), so that layer grids and pixels line up without padding. An image that is thinner than a multiple
    gets more pixels than that, but at most four times as many: beyond, it is shortened, and memory stays bounded.
    """
    height, width = size
    scale = resolution / (height * width) ** 0.5
    longest = 4 * max(resolution, multiple) ** 2 // multiple**2
    fit = lambda side: min(max(round(side * scale / multiple), 1), longest) * multiple
    return fit(height), fit(width)


def to_guide(image: np.ndarray) -> torch.Tensor:
    """(H, W, 3) uint8 → (3, H, W) float32 in [0, 1], as filters want their guide."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def to_tensor(image: Image.Image, size: tuple[int, int]) -> torch.Tensor:
    """RGB image → (1, 3, height, width) float32 in [-1, 1], resized (Lanczos) to (height, width) ``size``."""
    height, width = size
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1


def to_images(tensor: torch.Tensor) -> list[Image.Image]:
    """(B, 3, H, W) in [-1, 1] → B PIL images."""
    arrays = (
        ((tensor.detach().float().clamp(-1, 1) + 1) * 127.5).round().byte().cpu().permute(0, 2, 3, 1).numpy()
    )
    return [Image.fromarray(array) for array in arrays]
