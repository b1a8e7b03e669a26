"""What a model is trained on: pictures and captions, by epochs, and their latents.

An epoch is a function of its number and the seed, so that a resumed run sees what it would have seen. Toyscapes scenes are
the same in every epoch, and drawn and encoded once; of a folder's pictures, crops are drawn afresh.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from PIL import Image
from tqdm.auto import tqdm

from ..files import replacing, write_atomically
from ..images import image_files, load_image, shown
from ..toyscapes.scenes import SPLITS
from ..toyscapes.world import SIZE, draw_scene
from .architecture import words_of

TOYSCAPES_WORDS = (
    "a and at blue boat brown car clouds cyan day field green grey house in lake moon mountains night of on orange "
    "person picture purple red road roof sea sun sunset the tree white with yellow"
)
METADATA = "metadata.jsonl"  # captions beside pictures, as the datasets library's image folders have them


class Source(Protocol):
    """Pictures of one size and their captions.

    Attributes:
        size: side of the (square) pictures in pixels.
        fixed: whether every epoch is the same.
        passes: how often the pictures of one epoch are gone over, on average, before the next.
        words: of all captions.
        title: what it is, for the model card.
    """

    size: int
    fixed: bool
    passes: float
    words: Sequence[str]
    title: str

    def epoch(self, number: int) -> tuple[np.ndarray, list[str]]:
        """(N, size, size, 3) uint8 pictures, and their captions."""

    def captions(self, count: int) -> list[str]:
        """Some captions to try the model with."""

    def held_out(self) -> tuple[np.ndarray, list[str]]:
        """Pictures that are in no epoch, and their captions; often none."""

    def close(self) -> None:
        """Nothing more is asked for."""

    def __len__(self) -> int:
        """N, pictures in an epoch."""


def epoch_of(step: int, batch_size: int, source: Source) -> int:
    """The epoch that a training step belongs to."""
    return 0 if source.fixed else int(step * batch_size // (source.passes * len(source)))


class ToyscapesScenes:
    """The first ``count`` training scenes, drawn once into ``folder``."""

    size, fixed, passes = SIZE, True, 1.0
    words = TOYSCAPES_WORDS.split()

    def __init__(self, folder: Path, count: int):
        self._pictures, self._captions = render_scenes(folder, count)
        seeds = SPLITS["train"]
        self.title = f"Toyscapes scenes, seeds {seeds.start} to {seeds.start + count - 1}"

    def epoch(self, number: int) -> tuple[np.ndarray, list[str]]:
        return self._pictures, self._captions

    def captions(self, count: int) -> list[str]:
        return self._captions[:count]

    def close(self) -> None:
        pass

    def held_out(self) -> tuple[np.ndarray, list[str]]:
        drawn = [_picture(seed) for seed in SPLITS["validation"][:64]]
        return np.stack([image for image, _ in drawn]), [caption for _, caption in drawn]

    def __len__(self) -> int:
        return len(self._captions)


class FolderCrops:
    """Random square crops of all pictures below some folders, at any zoom, mirrored or not.

    Args:
        folders: with pictures of any size and aspect.
        captions: a JSON-lines file with ``file_name`` (relative to a folder) and ``text``; by default each folder's
            ``metadata.jsonl`` if it has one. Pictures without a caption have an empty one.
        size: side of a crop in pixels; ``crops``: of every picture in an epoch.
        zoom: the smallest side of a crop as a share of the picture's shorter one.
        passes: see :class:`Source`.
        hold_out: every so many pictures, in the order of their paths, one is not trained on; 0: none.
        workers: processes that draw an epoch while the last one is trained on; 0: this one draws it when it is needed.

    Raises:
        FileNotFoundError: a folder without pictures, or a caption file that is missing.
        ValueError: a caption file that is none, or that knows none of the pictures; nothing left to train on.
    """

    fixed = False

    def __init__(
        self,
        folders: Sequence[Path],
        captions: Path | None = None,
        size: int = 128,
        crops: int = 4,
        zoom: float = 0.4,
        seed: int = 0,
        passes: float = 2.0,
        hold_out: int = 0,
        workers: int = 0,
    ):
        self.size, self.crops, self.zoom, self.seed, self.passes = size, crops, zoom, seed, passes
        self._files: list[Path] = []
        self._texts: list[str] = []
        for folder in map(Path, folders):
            files = image_files(folder)
            if not files:
                raise FileNotFoundError(
                    f"There is no picture below {shown(folder)}; --images takes folders of pictures."
                )
            known = read_captions(captions or folder / METADATA, needed=captions is not None)
            self._files += files
            self._texts += [known.get(file.relative_to(folder).as_posix(), "") for file in files]
        if captions is not None and not any(self._texts):
            raise ValueError(
                f"{shown(captions)} names none of the {len(self._files)} pictures; check its file_name fields."
            )
        self._ahead: tuple[int, list[Future]] = (-1, [])
        self._pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) if workers else None
        self.words = words_of(self._texts)
        kept = [bool(hold_out) and i % hold_out == 0 for i in range(len(self._files))]
        self._held_out = [(f, t) for f, t, k in zip(self._files, self._texts, kept, strict=True) if k]
        self._files = [file for file, k in zip(self._files, kept, strict=True) if not k]
        self._texts = [text for text, k in zip(self._texts, kept, strict=True) if not k]
        if not self._files:
            raise ValueError(
                f"--hold-out={hold_out} leaves no picture to train on; choose a larger number, or 0."
            )
        told = sum(map(bool, self._texts))
        names = ", ".join(sorted({Path(folder).name for folder in folders}))
        self.title = (
            f"{len(self._files)} pictures ({names}), {told} of them with a caption; random square crops"
        )
        if self._held_out:
            self.title += f"; {len(self._held_out)} more (every {hold_out}th) were held out"

    def __len__(self) -> int:
        return len(self._files) * self.crops

    def epoch(self, number: int) -> tuple[np.ndarray, list[str]]:
        return _crops(self, number)

    def captions(self, count: int) -> list[str]:
        told = [text for text in self._texts if text] or [""]
        return [told[i * len(told) // count] for i in range(count)]

    def held_out(self) -> tuple[np.ndarray, list[str]]:
        """The central square of each."""
        if not self._held_out:
            return np.empty((0, self.size, self.size, 3), np.uint8), []
        whole = [_cropped(load_image(file), self.size, 1.0, 0.5, 0.5) for file, _ in self._held_out]
        return np.stack(whole), [text for _, text in self._held_out]

    def drawn(self, number: int) -> np.ndarray:
        """(N, size, size, 3) uint8: the crops of all pictures in one epoch."""
        count, parts = len(self._files), []
        if self._pool is None:
            parts = [
                draw(self._files[index], self.size, self.crops, self.zoom, (self.seed, number, index))
                for index in tqdm(range(count), desc=f"crops, epoch {number}", leave=False)
            ]
        else:
            begun, waited_for = self._ahead
            if begun != number:
                for future in waited_for:
                    future.cancel()
                waited_for = self._submitted(number)
            parts = [future.result() for future in waited_for]
            self._ahead = number + 1, self._submitted(number + 1)
        return np.concatenate(parts)

    def close(self) -> None:
        """What was to be drawn ahead is not."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _submitted(self, number: int) -> list[Future]:
        assert self._pool is not None
        return [
            self._pool.submit(draw, file, self.size, self.crops, self.zoom, (self.seed, number, index))
            for index, file in enumerate(self._files)
        ]


def draw(file: Path, size: int, crops: int, zoom: float, key: tuple[int, int, int]) -> np.ndarray:
    """(crops, size, size, 3) uint8 crops of one picture, which are a function of ``key``: seed, epoch and picture."""
    rng = np.random.default_rng(key)
    image, found = load_image(file), []
    for _ in range(crops):
        crop = _cropped(image, size, *(rng.uniform(least, 1) for least in (zoom, 0, 0)))
        found.append(crop[:, ::-1] if rng.random() < 0.5 else crop)
    return np.stack(found)


def _cropped(image: Image.Image, size: int, share: float, across: float, down: float) -> np.ndarray:
    """A square whose side is a share of the picture's shorter one, so far across and down as it can be."""
    side = min(image.size) * share
    left, top = across * (image.width - side), down * (image.height - side)
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, box=box))


@lru_cache(maxsize=1)  # the epoch that is being trained on
def _crops(source: FolderCrops, number: int) -> tuple[np.ndarray, list[str]]:
    return source.drawn(number), [text for text in source._texts for _ in range(source.crops)]


def read_captions(path: Path, needed: bool = False) -> dict[str, str]:
    """{file_name: text} of a JSON-lines file; empty for a missing one that is not ``needed``.

    Raises:
        FileNotFoundError, ValueError: naming the file, and the line.
    """
    if not path.is_file():
        if needed:
            raise FileNotFoundError(f"There is no caption file {shown(path)}; check --captions.")
        return {}
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            found[str(row["file_name"])] = str(row["text"])
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f'{shown(path)}, line {number}, is no caption; write {{"file_name": "a.jpg", "text": "a road"}}.'
            ) from None
    return found


class Latents:
    """Means and deviations of a source's latents, epoch by epoch, (N, 2, C, h, w) float16.

    Kept in ``path`` if every epoch is the same, else on the device.
    """

    def __init__(self, source: Source, vae: AutoencoderKL, accelerator: Accelerator, path: Path):
        self.source, self.vae, self.accelerator, self.path = source, vae, accelerator, path
        self._kept: tuple[int, torch.Tensor] | None = None

    def epoch(self, number: int) -> tuple[torch.Tensor, list[str]]:
        """Latents, and captions, of an epoch."""
        pictures, captions = self.source.epoch(number)
        if self._kept is None or self._kept[0] != number:
            self._kept = number, self._encoded(pictures)
        return self._kept[1], captions

    def scaling_factor(self) -> float:
        """1 / standard deviation of the first epoch's means, as Stable Diffusion's autoencoder has it."""
        return 1 / self.epoch(0)[0][:2000, 0].float().std().item()

    def _encoded(self, pictures: np.ndarray) -> torch.Tensor:
        if not self.source.fixed:
            return encode(self.vae, pictures, self.accelerator).to(self.accelerator.device)
        with self.accelerator.main_process_first():
            if self.path.exists():
                latents = torch.load(self.path, weights_only=True, mmap=True)
                if len(latents) >= len(pictures):
                    return latents[: len(pictures)]
            latents = encode(self.vae, pictures, self.accelerator)
            with replacing(self.path) as new:
                torch.save(latents, new)
        return latents


@torch.inference_mode()
def encode(
    vae: AutoencoderKL, pictures: np.ndarray, accelerator: Accelerator, batch: int = 64
) -> torch.Tensor:
    """(N, 2, C, h, w) float16 means and standard deviations of pictures' latents, on the CPU."""
    parts = []
    for start in tqdm(range(0, len(pictures), batch), desc="latents", leave=False):
        with accelerator.autocast():
            posterior = vae.encode(
                to_model_range(pictures[start : start + batch], accelerator.device)
            ).latent_dist
        parts.append(torch.stack([posterior.mean, posterior.std], 1).half().cpu())
    return torch.cat(parts)


def to_model_range(pictures: np.ndarray, device: torch.device) -> torch.Tensor:
    """(B, H, W, 3) uint8 → (B, 3, H, W) float in [-1, 1], channels last in memory."""
    images = torch.from_numpy(np.array(pictures)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    return images.contiguous(memory_format=torch.channels_last)


def _picture(seed: int) -> tuple[np.ndarray, str]:
    image, _, caption = draw_scene(seed)
    return image, caption


def render_scenes(folder: Path, count: int, chunk: int = 1000) -> tuple[np.ndarray, list[str]]:
    """The first ``count`` training scenes as a (count, 128, 128, 3) uint8 memory map, and their captions.

    Scenes are drawn on all cores, ``chunk`` at a time; chunks that are on disk already are not drawn again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures, texts = folder / "scenes.npy", folder / "captions.json"
    captions: list[str] = json.loads(texts.read_text()) if pictures.exists() and texts.exists() else []
    if len(captions) < count:
        done = np.load(pictures, mmap_mode="r") if captions else None
        if done is None or len(done) < count:  # a larger file; what it holds so far moves over
            with replacing(pictures) as new:
                larger = np.lib.format.open_memmap(new, "w+", np.uint8, (count, SIZE, SIZE, 3))
                if done is not None:
                    larger[: len(captions)] = done[: len(captions)]
                larger.flush()
        store = np.load(pictures, mmap_mode="r+")
        with multiprocessing.Pool() as pool, tqdm(total=count, initial=len(captions), desc="scenes") as bar:
            while len(captions) < count:
                seeds = SPLITS["train"][len(captions) : min(len(captions) + chunk, count)]
                for i, (image, caption) in zip(seeds, pool.imap(_picture, seeds, chunksize=32), strict=True):
                    store[i - SPLITS["train"].start] = image
                    captions.append(caption)
                    bar.update()
                store.flush()
                write_atomically(texts, json.dumps(captions))
    return np.load(pictures, mmap_mode="r")[:count], captions[:count]
