"""Training data on disk: rendered scenes and their latents, written once and picked up again after a kill."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from ..files import replacing, write_atomically
from .scenes import SPLITS
from .world import SIZE, draw_scene


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


def to_model_range(pictures: np.ndarray, device: torch.device) -> torch.Tensor:
    """(B, H, W, 3) uint8 → (B, 3, H, W) float in [-1, 1], channels last in memory."""
    images = torch.from_numpy(np.array(pictures)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    return images.contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def encode_scenes(path: Path, vae, pictures: np.ndarray, accelerator, batch: int = 64) -> torch.Tensor:
    """Latent means and standard deviations of all pictures, (N, 2, C, h, w) float16, kept in ``path``."""
    if path.exists():
        latents = torch.load(path, weights_only=True, mmap=True)
        if len(latents) >= len(pictures):
            return latents[: len(pictures)]
    parts = []
    for start in tqdm(range(0, len(pictures), batch), desc="latents"):
        with accelerator.autocast():
            posterior = vae.encode(
                to_model_range(pictures[start : start + batch], accelerator.device)
            ).latent_dist
        parts.append(torch.stack([posterior.mean, posterior.std], 1).half().cpu())
    latents = torch.cat(parts)
    with replacing(path) as new:
        torch.save(latents, new)
    return latents
