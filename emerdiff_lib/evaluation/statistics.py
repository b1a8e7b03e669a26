"""What is kept of many pictures: sums from which every table follows, in little memory, the same in any order.

Two passes::

    fitting = Fitting.of(results)                       # a first pass; parts of a data set are fitted apart and merged
    statistics = Statistics()
    for result in results:                              # a second pass; parts are counted apart and merged
        statistics.update(result, places(fitting))
"""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from functools import partial
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from .fitting import Places, record_of
from .metrics import area_bin, class_counts, confusion_matrix, mean_iou_of_counts, pixel_accuracy
from .protocols import (
    bootstrap,
    cluster_table,
    counts_statistic,
    matched_classes,
    mean_statistic,
    percentile_interval,
)
from .sampling import identity, natural, poisson_weights

SCORES = (
    "seconds",
    "segments",
    "boundary_precision",
    "boundary_recall",
    "boundary_f",
    "boundary_f_diagonal",
    "adjusted_rand",
    "over_segmentation",
    "under_segmentation",
    "variation_of_information",
)
PROTOCOLS = ("oracle", "traditional", "modified_self", "modified", "modified_cosine")
RESAMPLED = ("oracle", "modified")  # protocols with bootstrap intervals
# Pictures that are held one by one. Of 100 Toyscapes pictures, Poisson weights made mIoU's intervals 23 % wider for 5 of them,
# 5 % for 20, and from 50 on moved their ends no further than another seed does.
EXACT_UP_TO = 5000
FOLDED_AT_ONCE = 512  # pictures
UNIT = 2.0**-30  # of boundary F where it is summed as a whole number

Key = tuple[str, ...]


class Mean:
    """A mean over finite values, exact in whatever order they come: they are summed as whole multiples of 2⁻⁶⁰."""

    def __init__(self) -> None:
        self.total, self.count = 0, 0

    def add(self, value: float) -> None:
        if math.isfinite(value):
            self.total += int(math.ldexp(value, 60))
            self.count += 1

    def merge(self, other: Mean) -> None:
        self.total, self.count = self.total + other.total, self.count + other.count

    @property
    def value(self) -> float:
        """NaN without any."""
        return self.total / self.count / 2**60 if self.count else float("nan")


class Statistics:
    """Sums over pictures under several methods, all in integers, so that parts merge to the same numbers in any order.

    Up to :data:`EXACT_UP_TO` pictures their class counts are held, for the percentile bootstrap of drawn pictures. Beyond, only
    their sums in ``draws`` samples are, in each of which a picture counts as often as a Poisson variable of mean 1 says that is
    drawn from a hash of its name: the same for every method (so differences are paired) and on every machine. What still grows
    with the pictures are four numbers of each and method, which Wilcoxon's test needs.

    Attributes:
        methods: in the order of the first picture.
        draws: bootstrap samples.
        exact_up_to: :data:`EXACT_UP_TO`, in a test fewer.
    """

    def __init__(self, draws: int = 1000, exact_up_to: int = EXACT_UP_TO):
        self.methods: list[str] = []
        self.draws, self.exact_up_to = draws, exact_up_to
        self._identities = array("Q")
        self._scalars: defaultdict[Key, array] = defaultdict(partial(array, "d"))  # a number per picture
        self._means: defaultdict[Key, Mean] = defaultdict(Mean)
        self._totals: dict[Key, np.ndarray] = {}
        self._names: list[str] = []  # of the pictures held one by one, and their counts
        self._sizes: dict[Key, int] = {}  # C
        self._held: defaultdict[Key, list[np.ndarray]] = defaultdict(
            list
        )  # rows of class, right, true, predicted
        self._folded: dict[Key, np.ndarray] = {}  # (3 C, draws)

    def __len__(self) -> int:
        return len(self._identities)

    @property
    def exact(self) -> bool:
        """Whether pictures are drawn for the intervals, or stand in all samples with Poisson weights."""
        return len(self) <= self.exact_up_to

    @property
    def bootstrap(self) -> str:
        """How the intervals are drawn, in words."""
        how = "pictures drawn with replacement" if self.exact else "Poisson weights of every picture"
        return f"{self.draws} samples, {how}"

    def update(self, result: dict[str, Any], where: dict[str, dict[str, Places]]) -> None:
        """Take in one picture: "name" and "methods", {method: :func:`~.tables.score`}.

        Args:
            where: :func:`~.fitting.places` of every method and protocol.

        Raises:
            ValueError: if the picture was evaluated under other methods than the first one.
        """
        name, methods = result["name"], list(result["methods"])
        self.methods = self.methods or methods
        if set(methods) != set(self.methods):
            raise ValueError(
                f"Picture {name!r} has results of {', '.join(methods)}, others of {', '.join(self.methods)}; evaluate all alike."
            )
        self._identities.append(identity(name))
        self._names.append(name)
        for method, entry in result["methods"].items():
            self._take(method, entry, where.get(method, {}))
        if not self.exact:
            self._fold(FOLDED_AT_ONCE)

    def merge(self, other: Statistics) -> None:
        """As if it had taken in the pictures of ``other``, which stays as it is.

        Raises:
            ValueError: if both hold one and the same picture, or were made with other methods or draws.
        """
        if self.methods and other.methods and set(self.methods) != set(other.methods):
            raise ValueError(
                f"One part has the methods {', '.join(self.methods)}, the other {', '.join(other.methods)}; evaluate all alike."
            )
        if (self.draws, self.exact_up_to) != (other.draws, other.exact_up_to):
            raise ValueError(f"One part has {self.draws} draws, the other {other.draws}; give all the same.")
        if shared := set(self._identities) & set(other._identities):
            raise ValueError(
                f"Both parts hold {len(shared)} of the same pictures; give every picture to one part."
            )
        self.methods = self.methods or list(other.methods)
        self._identities.extend(other._identities)
        self._names += other._names
        self._sizes |= other._sizes
        for key, values in other._scalars.items():
            self._scalars[key].extend(values)
        for key, rows in other._held.items():
            self._held[key] += rows
        for key, mean in other._means.items():
            self._means[key].merge(mean)
        for mine, theirs in ((self._totals, other._totals), (self._folded, other._folded)):
            for key, counts in theirs.items():
                mine[key] = mine[key] + counts if key in mine else counts.copy()
        if not self.exact:
            self._fold(FOLDED_AT_ONCE)

    def has(self, name: str, method: str) -> bool:
        """Whether there are counts of a protocol, or "boundary_f", for a method."""
        return (name, method) in self._totals or (name, method) in self._means

    def mean(self, *key: str) -> float:
        """Of a score (one of :data:`SCORES`) and method, or "recall" or "iou", method and size of the objects."""
        return self._means[key].value if key in self._means else float("nan")

    def total(self, name: str, method: str) -> np.ndarray:
        """(C, 3) class counts of a protocol or of "matched", (C, 2) of "boundary_iou"."""
        counts = self._totals[name, method]
        if name != "traditional":
            return counts
        return class_counts(confusion_matrix(counts, matched_classes(counts)))

    def per_picture(self, measure: str, method: str) -> np.ndarray:
        """(N,) the accuracy under one of :data:`RESAMPLED`, or "boundary_f"; the same order of pictures for all."""
        return np.array(self._scalars[measure, method])[self._order()]

    def interval(self, measure: str, method: str, minus: str | None = None) -> tuple[float, float, float]:
        """(value, low, high) of a measure of :meth:`per_picture`, or of ``method``'s difference ``minus`` another's.

        mIoU for a protocol, a mean over pictures for "boundary_f", in [0, 1] or [−1, 1]; a 95 % interval over pictures.
        """
        both = [method] if minus is None else [method, minus]
        if self.exact and measure == "boundary_f":
            statistic = mean_statistic(*(self.per_picture(measure, one) for one in both))
        elif self.exact:
            statistic = counts_statistic(*(self._counts(measure, one) for one in both))
        else:
            self._fold(1)
            values = [self._value(measure, one) for one in both]
            drawn = [
                _of_counts(measure, self._folded[measure, one].T.reshape(self.draws, -1, 3)) for one in both
            ]
            subtract = lambda a, b=0.0: a - b
            return float(subtract(*values)), *percentile_interval(subtract(*drawn))
        return bootstrap(statistic, len(self), self.draws)

    def _take(self, method: str, entry: dict[str, Any], where: dict[str, Places]) -> None:
        record = record_of(entry)
        self._count("oracle", method, confusion_matrix(record.table, record.table.argmax(1)))
        for protocol, there in where.items():
            chosen = there.nearest(record.embeddings)
            if protocol == "traditional":  # clusters get their classes when all pictures are in
                self._add(protocol, method, cluster_table(record, chosen, record.table.shape[1]))
            else:
                self._count(protocol, method, confusion_matrix(record.table, chosen))
        for name in ("boundary_iou", "matched"):
            self._add(name, method, np.array(entry[name]))
        for name in SCORES:
            self._means[name, method].add(entry[name])
        for region in entry["objects"]:
            for name in ("recall", "iou"):
                self._means[name, method, area_bin(region["area"])].add(region[name])
        f = entry["boundary_f"]
        self._scalars["boundary_f", method].append(f)
        self._hold(
            "boundary_f", method, np.array([[round(f / UNIT), 1, 0] if math.isfinite(f) else [0, 0, 0]])
        )

    def _count(self, protocol: str, method: str, confusion: np.ndarray) -> None:
        counts = class_counts(confusion)
        self._add(protocol, method, counts)
        if protocol in RESAMPLED:
            self._scalars[protocol, method].append(pixel_accuracy(confusion))
            self._hold(protocol, method, counts)

    def _add(self, name: str, method: str, counts: np.ndarray) -> None:
        key = name, method
        self._totals[key] = self._totals[key] + counts if key in self._totals else counts.astype(np.int64)

    def _hold(self, name: str, method: str, counts: np.ndarray) -> None:
        """(C, 3) counts of one picture: the rows that are not 0."""
        occur = np.flatnonzero(counts.any(1))
        self._sizes[name, method] = len(counts)
        self._held[name, method].append(np.column_stack([occur, counts[occur]]).astype(np.int32))

    def _counts(self, name: str, method: str) -> np.ndarray:
        """(N, C, 3) of the pictures held, in their order."""
        dense = np.zeros((len(self), self._sizes[name, method], 3), np.int32)
        for counts, rows in zip(dense, (self._held[name, method][i] for i in self._order()), strict=True):
            counts[rows[:, 0]] = rows[:, 1:]
        return dense

    def _order(self) -> np.ndarray:
        """Positions of the pictures in an order that does not depend on how they came."""
        if not self.exact:
            return np.argsort(np.array(self._identities))
        return np.array(sorted(range(len(self)), key=lambda i: natural(self._names[i])))

    def _fold(self, at_least: int) -> None:
        """Sum the pictures held into the draws, if there are so many, and forget them."""
        if len(self._names) < at_least:
            return
        for start in range(0, len(self._names), FOLDED_AT_ONCE):
            some = slice(start, start + FOLDED_AT_ONCE)
            weights = poisson_weights([identity(name) for name in self._names[some]], self.draws)
            for key, rows in self._held.items():
                added = _sparse(rows[some], self._sizes[key]).T @ weights
                self._folded[key] = self._folded[key] + added if key in self._folded else added
        self._names.clear()
        self._held.clear()

    def _value(self, measure: str, method: str) -> float:
        # boundary F is NaN for all methods of a picture or for none, as its truth has it: differences of means are paired
        if measure == "boundary_f":
            return self.mean(measure, method)
        return float(mean_iou_of_counts(self._totals[measure, method]))


def _sparse(rows: list[np.ndarray], num_classes: int) -> csr_array:
    """(n, 3 C) counts of n pictures."""
    every = np.concatenate(rows).astype(np.int64)
    columns = (3 * every[:, :1] + np.arange(3)).ravel()
    starts = np.concatenate([[0], np.cumsum([3 * len(one) for one in rows])])
    return csr_array((every[:, 1:].ravel(), columns, starts), shape=(len(rows), 3 * num_classes))


def _of_counts(measure: str, counts: np.ndarray) -> np.ndarray:
    """(…, C, 3) sums of what is held → (…) the measure."""
    if measure != "boundary_f":
        return mean_iou_of_counts(counts)
    total, known, _ = np.moveaxis(counts[..., 0, :], -1, 0)
    return np.where(known > 0, total * UNIT / np.maximum(known, 1), np.nan)
