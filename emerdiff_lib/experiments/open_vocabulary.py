"""Can words name the segments? Table 3 of the paper: ``python -m emerdiff_lib.experiments.open_vocabulary``.

The same text-aligned features alone, averaged inside coarse masks, EmerDiff's and pixel mode's segments, and spread over
pixels by responses; class names in, mIoU out. The whole vocabulary is looked for in every picture, never the picture's own
true classes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..assignment import assign_bilinear
from ..datasets import LabelledDataset, Sample, open_dataset
from ..evaluation.metrics import iou_of_counts, mean_iou_of_counts
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
    BUNDLED,
    NOTHING,
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


def vocabulary_of(data: LabelledDataset, threshold: float = 0.0) -> Vocabulary:
    """A data set's class names with their synonyms; Toyscapes' as its captions have them."""
    if set(data.class_names) == set(TOYSCAPES_NAMES):
        names = {name: TOYSCAPES_NAMES[name] for name in data.class_names}
        return Vocabulary(names, templates=TOYSCAPES_TEMPLATES, threshold=threshold)
    return Vocabulary.of(data.class_names, threshold=threshold)


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
            "words": {name: models.get(name) for name in self.words},
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
        namers = self._namers(sample)
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

    def _namers(self, sample: Sample) -> dict[str, Callable[..., np.ndarray]]:
        """{way: (words, vocabulary, features) → (H, W) classes} of a picture; the expensive part."""
        pipe, image, ways = self.pipe, sample.image, set(self.ways)
        namers: dict[str, Callable[..., np.ndarray]] = {ALONE: lambda w, v, f: name_places(w, image, v, f)}

        def add(way: str, labels: np.ndarray, masks: torch.Tensor) -> None:
            namers[way] = lambda w, v, f: name_segments(w, image, v, labels, masks, f)

        if ways - {ALONE}:
            generator = torch.Generator().manual_seed(sample.seed)
            coarse = pipe.coarse(image, generator=generator, **self.settings)
            add(COARSE, assign_bilinear(coarse.masks, coarse.size), coarse.masks)
        if EMERDIFF in ways:
            add(EMERDIFF, pipe.assign(pipe.respond(coarse)), coarse.masks)
        if ways & {SEGMENTS, PIXELS}:
            responses = pipe.respond(coarse, mode="pixel")
            segments = pipe.assign(responses)
            add(SEGMENTS, segments, label_shares(segments, tuple(coarse.masks.shape[1:])))
            namers[PIXELS] = lambda w, v, f: name_pixels(w, responses, v, f)
        return {way: namers[way] for way in self.ways}

    def _pairs(self, truth: np.ndarray, found: np.ndarray) -> list[list[int]]:
        """How often each class of the truth was called what, where that happened at all."""
        known = np.ones(truth.shape, bool) if (none := self.data.ignore_index) is None else truth != none
        both = np.stack([truth[known].astype(np.int64), found[known].astype(np.int64)], 1)
        values, counts = np.unique(both, axis=0, return_counts=True)
        return np.column_stack([values, counts]).tolist()


@dataclass(frozen=True)
class Named:
    """What a run of :class:`Naming` found with one vocabulary.

    Attributes:
        results: of the run; ``vocabulary``: which of its vocabularies.
        classes: the data set's; ``called``: the vocabulary's.
    """

    results: Results
    classes: tuple[str, ...]
    called: tuple[str, ...]
    vocabulary: str = CLASSES

    @property
    def kinds(self) -> list[str]:
        return list(self.results[0]["pairs"][self.vocabulary])

    @property
    def ways(self) -> list[str]:
        return list(self.results[0]["pairs"][self.vocabulary][self.kinds[0]])

    def confusions(self, kind: str, way: str) -> np.ndarray:
        """(N, true classes, classes found + 1) pixels; the last column is "none of these"."""
        found = np.zeros((len(self.results), len(self.classes), len(self.called) + 1), np.int64)
        for matrix, result in zip(found, self.results, strict=True):
            true, called, pixels = np.array(result["pairs"][self.vocabulary][kind][way]).T
            matrix[true, called] = pixels
        return found

    def counts(self, kind: str, way: str) -> np.ndarray:
        """(N, C, 3) right, true and predicted pixels of each class; "none of these" is right nowhere.

        Raises:
            ValueError: the vocabulary's classes are not the data set's.
        """
        if self.called != self.classes:
            raise ValueError("IoU needs a vocabulary of the data set's own classes, in their order.")
        matrices = self.confusions(kind, way)
        predicted = matrices.sum(1)[:, :-1]
        return np.stack([np.diagonal(matrices, axis1=1, axis2=2), matrices.sum(2), predicted], -1)


def table(named: Named, draws: int = 1000) -> pd.DataFrame:
    """The paper's Table 3: a row per kind of features, and way; mIoU, and its gain over the same features alone, in points."""
    rows = []
    for kind in named.kinds:
        alone = named.counts(kind, ALONE)
        for way in named.ways:
            counts = named.counts(kind, way)
            gain = bootstrap(counts_statistic(counts, alone), len(counts), draws)
            row = {"features": kind, "way": way, "mIoU": 100 * float(mean_iou_of_counts(counts.sum(0)))}
            rows.append(row | dict(zip(("gain", "low", "high"), (100 * g for g in gain), strict=True)))
    return pd.DataFrame(rows).set_index(["features", "way"])


def by_class(named: Named) -> pd.DataFrame:
    """IoU of every class in percent, a row per kind of features and way."""
    rows = {
        (kind, way): 100 * iou_of_counts(named.counts(kind, way).sum(0))
        for kind in named.kinds
        for way in named.ways
    }
    return pd.DataFrame(rows, index=list(named.classes)).T.rename_axis(["features", "way"])


def called(named: Named, kind: str, way: str) -> pd.DataFrame:
    """What the pixels of each true class (rows) are called (columns), in percent; rows sum to 100."""
    matrix = named.confusions(kind, way).sum(0)
    shares = 100 * matrix / matrix.sum(1, keepdims=True).clip(1)
    return pd.DataFrame(shares, index=list(named.classes), columns=[*named.called, NOTHING])


def by_vocabulary(named: Iterable[Named], way: str = ALONE) -> pd.DataFrame:
    """mIoU in percent: a row per vocabulary, a column per kind of features."""
    rows = {
        one.vocabulary: {kind: 100 * mean_iou_of_counts(one.counts(kind, way).sum(0)) for kind in one.kinds}
        for one in named
    }
    return pd.DataFrame(rows).T.rename_axis("vocabulary")


def nothing_curve(
    named: Mapping[float, Named], left_out: Collection[str], kind: str, way: str
) -> pd.DataFrame:
    """What a threshold does when some classes have no word: in percent, "named" of the pixels of known classes, "right" of
    those named, and "refused" of the pixels of classes ``left_out``.

    Args:
        named: {threshold: what was found with it}.
    """
    rows = []
    for threshold, one in named.items():
        matrix = one.confusions(kind, way).sum(0)
        known = np.array([name not in left_out for name in one.classes])
        right = sum(matrix[one.classes.index(name), i] for i, name in enumerate(one.called))
        said = matrix[known, :-1].sum()
        row = {
            "threshold": threshold,
            "named": said / matrix[known].sum(),
            "right": right / said if said else np.nan,
            "refused": matrix[~known, -1].sum() / max(1, matrix[~known].sum()),
        }
        rows.append({name: value if name == "threshold" else 100 * value for name, value in row.items()})
    return pd.DataFrame(rows)


def text_aligned(
    pipe: EmerDiffPipeline, clip: str = BUNDLED, kinds: Collection[str] = ()
) -> dict[str, TextAligned]:
    """{name: features} that can be had here: the model's own if it reads words, and a CLIP.

    Args:
        clip: :data:`~emerdiff_lib.words.BUNDLED`, a folder or a hub id of ``transformers``; "" for none.
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


def name_all(
    pipe: EmerDiffPipeline,
    data: LabelledDataset,
    output_dir: Path | str,
    positions: Iterable[int],
    settings: dict[str, Any] | None = None,
    clip: str = BUNDLED,
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
    models = {}
    if isinstance(masked := make(pipe).get(CLIP), MaskClip):
        models[CLIP] = [fingerprint(masked.model), masked.resolution]
    task = Naming(pipe, data, make, models, said, output_dir, settings or {}, ways)
    results = results_of(task, sample_items(data, positions), how, label="pictures")
    return {title: Named(results, tuple(data.class_names), v.names, title) for title, v in said.items()}


def main(argv: list[str] | None = None) -> pd.DataFrame:
    parser = command(__doc__, "runs/open-vocabulary")
    parser.add_argument("--clip", default=BUNDLED, help="a CLIP of transformers, by name, folder or hub id")
    parser.add_argument("--dataset", default="toyscapes", help="as notebook 06 names them")
    parser.add_argument("--root", default="", help="folder with the data set's official layout")
    parser.add_argument("--split", default="validation", help="the split that is reported")
    parser.add_argument("--limit", type=int, default=20, help="its first so many pictures")
    args = parser.parse_args(argv)
    data, how = open_dataset(args.dataset, args.root, args.split), execution(args)
    pipe = load_pipeline(args.model, args.device, args.dtype)
    settings = check_settings(pipe, args.num_masks, args.settings)
    positions = first_pictures(args.limit, len(data))
    named = name_all(pipe, data, args.output, positions, settings, args.clip, how)[CLASSES]
    found = table(named)
    print(found.round(1).to_string())
    finish(named.results)
    return found


if __name__ == "__main__":
    main()
