"""Named masks in place of labels: images that a model draws, labels that it gives, a small segmenter that learns from them.

Notebook 11 compares segmenters that learnt from true labels, from named masks of real images and of drawn ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tqdm.auto import tqdm
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from ..datasets import LabelledDataset, Sample
from ..datasets.base import IGNORE
from ..images import to_guide
from ..pipeline import EmerDiffPipeline
from ..runs.cached_map import cached_map
from ..runs.keys import dataset_key, sample_key
from ..toyscapes import Toyscapes
from ..words import name_pixels
from .mapping import common_key
from .naming import features_key, text_aligned, vocabulary_of

DRAWING = {"num_inference_steps": 20, "guidance_scale": 3.0}  # arguments of the diffusers pipeline


def captions_of(data: LabelledDataset, positions: Iterable[int]) -> list[str]:
    """What images of a data set show, in words: a scene's own caption, or the names of the classes in it."""
    if getattr(data, "scenes", None) is not None:
        return [Toyscapes.from_seed(data[position].seed).caption for position in positions]
    return [_caption(data[position].labels, data) for position in positions]


def _caption(labels: np.ndarray, data: LabelledDataset, least: float = 0.005) -> str:
    """Names of the classes that cover at least a share of ``least`` of an image, the largest first, joined by "and"."""
    names = data.class_names
    shares = np.bincount(labels.ravel(), minlength=256) / labels.size
    order = [k for k in np.argsort(-shares, kind="stable") if k < len(names) and k != data.ignore_index]
    return " and ".join(names[k] for k in order if shares[k] >= least)


def name_pixels_of(
    pipe: EmerDiffPipeline,
    data: LabelledDataset,
    samples: Mapping[str, int] | Mapping[str, str],
    output_dir: Path | str,
    settings: Mapping[str, Any],
    kind: str,
    clip: str = "",
    **execution: Any,
) -> list[Sample]:
    """Images whose pixels are named by the classes of ``data``; "none of these" is ignored.

    Args:
        samples: {name: position in ``data``}, or {name: caption}, which the model then draws.
        settings: of the pipeline; the mode is "fast" unless they say otherwise, and has to have responses of probe masks.
        kind: of the features that name the pixels, among those of :func:`.naming.text_aligned` with this ``clip``.

    Raises:
        ValueError: a model that reads no text draws no captions; a mode without probe masks; an image failed.
    """
    if not pipe.reads_text:
        raise ValueError(
            f"{pipe.model_name} is conditioned on images, not on text, so it draws no captions; pass num_pictures=0 to leave "
            "this out."
        )
    settings = {"mode": "fast"} | dict(settings)
    if (resolved := pipe.resolve(**settings)).num_parts is None:
        raise ValueError(
            f'mode={resolved.mode!r} has no responses of small masks, which words are spread by; use "pixel" or "fast".'
        )
    vocabulary = vocabulary_of(data)
    drawn = any(isinstance(sample, str) for sample in samples.values())
    key = {
        "study": "masks as labels",
        "features": features_key({kind: text_aligned(pipe, clip)[kind]}),
        "vocabulary": [dict(vocabulary.classes), list(vocabulary.templates), vocabulary.threshold],
        "settings": resolved.to_dict(),
        "drawing": DRAWING if drawn else {},
        "data": dataset_key(data),
    } | common_key(pipe)

    def named(sample: tuple[str, Any]) -> tuple[Image.Image, np.ndarray]:
        name, what = sample
        generator = lambda: torch.Generator().manual_seed(crc32(name.encode()))
        options = DRAWING | pipe.backbone.sampling
        image = pipe.pipe(what, generator=generator(), **options).images[0] if drawn else data[what].image
        responses = pipe.probe(pipe.cluster(image, generator=generator(), **settings))
        labels = name_pixels(text_aligned(pipe, clip)[kind], responses, vocabulary)
        return image, np.where(labels == len(vocabulary.names), IGNORE, labels).astype(np.uint8)

    pairs = {name: (name, sample) for name, sample in samples.items()}
    content = lambda pair: {"caption": pair[1]} if drawn else sample_key(data, pair[1])
    results = cached_map(named, pairs, output_dir, key, content, write=_write, **execution)
    if results.failures:
        raise ValueError(str(results))
    read = lambda folder, name: np.asarray(Image.open(folder / name))
    return [
        Sample(name, Image.fromarray(read(folder, "image.png")), read(folder, "labels.png"), 0)
        for name, folder in zip(results.names, results, strict=True)
    ]


def _write(result: tuple[Image.Image, np.ndarray], folder: Path) -> None:
    image, labels = result
    image.save(folder / "image.png")
    Image.fromarray(labels).save(folder / "labels.png")


def train_segmenter(
    samples: Sequence[Sample],
    num_classes: int,
    size: tuple[int, int],
    steps: int = 300,
    batch_size: int = 16,
    learning_rate: float = 1e-3,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> SegformerForSemanticSegmentation:
    """A small SegFormer (Xie et al., NeurIPS 2021), from random weights, on images mirrored and in changing light.

    Args:
        samples: their labels may hold :data:`~emerdiff_lib.datasets.base.IGNORE`.
        size: (H, W) that images and label maps are brought to.
    """
    images = torch.stack([_pixels(sample.image, size) for sample in samples])
    truth = [torch.from_numpy(sample.labels.astype(np.float32))[None] for sample in samples]
    labels = torch.stack(
        [F.interpolate(one[None], size=size, mode="nearest-exact")[0, 0].long() for one in truth]
    )
    with torch.random.fork_rng(devices=[]), torch.enable_grad():  # notebooks switch gradients off
        torch.manual_seed(seed)
        config = SegformerConfig(
            num_labels=num_classes,
            hidden_sizes=[16, 32, 80, 128],
            depths=[1, 1, 1, 1],
            num_attention_heads=[1, 1, 2, 4],
            decoder_hidden_size=64,
            semantic_loss_ignore_index=IGNORE,
        )
        model = SegformerForSemanticSegmentation(config).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
        for _ in tqdm(range(steps), desc="segmenter", leave=False):
            rows = torch.randint(len(images), (batch_size,))
            seen, wanted = images[rows] * (0.8 + 0.4 * torch.rand(batch_size, 1, 1, 1)), labels[rows]
            flip = torch.rand(batch_size) < 0.5
            seen = torch.where(flip[:, None, None, None], seen.flip(-1), seen)
            wanted = torch.where(flip[:, None, None], wanted.flip(-1), wanted)
            loss = model(pixel_values=seen.to(device), labels=wanted.to(device)).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def _pixels(image: Image.Image, size: tuple[int, int]) -> torch.Tensor:
    """(3, H, W) in [−1, 1]."""
    pixels = to_guide(np.asarray(image.convert("RGB")))[None]
    return F.interpolate(pixels, size=size, mode="bilinear", antialias=True)[0] * 2 - 1


@torch.no_grad()
def predict(model: SegformerForSemanticSegmentation, image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """(H, W) int32 classes at the image's own size."""
    logits = model(pixel_values=_pixels(image, size)[None].to(model.device)).logits.float()
    logits = F.interpolate(logits, size=(image.height, image.width), mode="bilinear")
    return logits[0].argmax(0).int().cpu().numpy()
