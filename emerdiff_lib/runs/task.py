"""What is done with a picture, and what becomes of it: the same on every engine."""

from __future__ import annotations

import gc
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch

from ..pipeline import EmerDiffPipeline
from .store import KEPT, NEW, Store, StoreError
from .workers import PipelineByName

COMPUTED, RECOMPUTED, FAILED = "computed", "recomputed", "failed"


@dataclass(frozen=True)
class Item:
    """A picture to work on.

    Attributes:
        name: unique within the run; its record is kept under it.
        what: whatever the task finds the picture by (a path, a position, a seed); it travels to other processes.
        group: items that follow each other and share a group share work, and stay in one process; "" for none.
    """

    name: str
    what: Any
    group: str = ""


class Task(ABC):
    """What is done with every picture. Tasks travel to other processes; their pipelines are loaded there anew, by name."""

    store: Store

    @abstractmethod
    def picture(self, item: Item) -> dict[str, Any]:
        """What the result depends on besides the store's identity: the picture's content, for JSON."""

    @abstractmethod
    def compute(self, item: Item) -> Any:
        """The result, as the store keeps it."""

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: PipelineByName.of(value) if isinstance(value, EmerDiffPipeline) else value
            for name, value in vars(self).items()
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value.load() if isinstance(value, PipelineByName) else value)


@dataclass(frozen=True)
class Outcome:
    """What became of one picture: its state, why (of a failure, or of computing again), and the seconds it took."""

    name: str
    state: str
    why: str = ""
    seconds: float = 0.0


def attempt(task: Task, item: Item) -> Outcome:
    """One picture, unless its record may be kept. Whatever goes wrong with the picture is its outcome.

    Raises:
        StoreError: the folder of the results cannot be written to.
    """
    start = time.perf_counter()
    try:
        picture = task.picture(item)
        found = task.store.look(item.name, picture)
        if found == KEPT:
            return Outcome(item.name, KEPT)
        result = task.compute(item)
        if task.picture(item) != picture:
            raise ValueError("it was changed while it was worked on; run again")
        task.store.keep(item.name, picture, result)
    except StoreError:
        raise
    except Exception as error:  # what a picture, or a network that is given it, may raise is no closed list
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            _free_memory()
        return Outcome(item.name, FAILED, one_line(error))
    state, why = (COMPUTED, "") if found == NEW else (RECOMPUTED, found)
    return Outcome(item.name, state, why, time.perf_counter() - start)


def one_line(error: BaseException) -> str:
    """An error as one line of text."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return f"out of memory ({text or type(error).__name__}); try a smaller processing_resolution or another device"
    return text if isinstance(error, ValueError | OSError) and text else f"{type(error).__name__}: {text}"


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
