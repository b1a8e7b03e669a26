"""Any image in, tensors for the model, results back out at the size of the input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
ImageInput = str | Path | Image.Image | np.ndarray | torch.Tensor


def load_image(image: ImageInput) -> Image.Image:
    """Turn an image of any kind into an upright 8-bit RGB :class:`PIL.Image.Image`.

    Args:
        image: a path; a PIL image of any mode; an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); or a tensor
            (C, H, W). Integer values fill the range of their type (uint8: 0–255, uint16: 0–65535), floating-point
            values lie in [0, 1].

    EXIF rotation is applied, transparency is laid over white, grey is spread to three channels, 16 bits become 8.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: the file is no readable image, or the array has a shape, type or range that no image has.
        TypeError: ``image`` is none of the above.
    """
    if isinstance(image, str | Path):
        image = _open(Path(image))
    elif isinstance(image, torch.Tensor):
        if image.ndim != 3 or image.shape[0] not in (1, 3, 4):
            raise ValueError(
                f"A tensor image has shape (C, H, W) with C = 1, 3 or 4, not {tuple(image.shape)}."
            )
        image = _from_array(
            image.detach().cpu().float().permute(1, 2, 0).numpy()
            if image.is_floating_point()
            else image.cpu().permute(1, 2, 0).numpy()
        )
    elif isinstance(image, np.ndarray):
        image = _from_array(image)
    elif not isinstance(image, Image.Image):
        raise TypeError(f"An image is a path, a PIL image, an array or a tensor, not {type(image).__name__}.")
    return _to_rgb(image)


def _open(path: Path) -> Image.Image:
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no image file at {path}; check the path (relative to {Path.cwd()})."
        )
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; save or download it again.")
    try:
        image = Image.open(path)
        image.load()
    except UnidentifiedImageError:
        raise ValueError(
            f"{path} is no image that Pillow can read (PNG, JPEG, TIFF, WebP …); convert it first."
        ) from None
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); save or download it again.") from error
    return image


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or 0 in array.shape:
        raise ValueError(f"An image array has shape (H, W), (H, W, 3) or (H, W, 4), not {array.shape}.")
    if array.dtype == bool:
        array = array * np.uint8(255)
    elif np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())
        if not (low >= -1e-6 and high <= 1 + 1e-6):  # also refuses NaN
            raise ValueError(
                f"A floating-point image lies in [0, 1], not in [{low:g}, {high:g}]; rescale it, or pass uint8."
            )
        array = np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)
    elif array.dtype == np.uint16:
        array = (array // 257).astype(np.uint8)
    elif array.dtype != np.uint8:
        if array.min() < 0 or array.max() > 255:
            raise ValueError(
                f"An image array of {array.dtype} lies in 0–255, not in {array.min()}–{array.max()}; pass uint8."
            )
        array = array.astype(np.uint8)
    return Image.fromarray(array)


def _to_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's convert() would clip instead of scale
        values = np.asarray(image).astype(np.int64)
        image = Image.fromarray((np.clip(values, 0, 65535) // 257).astype(np.uint8))
    elif image.mode == "F":
        image = _from_array(np.asarray(image))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def processing_size(size: tuple[int, int], resolution: int, multiple: int) -> tuple[int, int]:
    """The (height, width) at which the model works on an image of (height, width) ``size``.

    About ``resolution``² pixels at the image's aspect ratio, both sides multiples of ``multiple`` (the reduction of VAE
    and U-Net together), so that layer grids and pixels line up without padding.
    """
    height, width = size
    scale = resolution / (height * width) ** 0.5
    fit = lambda side: max(round(side * scale / multiple), 1) * multiple
    return fit(height), fit(width)


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
