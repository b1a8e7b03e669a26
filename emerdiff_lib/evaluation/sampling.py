"""Samples of a data set that are the same in whatever order, and on however many machines, its pictures are looked at."""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
from sklearn.cluster import KMeans

SAMPLE = 50_000  # segments that k-means sees


def identity(name: str) -> int:
    """64 bits that stand for a picture's name."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest())


def natural(name: str) -> tuple[list[str | int], str]:
    """A key that sorts names as people do: "9" before "10"."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)], name


def poisson_weights(identities: Iterable[int], draws: int) -> np.ndarray:
    """(n, draws) int64: how often each bootstrap draw takes each picture, from nothing but the picture's :func:`identity`."""
    return np.stack([np.random.default_rng(one).poisson(1.0, draws) for one in identities])


class NoClusters(ValueError):
    """There is too little, or nothing common, to make clusters of."""


class SegmentSample:
    """At most ``size`` of the segments that it is shown, drawn evenly: those whose hashes of (picture, position) are smallest.

    Up to ``size`` it holds all of them. Segments without counted pixels are never taken. The embeddings of all pictures must
    have one length by the time that they are clustered.

    Attributes:
        found: how many segments with counted pixels it was shown.
        lengths: the lengths of their embeddings.
    """

    def __init__(self, size: int = SAMPLE):
        self.size = size
        self.found = 0
        self.lengths: set[int] = set()
        self._held: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self._count, self._limit = 0, np.inf

    def update(self, name: str, weights: np.ndarray, embeddings: np.ndarray) -> None:
        """Show it a picture: (K,) counted pixels and (K, d) embeddings."""
        hashes = np.random.default_rng(identity(name)).random(len(weights))
        counted = weights > 0
        self.found += int(counted.sum())
        self.lengths.add(embeddings.shape[1])
        self._take(name, hashes[counted], weights[counted], embeddings[counted])

    def merge(self, other: SegmentSample) -> None:
        """As if it had been shown what ``other`` was shown."""
        self.found += other.found
        self.lengths |= other.lengths
        for name, rows in other._held.items():
            self._take(name, *rows)

    def vectors(self) -> tuple[np.ndarray, np.ndarray]:
        """(n, d) float64 embeddings and their (n,) pixels, pictures in the :func:`natural` order of their names."""
        self._shrink()
        rows = [self._held[name] for name in sorted(self._held, key=natural)]
        _, weights, embeddings = (np.concatenate(part) for part in zip(*rows, strict=True))
        return embeddings.astype(np.float64), weights.astype(np.float64)

    def centres(self, num_clusters: int, seed: int = 0) -> np.ndarray:
        """(num_clusters, d): k-means of the pixels, each of which has its segment's embedding.

        Raises:
            NoClusters: a ValueError, if there are fewer segments, or fewer distinct embeddings, than clusters, or embeddings
                of several lengths.
        """
        if self.found < num_clusters:
            raise NoClusters(
                f"{self.found} segments cannot make {num_clusters} clusters; evaluate more images."
            )
        if len(self.lengths) > 1:
            several = ", ".join(map(str, sorted(self.lengths)))
            raise NoClusters(f"Embeddings of {several} numbers have no common clusters; give all one length.")
        embeddings, weights = self.vectors()
        if (distinct := len(np.unique(embeddings, axis=0))) < num_clusters:
            raise NoClusters(
                f"{distinct} distinct embeddings cannot make {num_clusters} clusters; evaluate more images."
            )
        means = KMeans(num_clusters, n_init=10, random_state=seed).fit(embeddings, sample_weight=weights)
        return means.cluster_centers_

    def _take(self, name: str, hashes: np.ndarray, weights: np.ndarray, embeddings: np.ndarray) -> None:
        kept = hashes < self._limit
        if not kept.any():
            return
        if name in self._held:
            raise ValueError(f"Picture {name!r} came twice; show every picture once.")
        self._held[name] = hashes[kept], weights[kept], embeddings[kept]
        self._count += int(kept.sum())
        if self._count > self.size + self.size // 4:
            self._shrink()

    def _shrink(self) -> None:
        """Forget all but the ``size`` smallest hashes."""
        if self._count <= self.size:
            return
        hashes = np.concatenate([rows[0] for rows in self._held.values()])
        self._limit = float(np.partition(hashes, self.size)[self.size])
        kept = {name: (rows, rows[0] < self._limit) for name, rows in self._held.items()}
        self._held = {
            name: (rows[0][some], rows[1][some], rows[2][some])
            for name, (rows, some) in kept.items()
            if some.any()
        }
        self._count = sum(len(rows[0]) for rows in self._held.values())
