"""One way to go over many pictures: every result is kept at once, a bad picture stops nothing, a run goes on where it was.

A :class:`~.task.Task` says what a result depends on and how it is computed; a :class:`~.store.Store` keeps it; an engine
(:mod:`.engines`) decides where.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from ..files import write_atomically
from ..images import shown
from .engines import check_engine, outcomes
from .names import expanded
from .shards import Shard, failures_file, note_shard, parse_shard, read_failures, shard_of
from .store import KEPT, Results, Store
from .task import COMPUTED, FAILED, RECOMPUTED, Item, Outcome, Task


@dataclass
class Report:
    """What a run did.

    Attributes:
        states: how many pictures were kept, computed, recomputed, failed.
        reasons: why they were computed again, and how many each.
        failures: {name: why}.
        items: that the run looked at, or would have, in order.
        seconds: from start to end; ``busy`` seconds went into pictures, of all workers together.
    """

    states: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)
    items: list[Item] = field(default_factory=list)
    seconds: float = 0.0
    busy: float = 0.0

    def add(self, outcome: Outcome) -> None:
        self.states[outcome.state] += 1
        self.busy += outcome.seconds
        if outcome.state == RECOMPUTED:
            self.reasons[outcome.why] += 1
        if outcome.state == FAILED:
            self.failures[outcome.name] = outcome.why

    def usable(self) -> list[Item]:
        """Those that there are results of."""
        return [item for item in self.items if item.name not in self.failures]

    def __str__(self) -> str:
        counts = ", ".join(f"{self.states[s]} {s}" for s in (KEPT, COMPUTED, RECOMPUTED, FAILED))
        total = self.states.total()
        lines = [f"{total} picture{'s' * (total != 1)} in {self.seconds:.0f} s: {counts}."]
        lines += [f"  {count} again: {why}" for why, count in self.reasons.most_common(5)]
        lines += [f"  failed: {shown(name)}: {why}" for name, why in list(self.failures.items())[:5]]
        if len(self.failures) > 5:
            lines.append(f"  … and {len(self.failures) - 5} more")
        return "\n".join(lines).encode("utf-8", "backslashreplace").decode()  # names need not be text


@dataclass(frozen=True)
class Execution:
    """How a run is carried out; nothing here changes a byte of its results.

    Args:
        engine: "local" or "ray" (:mod:`.engines`).
        workers: processes, or Ray's actors; 1 with "local" is this process.
        shard: "0/4" is the first of four runs that know nothing of each other (:mod:`.shards`); "": everything.
        only: the ``failures.json`` of an earlier run: only the pictures that it names.

    Raises:
        ValueError: an unknown engine, an impossible number of workers or shard; Ray where it is not installed.
    """

    engine: str = "local"
    workers: int = 1
    shard: str = ""
    only: Path | str = ""

    def __post_init__(self) -> None:
        check_engine(self.engine, self.workers)
        parse_shard(self.shard)

    def choose(self, items: Sequence[Item]) -> list[Item]:
        """Those that this run works on.

        Raises:
            ValueError: two of them share a name, or ``only`` names none of them.
        """
        check_names(items)
        mine = shard_of(items, parse_shard(self.shard))
        if not self.only:
            return mine
        wanted = _named_in(items, expanded("only", self.only))
        return [item for item in mine if item.name in wanted]


def run(
    task: Task,
    items: Sequence[Item],
    how: Execution | None = None,
    *,
    label: str = "pictures",
    progress: bool = True,
) -> Report:
    """Every item, kept or computed, in order.

    Args:
        label: what the progress bar says.

    Raises:
        StoreError: the folder of the results cannot be made or written to.
        ValueError: as :meth:`Execution.choose`.
    """
    how = how or Execution()
    mine, shard = how.choose(items), parse_shard(how.shard)
    task.store.open()
    report, start, complete = Report(items=mine), time.perf_counter(), False
    try:
        with tqdm(total=len(mine), desc=label, disable=not progress or len(mine) < 2) as bar:
            for outcome in outcomes(task, mine, how.engine, how.workers):
                report.add(outcome)
                bar.set_postfix({s: n for s, n in report.states.items() if s != COMPUTED}, refresh=False)
                bar.update()
        complete = not how.only
    finally:
        report.seconds = time.perf_counter() - start
        write_failures(report, task.store, shard, complete)
    if shard is not None and complete:
        note_shard(task.store, items, shard, mine)
    return report


def results_of(
    task: Task, items: Sequence[Item], how: Execution | None = None, *, label: str = "pictures"
) -> Results:
    """:func:`run` with a :class:`~.store.JsonStore`, and the results of all pictures that did not fail.

    Raises:
        ValueError: as :func:`run`, and if every picture failed.
    """
    report = run(task, items, how, label=label)
    names = [item.name for item in report.usable()]
    if report.failures and not names:
        raise ValueError(f"None of the {len(report.failures)} pictures could be used. {report}")
    if report.failures or report.reasons:
        print(report)
    return Results(task.store, names, report)


def check_names(items: Sequence[Item]) -> None:
    """Raises a ValueError if two items would share a record."""
    name, count = Counter(item.name for item in items).most_common(1)[0] if items else ("", 1)
    if count > 1:
        raise ValueError(f"{count} pictures are called {name!r}; a name belongs to one picture: rename them.")


def write_failures(report: Report, store: Store, shard: Shard | None, complete: bool) -> None:
    """``failures.json`` in the store's folder: the names that failed and why, for another try; none where nothing failed.

    A run that did not look at everything leaves what an earlier one said of the rest.
    """
    path = failures_file(store.folder, shard)
    failures = dict(report.failures)
    if not complete:
        left = {item.name for item in report.items[report.states.total() :]}
        tried = {item.name for item in report.items} - left
        failures = {name: why for name, why in read_failures(path).items() if name not in tried} | failures
    with store.writing(path):
        if failures:
            write_atomically(path, json.dumps(failures, indent=1) + "\n")
        else:
            path.unlink(missing_ok=True)


def _named_in(items: Sequence[Item], path: Path) -> set[str]:
    if not (wanted := read_failures(path)):
        raise ValueError(f"only={str(path)!r} names no failures; give the failures.json of a run.")
    if not (found := {item.name for item in items} & wanted.keys()):
        raise ValueError(f"{path} names none of these {len(items)} pictures; give the run that it is from.")
    return found
