"""The one stopwatch: wall-clock seconds of named stages, and of single calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Result = TypeVar("Result")


@contextmanager
def stopwatch(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the seconds that the block takes to ``seconds[stage]``, rounded to a tenth of a millisecond.

    A stage that runs several times adds up. A block that fails counts as well, up to its failure. Work that a GPU has been
    given but has not finished counts where somebody waits for it; wait inside the block where that matters.
    """
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = round(seconds.get(stage, 0.0) + time.perf_counter() - start, 4)


def timed(run: Callable[[], Result]) -> tuple[Result, float]:
    """What ``run()`` returns, and the seconds that it took."""
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start
