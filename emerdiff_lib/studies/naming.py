"""Can class names be found in the segments? (Notebook 14, the paper's Table 3.)

The same text-aligned features alone, filtered along the image's colours, averaged inside coarse masks, EmerDiff's and pixel
mode's segments, and spread over pixels by responses; class names in, mIoU out. The whole vocabulary is looked for in every
image, never the image's own true classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from ..assignment import assign_bilinear
from ..baselines.upsamplers import guided_adaptive
from ..datasets import LabelledDataset
from ..evaluation.intervals import interval
from ..evaluation.metrics import class_iou, contingency_table, label_counts, mean_iou
from ..pipeline import EmerDiffPipeline
from ..pixels import label_shares
from ..runs.cached_map import Results
from ..runs.keys import network_digest
from ..words import (
    DenoisingError,
    MaskClip,
    TextAligned,
    Vocabulary,
    WordAttention,
    name_pixels,
    name_places,
    name_segments,
)
from .mapping import map_images

ALONE, FILTERED, COARSE, EMERDIFF, SEGMENTS, PIXELS = WAYS = (
    "alone",
    "filtered by colours",
    "in coarse masks",
    "in EmerDiff's masks",
    "in pixel mode's segments",
    "pixel by pixel",
)
ATTENTION, ERROR, CLIP = "the model's attention to words", "the model's denoising error", "MaskCLIP"
CLASSES = "class names"  # of a data set, with their synonyms
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


# -- vocabularies ---------------------------------------------------------------------------------------------------------


def vocabulary_of(data: LabelledDataset) -> Vocabulary:
    """A data set's class names with their synonyms; Toyscapes' as its captions have them."""
    if set(data.class_names) == set(TOYSCAPES_NAMES):
        classes = {name: TOYSCAPES_NAMES[name] for name in data.class_names}
        return Vocabulary(classes, templates=TOYSCAPES_TEMPLATES)
    return Vocabulary.of(data.class_names)


# -- features and images ------------------------------------------------------------------------------------------------


@lru_cache(2)  # a CLIP is loaded once for many images
def text_aligned(pipe: EmerDiffPipeline, clip: str = "") -> dict[str, TextAligned]:
    """{name: features} that can be had here: the model's own if it reads words, and a CLIP's.

    Args:
        clip: a folder or hub id of ``transformers``, or "toyscapes-clip", which is bundled; "" for none.

    Raises:
        ValueError: there are none.
    """
    features: dict[str, TextAligned] = {}
    if pipe.reads_text:
        features |= {ATTENTION: WordAttention(pipe), ERROR: DenoisingError(pipe)}
    if clip:
        features[CLIP] = MaskClip.from_pretrained(clip)
    if not features:
        raise ValueError(f"{pipe.model_name} reads no words, so it has no features for them; name a CLIP.")
    return features


def features_key(features: Mapping[str, TextAligned]) -> dict[str, Any]:
    """What results depend on besides the pipeline: prompts of the diffusion model itself, or the weights and size of a CLIP."""
    options = ("prompt", "timestep", "draws", "seed", "resolution")
    return {
        kind: {name: getattr(one, name) for name in options if hasattr(one, name)}
        | ({"model": network_digest(one.model)} if isinstance(one, MaskClip) else {})
        for kind, one in features.items()
    }


Namer = Callable[[TextAligned, Vocabulary, torch.Tensor], np.ndarray]


def namers_of(
    pipe: EmerDiffPipeline,
    image: Image.Image,
    generator: torch.Generator | None = None,
    settings: Mapping[str, Any] | None = None,
    ways: Sequence[str] = WAYS,
) -> dict[str, Namer]:
    """{way: (features' model, vocabulary, features of the image) → (H, W) int32 classes}; what no way needs is not computed.

    Args:
        settings: of the pipeline, except ``mode``.
        ways: some of :data:`WAYS`.
    """
    size = image.height, image.width
    namers: dict[str, Namer] = {ALONE: lambda model, v, f: name_places(model, f, v, size)}

    def add(way: str, labels: np.ndarray, masks: torch.Tensor) -> None:
        namers[way] = lambda model, v, f: name_segments(model, f, v, labels, masks)

    if set(ways) - {ALONE}:
        coarse = pipe.cluster(image, generator=generator, **(settings or {}))
        pixels = np.asarray(image.resize(coarse.processing_size[::-1]))
        namers[FILTERED] = lambda model, v, f: name_pixels(model, guided_adaptive(f, pixels), v, coarse.size)
        add(COARSE, assign_bilinear(coarse.masks, coarse.size), coarse.masks)
    if EMERDIFF in ways:
        add(EMERDIFF, pipe.assign(pipe.respond(coarse)), coarse.masks)
    if {SEGMENTS, PIXELS} & set(ways):
        responses = pipe.probe(coarse, mode="pixel")
        segments, (_, rows, columns) = pipe.assign(responses), coarse.masks.shape
        add(SEGMENTS, segments, label_shares(segments, (rows, columns)))
        spread = lambda f: responses.features(f, size=coarse.processing_size)
        namers[PIXELS] = lambda model, v, f: name_pixels(model, spread(f), v, coarse.size)
    return {way: namers[way] for way in WAYS if way in ways}


def name_images(
    pipe: EmerDiffPipeline,
    data: LabelledDataset,
    samples: Mapping[str, int],
    output_dir: Path | str,
    settings: Mapping[str, Any],
    clip: str = "",
    vocabularies: Mapping[str, Vocabulary] | None = None,
    ways: Sequence[str] = WAYS,
    kinds: Sequence[str] = (),
    **execution: Any,
) -> dict[str, Named]:
    """{vocabulary: what was found}: images named in every way, by :func:`~.mapping.map_images`.

    Args:
        settings: of the pipeline, except ``mode``.
        clip: as for :func:`text_aligned`, whose features name; ``kinds``: some of their names, empty for all.
        vocabularies: {name: words to look for}; the data set's own classes by default, as :data:`CLASSES`.
        ways: some of :data:`WAYS`; what they do not need is not computed.
    """
    vocabularies = vocabularies or {CLASSES: vocabulary_of(data)}
    kinds = list(kinds or text_aligned(pipe, clip))
    features_of = lambda: {kind: text_aligned(pipe, clip)[kind] for kind in kinds}  # in every process
    ways = [way for way in WAYS if way in ways]
    key = {
        "study": "naming",
        "features": features_key(features_of()),
        "vocabularies": {
            n: [dict(v.classes), list(v.templates), v.threshold] for n, v in vocabularies.items()
        },
        "ways": ways,
        "settings": pipe.resolve(**settings).to_dict(),
        "pixel": pipe.resolve(**(dict(settings) | {"mode": "pixel"})).to_dict(),
    }

    def named(position: int) -> dict[str, Any]:
        """{"name", "pairs": {vocabulary: {features: {way: (n, 3) true class, class found, pixels}}}}."""
        sample, computed, pairs = data[position], {}, {}
        generator = torch.Generator().manual_seed(sample.seed)
        namers = namers_of(pipe, sample.image, generator, settings, ways)
        for title, vocabulary in vocabularies.items():
            for kind, model in features_of().items():
                asked = kind, vocabulary.words, vocabulary.templates
                if asked not in computed:
                    computed[asked] = model.features(sample.image, vocabulary)
                labels = {way: name(model, vocabulary, computed[asked]) for way, name in namers.items()}
                counted = {way: _pairs(sample.labels, one, data) for way, one in labels.items()}
                pairs.setdefault(title, {})[kind] = counted
        return {"name": sample.name, "pairs": pairs}

    results = map_images(named, pipe, data, samples, output_dir, key, **execution)
    classes = tuple(data.class_names)
    return {title: Named(results, title, kinds, ways, classes, v.names) for title, v in vocabularies.items()}


def _pairs(truth: np.ndarray, labels: np.ndarray, data: LabelledDataset) -> list[list[int]]:
    """How often each class of the truth was called what, where that happened at all."""
    table = contingency_table(labels, truth, None, len(data.class_names), data.ignore_index).T
    return np.column_stack([*table.nonzero(), table[table > 0]]).tolist()


# -- tables ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Named:
    """What :func:`name_images` found with one vocabulary.

    Attributes:
        results: of the run; ``vocabulary``: which of its vocabularies.
        kinds: of features; ``ways``: some of :data:`WAYS`.
        classes: the data set's; ``called``: the vocabulary's.
    """

    results: Results
    vocabulary: str
    kinds: list[str]
    ways: list[str]
    classes: tuple[str, ...]
    called: tuple[str, ...]

    def confusions(self, kind: str, way: str) -> np.ndarray:
        """(N, true classes, classes found + 1) pixels; the last column is "none of these"."""
        confusions = np.zeros((len(self.results), len(self.classes), len(self.called) + 1), np.int64)
        for matrix, result in zip(confusions, self.results, strict=True):
            true, called, pixels = np.array(result["pairs"][self.vocabulary][kind][way]).T
            matrix[true, called] = pixels
        return confusions

    def counts(self, kind: str, way: str) -> np.ndarray:
        """(N, C, 3) right, true and predicted pixels of each class; "none of these" is right nowhere.

        The vocabulary has to be of the data set's own classes, in their order.
        """
        return label_counts(self.confusions(kind, way).swapaxes(1, 2))


def table(named: Named) -> pd.DataFrame:
    """The paper's Table 3: a row per kind of features, and way; mIoU, and its gain over the same features alone, in points."""
    rows = []
    for kind in named.kinds:
        alone = named.counts(kind, ALONE)
        for way in named.ways:
            counts = named.counts(kind, way)
            gain = (100 * end for end in interval(counts, alone))
            rows.append((kind, way, 100 * float(mean_iou(counts.sum(0))), *gain))
    columns = ["features", "way", "mIoU", "gain", "low", "high"]
    return pd.DataFrame(rows, columns=columns).set_index(["features", "way"])


def by_class(named: Named) -> pd.DataFrame:
    """IoU of every class in percent, a row per kind of features and way."""
    pairs = [(kind, way) for kind in named.kinds for way in named.ways]
    rows = {pair: 100 * class_iou(named.counts(*pair).sum(0)) for pair in pairs}
    return pd.DataFrame(rows, index=list(named.classes)).T.rename_axis(["features", "way"])
