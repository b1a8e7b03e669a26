"""Which pictures a study looks at, and how its run is carried out: shared by the studies' commands."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from tqdm.auto import tqdm

from ..runs.engines import ENGINES
from ..runs.harness import Execution
from ..runs.store import Results
from ..settings import whole


def first_pictures(limit: int, available: int, name: str = "limit") -> range:
    """Positions of the first ``limit`` of ``available`` pictures, or of all of them if there are fewer.

    Raises:
        ValueError: for 0, negative numbers and what is no whole number.
    """
    if limit == 0:
        raise ValueError(
            f"{name}=0 leaves no picture to look at; give at least 1, or a large number for all {available:,}."
        )
    return range(min(whole(1)(name, limit), available))


def check_range(first: int, count: int, available: int, names: tuple[str, str]) -> range:
    """``range(first, first + count)`` if it lies inside the ``available`` pictures.

    Args:
        names: what the two numbers are called where the reader gives them.

    Raises:
        ValueError: one sentence that names the number and the possible ones.
    """
    first = whole(0, available - 1)(names[0], first)
    return range(first, first + whole(1, available - first)(names[1], count))


def bar(label: str, leave: bool = True) -> Callable[[Iterable], Iterable]:
    """A progress bar to hand to a study as ``progress``."""
    return lambda items: tqdm(items, desc=label, leave=leave)


def command(description: str | None, output: str) -> argparse.ArgumentParser:
    """The arguments that the studies' commands have in common; ``output`` is the default of --output."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--model", default="toyscapes", help="name, diffusers folder or hub id")
    parser.add_argument("--device", default="", help="empty: a GPU if there is one")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16")
    parser.add_argument("--num-masks", type=int, help="K; by default the checkpoint's")
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON of further pipeline arguments")
    parser.add_argument("--output", type=Path, default=Path(output), help="results per picture")
    parser.add_argument("--engine", default="local", help=f"one of {', '.join(ENGINES)}")
    parser.add_argument("--workers", type=int, default=1, help="processes, or Ray's actors")
    parser.add_argument("--shard", default="", help='"0/4" to "3/4": four processes that share the pictures')
    parser.add_argument("--only", default="", help="failures.json of an earlier run: only what it names")
    return parser


def execution(args: argparse.Namespace) -> Execution:
    """How the run is carried out that :func:`command`'s arguments ask for; raises as :class:`Execution` does."""
    return Execution(args.engine, args.workers, args.shard, args.only)


def finish(*runs: Results) -> None:
    """Says at the end of a command what its runs did; the exit status is 1 if pictures failed."""
    for results in runs:
        print(results.report)
    if failed := [results for results in runs if results.report.failures]:
        files = ", ".join(str(results.store.folder / "failures.json") for results in failed)
        sys.exit(f"{sum(len(r.report.failures) for r in failed)} pictures failed; {files} says why.")
