"""Can words name the segments? Table 3 of the paper: ``python -m emerdiff_lib.experiments.open_vocabulary``.

The same text-aligned features alone, averaged inside coarse masks, EmerDiff's and pixel mode's segments, and spread over
pixels by responses; class names in, mIoU out. The whole vocabulary is looked for in every picture, never the picture's own
true classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..assignment import assign_bilinear
from ..datasets import LabelledDataset, open_dataset
from ..evaluation.metrics import class_counts, iou_of_counts, mean_iou_of_counts
from ..evaluation.protocols import bootstrap, counts_statistic
from ..loading import load_pipeline
from ..pipeline import EmerDiffPipeline
from ..pixels import label_shares
from ..runs.harness import Execution, results_of
from ..runs.identity import digest, fingerprint, model_identity, versions
from ..runs.samples import dataset_identity, sample_identity, sample_items
from ..runs.store import JsonStore, Results
from ..runs.task import Item, Task
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
from .rivals import check_settings
from .selection import command, execution, finish, first_pictures

ALONE, COARSE, EMERDIFF, SEGMENTS, PIXELS = WAYS = (
    "alone",
    "in coarse masks",
    "in EmerDiff's masks",
    "in pixel mode's segments",
    "pixel by pixel",
)
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


class Naming(Task):
    """Every picture of a data set named in every way, from every kind of features.

    Args:
        words: {name: features}; ``models``: {name: what else identifies them}.
        settings: of the pipeline, except ``mode``.
    """

    def __init__(
        self,
        pipe: EmerDiffPipeline,
        data: LabelledDataset,
        words: Mapping[str, TextAligned],
        models: Mapping[str, Any],
        vocabulary: Vocabulary,
        output_dir: Path | str,
        settings: dict[str, Any],
    ):
        self.pipe, self.data, self.words, self.vocabulary, self.settings = (
            pipe,
            data,
            words,
            vocabulary,
            settings,
        )
        said = [dict(vocabulary.classes), list(vocabulary.templates), vocabulary.threshold]
        identity = {
            "study": "open vocabulary",
            "words": {name: models.get(name) for name in words},
            "vocabulary": digest(said),
            "settings": pipe.resolve(**settings).to_dict(),
            "pixel": pipe.resolve(**(settings | {"mode": "pixel"})).to_dict(),
            "model": model_identity(pipe),
            "data": dataset_identity(data),
            "versions": versions(),
        }
        self.store: JsonStore = JsonStore(output_dir, identity)

    def picture(self, item: Item) -> dict[str, str]:
        return sample_identity(self.data, item.what)

    def compute(self, item: Item) -> dict[str, Any]:
        """{"name", "counts": {features: {way: (C, 3) right, true and predicted pixels of each class}}}."""
        sample, pipe = self.data[item.what], self.pipe
        generator = torch.Generator().manual_seed(sample.seed)
        coarse = pipe.coarse(sample.image, generator=generator, **self.settings)
        bilinear, labels = assign_bilinear(coarse.masks, coarse.size), pipe.assign(pipe.respond(coarse))
        responses = pipe.respond(coarse, mode="pixel")
        segments = pipe.assign(responses)
        grid = (coarse.masks.shape[1], coarse.masks.shape[2])
        counts = {}
        for kind, words in self.words.items():
            features = words.features(sample.image, self.vocabulary)
            given = words, sample.image, self.vocabulary
            named = {
                ALONE: name_places(*given, features),
                COARSE: name_segments(*given, bilinear, coarse.masks, features),
                EMERDIFF: name_segments(*given, labels, coarse.masks, features),
                SEGMENTS: name_segments(*given, segments, label_shares(segments, grid), features),
                PIXELS: name_pixels(words, responses, self.vocabulary, features),
            }
            counts[kind] = {way: self._counts(sample.labels, found) for way, found in named.items()}
        return {"name": sample.name, "counts": counts}

    def _counts(self, truth: np.ndarray, found: np.ndarray) -> list[list[int]]:
        """Of every class; "none of these" is right nowhere."""
        classes = len(self.vocabulary.names)
        known = (
            np.ones(truth.shape, bool) if self.data.ignore_index is None else truth != self.data.ignore_index
        )
        pairs = truth[known].astype(np.int64) * (classes + 1) + found[known]
        confusion = np.bincount(pairs, minlength=(classes + 1) ** 2).reshape(classes + 1, classes + 1)
        return class_counts(confusion)[:classes].tolist()


def stacked(results: Iterable[dict], kind: str, way: str) -> np.ndarray:
    """(N, C, 3) counts."""
    return np.array([result["counts"][kind][way] for result in results])


def table(results: Results, draws: int = 1000) -> pd.DataFrame:
    """The paper's Table 3: a row per kind of features, and way; mIoU, and its gain over the same features alone, in points."""
    rows = []
    for kind in results[0]["counts"]:
        alone = stacked(results, kind, ALONE)
        for way in WAYS:
            counts = stacked(results, kind, way)
            gain = bootstrap(counts_statistic(counts, alone), len(counts), draws)
            row = {"features": kind, "way": way, "mIoU": 100 * float(mean_iou_of_counts(counts.sum(0)))}
            rows.append(row | dict(zip(("gain", "low", "high"), (100 * g for g in gain), strict=True)))
    return pd.DataFrame(rows).set_index(["features", "way"])


def by_class(results: Results, names: Iterable[str]) -> pd.DataFrame:
    """IoU of every class in percent, a row per kind of features and way."""
    kinds = results[0]["counts"]
    rows = {
        (kind, way): 100 * iou_of_counts(stacked(results, kind, way).sum(0)) for kind in kinds for way in WAYS
    }
    return pd.DataFrame(rows, index=list(names)).T.rename_axis(["features", "way"])


def name_all(
    pipe: EmerDiffPipeline,
    data: LabelledDataset,
    clip: str,
    output_dir: Path | str,
    settings: dict[str, Any],
    positions: Iterable[int],
    how: Execution | None = None,
) -> Results:
    """The pictures at ``positions``, by the model's own attention and, if one is named, by a CLIP."""
    words: dict[str, TextAligned] = {OWN: WordAttention(pipe), ERROR: DenoisingError(pipe)}
    models: dict[str, Any] = {}
    if clip:
        words[CLIP] = masked = MaskClip.from_pretrained(clip)
        models[CLIP] = [fingerprint(masked.model), masked.resolution]
    task = Naming(pipe, data, words, models, vocabulary_of(data), output_dir, settings)
    return results_of(task, sample_items(data, positions), how, label="pictures")


def main(argv: list[str] | None = None) -> pd.DataFrame:
    parser = command(__doc__, "runs/open-vocabulary")
    parser.add_argument("--clip", default="", help="a CLIP of transformers, by folder or hub id")
    parser.add_argument("--dataset", default="toyscapes", help="as notebook 06 names them")
    parser.add_argument("--root", default="", help="folder with the data set's official layout")
    parser.add_argument("--split", default="validation", help="the split that is reported")
    parser.add_argument("--limit", type=int, default=20, help="its first so many pictures")
    args = parser.parse_args(argv)
    data, how = open_dataset(args.dataset, args.root, args.split), execution(args)
    pipe = load_pipeline(args.model, args.device, args.dtype)
    settings = check_settings(pipe, args.num_masks, args.settings)
    positions = first_pictures(args.limit, len(data))
    results = name_all(pipe, data, args.clip, args.output, settings, positions, how)
    found = table(results)
    print(found.round(1).to_string())
    finish(results)
    return found


if __name__ == "__main__":
    main()
