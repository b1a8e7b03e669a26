"""What a model is trained on: images and captions, by epochs.

An epoch is a function of its number and the seed, so that a resumed run sees what it would have seen. Toyscapes scenes are
the same in every epoch, and drawn and encoded once; of a folder's images, crops are drawn afresh.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from ..files import write_atomically
from ..images import image_files, load_image, reading, shown
from ..toyscapes.scenes import SPLITS
from ..toyscapes.world import SIZE, draw_scene
from .architecture import words_of
from .config import Config


@dataclass
class Source:
    """Images of one size and their captions.

    Attributes:
        epoch: number → (N, size, size, 3) uint8 images.
        captions: of an epoch's N images, the same in every epoch.
        passes: how often the images of one epoch are gone over, on average, before the next; infinite where all are the same.
        held_out: images that are in no epoch (often none), and their captions.
        words: of all captions.
        title: what it is, for the model card.
    """

    epoch: Callable[[int], np.ndarray]
    captions: list[str]
    passes: float
    held_out: tuple[np.ndarray, list[str]]
    words: Sequence[str]
    title: str

    def epoch_at(self, step: int, batch_size: int) -> int:
        """The epoch that a training step belongs to."""
        return int(step * batch_size // (self.passes * len(self.captions)))


def toyscapes(folder: Path, count: int) -> Source:
    """The first ``count`` training scenes, drawn once on all cores into ``folder``; 64 validation scenes are held out."""
    path, texts, seeds = folder / "scenes.npy", folder / "captions.json", SPLITS["train"][:count]
    if not texts.exists():  # which is written last
        images = np.lib.format.open_memmap(path, "w+", np.uint8, (count, SIZE, SIZE, 3))
        captions = []
        with multiprocessing.Pool() as pool:
            scenes = pool.imap(draw_scene, seeds, chunksize=32)
            for row, (image, _, caption) in enumerate(tqdm(scenes, desc="scenes", total=count)):
                images[row] = image
                captions.append(caption)
        images.flush()
        write_atomically(texts, json.dumps(captions))
    drawn = np.load(path, mmap_mode="r")
    captions = json.loads(texts.read_text())
    held_out, _, held_out_captions = zip(*map(draw_scene, SPLITS["validation"][:64]), strict=True)
    return Source(
        lambda number: drawn,
        captions,
        passes=float("inf"),
        held_out=(np.stack(held_out), list(held_out_captions)),
        words=words_of(captions),
        title=f"Toyscapes scenes, seeds {seeds[0]} to {seeds[-1]}",
    )


def folder_crops(config: Config) -> Source:
    """Random square crops of all images below ``config.images``, at any zoom, mirrored or not; every second epoch is new.

    Captions are those of each folder's ``metadata.jsonl``, JSON lines with ``file_name`` (relative to the folder) and ``text``,
    as the datasets library has them; images without one have an empty one. Held out are central squares.

    Raises:
        FileNotFoundError: a folder without images.
        ValueError: a caption file that is none; nothing left to train on.
    """
    files: list[Path] = []
    texts: list[str] = []
    for folder in config.images:
        below = image_files(folder)
        if not below:
            raise FileNotFoundError(
                f"There is no image below {shown(folder)}; --images takes folders of images."
            )
        captions = read_captions(folder / "metadata.jsonl")
        files += below
        texts += [captions.get(file.relative_to(folder).as_posix(), "") for file in below]
    held_out = range(0, len(files), config.hold_out) if config.hold_out else range(0)
    kept = [i for i in range(len(files)) if i not in held_out]
    if not kept:
        raise ValueError(
            f"--hold-out={config.hold_out} leaves no image to train on; choose a larger number, or 0."
        )
    squares = np.empty((len(held_out), config.size, config.size, 3), np.uint8)
    for row, i in enumerate(held_out):
        squares[row] = _cropped(load_image(files[i]), config.size, 1.0, 0.5, 0.5)
    captioned = sum(bool(texts[i]) for i in kept)
    names = ", ".join(sorted({folder.name for folder in config.images}))
    title = f"{len(kept)} images ({names}), {captioned} of them with a caption; random square crops"
    if held_out:
        title += f"; {len(held_out)} more (one of {config.hold_out}) were held out"
    return Source(
        random_crops([files[i] for i in kept], config),
        [texts[i] for i in kept for _ in range(config.crops)],
        passes=2.0,
        held_out=(squares, [texts[i] for i in held_out]),
        words=words_of(texts),
        title=title,
    )


def random_crops(files: Sequence[Path], config: Config) -> Callable[[int], np.ndarray]:
    """A function from an epoch's number to ``config.crops`` crops of each file, which depend on the seed and that number alone.

    Threads draw the next epoch while one is trained on.
    """
    # map draws nothing before it is asked to
    over = ThreadPool(config.workers).imap if config.workers else map

    def crops_of(key: tuple[int, int]) -> np.ndarray:  # of an epoch and a file
        rng, image, crops = np.random.default_rng((config.seed, *key)), load_image(files[key[1]]), []
        for _ in range(config.crops):
            crop = _cropped(image, config.size, *(rng.uniform(least, 1) for least in (config.zoom, 0, 0)))
            crops.append(crop[:, ::-1] if rng.random() < 0.5 else crop)
        return np.stack(crops)

    @lru_cache(maxsize=2)
    def begun(number: int) -> Iterable[np.ndarray]:
        return over(crops_of, [(number, file) for file in range(len(files))])

    @lru_cache(maxsize=1)
    def epoch(number: int) -> np.ndarray:
        this, _ = begun(number), begun(number + 1)
        return np.concatenate(list(this))

    return epoch


def _cropped(image: Image.Image, size: int, share: float, across: float, down: float) -> np.ndarray:
    """A square whose side is a share of the image's shorter one, so far across and down as it can be."""
    side = min(image.size) * share
    left, top = across * (image.width - side), down * (image.height - side)
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, box=box))


def read_captions(path: Path) -> dict[str, str]:
    """{file_name: text} of a file of JSON lines, {} if there is none; raises ValueError for a line that is something else."""
    captions = {}
    with reading(path):
        lines = path.read_text(encoding="utf-8-sig").splitlines() if path.exists() else []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                captions[str(row["file_name"])] = str(row["text"])
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"line {number} is no {{'file_name': …, 'text': …}}") from None
    return captions
