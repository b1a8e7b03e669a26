"""One image, a folder of images or a range of Toyscapes scenes, segmented into files; interrupted runs go on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from tqdm.auto import tqdm

from ..export import load_output, save_output
from ..files import write_atomically
from ..images import IMAGE_SUFFIXES, load_image
from ..pipeline import EmerDiffOutput, EmerDiffPipeline
from ..toyscapes import Scene, Toyscapes

_TOYSCAPES = re.compile(r"toyscapes:(\d+)(?:-(\d+))?")


@dataclass(frozen=True)
class Source:
    """An image by name: a file, or a Toyscapes scene (by seed) with its ground truth."""

    name: str
    path: Path | None = None
    seed: int | None = None

    def scene(self) -> Scene | None:
        return None if self.seed is None else Toyscapes.from_seed(self.seed)

    def load(self) -> Image.Image:
        """The picture; raises as :func:`~emerdiff_lib.images.load_image` does."""
        return load_image(self.path) if self.path is not None else self.scene().image


def find_images(spec: str | Path) -> list[Source]:
    """What ``spec`` names: an image file, a folder (every image below it), or "toyscapes:7" / "toyscapes:0-9" by seed.

    Raises:
        FileNotFoundError: nothing is there, or the folder holds no image.
        ValueError: a Toyscapes range that is empty or leaves the world's seeds.
    """
    if match := _TOYSCAPES.fullmatch(str(spec)):
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last >= 900_000:
            raise ValueError(
                f"image={str(spec)!r} names no scenes; write toyscapes:FIRST-LAST with seeds below 900000."
            )
        return [Source(f"toyscapes-{seed:06}", seed=seed) for seed in range(first, last + 1)]
    path = Path(spec).expanduser()
    if path.is_dir():
        files = sorted(
            file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()
        )
        if not files:
            raise FileNotFoundError(
                f"There is no image in {path}; looked for {', '.join(sorted(IMAGE_SUFFIXES))}."
            )
        return [Source("__".join(file.relative_to(path).with_suffix("").parts), file) for file in files]
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no image at {path}; give a file, a folder or toyscapes:SEED (from {Path.cwd()})."
        )
    return [Source(path.stem, path)]


def segment_all(
    pipe: EmerDiffPipeline, sources: list[Source], output_dir: str | Path, seed: int = 0, **settings
) -> Iterator[tuple[Source, EmerDiffOutput | None, str]]:
    """Segment every source into its own folder below ``output_dir`` and yield (source, output, status).

    ``status`` is "done", "kept" (the folder already holds a result of exactly these settings, which is read back) or a
    sentence on why this image failed (output is None): one bad file does not stop a long run.
    """
    output_dir = Path(output_dir)
    request = {"model": pipe.model_name, "seed": seed} | settings
    for source in tqdm(sources, desc="images", disable=len(sources) == 1):
        folder = output_dir / source.name if len(sources) > 1 else output_dir
        request_file = folder / "request.json"
        content = json.dumps(request | {"image": source.name}, indent=2) + "\n"
        if request_file.exists() and request_file.read_text() == content:
            yield source, load_output(folder), "kept"
            continue
        try:
            image = source.load()
        except (FileNotFoundError, ValueError) as error:
            if len(sources) == 1:
                raise
            yield source, None, str(error)
            continue
        output = pipe(image, generator=torch.Generator().manual_seed(seed), **settings)
        request_file.unlink(missing_ok=True)
        save_output(output, image, folder)
        write_atomically(request_file, content)  # written last: it vouches for the other files
        yield source, output, "done"
