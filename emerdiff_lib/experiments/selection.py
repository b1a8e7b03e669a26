"""Which pictures a study looks at, and which of them one of several processes does: shared by the studies' commands."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tqdm.auto import tqdm

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


def part_of(positions: Sequence[int], part: str) -> list[int]:
    """The share of one of several processes: "2/3" is every third picture from the second on; "" is all of them.

    Raises:
        ValueError: for text of another form.
    """
    if not part:
        return list(positions)
    match = re.fullmatch(r"(\d+)/(\d+)", part)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f'part={part!r} is not possible; write "1/2" for the first of two processes.')
    return list(positions[int(match[1]) - 1 :: int(match[2])])


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
    parser.add_argument(
        "--part",
        default="",
        help='"1/2" and "2/2": two processes that share the pictures and the output folder',
    )
    return parser
