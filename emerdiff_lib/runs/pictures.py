"""Pictures by name: a file, a folder of images, or a range of Toyscapes scenes."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..images import IMAGE_SUFFIXES, image_files, load_image, reading
from ..toyscapes import Scene, Toyscapes
from .identity import array_digest, file_digest
from .names import expanded
from .store import PARTIAL, recorded_files

_TOYSCAPES = re.compile(r"toyscapes:(\d{1,9})(?:-(\d{1,9}))?")


@dataclass(frozen=True)
class Source:
    """An image by name: a file, or a Toyscapes scene (by seed) with its ground truth.

    Attributes:
        name: unique among the pictures found together; of a file below a folder, its path from there.
        record: what its results are kept under: its name, or "" if it was asked for by itself.
    """

    name: str
    record: str
    path: Path | None = None
    seed: int | None = None

    def scene(self) -> Scene | None:
        return None if self.seed is None else Toyscapes.from_seed(self.seed)

    def load(self) -> Image.Image:
        """The picture; raises as :func:`~emerdiff_lib.images.load_image` does."""
        return load_image(self.path) if self.path is not None else self.scene().image

    def identity(self) -> dict[str, Any]:
        """The picture by content, wherever it lies; raises OSError or ValueError for a file that cannot be read."""
        if self.path is None:
            return {"image": array_digest(np.asarray(self.load()))}
        with reading(self.path):
            return {"image": file_digest(self.path)}


def find_images(spec: str | Path, exclude: str | Path | None = None) -> list[Source]:
    """What ``spec`` names: an image file, a folder (every image below it), or "toyscapes:7" / "toyscapes:0-9" by seed.

    Args:
        exclude: a folder whose pictures are left out. Pictures that a ``request.json`` beside them lists are left out too:
            results are not read as input, wherever they lie.

    Raises:
        FileNotFoundError: nothing is there, or the folder holds no image.
        PermissionError: a folder below it cannot be read.
        ValueError: a Toyscapes range that is empty or leaves the world's seeds, or ``exclude`` is the folder itself.
    """
    if match := _TOYSCAPES.fullmatch(str(spec)):
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last >= 900_000:
            raise ValueError(
                f"image={str(spec)!r} names no scenes; write toyscapes:FIRST-LAST with seeds below 900000."
            )
        names = {f"toyscapes-{seed:06}": seed for seed in range(first, last + 1)}
        return [Source(name, name if first < last else "", seed=seed) for name, seed in names.items()]
    path, output = expanded("image", spec), None if exclude is None else expanded("output_dir", exclude)
    if os.path.isdir(path):  # which a name that is too long is not
        if output is not None and os.path.realpath(output) == os.path.realpath(path):
            raise ValueError(
                f"output_dir={str(exclude)!r} is the folder of the pictures; choose another, or one below it."
            )
        files = [f for f in image_files(path, output) if PARTIAL not in f.relative_to(path).parts]
        made = {folder: recorded_files(folder) for folder in {file.parent for file in files}}
        files = [file for file in files if file.name not in made[file.parent]]
        if not files:
            but = " (results of a run do not count)" if any(made.values()) else ""
            raise FileNotFoundError(
                f"There is no image in {path}{but}; looked for {', '.join(sorted(IMAGE_SUFFIXES))}."
            )
        names = {file.relative_to(path).as_posix(): file for file in files}
        return [Source(name, name, file) for name, file in names.items()]
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"There is no image at {spec}; give a file, a folder or toyscapes:SEED (from {Path.cwd()})."
        )
    return [Source(path.name, "", path)]
