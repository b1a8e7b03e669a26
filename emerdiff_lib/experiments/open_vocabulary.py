"""Can words name the segments? Table 3 of the paper: ``python -m emerdiff_lib.experiments.open_vocabulary``.

The same text-aligned features alone, averaged inside coarse masks, EmerDiff's and pixel mode's segments, and spread over
pixels by responses; class names in, mIoU out. The whole vocabulary is looked for in every picture, never the picture's own
true classes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from PIL import Image

from ..assignment import assign_bilinear
from ..datasets import LabelledDataset, open_dataset
from ..evaluation.metrics import contingency_table
from ..loading import load_pipeline
from ..pipeline import EmerDiffPipeline
from ..pixels import label_shares
from ..responses import ImageResponses
from ..runs.harness import Execution, results_of
from ..runs.identity import digest, fingerprint, model_identity, versions
from ..runs.samples import dataset_identity, sample_identity, sample_items
from ..runs.store import JsonStore
from ..runs.task import Item, Task
from ..toyscapes.objects import CLASS_NAMES, COARSE_CLASS_NAMES, FINE_TO_COARSE
from ..words import (
    TEMPLATES,
    TOYSCAPES_CLIP,
    DenoisingError,
    MaskClip,
    TextAligned,
    Vocabulary,
    WordAttention,
    name_pixels,
    name_places,
    name_segments,
)
from .rivals import check_settings
from .selection import command, execution, finish, first_pictures
from .word_tables import ALONE, CLASSES, COARSE, EMERDIFF, PIXELS, SEGMENTS, WAYS, Named, table

OWN = "the model's attention to words"
ERROR = "the model's denoising error"
CLIP = "MaskCLIP"
# What captions of Toyscapes call its coarse classes
TOYSCAPES_NAMES = {
    "sky": ["clouds", "sun", "moon"],
    "mountain": ["mountains"],
    "water": ["sea", "lake"],
    "grass": ["field"],
    "road": ["road"],
    "building": ["house"],
    "tree": ["tree"],
    "car": ["car"],
    "boat": ["boat"],
    "person": ["person"],
}
TOYSCAPES_TEMPLATES = ("a picture of a {}", "a picture of the {}")


def vocabulary_of(data: LabelledDataset, threshold: float = 0.0) -> Vocabulary:
    """A data set's class names with their synonyms; Toyscapes' as its captions have them."""
    if set(data.class_names) == set(TOYSCAPES_NAMES):
        names = {name: TOYSCAPES_NAMES[name] for name in data.class_names}
        return Vocabulary(names, templates=TOYSCAPES_TEMPLATES, threshold=threshold)
    return Vocabulary.of(data.class_names, threshold=threshold)


def prompt_variants(vocabulary: Vocabulary) -> dict[str, Vocabulary]:
    """The same classes said in other ways: without a sentence around them, in one sentence, in CLIP's, by one word each, by
    their names alone."""
    first = {name: words[:1] for name, words in vocabulary.classes.items()}
    return {
        CLASSES: vocabulary,
        "no template": replace(vocabulary, templates=("{}",)),
        "one template": replace(vocabulary, templates=vocabulary.templates[:1]),
        "CLIP's templates": replace(vocabulary, templates=TEMPLATES),
        "one word for each class": replace(vocabulary, classes=first),
        "the data set's own names": Vocabulary.of(vocabulary.names, templates=vocabulary.templates),
    }


def word_by_word(vocabulary: Vocabulary, more: Iterable[str] = ()) -> Vocabulary:
    """Every word a class of its own, and ``more`` words besides."""
    return replace(vocabulary, classes={word: [word] for word in (*vocabulary.words, *more)})


def own_words(data: LabelledDataset, vocabulary: Vocabulary) -> dict[str, list[str]]:
    """{class of a data set: words that are right for it}; a part without a class of its own has those of its whole."""
    if tuple(data.class_names) != CLASS_NAMES:
        return {name: list(words) for name, words in vocabulary.classes.items()}
    wholes = [COARSE_CLASS_NAMES[index] for index in FINE_TO_COARSE]
    return {part: list(vocabulary.classes[whole]) for part, whole in zip(CLASS_NAMES, wholes, strict=True)}


def with_thresholds(
    vocabulary: Vocabulary, left_out: Collection[str], thresholds: Iterable[float]
) -> dict[float, Vocabulary]:
    """The classes but those ``left_out``, which nothing names then, with one threshold after the other.

    Raises:
        ValueError: a class that there is not, or none is left.
    """
    if unknown := [name for name in left_out if name not in vocabulary.classes]:
        known = ", ".join(map(repr, vocabulary.names))
        raise ValueError(f"left_out names {unknown[0]!r}, which is no class; choose some of {known}.")
    kept = {name: words for name, words in vocabulary.classes.items() if name not in left_out}
    return {float(t): replace(vocabulary, classes=kept, threshold=float(t)) for t in thresholds}


Namer = Callable[[TextAligned, Vocabulary, torch.Tensor], np.ndarray]


def namers_of(
    pipe: EmerDiffPipeline,
    image: Image.Image,
    generator: torch.Generator | None = None,
    settings: dict[str, Any] | None = None,
    ways: Sequence[str] = WAYS,
) -> dict[str, Namer]:
    """{way: (words, vocabulary, features of the picture) → (H, W) int32 classes}; what no way needs is not computed.

    Args:
        settings: of the pipeline, except ``mode``.
        ways: some of :data:`WAYS`.
    """
    namers: dict[str, Namer] = {ALONE: lambda w, v, f: name_places(w, image, v, f)}

    def add(way: str, labels: np.ndarray, masks: torch.Tensor) -> None:
        namers[way] = lambda w, v, f: name_segments(w, image, v, labels, masks, f)

    if set(ways) - {ALONE}:
        coarse = pipe.coarse(image, generator=generator, **(settings or {}))
        add(COARSE, assign_bilinear(coarse.masks, coarse.size), coarse.masks)
    if EMERDIFF in ways:
        add(EMERDIFF, pipe.assign(pipe.respond(coarse)), coarse.masks)
    if {SEGMENTS, PIXELS} & set(ways):
        responses = cast(ImageResponses, pipe.respond(coarse, mode="pixel"))
        segments, (_, rows, columns) = pipe.assign(responses), coarse.masks.shape
        add(SEGMENTS, segments, label_shares(segments, (rows, columns)))
        namers[PIXELS] = lambda w, v, f: name_pixels(w, responses, v, f)
    return {way: namers[way] for way in WAYS if way in ways}


class Naming(Task):
    """Every picture of a data set named in every way, from every kind of features, with every vocabulary.

    Args:
        text_aligned: the pipeline → {name: features}; called again in every process that takes part.
        models: {name of features: what identifies them besides the pipeline}.
        vocabularies: {name: words to look for}; they need not be the data set's classes.
        settings: of the pipeline, except ``mode``.
        ways: some of :data:`WAYS`; what they do not need is not computed.
    """

    def __init__(
        self,
        pipe: EmerDiffPipeline,
        data: LabelledDataset,
        text_aligned: Callable[[EmerDiffPipeline], dict[str, TextAligned]],
        models: Mapping[str, Any],
        vocabularies: Mapping[str, Vocabulary],
        output_dir: Path | str,
        settings: dict[str, Any],
        ways: Sequence[str] = WAYS,
    ):
        self.pipe, self.data, self.text_aligned, self.vocabularies = pipe, data, text_aligned, vocabularies
        self.settings, self.ways = settings, [way for way in WAYS if way in ways]
        said = {name: [dict(v.classes), list(v.templates), v.threshold] for name, v in vocabularies.items()}
        identity = {
            "study": "open vocabulary",
            "words": {name: [models.get(name), _asked(words)] for name, words in self.words.items()},
            "vocabularies": digest(said),
            "ways": self.ways,
            "settings": pipe.resolve(**settings).to_dict(),
            "pixel": pipe.resolve(**(settings | {"mode": "pixel"})).to_dict(),
            "model": model_identity(pipe),
            "data": dataset_identity(data),
            "versions": versions(),
        }
        self.store: JsonStore = JsonStore(output_dir, identity)

    @cached_property
    def words(self) -> dict[str, TextAligned]:
        return self.text_aligned(self.pipe)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "words"}

    def picture(self, item: Item) -> dict[str, str]:
        return sample_identity(self.data, item.what)

    def compute(self, item: Item) -> dict[str, Any]:
        """{"name", "pairs": {vocabulary: {features: {way: (n, 3) true class, class found, pixels}}}}."""
        sample = self.data[item.what]
        generator = torch.Generator().manual_seed(sample.seed)
        namers = namers_of(self.pipe, sample.image, generator, self.settings, self.ways)
        known: dict[tuple, torch.Tensor] = {}
        pairs: dict[str, dict] = {}
        for title, vocabulary in self.vocabularies.items():
            for kind, words in self.words.items():
                key = kind, vocabulary.words, vocabulary.templates
                if key not in known:
                    known[key] = words.features(sample.image, vocabulary)
                found = {way: name(words, vocabulary, known[key]) for way, name in namers.items()}
                counted = {way: self._pairs(sample.labels, labels) for way, labels in found.items()}
                pairs.setdefault(title, {})[kind] = counted
        return {"name": sample.name, "pairs": pairs}

    def _pairs(self, truth: np.ndarray, found: np.ndarray) -> list[list[int]]:
        """How often each class of the truth was called what, where that happened at all."""
        count = max(int(found.max()), 0) + 1
        table = contingency_table(found, truth, count, len(self.data.class_names), self.data.ignore_index).T
        return np.column_stack([*table.nonzero(), table[table > 0]]).tolist()


def _asked(words: TextAligned) -> dict[str, Any]:
    """How the diffusion model itself is asked; the prompt None stands for the vocabulary's first template."""
    return {n: getattr(words, n) for n in ("prompt", "timestep", "draws", "seed") if hasattr(words, n)}


def text_aligned(
    pipe: EmerDiffPipeline, clip: str = "", kinds: Collection[str] = ()
) -> dict[str, TextAligned]:
    """{name: features} that can be had here: the model's own if it reads words, and a CLIP.

    Args:
        clip: a folder or hub id of ``transformers``, or "toyscapes-clip", which is bundled; "" for none.
        kinds: some of them; empty: all.

    Raises:
        ValueError: there are none.
    """
    words: dict[str, Callable[[], TextAligned]] = {}
    if pipe.tokenizer is not None:
        words |= {OWN: lambda: WordAttention(pipe), ERROR: lambda: DenoisingError(pipe)}
    if clip:
        words[CLIP] = lambda: MaskClip.from_pretrained(clip)
    found = {kind: make() for kind, make in words.items() if not kinds or kind in kinds}
    if not found:
        known = ", ".join(map(repr, words)) or "none, since this model reads no words: name a CLIP"
        raise ValueError(f"There are no features of these kinds: {list(kinds)}; there are {known}.")
    return found


def clip_for(clip: str, dataset: str) -> str:
    """The CLIP that is meant: for none given, the bundled one, which has seen drawn scenes alone, for those; else none ("")."""
    return clip or (TOYSCAPES_CLIP if dataset.startswith("toyscapes") else "")


def clip_identity(words: Mapping[str, TextAligned]) -> dict[str, Any]:
    """What results depend on besides the pipeline: {name: weights and size} of features that are a CLIP's."""
    return {
        kind: [fingerprint(one.model), one.resolution]
        for kind, one in words.items()
        if isinstance(one, MaskClip)
    }


def name_all(
    pipe: EmerDiffPipeline,
    data: LabelledDataset,
    output_dir: Path | str,
    positions: Iterable[int],
    settings: dict[str, Any] | None = None,
    clip: str = "",
    how: Execution | None = None,
    vocabularies: Mapping[str, Vocabulary] | None = None,
    ways: Sequence[str] = WAYS,
    kinds: Collection[str] = (),
) -> dict[str, Named]:
    """{vocabulary: what was found}: the pictures at ``positions``, named by all that :func:`text_aligned` gives.

    Args:
        vocabularies: the data set's own classes by default, as :data:`CLASSES`.
    """
    said = vocabularies or {CLASSES: vocabulary_of(data)}
    make = partial(text_aligned, clip=clip, kinds=tuple(kinds))
    task = Naming(pipe, data, make, clip_identity(make(pipe)), said, output_dir, settings or {}, ways)
    results = results_of(task, sample_items(data, positions), how, label="pictures")
    return {title: Named(results, tuple(data.class_names), v.names, title) for title, v in said.items()}


def main(argv: list[str] | None = None) -> pd.DataFrame:
    parser = command(__doc__, "runs/open-vocabulary")
    parser.add_argument(
        "--clip", default="", help="a CLIP of transformers; empty: the bundled one for Toyscapes, else none"
    )
    parser.add_argument("--dataset", default="toyscapes", help="as notebook 06 names them")
    parser.add_argument("--root", default="", help="folder with the data set's official layout")
    parser.add_argument("--split", default="validation", help="the split that is reported")
    parser.add_argument("--limit", type=int, default=20, help="its first so many pictures")
    args = parser.parse_args(argv)
    data, how = open_dataset(args.dataset, args.root, args.split), execution(args)
    pipe = load_pipeline(args.model, args.device, args.dtype)
    settings = check_settings(pipe, args.num_masks, args.settings)
    positions, clip = first_pictures(args.limit, len(data)), clip_for(args.clip, args.dataset)
    named = name_all(pipe, data, args.output, positions, settings, clip, how)[CLASSES]
    found = table(named)
    print(found.round(1).to_string())
    finish(named.results)
    return found


if __name__ == "__main__":
    main()
