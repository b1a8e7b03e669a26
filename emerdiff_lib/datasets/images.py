"""What a run goes over: images by name (a file, a folder, Toyscapes scenes), and the first images of a data set."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from PIL import Image

from ..files import REQUEST, WRITTEN, folder_path, read_request
from ..images import IMAGE_SUFFIXES, SAMPLE, SAMPLES, image_files, load_image, shown
from ..settings import check_known, whole
from ..toyscapes import Scene, Toyscapes
from .base import FileDataset, LabelledDataset

_TOYSCAPES = re.compile(r"toyscapes:(\d{1,9})(?:-(\d{1,9}))?")


@dataclass(frozen=True)
class ImageSample:
    """An image by name: a file, a sample photograph, or a Toyscapes scene (by seed) with its ground truth.

    Attributes:
        name: unique among the images found together; of a file below a folder, its path from there.
        record: what its results are kept under: its name, or "" if it was asked for by itself.
        source: the file, "sample:" and a photograph's name, or a scene's seed.
    """

    name: str
    record: str
    source: Path | str | int

    @property
    def scene(self) -> Scene | None:
        """The scene with its ground truth, or None for a photograph."""
        return Toyscapes.from_seed(self.source) if isinstance(self.source, int) else None

    @property
    def image(self) -> Image.Image:
        """The image; raises as :func:`~emerdiff_lib.images.load_image` does."""
        return load_image(self.source) if (scene := self.scene) is None else scene.image

    @property
    def model(self) -> str:
        """The bundled model that knows such images best."""
        return "toyscapes" if isinstance(self.source, int) else "streets"

    @property
    def credit(self) -> str:
        """Who took a sample photograph, and its licence; "" for any other image."""
        return SAMPLES[self.name][1] if isinstance(self.source, str) else ""


def find_images(spec: str | Path) -> list[ImageSample]:
    """What ``spec`` names: an image file, a folder (every image below it), "sample:temple" (:data:`~emerdiff_lib.images.SAMPLES`)
    or "sample:all", "toyscapes:7" / "toyscapes:0-9" by seed, or several of these, separated by commas.

    What this library has written is not read as input, wherever it lies: files that its own record in their folder lists.

    Raises:
        FileNotFoundError: nothing is there, or the folder holds no image.
        ValueError: a folder that cannot be read, a Toyscapes range that is empty or leaves the world's seeds, or two images
            of one name.
    """
    parts = [part.strip() for part in str(spec).split(",")]
    if len(parts) > 1 and all(parts) and not os.path.exists(os.path.expanduser(spec)):
        samples = [replace(sample, record=sample.name) for part in parts for sample in find_images(part)]
        if twice := [name for name, times in Counter(one.name for one in samples).items() if times > 1]:
            raise ValueError(
                f"image={str(spec)!r} names {shown(twice[0])} twice; give each image a name of its own."
            )
        return samples
    if match := _TOYSCAPES.fullmatch(str(spec)):
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last >= 900_000:
            raise ValueError(
                f"image={str(spec)!r} names no scenes; write toyscapes:FIRST-LAST with seeds below 900000."
            )
        names = {f"toyscapes-{seed:06}": seed for seed in range(first, last + 1)}
        return [ImageSample(name, name if first < last else "", seed) for name, seed in names.items()]
    if str(spec).startswith(SAMPLE):
        name = str(spec).removeprefix(SAMPLE)
        if name == "all":
            return [ImageSample(each, each, SAMPLE + each) for each in SAMPLES]
        return [ImageSample(check_known("sample", name, [*SAMPLES, "all"]), "", str(spec))]
    path = folder_path("image", spec)
    if os.path.isfile(path):
        return [ImageSample(path.name, "", path)]
    if not os.path.isdir(path):
        raise FileNotFoundError(
            f"There is no image at {spec}; give a file, a folder, sample:NAME or toyscapes:SEED (from {Path.cwd()})."
        )
    listed = cache(lambda folder, kind: read_request(folder, kind).get("files", {}))
    ours = lambda file: any(file.name in listed(file.parent, kind) for kind in (REQUEST, WRITTEN))
    names = {file.relative_to(path).as_posix(): file for file in image_files(path) if not ours(file)}
    if not names:
        raise FileNotFoundError(
            f"There is no image in {path} (what this library has written does not count); looked for {', '.join(IMAGE_SUFFIXES)}."
        )
    return [ImageSample(name, name, file) for name, file in names.items()]


def one_image(spec: str | Path) -> ImageSample:
    """The first of the images that ``spec`` names, which is said if there are others; raises as :func:`find_images`."""
    samples = find_images(spec)
    if len(samples) > 1:
        first = f"{shown(samples[0].name)} is the first, which is looked at (05 segments all)"
        print(f"image={str(spec)!r} names {len(samples)} images; {first}.")
    return samples[0]


def first_samples(data: LabelledDataset, limit: int, parameter: str = "limit") -> dict[str, int]:
    """{name: position} of the first ``limit`` images of a data set, or of all if there are fewer; nothing is read.

    Raises:
        ValueError: ``limit`` is no whole number of at least 1.
    """
    return named(data, range(min(whole(1)(parameter, limit), len(data))))


def named(data: LabelledDataset, positions: Iterable[int]) -> dict[str, int]:
    """{name: position} of some images of a data set."""
    if isinstance(data, FileDataset):
        return {data.pairs[position][0]: position for position in positions}
    return {f"{data.split}-{position:06}": position for position in positions}


def scene_seeds(first_scene: int, num_scenes: int, available: int = 2000) -> range:
    """Seeds of test (0–999) or validation scenes (1000–1999) of Toyscapes; ValueError for others, or for none."""
    first = whole(0, available - 1)("first_scene", first_scene)
    return range(first, first + whole(1, available - first)("num_scenes", num_scenes))
