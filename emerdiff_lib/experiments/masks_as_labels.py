"""Can named masks stand in for labels? ``python -m emerdiff_lib.experiments.masks_as_labels``.

Pictures are drawn from captions by the diffusion model, EmerDiff cuts them, words name the pixels, and a small segmenter learns
from that alone. It is scored on real pictures, beside one that learnt from true labels, one that learnt from named masks of
real pictures, and the named masks themselves.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast
from zlib import crc32

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline, SD3Transformer2DModel
from PIL import Image
from tqdm.auto import tqdm
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from ..checkpoints import locate, quietly
from ..datasets import LabelledDataset, open_dataset
from ..datasets.base import IGNORE
from ..evaluation.intervals import interval
from ..evaluation.metrics import contingency_table, label_counts
from ..files import write_atomically
from ..images import processing_size, to_guide
from ..loading import load_pipeline
from ..pipeline import EmerDiffPipeline
from ..responses import ImageResponses
from ..runs.harness import Execution, run
from ..runs.identity import digest, model_identity, versions
from ..runs.samples import dataset_identity, sample_identity, sample_items
from ..runs.store import FolderStore
from ..runs.task import Item, Task
from ..toyscapes import Toyscapes
from ..train.captions import caption
from ..words import TextAligned, Vocabulary, name_pixels
from .open_vocabulary import ERROR, clip_for, clip_identity, text_aligned, vocabulary_of
from .rivals import check_settings
from .selection import command, execution, first_pictures

TRUE, REAL, MADE, ITSELF = SOURCES = (
    "real pictures, true labels",
    "real pictures, named masks",
    "pictures made from captions, named masks",
    "the named masks themselves",
)


def captions_of(data: LabelledDataset, positions: Iterable[int]) -> list[str]:
    """What pictures of a data set show, in words: a scene's own caption, or the names of the classes in it."""
    if getattr(data, "scenes", None) is not None:
        return [Toyscapes.from_seed(data[position].seed).caption for position in positions]
    names = list(data.class_names)
    return [caption(data[position].labels, names, data.ignore_index) for position in positions]


class NamedMasks(Task):
    """Pictures, and what each of their pixels is called: kept as ``image.png`` and ``labels.png``.

    Args:
        data: where the pictures are; None: they are drawn by the model from captions, which the items then hold.
        text_aligned: the pipeline → {name: features}, one of them.
        words: what identifies them.
        settings: of the pipeline, with a mode that has responses ("pixel" or "fast").
        generation: arguments of the diffusers pipeline besides the caption.
    """

    def __init__(
        self,
        pipe: EmerDiffPipeline,
        data: LabelledDataset | None,
        text_aligned: Callable[[EmerDiffPipeline], dict[str, TextAligned]],
        words: Any,
        vocabulary: Vocabulary,
        output_dir: Path | str,
        settings: dict[str, Any],
        generation: Mapping[str, Any] | None = None,
    ):
        self.pipe, self.data, self.text_aligned, self.vocabulary = pipe, data, text_aligned, vocabulary
        self.settings, self.generation = settings, dict(generation or {})
        self._made: dict[str, Any] = {}
        if (mode := pipe.resolve(**settings)).assignment.num_parts is None:
            raise ValueError(
                f'mode={mode.mode!r} has no responses of small masks, which words are spread by; use "pixel" or "fast".'
            )
        identity = {
            "study": "masks as labels",
            "words": words,
            "vocabulary": digest(
                [dict(vocabulary.classes), list(vocabulary.templates), vocabulary.threshold]
            ),
            "settings": pipe.resolve(**settings).to_dict(),
            "generation": self.generation,
            "model": model_identity(pipe),
            "data": None if data is None else dataset_identity(data),
            "versions": versions(),
        }
        self.store: FolderStore = FolderStore(output_dir, identity, _write)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_made": {}}

    def picture(self, item: Item) -> dict[str, Any]:
        return {"caption": item.what} if self.data is None else sample_identity(self.data, item.what)

    def compute(self, item: Item) -> tuple[Image.Image, np.ndarray]:
        if "words" not in self._made:
            (self._made["words"],) = self.text_aligned(self.pipe).values()
        seed = crc32(item.name.encode())
        image = self._draw(item.what, seed) if self.data is None else self.data[item.what].image
        coarse = self.pipe.coarse(image, generator=torch.Generator().manual_seed(seed), **self.settings)
        responses = cast(ImageResponses, self.pipe.respond(coarse))
        return image, name_pixels(self._made["words"], responses, self.vocabulary)

    def _draw(self, text: str, seed: int) -> Image.Image:
        """A picture of a caption, by the diffusers pipeline that the checkpoint names."""
        if "sampler" not in self._made:
            self._made["sampler"] = sampler_of(self.pipe)
        generator = torch.Generator().manual_seed(seed)
        return self._made["sampler"](text, generator=generator, **self.generation).images[0]


def sampler_of(pipe: EmerDiffPipeline) -> Callable[..., Any]:
    """The diffusers pipeline that the checkpoint names, of the same networks: captions in, pictures out."""
    parts, told = {name: part for name, part in pipe.components.items() if part is not None}, {}
    if isinstance(pipe.unet, SD3Transformer2DModel):
        parts["transformer"] = parts.pop("unet")
        if pipe.vae.config.shift_factor is None:  # it wants a number
            parts["vae"] = copy.deepcopy(pipe.vae)
            parts["vae"].register_to_config(shift_factor=0.0)
        parts |= {
            name: getattr(pipe, name) for name in ("text_encoder_3", "tokenizer_3")
        }  # None has to be said
        told = {"max_sequence_length": pipe.config.max_sequence_length}
    source = locate(pipe.model_name)
    with quietly():
        sampler = DiffusionPipeline.from_pretrained(source, **parts)
    sampler.to(pipe.device).set_progress_bar_config(disable=True)
    return partial(sampler, **told)


def _write(result: tuple[Image.Image, np.ndarray], folder: Path) -> None:
    image, labels = result
    image.save(folder / "image.png")
    Image.fromarray(labels.astype(np.uint8 if labels.max() <= IGNORE else np.uint16)).save(
        folder / "labels.png"
    )


def export(task: NamedMasks, items: Iterable[Item], folder: Path | str) -> LabelledDataset:
    """The labelled pictures as a data set that :func:`~emerdiff_lib.datasets.open_dataset` reads: ``images/``, ``labels/``,
    ``classes.txt``; "none of these" is ignored. An earlier export there is replaced."""
    folder, names = Path(folder), task.vocabulary.names
    if len(names) > IGNORE:
        raise ValueError(f"{len(names)} classes do not fit into label maps of 8 bits; name at most {IGNORE}.")
    for part in ("images", "labels"):
        shutil.rmtree(folder / part, ignore_errors=True)
        (folder / part).mkdir(parents=True)
    for item in items:
        found = task.store.path(item.name)
        shutil.copyfile(found / "image.png", folder / "images" / f"{item.name}.png")
        labels = np.asarray(Image.open(found / "labels.png"))
        labels = np.where(labels == len(names), IGNORE, labels).astype(np.uint8)
        Image.fromarray(labels).save(folder / "labels" / f"{item.name}.png")
    write_atomically(folder / "classes.txt", "\n".join(names) + "\n")
    return open_dataset("folder", folder)


# -- the segmenter ------------------------------------------------------------------------------------------------------


def train_segmenter(
    data: LabelledDataset,
    positions: Iterable[int],
    size: tuple[int, int],
    steps: int = 300,
    batch_size: int = 16,
    learning_rate: float = 1e-3,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> SegformerForSemanticSegmentation:
    """A small SegFormer (Xie et al., NeurIPS 2021), from random weights, on pictures mirrored and in changing light.

    Args:
        size: (H, W) that pictures and label maps are brought to.
    """
    positions = list(positions)
    images, labels = (
        torch.empty(len(positions), 3, *size),
        torch.empty(len(positions), *size, dtype=torch.long),
    )
    for row, position in enumerate(positions):
        sample = data[position]
        images[row] = _seen(sample.image, size)
        truth = torch.from_numpy(sample.labels.astype(np.int64))[None, None].float()
        labels[row] = F.interpolate(truth, size=size, mode="nearest-exact")[0, 0].long()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SegformerForSemanticSegmentation(
            SegformerConfig(
                num_labels=len(data.class_names),
                hidden_sizes=[16, 32, 80, 128],
                depths=[1, 1, 1, 1],
                num_attention_heads=[1, 1, 2, 4],
                decoder_hidden_size=64,
                semantic_loss_ignore_index=IGNORE if data.ignore_index is None else data.ignore_index,
            )
        ).to(device)
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


def _seen(image: Image.Image, size: tuple[int, int]) -> torch.Tensor:
    """(3, H, W) in [−1, 1]."""
    pixels = to_guide(np.asarray(image.convert("RGB")))[None]
    return F.interpolate(pixels, size=size, mode="bilinear", antialias=True)[0] * 2 - 1


@torch.no_grad()
def predict(model: SegformerForSemanticSegmentation, image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """(H, W) int32 classes at the picture's own size."""
    logits = model(pixel_values=_seen(image, size)[None].to(model.device)).logits.float()
    logits = F.interpolate(logits, size=(image.height, image.width), mode="bilinear")
    return logits[0].argmax(0).int().cpu().numpy()


# -- the comparison -----------------------------------------------------------------------------------------------------


def compare(
    pipe: EmerDiffPipeline,
    training: LabelledDataset,
    reported: LabelledDataset,
    num_pictures: int,
    positions: Iterable[int],
    output_dir: Path | str,
    settings: dict[str, Any] | None = None,
    kind: str = ERROR,
    clip: str = "",
    how: Execution | None = None,
    steps: int = 300,
    generation: Mapping[str, Any] | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, LabelledDataset]]:
    """Scores on the pictures of ``reported`` at ``positions``, of a segmenter for each way to get labels.

    Args:
        training: whose first ``num_pictures`` pictures are learnt from; their captions are what the model draws.
        settings: of the pipeline; the mode is "fast" unless they say otherwise.
        kind, clip: which features name the pixels, as for :func:`.open_vocabulary.text_aligned`.
        steps: of the segmenter's training.
        generation: arguments of the diffusers pipeline.

    Returns:
        {one of :data:`SOURCES`: (N, C, 3) right, true and predicted pixels of each class}, and {source: the data set made}.

    Raises:
        ValueError: for a model that reads no words, and so draws no captions.
    """
    if pipe.tokenizer is None:
        raise ValueError(
            f"{pipe.model_name} is told of images, not of words, so it draws no captions; pass num_pictures=0 to leave this out."
        )
    folder, positions, how = Path(output_dir).expanduser(), list(positions), how or Execution()
    settings = {"mode": "fast"} | (settings or {})
    drawing = {"num_inference_steps": 20, "guidance_scale": 3.0} | dict(generation or {})
    rows = first_pictures(num_pictures, len(training), "num_pictures")
    vocabulary, make = vocabulary_of(training), partial(text_aligned, clip=clip, kinds=(kind,))
    identity = {kind: clip_identity(make(pipe)).get(kind)}

    def labelled(source: str, data: LabelledDataset | None, items: list[Item]) -> LabelledDataset:
        place = folder / source.replace(",", "").replace(" ", "-")
        options = {} if data is not None else drawing
        task = NamedMasks(pipe, data, make, identity, vocabulary, place / "records", settings, options)
        report = run(task, items, how, label=source)
        if report.failures:
            raise ValueError(f"{source}: {report}")
        return export(task, items, place)

    drawn = [Item(f"made-{i:06}", text) for i, text in enumerate(captions_of(training, rows))]
    made = {
        REAL: labelled(REAL, training, sample_items(training, rows)),
        MADE: labelled(MADE, None, drawn),
        ITSELF: labelled(ITSELF, reported, sample_items(reported, positions)),
    }
    first = training[0].image
    size = processing_size((first.height, first.width), pipe.resolve().inversion.processing_resolution, 32)
    pictures = {
        TRUE: (training, rows),
        REAL: (made[REAL], range(len(rows))),
        MADE: (made[MADE], range(len(rows))),
    }
    scores = {}
    for source, (data, some) in pictures.items():
        model = train_segmenter(data, some, size, steps, device=pipe.device)
        found = [predict(model, reported[position].image, size) for position in positions]
        scores[source] = counts_of(reported, positions, found)
    named = [made[ITSELF][i].labels for i in range(len(positions))]
    scores[ITSELF] = counts_of(reported, positions, named)
    return scores, made


def counts_of(data: LabelledDataset, positions: Iterable[int], found: Iterable[np.ndarray]) -> np.ndarray:
    """(N, C, 3) right, true and predicted pixels of each class; pixels found :data:`~emerdiff_lib.datasets.base.IGNORE` are of
    none."""
    classes, counts = len(data.class_names), []
    for position, labels in zip(positions, found, strict=True):
        segments = np.where(labels == IGNORE, classes, labels)
        pairs = contingency_table(segments, data[position].labels, classes + 1, classes, data.ignore_index)
        counts.append(label_counts(pairs))
    return np.stack(counts)


def table(scores: Mapping[str, np.ndarray], draws: int = 1000) -> pd.DataFrame:
    """mIoU in percent with its 95 % bootstrap interval over pictures, and the paired difference to true labels."""
    rows = {}
    for source, counts in scores.items():
        value = interval(counts, draws=draws)
        change = interval(counts, scores[TRUE], draws)
        names = ("mIoU", "low", "high", "− true labels", "from", "to")
        rows[source] = dict(zip(names, (100 * float(v) for v in (*value, *change)), strict=True))
    return pd.DataFrame(rows).T.rename_axis("learnt from")


def main(argv: list[str] | None = None) -> pd.DataFrame:
    parser = command(__doc__, "runs/masks-as-labels")
    parser.add_argument("--features", default=ERROR, help="that name the pixels")
    parser.add_argument("--clip", default="", help="a CLIP of transformers, by folder or hub id")
    parser.add_argument("--dataset", default="toyscapes", help="as notebook 06 names them")
    parser.add_argument("--root", default="", help="folder with the data set's official layout")
    parser.add_argument("--train-split", default="train", help="the split whose pictures are learnt from")
    parser.add_argument("--num-pictures", type=int, default=300, help="its first so many")
    parser.add_argument("--split", default="validation", help="the split that is reported")
    parser.add_argument("--limit", type=int, default=50, help="its first so many pictures")
    parser.add_argument("--steps", type=int, default=300, help="of the segmenter's training")
    args = parser.parse_args(argv)
    training, reported = (open_dataset(args.dataset, args.root, s) for s in (args.train_split, args.split))
    pipe, how = load_pipeline(args.model, args.device, args.dtype), execution(args)
    settings = check_settings(pipe, args.num_masks, args.settings)
    positions = first_pictures(args.limit, len(reported))
    scores, made = compare(
        pipe,
        training,
        reported,
        args.num_pictures,
        positions,
        args.output,
        settings,
        args.features,
        clip_for(args.clip, args.dataset),
        how,
        args.steps,
    )
    found = table(scores)
    print(found.round(1).to_string())
    print("\n".join(f"{source}: {data.root}" for source, data in made.items()))
    return found


if __name__ == "__main__":
    main()
