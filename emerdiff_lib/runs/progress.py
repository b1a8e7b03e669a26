"""How far a run is: in the notebook, in the terminal that papermill was started in, and in a file."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tqdm.auto

from .results import report

KEPT, COMPUTED, FAILED, STOPPED = "kept", "computed", "failed", "stopped"
Outcome = tuple[str, Any]  # one of these, and why: a sentence of a failure, the error that stops the run
SECONDS = 3.0  # between two states of the file


def with_progress(
    outcomes: Iterable[tuple[str, Outcome]], total: int, label: str, file: Path, partial: Path | None = None
) -> Iterator[tuple[str, Outcome]]:
    """The outcomes, while bars and ``file`` say how many there are, and when all will be: by the clock, without kept ones.

    The file is JSON, {"done", "total", "failed"}, and until the end {"seconds_per_image", "seconds_left"}; a new state is
    written in the folder ``partial`` first.
    """
    counts, start, latest = dict.fromkeys((KEPT, COMPUTED, FAILED, STOPPED), 0), time.monotonic(), 0.0

    def write(done: int, **speed: float) -> None:
        state = {"done": done, "total": total, "failed": counts[FAILED]} | speed
        report(file, partial, json.dumps(state) + "\n")

    if total < 2:
        report(file, partial, "")  # there may be an earlier run's
        yield from outcomes
        return
    write(0)
    given: dict[str, Any] = {"total": total, "desc": label, "smoothing": 0}
    with contextlib.ExitStack() as stack:
        bars = [stack.enter_context(tqdm.auto.tqdm(**given))]
        if type(sys.stderr).__module__ == "ipykernel.iostream":  # its file is that of who started the kernel
            descriptor = 2  # where the kernel has not put it away, as on Windows
            with contextlib.suppress(OSError):
                descriptor = sys.stderr.fileno()
            terminal = stack.enter_context(open(descriptor, "w", closefd=False))
            given |= {"file": terminal, "position": 1, "leave": False, "mininterval": 1}
            bars.append(stack.enter_context(tqdm.std.tqdm(**given)))
        for done, (name, outcome) in enumerate(outcomes, start=1):
            yield name, outcome
            counts[outcome[0]] += 1
            for bar in bars:
                bar.initial = counts[KEPT]
                bar.update()
            seconds = time.monotonic() - start
            if seconds - latest > SECONDS:
                latest, speed = seconds, seconds / max(1, done - counts[KEPT])
                write(done, seconds_per_image=round(speed, 2), seconds_left=round(speed * (total - done)))
    write(total)
