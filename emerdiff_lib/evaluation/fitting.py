"""What has to be known of all pictures before any of them can be scored: where classes and clusters lie among embeddings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .protocols import ConceptSums, Record, nearest_concept
from .sampling import SAMPLE, NoClusters, SegmentSample


def record_of(entry: dict[str, Any]) -> Record:
    """What the protocols take of one picture under one method (:func:`~.tables.score`)."""
    return Record(np.array(entry["table"]), np.array(entry["embeddings"], np.float64))


@dataclass(frozen=True)
class Places:
    """(C, d) places among embeddings, of which a segment takes the nearest by ``similarity``."""

    where: np.ndarray
    similarity: str = "euclidean"

    def nearest(self, embeddings: np.ndarray) -> np.ndarray:
        return nearest_concept(embeddings, self.where, self.similarity)


class Fitting:
    """Concept embeddings and a bounded sample of the segments of every method, from one pass over pictures.

    Args:
        sample: how many segments are held for clustering, per method; 0 where only concepts are asked for.
    """

    def __init__(self, sample: int = SAMPLE):
        self.sample = sample
        self._concepts: dict[tuple[str, int], ConceptSums] = {}  # by method and length of its embeddings
        self._samples: dict[str, SegmentSample] = {}
        self._num_classes = 0

    @classmethod
    def of(cls, results: Iterable[dict], sample: int = SAMPLE) -> Fitting:
        """One pass over ``results``, one picture at a time."""
        fitting = cls(sample)
        for result in results:
            fitting.update(result)
        return fitting

    @property
    def methods(self) -> list[str]:
        """In the order of the first picture; none before it."""
        return list(self._samples)

    def update(self, result: dict[str, Any]) -> None:
        """Take in one picture: "name" and "methods", {method: :func:`~.tables.score`}."""
        for method, entry in result["methods"].items():
            record = record_of(entry)
            self._num_classes = record.table.shape[1]
            shown = self._samples.setdefault(method, SegmentSample(self.sample))
            self._concepts.setdefault((method, record.embeddings.shape[1]), ConceptSums()).update(record)
            if self.sample:
                shown.update(result["name"], record.table.sum(1), record.embeddings)

    def merge(self, other: Fitting) -> None:
        """As if it had taken in the pictures of ``other``: the same sample, the same concepts to rounding."""
        self._num_classes = self._num_classes or other._num_classes
        for method, shown in other._samples.items():
            self._samples.setdefault(method, SegmentSample(self.sample)).merge(shown)
        for key, sums in other._concepts.items():
            self._concepts.setdefault(key, ConceptSums()).merge(sums)

    def concepts(self, method: str) -> np.ndarray | None:
        """(C, d), NaN for classes that did not occur; None where the embeddings have several lengths."""
        mine = [sums for (name, _), sums in self._concepts.items() if name == method]
        return mine[0].embeddings() if len(mine) == 1 else None

    def centres(self, method: str) -> np.ndarray | None:
        """(C, d) centres of as many clusters as classes; None where the segments cannot make so many."""
        try:
            return self._samples[method].centres(self._num_classes)
        except NoClusters:
            return None


def places(own: Fitting, other: Fitting | None = None) -> dict[str, dict[str, Places]]:
    """{method: {protocol: its places}}, from the pictures that are reported and, if there are any, those of another split.

    "traditional" places are clusters, in no order; those of "modified_self", "modified" and "modified_cosine" are classes.
    What cannot be had is left out: a method with fewer distinct segments than classes has no "traditional" ones, one whose
    embeddings have several lengths has none at all.
    """
    found: dict[str, dict[str, Places]] = {}
    for method in own.methods:
        concepts = other.concepts(method) if other and other.methods else None
        candidates = {
            "traditional": (own.centres(method), "euclidean"),
            "modified_self": (own.concepts(method), "euclidean"),
            "modified": (concepts, "euclidean"),
            "modified_cosine": (concepts, "cosine"),
        }
        found[method] = {
            name: Places(where, how) for name, (where, how) in candidates.items() if where is not None
        }
    return found
